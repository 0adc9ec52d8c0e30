"""The complete U-statistic of order two, and its variance, estimated from the same sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from .components import (
    VarianceComponents,
    components_from_grams,
    outer_gram,
    pair_sums,
    row_sums,
    trace_gram,
)
from .pairs import Array, Kernel, Sample, prepare


def u_statistic(sample: Sample, kernel: Kernel, *, block_size: int | None = None) -> Any:
    """Average a symmetric kernel over all pairs of distinct observations.

    U_n = 2/(n(n−1)) Σ_{i<j} h(X_i, X_j),

    the minimum-variance unbiased estimate of E h(X, X′) when nothing is known of
    the distribution. Each pair is evaluated once, in blocks, in
    O(block_size² q) memory; block_size changes the result only by rounding.

    The kernel convention, the same in this whole package: `kernel(a, b)` receives
    two arrays with two leading *pair axes* that broadcast against each other, (r, 1)
    against (1, c) or (r, 1) against (r, 1), followed by the axes of one observation.
    It returns (r, c) values, or (r, c, q) for a vector-valued kernel. When the
    sample is a tuple of arrays, a and b are tuples of arrays.

    Args:
        sample: (n, ...) array, or a tuple of arrays with a common first axis.
            Integers and booleans become floats. A NaN observation makes the result
            NaN; nothing is dropped.
        kernel: Symmetric in its arguments; checked on a few pairs. It is never
            evaluated at an observation and itself.
        block_size: Observations on each side of a block; None fits the cache.

    Returns:
        A number for a scalar kernel, (q,) for a vector-valued one; float32 if the
        kernel returns float32, else float64. Sums run in float64.

    Raises:
        TypeError: If the sample does not hold real numbers.
        ValueError: If n < 2, the arrays disagree on n, block_size < 1, or the kernel
            is not symmetric, does not broadcast, or returns a wrong shape.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.ustatistics import u_statistic
        >>> x = np.array([1.0, 2.0, 4.0])
        >>> print(u_statistic(x, lambda a, b: (a - b) ** 2 / 2))
        2.3333333333333335
        >>> points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
        >>> print(u_statistic(points, lambda a, b: abs(a - b)))  # one value a coordinate
        [2.         2.66666667]

    Reference:
        Hoeffding (1948), A class of statistics with asymptotically normal
        distribution, Ann. Math. Statist. 19.
    """
    pairs = prepare(sample, kernel, block_size)
    total = np.zeros_like(pairs.pilot)
    for _, _, values in pairs.blocks():
        total += values.sum(axis=(0, 1))
    num_pairs = pairs.count * (pairs.count - 1) / 2
    return pairs.present(pairs.pilot + total / num_pairs, 1)


def variance_estimate(sample: Sample, kernel: Kernel, *, block_size: int | None = None) -> Any:
    """Estimate Var(U_n) without bias.

    U_n² minus the average of h(i, j) h(k, l) over distinct i, j, k, l, whose
    expectation is θ². With h̃ = h − U_n and R_i = Σ_{j≠i} h̃(i, j) it is

    (4 Σ_i R_i² − 2 Σ_{i≠j} h̃(i, j)²) / (n(n−1)(n−2)(n−3)),

    products being outer products for a vector-valued kernel: one pass, O(n²) kernel
    values, O(block_size² q + n q) memory.

    Args:
        sample: As in `u_statistic`, n ≥ 4.
        kernel: As in `u_statistic`.
        block_size: As in `u_statistic`.

    Returns:
        A number, or the (q, q) covariance matrix for a vector-valued kernel. For the
        trace alone, at a cost linear in q, take `variance_components(...).variance(n)`.

    Raises:
        ValueError: If n < 4, or as in `u_statistic`.

    Note:
        No unbiased estimate of a variance that can vanish is always ≥ 0: this one can
        be negative, and does so at small n when Var h₁ is near zero.
        `jackknife_variance` never is, and pays with an upward bias.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.ustatistics import variance_estimate
        >>> x = np.array([1.0, 2.0, 4.0, 4.5, 7.0])
        >>> print(round(variance_estimate(x, lambda a, b: a + b), 6))
        4.36
        >>> print(round(4 * np.var(x, ddof=1) / 5, 6))  # U_n is twice the mean
        4.36

    Reference:
        Lee (1990), U-Statistics, chapter 5.
    """
    pairs = prepare(sample, kernel, block_size, 4, "an unbiased variance")
    sums = pair_sums(pairs, outer_gram)
    components = components_from_grams(sums.count, sums.row_gram, sums.pair_gram)
    return pairs.present(components.variance(sums.count), 2)


def variance_components(
    sample: Sample, kernel: Kernel, *, block_size: int | None = None
) -> VarianceComponents:
    """Estimate tr Var h₁ and tr Var ζ₂ without bias.

    Their `variance(n)` at the sample's own n is the trace of `variance_estimate`; at
    another n it answers what a larger sample, or group, would bring.

    Args:
        sample: As in `u_statistic`, n ≥ 4.
        kernel: As in `u_statistic`.
        block_size: As in `u_statistic`.

    Returns:
        Numbers `first` and `second`; either may be negative.

    Raises:
        ValueError: If n < 4, or as in `u_statistic`.

    Examples:
        >>> from ustat_grpo.ustatistics import variance_components
        >>> parts = variance_components([1.0, 2.0, 3.0, 6.0], lambda a, b: (a + b) / 2)
        >>> round(float(parts.first), 4), abs(round(float(parts.second), 4))  # ¼ · 14/3 and 0
        (1.1667, 0.0)
        >>> round(float(parts.variance(8)), 4)  # of twice the observations: 14/3/8
        0.5833

    Reference:
        Lee (1990), U-Statistics, chapter 5.
    """
    pairs = prepare(sample, kernel, block_size, 4, "unbiased variance components")
    sums = pair_sums(pairs, trace_gram)
    components = components_from_grams(sums.count, sums.row_gram, sums.pair_gram)
    return VarianceComponents(
        pairs.present(components.first, 0), pairs.present(components.second, 0)
    )


def jackknife_variance(sample: Sample, kernel: Kernel, *, block_size: int | None = None) -> Any:
    """Estimate Var(U_n) by the jackknife: never negative, biased upwards.

    (n−1)/n Σ_i (U_{−i} − U_n)(U_{−i} − U_n)ᵀ. Leaving out observation i removes its
    row from the sum over pairs, so U_{−i} − U_n = −2 R_i / ((n−1)(n−2)) with R_i as
    in `variance_estimate`, and all n values come from one pass over the pairs.

    Args:
        sample: As in `u_statistic`, n ≥ 3.
        kernel: As in `u_statistic`.
        block_size: As in `u_statistic`.

    Returns:
        A number, or the (q, q) covariance matrix for a vector-valued kernel.

    Raises:
        ValueError: If n < 3, or as in `u_statistic`.

    Note:
        The bias is 2 Var ζ₂ / ((n−1)(n−2)) exactly. Proof: U_n is the mean of the
        U_{−i}, hence E jackknife = (n−1)(Var U_{n−1} − Var U_n); insert the law of
        `VarianceComponents`. For a degenerate kernel the jackknife expects about twice the truth.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.ustatistics import jackknife_variance
        >>> x = np.array([1.0, 2.0, 4.0, 4.5, 7.0])
        >>> print(round(jackknife_variance(x, lambda a, b: (a + b) / 2), 6))
        1.09
        >>> print(round(np.var(x, ddof=1) / 5, 6))  # exact for the mean
        1.09

    Reference:
        Efron and Stein (1981), The jackknife estimate of variance, Ann. Statist. 9;
        Arvesen (1969), Jackknifing U-statistics, Ann. Math. Statist. 40.
    """
    pairs = prepare(sample, kernel, block_size, 3, "a jackknife")
    _, rows = row_sums(pairs)
    return pairs.present(jackknife_from_gram(pairs.count, outer_gram(rows)), 2)


def jackknife_from_gram(count: int, row_gram: Any) -> Any:
    """Jackknife variance from Σ_i R_i²: 4 Σ_i R_i² / (n(n−1)(n−2)²)."""
    return 4 * np.asarray(row_gram) / (count * (count - 1) * (count - 2) ** 2)


def pseudo_deviations(count: int, row_sums: Array) -> Array:
    """Deviations of the jackknife's pseudo-values n U_n − (n−1) U_{−i} from their mean U_n.

    They are 2 R_i / (n−2), of shape (n, q) as the row sums; the standard error of the mean of
    the pseudo-values is the square root of the jackknife variance.
    """
    return 2 * row_sums / (count - 2)
