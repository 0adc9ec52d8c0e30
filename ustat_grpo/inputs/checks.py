"""Checks of arguments, one sentence each: parameter, requirement, value."""

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ustat_grpo.inputs.quoting import LONGEST_VALUE, one_line, quoted

PROBABILITY_TOLERANCE = 1e-8

ROUNDING = 1e-13
"""A sum within this share of its largest term of zero is zero: what is left is rounding.

That is 450 times the precision of doubles. Which side of zero the rest lies on depends on the
processor, so no verdict may.
"""
_NO_REAL_KINDS = "cmM"  # complex numbers and times, which NumPy turns into doubles all the same


def generator(rng: object) -> np.random.Generator:
    """Return `rng`, or raise if it is no numpy.random.Generator: seeds and None are refused."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {quoted(rng)}")
    return rng


def instance(name: str, value: object, kind: type, such_as: str) -> None:
    """Raise TypeError unless `value` is of a class, with an example of what is.

    Args:
        name: of the parameter.
        value: what was given.
        kind: the class.
        such_as: an expression that gives an object of it.
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
        raise TypeError(
            f"{name} must be {article} {kind.__name__}, such as {such_as}, got {quoted(value)}"
        )


def capable(name: str, value: object, method: str, such_as: str) -> None:
    """Raise TypeError unless `value` is an object with a method, with an example of what is.

    A class is refused: it has the method, but none of the numbers that the method works with.

    Args:
        name: of the parameter.
        value: what was given.
        method: its name; `__call__` for what is called itself.
        such_as: an expression that gives such an object.
    """
    if isinstance(value, type) or not callable(getattr(value, method, None)):
        what = "callable" if method == "__call__" else f"an object with the method {method}"
        raise TypeError(f"{name} must be {what}, such as {such_as}, got {quoted(value)}")


def sequence(name: str, value: object) -> list[Any]:
    """Return what a sequence holds as a list, or raise if `value` is none."""
    try:
        return list(cast(Iterable[Any], value))
    except TypeError as error:
        raise ValueError(f"{name} must be a sequence, got {quoted(value)}") from error


def integer(name: str, value: object, *, at_least: int = 1, at_most: int | None = None) -> int:
    """Return `value` as an int, or raise if it is no integer between the bounds."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {quoted(value)}")
    number = int(value)
    if at_most is not None and number > at_most:
        raise ValueError(f"{name} must be at most {at_most}, got {quoted(value)}")
    return number


def leave_one_out_group_size(value: object) -> int:
    """Return a group size that a leave-one-out baseline can work with, or raise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"group_size must be an integer, got {quoted(value)}")
    if value < 2:
        raise ValueError(f"group_size must be at least 2 for a leave-one-out baseline, got {value}")
    return int(value)


def real(name: str, value: object, *, above: float = -np.inf, below: float = np.inf) -> float:
    """Return `value` as a float, or raise if it is not finite and strictly inside the bounds."""
    if isinstance(value, bool) or not isinstance(value, Real) or not above < _float(value) < below:
        bounds = [f"above {above:g}"] * (above > -np.inf) + [f"below {below:g}"] * (below < np.inf)
        requirement = " and ".join(["a finite number", *bounds])
        raise ValueError(f"{name} must be {requirement}, got {quoted(value)}")
    return float(value)


def _float(value: Real) -> float:
    """Return a number as a double, infinite if it is larger than the largest."""
    try:
        return float(value)
    except OverflowError:
        return np.inf  # of either sign: both are refused


def increasing(
    name: str, values: Sequence[int], *, at_most: int | None = None
) -> NDArray[np.int64]:
    """Return positive integers as an array, or raise unless they increase, up to `at_most`."""
    points = [integer(name, value) for value in sequence(name, values)]
    limit = np.inf if at_most is None else at_most
    if not points or any(np.diff(points) <= 0) or points[-1] > limit:
        bound = "" if at_most is None else f" and at most {at_most}"
        raise ValueError(f"{name} must be increasing{bound}, got {quoted(list(values))}")
    return np.array(points, dtype=np.int64)


