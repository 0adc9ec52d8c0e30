"""The O(n²) sums behind every variance of a complete U-statistic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .pairs import Array, Pairs

Gram = Callable[[Array], Array]


@dataclass(frozen=True)
class PairSums:
    """Mean, row sums and sum of squares of a kernel over all pairs.

    With h̃ = h − U_n, so that the row sums add to zero:

    Attributes:
        count: n.
        mean: (q,) U_n.
        row_sums: (n, q) R_i = Σ_{j≠i} h̃(i, j).
        row_gram: Gram of the row sums, Σ_i R_i ⊗ R_i.
        pair_gram: Gram of the values, Σ_{i≠j} h̃(i, j) ⊗ h̃(i, j).
    """

    count: int
    mean: Array
    row_sums: Array
    row_gram: Array
    pair_gram: Array


def outer_gram(values: Array) -> Array:
    """Σ_p v_p v_pᵀ of (p, q) values, shape (q, q)."""
    return values.T @ values


def diagonal_gram(values: Array) -> Array:
    """Σ_p v_p² of (p, q) values, coordinate by coordinate, shape (q,)."""
    return np.einsum("pq,pq->q", values, values)


def trace_gram(values: Array) -> Array:
    """Σ_p ‖v_p‖² of (p, q) values, shape ()."""
    return np.asarray(np.vdot(values, values))


def row_sums(pairs: Pairs) -> tuple[Array, Array]:
    """Mean (q,) and row sums (n, q) of h − U_n in one pass."""
    sums, _ = _accumulate(pairs, None)
    mean, centred = _centre(pairs, sums)
    return pairs.pilot + mean, centred


def pair_sums(pairs: Pairs, gram: Gram) -> PairSums:
    """All the sums in one pass; `gram` says which part of the (q, q) products to keep."""
    sums, squares = _accumulate(pairs, gram)
    mean, centred = _centre(pairs, sums)
    # Squares were taken about the pilot; Σ_{i≠j} (h − U)² = Σ (h − c)² − n(n−1)(U − c)².
    num_ordered = pairs.count * (pairs.count - 1)
    pair_gram = 2 * squares - num_ordered * gram(mean[None])
    return PairSums(pairs.count, pairs.pilot + mean, centred, gram(centred), pair_gram)


def _accumulate(pairs: Pairs, gram: Gram | None) -> tuple[Array, Array]:
    sums = np.zeros((pairs.count, len(pairs.pilot)))
    squares = np.zeros(())
    for rows, columns, values in pairs.blocks():
        sums[rows] += values.sum(axis=1)
        sums[columns] += values.sum(axis=0)
        if gram is not None:
            squares = squares + gram(values.reshape(-1, values.shape[-1]))
    return sums, squares


def _centre(pairs: Pairs, sums: Array) -> tuple[Array, Array]:
    mean = sums.sum(axis=0) / (pairs.count * (pairs.count - 1))
    return mean, sums - (pairs.count - 1) * mean
