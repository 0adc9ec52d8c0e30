"""The two numbers that decide the variance of a second-order U-statistic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .pairs import Array


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