def finite(name: str, value: ArrayLike, *, ndim: int) -> NDArray[np.float64]:
    """Return `value` as a float64 array of `ndim` axes without NaN or infinity, or raise."""
    array = _doubles(name, value)
    if array.ndim != ndim or array.size == 0:
        raise ValueError(
            f"{name} must be {ndim}-dimensional and not empty, got shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be finite, got {np.sum(~np.isfinite(array))} NaN or infinity"
        )
    return array


def numbers(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return one finite number, or an array of them, as float64, or raise."""
    return finite(name, value, ndim=np.ndim(value))


def without_rounding(value: ArrayLike, scale: ArrayLike) -> NDArray[np.float64]:
    """Return `value` with zeros where it is no more than rounding beside terms of size `scale`."""
    array = np.asarray(value, dtype=np.float64)
    return np.where(np.abs(array) <= ROUNDING * np.abs(scale), 0.0, array)


def first_largest(value: ArrayLike) -> NDArray[np.intp]:
    """Return where each row is largest, of entries that are equal up to rounding the first."""
    array = np.asarray(value, dtype=np.float64)
    largest = array.max(axis=-1, keepdims=True)
    return np.argmax(array >= largest - ROUNDING * np.abs(largest), axis=-1)


def first_smallest(value: ArrayLike) -> NDArray[np.intp]:
    """Return where each row is smallest, of entries that are equal up to rounding the first."""
    return first_largest(-np.asarray(value, dtype=np.float64))


def not_negative(name: str, value: ArrayLike, *, scale: ArrayLike) -> NDArray[np.float64]:
    """Return `value`, raised to 0 where rounding took it below, or raise if it is negative.

    Args:
        name: of the parameter.
        value: what cannot be negative.
        scale: size of the terms that it was made of.
    """
    require_unmasked(name, value)
    array = np.asarray(value, dtype=np.float64)
    if not (array >= -ROUNDING * np.abs(scale)).all():
        shown = "a smallest entry of " if array.ndim else ""
        raise ValueError(f"{name} must not be negative, got {shown}{array.min():g}")
    return np.where(array < 0, 0.0, array)


def unit_interval(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return probabilities, moved to 0 or 1 where rounding took them beyond, or raise."""
    array = _doubles(name, value)
    outside = ~((array >= -ROUNDING) & (array <= 1 + ROUNDING))
    if outside.any():
        raise ValueError(f"{name} must lie in [0, 1], got {array[outside][0]:g}")
    return np.asarray(np.clip(array, 0.0, 1.0))


def _doubles(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return a copy as doubles: what is frozen must not change elsewhere."""
    require_unmasked(name, value)
    try:
        if getattr(getattr(value, "dtype", None), "kind", "f") in _NO_REAL_KINDS:
            raise TypeError("no real numbers")
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = one_line(error, longest=LONGEST_VALUE)
        raise ValueError(f"{name} must be real numbers, got {quoted(value)} ({reason})") from error


def require_unmasked(name: str, value: object) -> None:
    """Raise if entries of a NumPy array are masked: the numbers below a mask mean nothing."""
    masked = masked_entries(value)
    if masked:
        raise ValueError(f"{name} must not be masked, got {masked} masked entries: leave them out")


def masked_entries(value: object) -> int:
    """Return how many entries are masked, also in NumPy arrays that lists hold."""
    if isinstance(value, np.ma.MaskedArray):
        return int(np.ma.getmaskarray(value).sum())
    if not isinstance(value, list | tuple):
        return 0
    kinds = (list, tuple, np.ma.MaskedArray)
    return sum(masked_entries(part) for part in value if isinstance(part, kinds))


def probabilities(name: str, value: ArrayLike, *, ndim: int) -> NDArray[np.float64]:
    """Return `value` as probabilities that sum to one along the last axis, or raise.

    Sums within 1e-8 of one are accepted and divided out, so that later sums are exact.
    """
    array = not_negative(name, finite(name, value, ndim=ndim), scale=1.0)
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
