"""Checks of arguments, one sentence each: parameter, requirement, value."""

from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

PROBABILITY_TOLERANCE = 1e-8


def generator(rng: object) -> np.random.Generator:
    """Return `rng`, or raise if it is no numpy.random.Generator: seeds and None are refused."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {rng!r}")
    return rng


def integer(name: str, value: object, *, at_least: int = 1) -> int:
    """Return `value` as an int, or raise if it is no integer of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {value!r}")
    return int(value)


def leave_one_out_group_size(value: object) -> int:
    """Return a group size that a leave-one-out baseline can work with, or raise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"group_size must be an integer, got {value!r}")
    if value < 2:
        raise ValueError(f"group_size must be at least 2 for a leave-one-out baseline, got {value}")
    return int(value)


def real(name: str, value: object, *, above: float = -np.inf, below: float = np.inf) -> float:
    """Return `value` as a float, or raise if it is not finite and strictly inside the bounds."""
    if isinstance(value, bool) or not isinstance(value, Real) or not above < float(value) < below:
        bounds = [f"above {above:g}"] * (above > -np.inf) + [f"below {below:g}"] * (below < np.inf)
        requirement = " and ".join(["a finite number", *bounds])
        raise ValueError(f"{name} must be {requirement}, got {value!r}")
    return float(value)


def increasing(
    name: str, values: Sequence[int], *, at_most: int | None = None
) -> NDArray[np.int64]:
    """Return positive integers as an array, or raise unless they increase, up to `at_most`."""
    points = [integer(name, value) for value in values]
    limit = np.inf if at_most is None else at_most
    if not points or any(np.diff(points) <= 0) or points[-1] > limit:
        bound = "" if at_most is None else f" and at most {at_most}"
        raise ValueError(f"{name} must be increasing{bound}, got {list(values)}")
    return np.array(points, dtype=np.int64)


def finite(name: str, value: ArrayLike, *, ndim: int) -> NDArray[np.float64]:
    """Return `value` as a float64 array of `ndim` axes without NaN or infinity, or raise."""
    unmasked(name, value)
    array = np.array(value, dtype=np.float64)  # a copy: what is frozen must not change elsewhere
    if array.ndim != ndim or array.size == 0:
        raise ValueError(
            f"{name} must be {ndim}-dimensional and not empty, got shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be finite, got {np.sum(~np.isfinite(array))} NaN or infinity"
        )
    return array


def unmasked(name: str, value: object) -> None:
    """Raise if a NumPy array masks an entry, which every calculation would take for a number."""
    rows = value if isinstance(value, list | tuple) else [value]
    masked = sum(np.ma.count_masked(row) for row in rows if isinstance(row, np.ma.MaskedArray))
    if masked:
        raise ValueError(f"{name} must have no masked entries, got {masked}")


def probabilities(name: str, value: ArrayLike, *, ndim: int) -> NDArray[np.float64]:
    """Return `value` as probabilities that sum to one along the last axis, or raise.

    Sums within 1e-8 of one are accepted and divided out, so that later sums are exact.
    """
    array = finite(name, value, ndim=ndim)
    if (array < 0).any():
        raise ValueError(f"{name} must not be negative, got a smallest entry of {array.min():g}")
    sums = array.sum(axis=-1, keepdims=True)
    gap = np.abs(sums - 1).max(initial=0.0)
    if gap > PROBABILITY_TOLERANCE:
        raise ValueError(f"{name} must sum to 1 along the last axis, got sums off by {gap:.3g}")
    return array / sums


def same_length(axis: str, lengths: dict[str, int]) -> None:
    """Raise unless the named arrays agree on the length of an axis."""
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"arrays must agree on the number of {axis}, got: {shown}")
