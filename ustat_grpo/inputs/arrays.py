"""Arrays of doubles: their types, and units in which squares and cubes of them are doubles.

Types are what jaxtyping gives a shape: `Float[Array, "B G"]`. They are spelled out, because
`numpy.typing.NDArray` is a type alias from NumPy 2.5 on, which jaxtyping refuses.

Units are powers of two, which change no digit: what is computed in another unit is the same but for
the factor. Ordinary numbers keep their own, since the steps between units are large.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

Array = np.ndarray[tuple[Any, ...], np.dtype[np.float64]]
Integers = np.ndarray[tuple[Any, ...], np.dtype[np.int64]]
Booleans = np.ndarray[tuple[Any, ...], np.dtype[np.bool_]]


_STEP = 128


def exponent_of(values: Float[Array, "..."]) -> int:
    """Return e, a multiple of 128, such that the largest of |values|/2ᵉ is between 2^±64.

    It is 0 where that is zero, NaN or infinite: of the last two C gives any exponent.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not math.isfinite(largest):
        return 0
    return _STEP * round(float(np.frexp(largest)[1]) / _STEP)


def exponents_of(columns: Float[Array, "n m"]) -> Integers:
    """Return e of each column, shape (m,)."""
    largest = np.abs(columns).max(axis=0, initial=0.0)
    exponents = _STEP * np.rint(np.frexp(largest)[1] / _STEP)
    return np.where(np.isfinite(largest), exponents, 0).astype(np.int64)
