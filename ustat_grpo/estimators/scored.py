"""Rewards and side information as arrays, NumPy or torch: what is scorable, and in what precision.

Here, and nowhere else, it is decided which rewards are scorable (`scorable`), and in which
precision estimators work (`in_working_precision`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj, to_device

from ustat_grpo.inputs.checks import masked_entries, real

Array: TypeAlias = Any  # a NumPy array or a torch tensor: whatever array_api_compat understands

_OFFSET = 2
"""Rewards are taken from another zero if theirs is more than so many times their range away."""


def scorable(rewards: Array) -> Array:
    """Return which rewards are scorable: those that are finite numbers.

    NaN and ±∞ are not, nor are None in a list and what a NumPy array masks. Such an output is left
    out of its group.
    """
    array = plain("rewards", rewards)
    xp = array_namespace(array)
    return xp.isfinite(floating(xp, array))


def plain(name: str, values: Any) -> Array:
    """Return an array without masks, objects or subclasses; lists become NumPy arrays.

    None and masked entries become NaN.

    Raises:
        TypeError: if the entries are no real numbers.
        ValueError: if a list is ragged.
    """
    if is_array_api_obj(values) and not isinstance(values, np.ndarray | np.generic):
        array: Any = values
        if array_namespace(array).isdtype(array.dtype, "complex floating"):
            raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
        return array
    try:
        array = _unmasked(values)
    except ValueError as error:
        raise ValueError(f"{name} must have rows of one length, got: {error}") from error
    if array.dtype.kind == "O":
        try:
            return array.astype(np.float64)  # None becomes NaN
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must hold real numbers, got: {error}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


def _unmasked(values: Any) -> np.ndarray:
    """Return a NumPy array, with NaN where the values, or arrays that a list holds, are masked."""
    if not masked_entries(values):
        return np.asarray(values)
    if isinstance(values, list | tuple):
        return np.stack([_unmasked(part) for part in values])
    bare = values.data
    fill = np.array(np.nan, bare.dtype if bare.dtype.kind == "f" else np.float64)
    return np.where(np.ma.getmaskarray(values), fill, bare)


def floating(xp: Any, array: Array) -> Array:
    """Counts and booleans are legitimate rewards; a mean of them needs a floating type."""
    if xp.isdtype(array.dtype, "real floating"):
        return array
    return xp.astype(array, xp.asarray(0.0).dtype)


def working(array: Array) -> Array:
    """Return an array in the type to compute in: single precision at least, double for integers."""
    xp = array_namespace(array)
    if not xp.isdtype(array.dtype, "real floating"):
        is_mps = getattr(device(array), "type", None) == "mps"  # which knows no double precision
        return xp.astype(array, xp.float32 if is_mps else xp.float64)
    is_half = xp.finfo(array.dtype).bits < 32
    return xp.astype(array, xp.float32) if is_half else array


@dataclass(frozen=True, eq=False)
class Scored:
    """Rewards of groups, ready to compute with.

    Args:
        xp: the namespace of their library.
        scored: which of them are scorable, shape (..., G).
        values: Z in the working precision, 0 where it is not scorable, shape (..., G).
        dtype: what advantages are rounded to.
    """

    xp: Any
    scored: Array
    values: Array
    dtype: Any

    @classmethod
    def of(cls, rewards: Array) -> "Scored":
        """Read rewards.

        Raises:
            TypeError: if they are no real numbers.
            ValueError: if they have no axis.
        """
        array = plain("rewards", rewards)
        if not array.ndim:
            raise ValueError("rewards must have the shape (..., G), got ()")
        xp = array_namespace(array)
        values, scored = working(array), scorable(array)
        zeros = xp.zeros_like(values)
        return cls(xp, scored, xp.where(scored, values, zeros), floating(xp, array[..., :0]).dtype)

    @cached_property
    def count(self) -> Array:
        """The number of scorable rewards of each group, in the working precision, (..., 1)."""
        return self.xp.sum(self.xp.astype(self.scored, self.values.dtype), axis=-1, keepdims=True)

    @cached_property
    def rewards(self) -> Array:
        """Z in the working precision, NaN where it is not scorable: for another estimator."""
        return self.xp.where(self.scored, self.values, self.xp.nan)

    @cached_property
    def offset(self) -> Array:
        """A zero for the rewards of each group, (..., 1); see `offset`."""
        return offset(self.xp, self.values, self.scored, axis=-1)

    @cached_property
    def shifted(self) -> Array:
        """Z − offset, 0 where Z is not scorable: exactly 0 where all rewards of a group are equal.

        Differences of rewards are taken here: of a large offset they would keep its rounding.
        """
        return self.masked(self.values - self.offset)

    @cached_property
    def unit(self) -> Array:
        """A power of two that is about as large as the shifted rewards of each group, (..., 1)."""
        largest = self.xp.max(self.xp.abs(self.shifted), axis=-1, keepdims=True)
        return power_of_two(self.xp, largest)

    @cached_property
    def _total(self) -> Array:
        """The sum of the shifted rewards of each group in their unit, which cannot overflow."""
        return self.xp.sum(self.shifted / self.unit, axis=-1, keepdims=True)

    @cached_property
    def mean(self) -> Array:
        """The mean of the shifted rewards of each group, (..., 1)."""
        return self._total / self.xp.where(self.count > 0, self.count, 1.0) * self.unit

    @cached_property
    def mean_of_others(self) -> Array:
        """The mean of the other shifted rewards; of an output without others its own."""
        others = self._total - self.shifted / self.unit
        number = self.xp.where(self.count > 1, self.count - 1, 1.0)
        return self.xp.where(self.count > 1, others / number * self.unit, self.shifted)

    @cached_property
    def all_equal(self) -> Array:
        """Whether the scorable rewards of each group are one number, (..., 1)."""
        least, largest = extremes(self.xp, self.values, self.scored, axis=-1)
        return largest <= least

    def masked(self, values: Array) -> Array:
        """Return values where rewards are scorable, else 0."""
        return self.xp.where(self.scored, values, self.xp.zeros_like(values))

    def less(self, baseline: Array | float) -> Array:
        """Return Z less a baseline, 0 where Z is not scorable."""
        return self.masked(self.values - baseline)

    def deviations(self, ddof: int) -> tuple[Array, Array]:
        """Return Z − Z̄, 0 where Z is not scorable, and the standard deviation (..., 1) of groups.

        Both passes over the rewards are made: the difference of E Z² and Z̄² would be rounding where
        all but one reward agree. Squares are taken in units of the largest deviation.
        """
        xp, deviation = self.xp, self.masked(self.shifted - self.mean)
        unit = xp.max(xp.abs(deviation), axis=-1, keepdims=True)
        unit = xp.where(unit > 0, unit, 1.0)
        squares = xp.sum((deviation / unit) ** 2, axis=-1, keepdims=True)
        freedom = xp.where(self.count > ddof, self.count - ddof, 1.0)
        return deviation, unit * xp.sqrt(squares / freedom)

    def as_one_group(self) -> "Scored":
        """Return the rewards (..., B, G) of a batch as one group, (..., B·G)."""
        *leading, size, group_size = self.values.shape
        shape = (*leading, size * group_size)
        scored, values = (self.xp.reshape(part, shape) for part in (self.scored, self.values))
        return Scored(self.xp, scored, values, self.dtype)

    def rounded(self, advantages: Array) -> Array:
        """Return advantages in the type of the rewards.

        Raises:
            ValueError: if one is not finite there.
        """
        result = self.xp.astype(advantages, self.dtype, copy=False)
        if has_values(result) and not self.xp.all(self.xp.isfinite(result)):
            wrong = result[~self.xp.isfinite(result)]
            largest = self.xp.max(self.xp.abs(self.values))
            raise ValueError(
                f"advantages must be finite in the type of the rewards, {self.dtype}, "
                f"got {float(wrong[0])} from rewards of up to {float(largest):g} in size"
            )
        return result


def in_working_precision(
    compute: Callable[[Scored, Any], Array], rewards: Array, side: Any
) -> Array:
    """Return what an estimator makes of rewards: computed in the working precision, rounded once.

    Half precision is computed in single precision, integers are in double. Advantages come back in
    the type of the rewards, or in the library's default type for integers.

    Args:
        compute: of rewards and side information to advantages.
        rewards: Z, shape (..., G): an array of either library, masked or not, or a list.
        side: handed on.

    Raises:
        TypeError: if rewards are no real numbers.
        ValueError: if an advantage is too large for the type of the rewards.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused, in words
        z = Scored.of(rewards)
        return z.rounded(compute(z, side))


