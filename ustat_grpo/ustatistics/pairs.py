"""Walk over all pairs of observations, a block at a time.

Everything else in this folder sees a sample only through `Pairs`: it evaluates
the kernel on blocks of pairs i < j and never on an observation with itself, so
kernels with a singular diagonal, such as 1 / |a - b|, are welcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ustat_grpo.inputs.arrays import exponents_of
from ustat_grpo.inputs.checks import require_unmasked

Array = NDArray[Any]
Sample = ArrayLike | tuple[ArrayLike, ...]
Kernel = Callable[[Any, Any], ArrayLike]

# About 2 MiB of float64 for the widest array a kernel builds: it stays in cache.
_BLOCK_ELEMENTS = 2**18
_SMALLEST_BLOCK, _LARGEST_BLOCK = 4, 128
_PROBE_POINTS = 8


@dataclass(frozen=True)
class Pairs:
    """A validated sample and kernel, ready to be evaluated on blocks of pairs.

    Attributes:
        parts: The arrays of the sample, each (n, ...).
        is_tuple: Whether the kernel receives tuples of arrays.
        kernel: The symmetric kernel.
        block_size: Observations on each side of a block.
        is_scalar: Whether the kernel returns one number per pair.
        dtype: dtype of the results.
        pilot: (q,) value near the mean, subtracted from every kernel value so
            that sums of squares do not cancel.
        exponents: (q,) of units in which squares of its values are doubles, judged by the
            pairs that were tried first.
    """

    parts: tuple[Array, ...]
    is_tuple: bool
    kernel: Kernel
    block_size: int
    is_scalar: bool
    dtype: np.dtype[Any]
    pilot: Array
    exponents: Array

    @property
    def count(self) -> int:
        """Number of observations, n."""
        return len(self.parts[0])

    def at(self, first: Array, second: Array) -> Array:
        """Kernel minus pilot at the pairs (first[p], second[p]), shape (p, q)."""
        left = tuple(part[first][:, None] for part in self.parts)
        right = tuple(part[second][:, None] for part in self.parts)
        return self._evaluate(left, right, (len(first), 1))[:, 0]

    def blocks(self) -> Iterator[tuple[slice, slice, Array]]:
        """Yield (rows, columns, values (r, c, q)) so that each pair i < j occurs once.

        A block on the diagonal holds its pairs above the diagonal and zeros elsewhere.
        """
        edges = range(0, self.count, self.block_size)
        slices = [slice(start, min(start + self.block_size, self.count)) for start in edges]
        for position, rows in enumerate(slices):
            yield rows, rows, self._diagonal_block(rows)
            left = tuple(part[rows][:, None] for part in self.parts)
            for columns in slices[position + 1 :]:
                right = tuple(part[columns][None] for part in self.parts)
                shape = (rows.stop - rows.start, columns.stop - columns.start)
                yield rows, columns, self._evaluate(left, right, shape)

    def present(self, array: ArrayLike, kernel_axes: int) -> Any:
        """Drop the trailing kernel axes of a scalar kernel and restore the dtype."""
        result = np.asarray(array)
        if self.is_scalar and kernel_axes:
            result = result.reshape(result.shape[:-kernel_axes])
        return result.astype(self.dtype, copy=False)[()]

    def _diagonal_block(self, rows: slice) -> Array:
        size = rows.stop - rows.start
        first, second = np.triu_indices(size, k=1)
        values = np.zeros((size, size, len(self.pilot)))
        if len(first):
            values[first, second] = self.at(rows.start + first, rows.start + second)
        return values

    def _evaluate(self, left: tuple[Array, ...], right: tuple[Array, ...], shape: Any) -> Array:
        values = call_kernel(self.kernel, left, right, self.is_tuple, shape)
        values = values[..., None] if values.ndim == 2 else values
        if values.shape[2:] != self.pilot.shape:
            raise ValueError(
                f"kernel must return {len(self.pilot)} value(s) for every pair, "
                f"got a block of shape {values.shape}"
            )
        return np.subtract(values, self.pilot, dtype=np.float64)


def prepare(
    sample: Sample,
    kernel: Kernel,
    block_size: int | None,
    minimum: int = 2,
    purpose: str = "a second-order kernel",
) -> Pairs:
    """Validate a sample and a kernel.

    Args:
        sample: (n, ...) array, or a tuple of such arrays with the same n.
        kernel: Symmetric kernel; see `u_statistic` for the convention.
        block_size: Observations on each side of a block; None chooses.
        minimum: Smallest n that `purpose` allows.
        purpose: What the sample is for, quoted in the error.

    Raises:
        TypeError: If the sample is not real numbers.
        ValueError: If n < minimum, the arrays disagree on n, block_size < 1, or
            the kernel is not symmetric or does not broadcast.
    """
    parts, is_tuple = as_parts(sample, "sample")
    count = len(parts[0])
    if count < minimum:
        raise ValueError(
            f"sample must hold at least {minimum} observations for {purpose}, got {count}"
        )
    if block_size is None:
        width = max(math.prod(part.shape[1:]) for part in parts)
        fitting = math.isqrt(_BLOCK_ELEMENTS // max(width, 1))
        block_size = min(max(fitting, _SMALLEST_BLOCK), _LARGEST_BLOCK)
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    probe = _probe(parts, kernel, is_tuple)
    values = probe.reshape(len(probe), -1).astype(np.float64)
    pilot = np.nan_to_num(values[0], nan=0.0, posinf=0.0, neginf=0.0)
    exponents = exponents_of(values)
    return Pairs(
        parts, is_tuple, kernel, block_size, probe.ndim == 1, probe.dtype, pilot, exponents
    )


def as_parts(sample: Sample, name: str) -> tuple[tuple[Array, ...], bool]:
    """Turn a sample into a tuple of floating arrays with a common first axis."""
    is_tuple = isinstance(sample, tuple)
    arrays = sample if isinstance(sample, tuple) else (sample,)
    parts = as_floats(name, *arrays)
    shapes = [part.shape for part in parts]
    if not parts or not all(shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"{name} must be arrays with the same first axis, got shapes {shapes}")
    return parts, is_tuple


def as_floats(name: str, *arrays: ArrayLike) -> tuple[Array, ...]:
    """Convert to one floating dtype: that of the floating inputs, else float64."""
    require_unmasked(name, arrays)
    parts = [np.asarray(array) for array in arrays]
    for part in parts:
        if part.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold real numbers, got dtype {part.dtype}")
    floating = [part.dtype for part in parts if part.dtype.kind == "f"]
    dtype = np.result_type(np.float32, *floating) if floating else np.dtype(np.float64)
    return tuple(part.astype(dtype, copy=False) for part in parts)


def call_kernel(
    kernel: Kernel,
    left: tuple[Array, ...],
    right: tuple[Array, ...],
    is_tuple: bool,
    shape: tuple[int, int],
) -> Array:
    """Evaluate the kernel once and check that it returned (r, c) or (r, c, q) reals."""
    values = np.asarray(kernel(left, right) if is_tuple else kernel(left[0], right[0]))
    if values.ndim not in (2, 3) or values.shape[:2] != shape:
        raise ValueError(
            f"kernel must return shape {shape} or {(*shape, 'q')} for that many pairs, "
            f"got {values.shape}"
        )
    return as_floats("kernel values", values)[0]


def require_symmetric(forward: Array, backward: Array) -> None:
    """Raise ValueError unless h(a, b) and h(b, a) agree up to rounding."""
    if not _agree(forward, backward):
        gap = np.nanmax(np.abs(forward - backward))
        raise ValueError(
            f"kernel must be symmetric in its arguments, got a difference of {gap:.3g}"
        )


def _probe(parts: tuple[Array, ...], kernel: Kernel, is_tuple: bool) -> Array:
    """Evaluate the kernel on a few pairs three ways; return its values (p,) or (p, q)."""
    count = len(parts[0])
    points = np.linspace(0, count - 1, min(count, _PROBE_POINTS)).astype(int)
    first, second = np.array_split(points, 2)
    rows, columns = np.repeat(first, len(second)), np.tile(second, len(first))
    left = tuple(part[rows][:, None] for part in parts)
    right = tuple(part[columns][:, None] for part in parts)
    forward = call_kernel(kernel, left, right, is_tuple, (len(rows), 1))[:, 0]
    backward = call_kernel(kernel, right, left, is_tuple, (len(rows), 1))[:, 0]
    require_symmetric(forward, backward)

    left = tuple(part[first][:, None] for part in parts)
    right = tuple(part[second][None] for part in parts)
    block = call_kernel(kernel, left, right, is_tuple, (len(first), len(second)))
    if not _agree(block.reshape(forward.shape), forward):
        raise ValueError(
            "kernel must broadcast over its two leading axes, "
            "got other values for a block than for its pairs one by one"
        )
    return forward


def _agree(left: Array, right: Array) -> bool:
    tolerance = math.sqrt(float(np.finfo(left.dtype).eps))
    scale = np.max(np.abs(left), where=np.isfinite(left), initial=0.0)
    return np.allclose(left, right, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
