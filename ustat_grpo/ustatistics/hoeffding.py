"""Hoeffding's split of a kernel, exact on finite distributions and estimated from samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .components import VarianceComponents, components_from_grams, outer_gram, pair_sums
from .pairs import Kernel, Sample, as_parts, call_kernel, prepare, require_symmetric

_PROBABILITY_TOLERANCE = 1e-9


@dataclass(frozen=True)
class HoeffdingDecomposition:
    """h(a, b) = θ + h₁(a) + h₁(b) + ζ₂(a, b) on a distribution with m atoms.

    h₁(a) = E h(a, X) − θ and ζ₂ is the rest. Both are centred, E ζ₂(a, X) = 0 for every
    a, and the terms are uncorrelated. The axes q are absent for a scalar kernel.

    Attributes:
        mean: (q,) θ = E h(X, X′).
        first: (m, q) h₁ at each atom.
        second: (m, m, q) ζ₂ at each pair of atoms.
        first_variance: (q, q) Var h₁(X).
        second_variance: (q, q) Var ζ₂(X, X′).

    Examples:
        >>> from ustat_grpo.ustatistics import gini_kernel, hoeffding
        >>> split = hoeffding(gini_kernel, [0, 1], [0.5, 0.5])  # a fair coin
        >>> float(split.mean), split.first.tolist(), split.second.tolist()
        (0.5, [0.0, 0.0], [[-0.5, 0.5], [0.5, -0.5]])
        >>> split.total_variance(2)  # two draws are 0 or 1 apart
        0.25
    """

    mean: Any
    first: Any
    second: Any
    first_variance: Any
    second_variance: Any

    def variance(self, sample_size: int) -> Any:
        """Exact Var U_n = (4/n) Var h₁ + 2/(n(n−1)) Var ζ₂, a number or (q, q)."""
        components = VarianceComponents(self.first_variance, self.second_variance)
        return components.variance(sample_size)

    def total_variance(self, sample_size: int) -> float:
        """Exact E‖U_n − θ‖², the trace of `variance`."""
        return _trace(self.variance(sample_size))


@dataclass(frozen=True)
class HoeffdingEstimate:
    """Hoeffding's split estimated from n observations.

    Attributes:
        mean: (q,) U_n, unbiased for θ.
        first: (n, q) estimates of h₁(X_i), unbiased given X_i; they add to zero. Their
            spread exceeds that of h₁ because they carry noise from the other n − 1.
        first_variance: (q, q) unbiased for Var h₁; may be negative.
        second_variance: (q, q) unbiased for Var ζ₂; may be negative.

    Examples:
        >>> from ustat_grpo.ustatistics import hoeffding_estimate
        >>> split = hoeffding_estimate([1.0, 2.0, 3.0, 6.0], lambda a, b: (a + b) / 2)
        >>> float(split.mean), split.first.round(6).tolist()  # half the deviations from the mean
        (3.0, [-1.333333, -0.666667, 0.0, 2.0])
    """

    mean: Any
    first: Any
    first_variance: Any
    second_variance: Any

    def variance(self, sample_size: int) -> Any:
        """Unbiased for Var U_n at any n, not only the sample's own: a number or (q, q)."""
        components = VarianceComponents(self.first_variance, self.second_variance)
        return components.variance(sample_size)

    def total_variance(self, sample_size: int) -> float:
        """Unbiased for E‖U_n − θ‖², the trace of `variance`."""
        return _trace(self.variance(sample_size))


def hoeffding(kernel: Kernel, support: Sample, probs: ArrayLike) -> HoeffdingDecomposition:
    """Split a kernel exactly under a finite distribution.

    Args:
        kernel: As in `u_statistic`; here it is evaluated at an atom and itself too,
            because two independent draws may coincide.
        support: (m, ...) atoms, or a tuple of arrays with a common first axis.
        probs: (m,) probabilities.

    Returns:
        The decomposition, in O(m² q) memory.

    Raises:
        TypeError: If the support does not hold real numbers.
        ValueError: If probs is not m non-negative numbers that add to 1, or the kernel
            is not symmetric or returns a wrong shape.

    Examples:
        A fair coin and the variance kernel: ½(a − b)² has no first-order part.

        >>> from ustat_grpo.ustatistics import hoeffding
        >>> split = hoeffding(lambda a, b: (a - b) ** 2 / 2, [0, 1], [0.5, 0.5])
        >>> print(split.mean, split.first_variance, split.second_variance)
        0.25 0.0 0.0625
        >>> print(split.variance(2))
        0.0625

    Reference:
        Hoeffding (1948); Serfling (1980), Approximation Theorems of Mathematical
        Statistics, section 5.3.
    """
    parts, is_tuple = as_parts(support, "support")
    weights = _probabilities(probs, len(parts[0]))
    left, right = tuple(p[:, None] for p in parts), tuple(p[None] for p in parts)
    values = call_kernel(kernel, left, right, is_tuple, (len(weights), len(weights)))
    require_symmetric(values, values.swapaxes(0, 1))

    flat = values.astype(np.float64).reshape(len(weights), len(weights), -1)
    conditional = np.einsum("b,abq->aq", weights, flat)
    mean = weights @ conditional
    first = conditional - mean
    second = flat - first[:, None] - first[None] - mean
    first_variance = outer_gram(np.sqrt(weights)[:, None] * first)
    joint = np.sqrt(np.outer(weights, weights))[..., None] * second
    second_variance = outer_gram(joint.reshape(-1, joint.shape[-1]))
    fields = [mean, first, second, first_variance, second_variance]
    if values.ndim == 2:
        fields = [mean[0], first[:, 0], second[..., 0], first_variance[0, 0], second_variance[0, 0]]
    return HoeffdingDecomposition(*fields)