def extremes(xp: Any, values: Array, known: Array, axis: int | tuple[int, ...]) -> Any:
    """Return the least and the largest of known values; ∞ and −∞ where none is known."""
    least = xp.min(xp.where(known, values, xp.inf), axis=axis, keepdims=True)
    return least, xp.max(xp.where(known, values, -xp.inf), axis=axis, keepdims=True)


def offset(xp: Any, values: Array, known: Array, axis: int | tuple[int, ...]) -> Array:
    """Return the known value nearest to 0 if all are far from it beside their range, else 0.

    So differences lose no digits to an offset, equal values have the difference 0 to every bit, and
    values that are not far from 0 keep theirs.
    """
    least, largest = extremes(xp, values, known, axis)
    nearest = xp.where(least > 0, least, xp.where(largest < 0, largest, xp.zeros_like(least)))
    is_far = (largest >= least) & (xp.abs(nearest) > _OFFSET * (largest - least))
    return xp.where(is_far, nearest, xp.zeros_like(nearest))


def power_of_two(xp: Any, size: Array) -> Array:
    """Return the largest power of two that is at most a size, as a unit that rounds nothing.

    1 where the size is 0.
    """
    mantissa = 2 * xp.frexp(size)[0]
    is_positive = size > 0
    return xp.where(is_positive, size / xp.where(is_positive, mantissa, 1.0), 1.0)


