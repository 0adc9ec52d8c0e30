"""Intervals for the means of skewed contributions, by Hall's transformation.

Where contributions are skewed, Student's T of their mean is skewed the other way: intervals from T
end too early on the side of the longer tail. Hall's transformation

    g(T) = ((1 + aT/3)³ − 1)/a + a/6,   a = skewness/√K,

takes this out to the next order; it is monotone, so it has an inverse, and T itself at a = 0. Where
tails are heavy the skewness is a guess and T does better: a value is excluded only by both.

The prompts of `ustat_grpo.noise` contribute to a mean, and so do the pseudo-values of the jackknife
to a U-statistic.

Reference: Hall, On the removal of skewness by transformation, J. R. Statist. Soc. B 54 (1992).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ustat_grpo.inputs.arrays import Array, exponents_of

_SYMMETRIC = 1e-9  # below this skewness the transformation is the identity to rounding


def error_and_asymmetry(deviations: Float[Array, "K m"]) -> tuple[Array, Array]:
    """Return the standard error of each column's mean, and skewness/√K of its contributions.

    Args:
        deviations: of contributions from their mean, one column an expectation, shape (K, m).
    """
    count = len(deviations)
    exponents = exponents_of(deviations)
    deviations = np.ldexp(deviations, -exponents)  # whose cubes are doubles
    squares = deviations * deviations
    variance, third = squares.mean(axis=0), (squares * deviations).mean(axis=0)
    skewness = np.divide(third, variance**1.5, out=np.zeros_like(third), where=variance > 0)
    error = np.ldexp(np.sqrt(variance / (count - 1)), exponents)
    return error, skewness / np.sqrt(count)


def transformed(statistic: float, asymmetry: float) -> float:
    """Return g(T) at a = asymmetry."""
    if abs(asymmetry) < _SYMMETRIC:
        return statistic
    return ((1 + asymmetry * statistic / 3) ** 3 - 1) / asymmetry + asymmetry / 6


def longer_interval(
    mean: Float[Array, " m"],
    error: Float[Array, " m"],
    asymmetry: Float[Array, " m"],
    quantile: float,
) -> tuple[Array, Array]:
    """Return the ends of the values that T or g(T) does not exclude.

    Args:
        mean: of contributions, shape (m,).
        error: its standard error, shape (m,).
        asymmetry: skewness/√K of a contribution, shape (m,); Student's interval where it is 0.
        quantile: what |T| or |g(T)| does not exceed, above 0.
    """
    skewed = np.abs(asymmetry) >= _SYMMETRIC
    a = np.where(skewed, asymmetry, 1.0)

    def targets(quantile: float) -> tuple[Array, Array]:
        """Return the expectations at which T and g(T) are at a quantile."""
        inverse = 3 / a * (np.cbrt(1 + a * (quantile - a / 6)) - 1)
        inverse = np.where(skewed, inverse, quantile)
        return mean - error * quantile, mean - error * inverse

    return np.minimum(*targets(quantile)), np.maximum(*targets(-quantile))
