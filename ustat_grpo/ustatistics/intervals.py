"""Confidence intervals for the mean of a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .complete import pseudo_deviations
from .components import components_from_grams, diagonal_gram, pair_sums, row_sums
from .pairs import Array, Kernel, Pairs, Sample, prepare
from .skewness import error_and_asymmetry, longer_interval

Method = Literal["jackknife", "normal", "skewness"]


@dataclass(frozen=True)
class ConfidenceInterval:
    """An estimate and its interval, coordinate by coordinate.

    Attributes:
        estimate: U_n, a number or (q,).
        std_error: Estimated standard deviation of U_n.
        low: Lower end.
        high: Upper end.
        level: Nominal coverage of each coordinate on its own, not jointly.
        method: How the standard error and the quantile were found.

    Examples:
        >>> from ustat_grpo.ustatistics import confidence_interval
        >>> interval = confidence_interval([1.0, 2.0, 3.0, 6.0], lambda a, b: (a + b) / 2)
        >>> round(float(interval.estimate), 6), round(float(interval.std_error), 3)  # √(14/3/4)
        (3.0, 1.08)
        >>> round(float(interval.low), 2), round(float(interval.high), 2)  # ± 3.18 errors
        (-0.44, 6.44)
    """

    estimate: Any
    std_error: Any
    low: Any
    high: Any
    level: float
    method: Method


def confidence_interval(
    sample: Sample,
    kernel: Kernel,
    *,
    level: float = 0.95,
    method: Method = "jackknife",
    block_size: int | None = None,
) -> ConfidenceInterval:
    """Interval for θ = E h(X, X′) around U_n.

    "jackknife": U_n ± Student's t with n − 1 degrees of freedom × the square root of
    `jackknife_variance`.

    "skewness" excludes only what both the jackknife and Hall's transformation of its
    T = (U_n − θ)/standard error exclude: T and

    g(T) = ((1 + aT/3)³ − 1)/a + a/6,   a = skewness of the n U_n − (n−1) U_{−i} / √n,

    are held against the same quantile. So it is never shorter than the jackknife's, and
    longer on the side of the longer tail: take it where few observations carry most of U_n.

    "normal": U_n ± the normal quantile × the square root of `variance_estimate`.
    Hoeffding's lower bound Var U_n ≥ Var h / P for the P = n(n−1)/2 pairs, with the
    unbiased Var h, which is never negative, replaces a smaller estimate.

    Args:
        sample: As in `u_statistic`; n ≥ 3 for "jackknife" and "skewness", n ≥ 4 for
            "normal".
        kernel: As in `u_statistic`.
        level: Nominal coverage, between 0 and 1.
        method: "jackknife", "normal" or "skewness".
        block_size: As in `u_statistic`.

    Returns:
        The interval; arrays of shape (q,) for a vector-valued kernel.

    Raises:
        ValueError: If level is not inside (0, 1), method is unknown, n is too small, or
            as in `u_statistic`.

    Note:
        All rest on the normal limit of √n (U_n − θ), which needs Var h₁ > 0. For a
        degenerate kernel n U_n has a weighted-χ² limit and no interval holds its level.
        Elsewhere the level is approached as n grows, from below where tails are long, and
        the later the longer they are. How often 95 % intervals held θ in 100,000 samples a
        cell, with standard errors of at most 0.0016, for the variance of standard normal,
        exponential (rate 1) or lognormal (σ = 1) numbers, and for the covariance of u + v
        and u + w with three such independent numbers u, v, w:

        kernel       law          method        n = 10   n = 20   n = 50  n = 200
        variance     normal       jackknife      0.865    0.895    0.923    0.943
        variance     normal       normal         0.815    0.874    0.915    0.941
        variance     normal       skewness       0.937    0.953    0.961    0.961
        variance     exponential  jackknife      0.690    0.750    0.823    0.896
        variance     exponential  normal         0.644    0.730    0.817    0.894
        variance     exponential  skewness       0.840    0.907    0.946    0.957
        variance     lognormal    jackknife      0.476    0.535    0.618    0.732
        variance     lognormal    normal         0.446    0.521    0.612    0.731
        variance     lognormal    skewness       0.695    0.794    0.881    0.907
        covariance   normal       jackknife      0.898    0.916    0.934    0.946
        covariance   normal       normal         0.842    0.894    0.925    0.944
        covariance   normal       skewness       0.921    0.939    0.954    0.958
        covariance   exponential  jackknife      0.816    0.833    0.866    0.914
        covariance   exponential  normal         0.748    0.807    0.857    0.912
        covariance   exponential  skewness       0.852    0.865    0.902    0.946
        covariance   lognormal    jackknife      0.586    0.609    0.671    0.757
        covariance   lognormal    normal         0.526    0.585    0.662    0.755
        covariance   lognormal    skewness       0.670    0.708    0.788    0.869

        Heavy tails in a small sample no method repairs: the values that decide the variance
        of lognormal numbers are rarely among ten of them, and nothing computed from the
        sample can tell.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.ustatistics import confidence_interval
        >>> x = np.random.default_rng(0).normal(size=400)
        >>> interval = confidence_interval(x, lambda a, b: (a - b) ** 2 / 2)
        >>> print(bool(interval.low < 1.0 < interval.high))
        True

    Reference:
        Arvesen (1969), Jackknifing U-statistics, Ann. Math. Statist. 40; Serfling
        (1980), section 5.5; Hall (1992), On the removal of skewness by transformation,
        J. R. Statist. Soc. B 54.
    """
    from scipy.special import ndtri, stdtrit

    if not 0 < level < 1:
        raise ValueError(f"level must be inside (0, 1), got {level}")
    if method == "normal":
        pairs = prepare(sample, kernel, block_size, 4, "a normal interval")
        mean, error = _floored_error(pairs)
        asymmetry = np.zeros_like(mean)
        quantile = ndtri((1 + level) / 2)
    elif method in ("jackknife", "skewness"):
        pairs = prepare(sample, kernel, block_size, 3, f"a {method} interval")
        mean, rows = row_sums(pairs)
        error, asymmetry = error_and_asymmetry(pseudo_deviations(pairs.count, rows))
        asymmetry = asymmetry if method == "skewness" else np.zeros_like(asymmetry)
        quantile = stdtrit(pairs.count - 1, (1 + level) / 2)
    else:
        raise ValueError(f"method must be 'jackknife', 'normal' or 'skewness', got {method!r}")
    low, high = longer_interval(mean, error, asymmetry, float(quantile))
    return ConfidenceInterval(
        estimate=pairs.present(mean, 1),
        std_error=pairs.present(error, 1),
        low=pairs.present(low, 1),
        high=pairs.present(high, 1),
        level=level,
        method=method,
    )


def _floored_error(pairs: Pairs) -> tuple[Array, Array]:
    def gram(values: Array) -> Array:
        return diagonal_gram(np.ldexp(values, -pairs.exponents))

    sums = pair_sums(pairs, gram)
    components = components_from_grams(sums.count, sums.row_gram, sums.pair_gram)
    num_pairs = sums.count * (sums.count - 1) / 2
    bound = np.maximum(components.kernel_variance, 0) / num_pairs
    error = np.sqrt(np.maximum(components.variance(sums.count), bound))
    return sums.mean, np.ldexp(error, pairs.exponents)
