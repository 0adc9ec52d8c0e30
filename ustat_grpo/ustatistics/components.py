"""The two numbers that decide the variance of a second-order U-statistic, from O(n²) sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .pairs import Array, Pairs


@dataclass(frozen=True)
class VarianceComponents:
    """Variances of the first- and second-order parts of a U-statistic.

    Hoeffding's split h(a, b) = θ + h₁(a) + h₁(b) + ζ₂(a, b) has uncorrelated terms, so

    Var U_n = (4/n) Var h₁ + 2/(n(n−1)) Var ζ₂.

    Attributes:
        first: Var h₁(X): a number, a (q, q) covariance, or whatever shape the
            function that made it documents.
        second: Var ζ₂(X, X′), of the same shape.

    Reference:
        Hoeffding (1948); Lee (1990), U-Statistics, section 1.6.
    """

    first: Any
    second: Any

    @property
    def kernel_variance(self) -> Any:
        """Var h(X, X′) = 2 Var h₁ + Var ζ₂, which is Var U_n at n = 2."""
        return 2 * self.first + self.second

    def variance(self, sample_size: int) -> Any:
        """Var U_n at n = sample_size, of the shape of the components.

        Raises:
            ValueError: If sample_size < 2.

        Examples:
            >>> from ustat_grpo.ustatistics import VarianceComponents
            >>> VarianceComponents(first=1.0, second=3.0).variance(4)
            1.5
        """
        if sample_size < 2:
            raise ValueError(f"sample_size must be at least 2, got {sample_size}")
        pairs = sample_size * (sample_size - 1) / 2
        return 4 * self.first / sample_size + self.second / pairs


def components_from_grams(count: int, row_gram: Array, pair_gram: Array) -> VarianceComponents:
    """Unbiased components from the centred sums of a sample of n ≥ 4.

    Averages of h̃ h̃ over pairs of pairs that share both, one or no observations
    estimate, up to a constant they have in common,

    same: Var h = 2 Var h₁ + Var ζ₂,   overlap: Var h₁,   disjoint: 0,

    and the three sums follow from Σ R_i² and Σ h̃² because Σ R_i = 0. Replacing h by
    h − U_n shifts the three averages alike, so their differences stay unbiased.
    """
    two = count * (count - 1)
    three = two * (count - 2)
    four = three * (count - 3)
    same = pair_gram / two
    overlap = (row_gram - pair_gram) / three
    disjoint = (2 * pair_gram - 4 * row_gram) / four
    return VarianceComponents(overlap - disjoint, same - 2 * overlap + disjoint)


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
