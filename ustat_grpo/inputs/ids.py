"""When two ids are the same: numbers if they are equal, texts if they are spelled alike.

NumPy turns what it is given into one type before it compares: 2⁶³+1 and 2⁶³+2 are the same double
beside a 7, an id that is missing makes doubles of all the others, and `1` is `"1"` beside a text.
So ids are compared as they were given, one by one, unless all are integers already.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from ustat_grpo.inputs.arrays import Integers
from ustat_grpo.inputs.checks import require_unmasked
from ustat_grpo.inputs.quoting import quoted

_KINDS = "a number or a text that is not empty"
_MOST_BITS = 1024  # Python refuses to write integers of many thousand digits
_MISSING = {"", "nan", "none", "null", "nat", "<na>"}  # as what is not there is written


class Ids(NamedTuple):
    """Ids of n rows, of which B differ.

    Args:
        values: one a row, shape (n,): integers if all are, else texts in an array of objects, in
            which one long text does not make all the others as long.
        place: which of the different ids each row has, in the order of first appearance, shape
            (n,).
        first: the row in which each of the different ids first appears, shape (B,).
    """

    values: NDArray[Any]
    place: Int[Integers, " n"]
    first: Int[Integers, " B"]


class IdError(ValueError):
    """An id that is none.

    Args:
        row: where it is, from 0.
        requirement: what it must be.
        value: what it is.
    """

    def __init__(self, row: int, requirement: str, value: object) -> None:
        """Keep what the error of a file says in its own words."""
        super().__init__(requirement)
        self.row: int = row
        self.requirement: str = requirement
        self.value: object = value


def identified(name: str, ids: object) -> Ids:
    """Return ids with the place of each among those that differ.

    Args:
        name: what errors call them.
        ids: one id a row: integers, reals or texts, in an array or a list.

    Raises:
        ValueError: if they are not one-dimensional, or one is missing, masked, no number or text,
            a real so large that others are rounded to it, or spelled as one of another type.
    """
    require_unmasked(name, ids)
    if not isinstance(ids, list | tuple):
        array = plain_ids(ids)
        if array.ndim != 1:
            raise ValueError(f"{name} must be one id a row, got shape {array.shape}")
        ids = array
    try:
        return ids_of(ids)
    except IdError as error:
        told = f"{name} must be {error.requirement}, got {quoted(error.value)} in row {error.row}"
        raise ValueError(told) from None


def plain_ids(ids: Any) -> NDArray[Any]:
    """Return an array of NumPy or torch as one of NumPy.

    Raises:
        ValueError: if it is a tensor of a type that NumPy has not, bfloat16 say.
    """
    if not hasattr(ids, "detach"):
        return np.asarray(ids)
    try:
        return np.asarray(ids.detach().cpu())
    except TypeError:
        raise ValueError(
            "ids must be integers, texts or reals of a type that NumPy has, got a tensor of "
            f"{ids.dtype}: cast them before they are rounded"
        ) from None


def ids_of(rows: NDArray[Any] | Sequence[Any]) -> Ids:
    """Return ids with the place of each among those that differ; see `identified`.

    Raises:
        IdError: if one is no id.
    """
    if isinstance(rows, np.ndarray):
        if rows.dtype.kind in "iu":
            return _of_integers(rows.copy())
        # Reals keep the type that says how far they can be trusted; of texts NumPy's own are slow.
        rows = list(rows) if rows.dtype.kind == "f" else rows.tolist()
    places: dict[Any, int] = {}
    keys = [_key(row, value) for row, value in enumerate(rows)]
    place = np.array([places.setdefault(key, len(places)) for key in keys], dtype=np.int64)
    _, first = np.unique(place, return_index=True)
    _require_one_type(places, first)
    return Ids(_values(keys), place, first)


def _of_integers(rows: NDArray[Any]) -> Ids:
    _, first, place = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return Ids(rows, np.argsort(order)[place], first[order])


def _key(row: int, value: Any) -> int | float | str:
    """Return what is equal for equal ids: an integer, a real that is none, or a text."""
    digits = 53
    if isinstance(value, np.generic) or getattr(value, "ndim", None) == 0:  # also a tensor's item
        scalar = np.asarray(value)
        digits = np.finfo(scalar.dtype.name).nmant + 1 if scalar.dtype.kind == "f" else digits
        value = scalar.item()
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise IdError(row, "in UTF-8", value) from None
    if isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() > _MOST_BITS:
            raise IdError(row, f"an integer of at most {_MOST_BITS} bits", value)
        return int(value)
    if isinstance(value, float) and np.isfinite(value):
        if abs(value) >= 2**digits:
            raise IdError(row, f"exact: reals from 2^{digits} on stand for several numbers", value)
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, str) and value.casefold() not in _MISSING:
        if not _is_unicode(value):
            raise IdError(row, "a text that UTF-8 can write", value)
        return str(value)
    raise IdError(row, _KINDS, value)


def _is_unicode(text: str) -> bool:
    """Return whether a text has no half of a surrogate pair, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_one_type(places: Mapping[Any, int], first: NDArray[np.int64]) -> None:
    """Raise if a number and a text are spelled alike: in a file they would be one id."""
    texts = {key for key in places if isinstance(key, str)}
    if texts and len(texts) < len(places):
        for key, place in places.items():
            if not isinstance(key, str) and str(key) in texts:
                requirement = "of one type where they are spelled alike, a number and a text"
                raise IdError(int(first[place]), requirement, key)


def _values(keys: list[Any]) -> NDArray[Any]:
    """Return integers if all keys are and fit, else texts."""
    if all(isinstance(key, int) for key in keys):
        for kind in (np.int64, np.uint64):
            try:
                return np.array(keys, dtype=kind)
            except OverflowError:
                continue
    texts = np.empty(len(keys), dtype=object)
    texts[:] = list(map(str, keys))
    return texts