def sum_of_others(xp: Any, terms: Array) -> Array:
    """Return Σ_{j≠i} of terms along the last axis, without subtracting the own one.

    What is left of a total that the own term dominates would be rounding.
    """
    none = xp.zeros_like(terms[..., :1])
    before = xp.cumulative_sum(terms[..., :-1], axis=-1)
    after = xp.flip(xp.cumulative_sum(xp.flip(terms[..., 1:], axis=-1), axis=-1), axis=-1)
    return xp.concat([none, before], axis=-1) + xp.concat([after, none], axis=-1)


def has_values(array: Array) -> bool:
    """Return whether an array has entries to look at, which one on torch's device meta has not."""
    return getattr(device(array), "type", None) != "meta"


def beside(name: str, values: Any, other: Array) -> Array:
    """Return what is known in the library and on the device of another array.

    Torch derivatives are kept where both are tensors.
    """
    array, xp = plain(name, values), array_namespace(other)
    if array_namespace(array) is not xp:
        if hasattr(array, "detach"):
            array = working(array.detach()).cpu().numpy()
        array = xp.asarray(np.array(array))  # a copy: torch warns of arrays that are read-only
    return to_device(array, device(other))


def require_batch(estimator: str, z: Scored) -> None:
    """Raise unless rewards have the shape (..., B, G)."""
    if z.values.ndim < 2:
        raise ValueError(
            f"rewards must have the shape (..., B, G) for the {estimator} estimator, "
            f"got {tuple(z.values.shape)}"
        )


def prompt_level(name: str, estimator: str, known: Array | None, z: Scored) -> Array:
    """Return side information of shape (...) as (..., 1) in the working precision, or raise."""
    array = _in_precision_of(name, estimator, known, z)
    if array.ndim and tuple(array.shape) != tuple(z.values.shape[:-1]):
        raise ValueError(
            f"{name} must have the shape of rewards without its last axis, "
            f"{tuple(z.values.shape[:-1])}, got {tuple(array.shape)}"
        )
    return _finite(name, array[..., None], z.count > 0, z)


def output_level(name: str, estimator: str, known: Array | None, z: Scored) -> Array:
    """Return side information of shape (..., G), 0 where there is no reward, or raise."""
    array = _in_precision_of(name, estimator, known, z)
    if tuple(array.shape) != tuple(z.values.shape):
        raise ValueError(
            f"{name} must have the shape of rewards, {tuple(z.values.shape)}, "
            f"got {tuple(array.shape)}"
        )
    return _finite(name, array, z.scored, z)


def _in_precision_of(name: str, estimator: str, known: Array | None, z: Scored) -> Array:
    """Return side information in the working precision, beside the rewards, or raise."""
    if known is None:
        raise ValueError(f"{name} must be given for the {estimator} estimator, got None")
    return z.xp.astype(beside(name, known, z.values), z.values.dtype, copy=False)


def _finite(name: str, array: Array, needed: Array, z: Scored) -> Array:
    """Return side information, 0 where it is not needed; raise if it is not finite where it is."""
    wrong = needed & ~z.xp.isfinite(array)
    if has_values(wrong) and z.xp.any(wrong):
        number = int(z.xp.sum(z.xp.astype(wrong, z.xp.int64)))
        raise ValueError(
            f"{name} must be finite where there is a reward, got {number} NaN or infinity"
        )
    return z.xp.where(needed, array, z.xp.zeros_like(array))


def require_eps(eps: object) -> None:
    """Raise if a regularisation is no finite number of at least 0."""
    if real("eps", eps) < 0:
        raise ValueError(f"eps must not be negative, got {eps!r}")


def require_ddof(ddof: object) -> None:
    """Raise if the number taken off a count is neither 0 nor 1."""
    if isinstance(ddof, bool) or ddof not in (0, 1):
        raise ValueError(f"ddof must be 0 or 1, got {ddof!r}")