def hoeffding_estimate(
    sample: Sample, kernel: Kernel, *, block_size: int | None = None
) -> HoeffdingEstimate:
    """Estimate Hoeffding's split from a sample.

    The projection of observation i is the average of its row minus the U-statistic of
    all the others; the two are independent given X_i, so

    ĥ₁(i) = R_i/(n−1) − (U_{−i} − U_n) = n R_i / ((n−1)(n−2)),   E[ĥ₁(i) | X_i] = h₁(X_i),

    with R_i = Σ_{j≠i} (h(i, j) − U_n). The variances compare averages of products over
    pairs of pairs with two, one and no common observations.

    Args:
        sample: As in `u_statistic`, n ≥ 4.
        kernel: As in `u_statistic`.
        block_size: As in `u_statistic`.

    Returns:
        The estimate; mean, projections and both variances are unbiased. Second-order
        projections need n² values and are left to `second_projection`.

    Raises:
        ValueError: If n < 4, or as in `u_statistic`.

    Examples:
        >>> from ustat_grpo.ustatistics import hoeffding_estimate
        >>> split = hoeffding_estimate([1.0, 2.0, 3.0, 6.0], lambda a, b: (a + b) / 2)
        >>> round(float(split.variance(4)), 6)  # the sample variance 14/3 over n, as for any mean
        1.166667

    Reference:
        Hoeffding (1948); Lee (1990), U-Statistics, chapter 5.
    """
    pairs = prepare(sample, kernel, block_size, 4, "unbiased variance components")
    sums = pair_sums(pairs, outer_gram)
    components = components_from_grams(sums.count, sums.row_gram, sums.pair_gram)
    projection = sums.row_sums * sums.count / ((sums.count - 1) * (sums.count - 2))
    return HoeffdingEstimate(
        mean=pairs.present(sums.mean, 1),
        first=pairs.present(projection, 1),
        first_variance=pairs.present(components.first, 2),
        second_variance=pairs.present(components.second, 2),
    )


def second_projection(sample: Sample, kernel: Kernel, *, block_size: int | None = None) -> Any:
    """Estimate the degenerate part ζ₂(X_i, X_j) of every pair.

    ζ̂₂(i, j) = (n−1)/(n−3) (h̃(i, j) − (R_i + R_j)/(n−2)),   h̃ = h − U_n,

    which is h(i, j) minus the averages of rows i and j without each other plus the
    U-statistic of the remaining n − 2: unbiased given X_i and X_j. Its rows add to zero.

    Args:
        sample: As in `u_statistic`, n ≥ 4.
        kernel: As in `u_statistic`.
        block_size: As in `u_statistic`.

    Returns:
        Symmetric (n, n), or (n, n, q), with zeros on the diagonal, where the kernel is
        never evaluated. Unlike the rest of this package it needs O(n² q) memory.

    Raises:
        ValueError: If n < 4, or as in `u_statistic`.

    Examples:
        >>> from ustat_grpo.ustatistics import second_projection
        >>> flat = second_projection([1.0, 2.0, 3.0, 6.0], lambda a, b: (a + b) / 2)
        >>> float(abs(flat).max()) < 1e-12  # a mean has no second-order part
        True
    """
    pairs = prepare(sample, kernel, block_size, 4, "second-order projections")
    count = pairs.count
    values = np.zeros((count, count, len(pairs.pilot)))
    for rows, columns, block in pairs.blocks():
        values[rows, columns] += block
    values += values.swapaxes(0, 1)
    off_diagonal = ~np.eye(count, dtype=bool)
    values[off_diagonal] -= values.sum(axis=(0, 1)) / (count * (count - 1))
    sums = values.sum(axis=1)
    values[off_diagonal] -= ((sums[:, None] + sums[None]) / (count - 2))[off_diagonal]
    return pairs.present(values * (count - 1) / (count - 3), 1)


def _probabilities(probs: ArrayLike, count: int) -> Any:
    weights = np.asarray(probs, dtype=np.float64)
    if weights.shape != (count,):
        raise ValueError(f"probs must have shape ({count},) like the support, got {weights.shape}")
    if not (weights >= 0).all() or abs(weights.sum() - 1) > _PROBABILITY_TOLERANCE:
        raise ValueError(f"probs must be non-negative and add to 1, got {weights.tolist()}")
    return weights


def _trace(variance: Any) -> float:
    return float(np.trace(np.atleast_2d(variance)))
