"""Intervals from independent contributions: for a mean, and for the best group size.

Contributions of prompts are skewed, a few prompts carry much of the noise, so intervals from
Student's T of their mean are too low too often: `ustat_grpo.ustatistics.skewness` has Hall's.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.ustatistics.skewness import error_and_asymmetry, longer_interval, transformed

_LARGEST_RATIO = 0.5  # c₁/c₃: ‖g(x)‖² ≤ sσ² (Cauchy–Schwarz) gives c₃ ≥ 2c₁
_HALVINGS = 48


class Interval(NamedTuple):
    """A closed interval.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.noise import NoiseEstimate
        >>> noise = NoiseEstimate(contributions=np.array([[0, 2, 9], [2, 2, 9]] * 4), level=0.95)
        >>> low, high = noise.intervals[0]  # of c₁, whose estimate is 1
        >>> 0 < low < noise.prompt < high < 2
        True
    """

    low: float
    high: float


class GroupSizeEstimate(NamedTuple):
    """An estimate of G* = 1 + √(c₃/c₁), never below 1 + √2.

    Args:
        value: the point estimate, infinite if the estimate of c₁ is not positive.
        low: lower end of the interval.
        high: upper end, infinite where c₁ cannot be told from zero.

    Examples:
        >>> from ustat_grpo.noise import GroupSizeEstimate
        >>> GroupSizeEstimate(value=4.0, low=3.1, high=float("inf")).is_lower_bound
        True
    """

    value: float
    low: float
    high: float

    @property
    def is_lower_bound(self) -> bool:
        """Whether the sample gives no upper end: any G from `low` on may be best."""
        return self.high == np.inf


class _Mean(NamedTuple):
    """A mean of K contributions, its standard error, and skewness/√K of a contribution."""

    value: float
    error: float
    asymmetry: float

    @classmethod
    def of(cls, contributions: Float[Array, " K"]) -> "_Mean":
        return cls(*(float(each[0]) for each in _means(contributions[:, None])))

    @property
    def statistics(self) -> tuple[float, float]:
        """T = mean/error of a mean that should be zero, and g(T)."""
        if self.error == 0:
            infinite = float(np.copysign(np.inf, self.value)) if self.value else 0.0
            return infinite, infinite
        statistic = self.value / self.error
        return statistic, transformed(statistic, self.asymmetry)


def _means(contributions: Float[Array, "K m"]) -> tuple[Array, Array, Array]:
    """Return the mean of every column, its standard error, and skewness/√K of a contribution."""
    value = contributions.mean(axis=0)
    return value, *error_and_asymmetry(contributions - value)


class Intervals(NamedTuple):
    """Closed intervals.

    Args:
        low: lower ends, shape (m,).
        high: upper ends, shape (m,).
    """

    low: Float[Array, " m"]
    high: Float[Array, " m"]


def mean_intervals(contributions: Float[Array, "K m"], level: float) -> Intervals:
    """Return the intervals for the expectations of K independent contributions.

    |T| or |g(T)| does not exceed the quantile of Student's t with K − 1 degrees of freedom.

    Args:
        contributions: one column an expectation, shape (K, m).
        level: coverage of each.
    """
    critical = float(stdtrit(len(contributions) - 1, (1 + level) / 2))
    return Intervals(*longer_interval(*_means(contributions), critical))


def mean_interval(contributions: Float[Array, " K"], level: float) -> Interval:
    """Return the interval for one expectation; see `mean_intervals`.

    Args:
        contributions: shape (K,).
        level: coverage.
    """
    low, high = mean_intervals(contributions[:, None], level)
    return Interval(float(low[0]), float(high[0]))


def optimal_group_size(contributions: Float[Array, "K 3"], level: float) -> GroupSizeEstimate:
    """Return G* with an interval for the ratio κ = c₁/c₃, where G* = 1 + κ^(−½).

    As with Fieller, κ belongs to the interval if c₁ − κc₃, a mean of contributions, is not
    significantly different from zero; neither the ratio nor c₁ has to be well known. Since κ ≥ 0,
    what is significant is ordered by likelihood as by Feldman and Cousins: the answer passes from a
    two-sided interval to a lower bound on G* without the level suffering from the choice, and a c₁
    far below zero, bad luck, does not leave it empty. κ ≤ ½ cuts the other end.

    Args:
        contributions: to c₁, c₂, c₃, shape (K, 3).
        level: coverage.

    Reference: Fieller, Some problems in interval estimation, J. R. Statist. Soc. B 16 (1954);
    Feldman & Cousins, Unified approach to the classical statistical analysis of small signals,
    Phys. Rev. D 57 (1998).
    """
    prompt, residual = contributions[:, 0], contributions[:, 2]
    least, freedom = _group_size(_LARGEST_RATIO), len(contributions) - 1
    middle = residual.mean()
    if middle <= 0:
        return GroupSizeEstimate(np.inf, least, np.inf)
    ratio = float(np.clip(prompt.mean() / middle, 0.0, _LARGEST_RATIO))

    def accepted(candidate: float) -> bool:
        difference = _Mean.of(prompt - candidate * residual)
        room = candidate * middle / difference.error if difference.error else np.inf
        levels = (excluding_level(each, room, freedom) for each in difference.statistics)
        return min(levels) <= level

    low, high = _last(accepted, ratio, 0.0), _last(accepted, ratio, _LARGEST_RATIO)
    if mean_interval(residual, level).low <= 0:  # not even c₃ can be told from zero
        low, high = 0.0, _LARGEST_RATIO
    return GroupSizeEstimate(_group_size(ratio), _group_size(high), _group_size(low))


def excluding_level(statistic: float, room: float, freedom: int) -> float:
    """Return the level at which a parameter `room` ≥ 0 above its boundary is just excluded.

    The values that are at least as likely, relative to the best parameter that exists, as the
    observed x = room + statistic lie between −below and above of the parameter. Where x < 0 the
    best parameter is the boundary, which makes the two sides differ.
    """
    size = abs(statistic)
    other = size
    if size > room and statistic < 0:
        other = np.sqrt(2 * room * size - room**2)
    elif size > room:
        other = (room**2 + size**2) / (2 * room) if room > 0 else np.inf
    above, below = (size, other) if statistic >= 0 else (other, size)
    return float(stdtr(freedom, above) - stdtr(freedom, -below))


def _last(accepted: Callable[[float], bool], inside: float, end: float) -> float:
    """Return the last accepted ratio on the way from one that is accepted to an end."""
    if accepted(end):
        return end
    outside = end
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if accepted(middle) else (inside, middle)
    return inside


def _group_size(ratio: float) -> float:
    return 1 + float(ratio**-0.5) if ratio > 0 else np.inf
