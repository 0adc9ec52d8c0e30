"""Ids of groups, told apart as they were given: NumPy would merge some on the way to an array."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from ustat_grpo.arrays import Integers

_LARGEST_ID = 2.0**64
"""Ids are integers of at most 64 bits; a real number beyond has never been one."""


def numbered(name: str, ids: Any) -> tuple[Int[Integers, " n"], NDArray[Any]]:
    """Return the number of each id, in the order in which they first appear, and the ids.

    Large integers of a list stay apart, where NumPy would turn them into floating-point numbers.

    Args:
        name: what they are called in errors.
        ids: numbers or strings: a list, or an array of NumPy or torch.

    Raises:
        TypeError: if an id is neither, nor otherwise hashable.
        ValueError: if one is missing (None, NaN or masked), or may be an integer of which its
            floating-point type does not tell the neighbours.
    """
    if isinstance(ids, list | tuple):
        keys = [each.item() if hasattr(each, "item") else each for each in ids]
        _require_named(name, keys, ids)
        return _in_order(name, keys)
    array = _array(name, ids)
    if array.dtype.kind in "iubSU" and array.ndim == 1:
        labels, first, inverse = np.unique(array, return_index=True, return_inverse=True)
        order = np.argsort(first)
        return np.argsort(order)[inverse], labels[order]
    keys = array.ravel().tolist()
    _require_named(name, keys, array.ravel())
    return _in_order(name, keys)


def ids_array(name: str, ids: Any) -> NDArray[Any]:
    """Return ids as an array of their own, of Python's objects where NumPy would change one."""
    if not isinstance(ids, list | tuple):
        return np.array(_array(name, ids))
    return _faithful([each.item() if hasattr(each, "item") else each for each in ids])


def _array(name: str, ids: Any) -> NDArray[Any]:
    """Return an array that is not masked, off torch."""
    if isinstance(ids, np.ma.MaskedArray) and np.ma.is_masked(ids):
        raise ValueError(_missing(name, int(np.ma.count_masked(ids))))
    given: Any = ids
    return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)


def _require_named(name: str, keys: Sequence[Any], given: Any) -> None:
    """Raise if an id is missing, or too large for a floating-point number to tell."""
    missing = sum(key is None or key is np.ma.masked or key != key for key in keys)
    if missing:
        raise ValueError(_missing(name, missing))
    for key, each in zip(keys, given, strict=True):
        if isinstance(key, float):
            kind: Any = each.dtype if isinstance(each, np.generic) else np.dtype(np.float64)
            limit = 2.0 ** (np.finfo(kind).nmant + 1)
            if limit <= abs(key) <= _LARGEST_ID:
                raise ValueError(
                    f"{name} must be whole numbers or text where they are large: {kind} does not "
                    f"tell numbers from {limit:.0f} on apart, got {key!r}"
                )


def _missing(name: str, number: int) -> str:
    return f"{name} must name a group for every reward, got {number} None, NaN or masked"


def _in_order(name: str, keys: Sequence[Any]) -> tuple[Int[Integers, " n"], NDArray[Any]]:
    numbers: dict[Any, int] = {}
    try:
        found = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    except TypeError as error:
        raise TypeError(f"{name} must be numbers or text, got: {error}") from error
    return found, _faithful(list(numbers))


def _faithful(keys: list[Any]) -> NDArray[Any]:
    """Return an array of keys that gives them back, of objects if NumPy's own types would not."""
    if all(isinstance(key, str) for key in keys) or all(type(key) is int for key in keys):
        array = np.array(keys)
        if array.tolist() == keys:
            return array
    if all(type(key) is float for key in keys):
        return np.array(keys)
    array = np.empty(len(keys), dtype=object)
    array[:] = keys
    return array
