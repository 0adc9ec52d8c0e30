"""Flat rewards, as trainers hold them, brought into groups and advantages brought back."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import ArrayLike, NDArray

from ustat_grpo.estimators.scored import Array, floating, plain
from ustat_grpo.inputs.checks import integer
from ustat_grpo.inputs.ids import identified, plain_ids


@dataclass(frozen=True, eq=False)
class PaddedGroups:
    """Flat rewards sorted into groups; places that a smaller group does not fill hold NaN.

    Args:
        rewards: Z, shape (B, G) with the size G of the largest group.
        row: the group of each flat entry, shape (N,).
        column: its place in that group, shape (N,).
        labels: the index value of each group, shape (B,).

    Examples:
        >>> from ustat_grpo import from_index
        >>> groups = from_index([1, 0, 1], ["b", "a", "b"])
        >>> groups.rewards.tolist(), groups.labels.tolist()
        ([[1.0, 1.0], [0.0, nan]], ['b', 'a'])
        >>> groups.flat(groups.rewards).tolist()
        [1.0, 0.0, 1.0]
    """

    rewards: Array
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    labels: NDArray[Any]

    def flat(self, grouped: Array) -> Array:
        """Return an array of shape (B, G), such as advantages, in the flat order: shape (N,).

        Raises:
            ValueError: if it has another shape than the rewards.
        """
        grouped = plain("grouped", grouped)
        if tuple(grouped.shape) != tuple(self.rewards.shape):
            raise ValueError(
                f"grouped must have the shape of rewards, {tuple(self.rewards.shape)}, "
                f"got {tuple(grouped.shape)}"
            )
        place = self.row * self.rewards.shape[1] + self.column
        xp = array_namespace(grouped)
        return xp.take(xp.reshape(grouped, (-1,)), xp.asarray(place, device=device(grouped)))

    def grouped(self, flat: Array) -> Array:
        """Return a flat array (N,), such as lengths, by group, shape (B, G); NaN where none is.

        Raises:
            ValueError: if it has not one entry for each reward.
        """
        flat = plain("flat", flat)
        if tuple(flat.shape) != self.row.shape:
            raise ValueError(f"flat must have the shape {self.row.shape}, got {tuple(flat.shape)}")
        return _padded(flat, self.row, self.column)


def from_flat(rewards: Array, group_size: int) -> Array:
    """Return prompt-major flat rewards as groups: entry b·G + i is output i of group b.

    The way back is `reshape(-1)`.

    Args:
        rewards: shape (B·G,), NumPy or torch, or a list; masked ones and None become NaN.
        group_size: G.

    Returns:
        Shape (B, G), where the rewards live.

    Raises:
        ValueError: if rewards are not flat, or their number is no multiple of the group size.

    Examples:
        >>> from ustat_grpo import from_flat
        >>> from_flat([1, 0, 0, 1, 1, 1], group_size=3).tolist()
        [[1, 0, 0], [1, 1, 1]]
    """
    size, rewards = integer("group_size", group_size), plain("rewards", rewards)
    if rewards.ndim != 1:
        raise ValueError(f"rewards must be flat, (N,), got shape {tuple(rewards.shape)}")
    if rewards.shape[0] % size:
        raise ValueError(
            f"rewards must be a multiple of group_size = {size} in number, got {rewards.shape[0]}"
        )
    return array_namespace(rewards).reshape(rewards, (-1, size))


def from_index(rewards: Array, index: ArrayLike) -> PaddedGroups:
    """Sort flat rewards into groups by an index array, as verl holds them.

    Groups may differ in size and come in any order; they are kept in the order in which the index
    first names them, and outputs in theirs. `PaddedGroups.flat` is the way back.

    Args:
        rewards: shape (N,), NumPy or torch, or a list; masked ones and None become NaN.
        index: which group each reward belongs to, shape (N,): numbers or strings. Large integers of
            a list stay apart.

    Returns:
        The groups; their rewards (B, G) live where the rewards live.

    Raises:
        TypeError: if rewards are no real numbers, or the index neither numbers nor text.
        ValueError: if rewards are not flat or none, the index has another shape, or an entry of it
            is missing, or a floating-point number too large to be told from its neighbours.

    Examples:
        >>> from ustat_grpo import Grpo, from_index
        >>> groups = from_index([1, 0, 0, 1], index=["x", "y", "x", "y"])
        >>> groups.flat(Grpo().advantages(groups.rewards)).tolist()
        [1.0, -1.0, -1.0, 1.0]
    """
    rewards = plain("rewards", rewards)
    if rewards.ndim != 1 or not rewards.shape[0]:
        raise ValueError(f"rewards must be flat, (N,), and not empty, got {tuple(rewards.shape)}")
    shape = (len(index),) if isinstance(index, list | tuple) else tuple(np.shape(index))
    if shape != tuple(rewards.shape):
        raise ValueError(
            f"index must have the shape of rewards, {tuple(rewards.shape)}, got {shape}"
        )
    ids = identified("index", index)
    listed = isinstance(index, list | tuple)
    row, labels = ids.place, (ids.values if listed else plain_ids(index))[ids.first]
    by_row = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[by_row], np.arange(len(labels)))
    column = np.empty_like(row)
    column[by_row] = np.arange(len(row)) - starts[row[by_row]]
    return PaddedGroups(_padded(rewards, row, column), row, column, labels)


def _padded(flat: Array, row: NDArray[np.int64], column: NDArray[np.int64]) -> Array:
    """Put flat entries in their places; the others hold NaN."""
    xp = array_namespace(flat)
    values = floating(xp, flat)
    shape = int(row.max()) + 1, int(column.max()) + 1
    source = np.full(shape, len(row))  # the entry behind the last one, which is NaN
    source[row, column] = np.arange(len(row))
    nothing = xp.full((1,), xp.nan, dtype=values.dtype, device=device(values))
    places = xp.asarray(source.ravel(), device=device(values))
    return xp.reshape(xp.take(xp.concat([values, nothing]), places), shape)
