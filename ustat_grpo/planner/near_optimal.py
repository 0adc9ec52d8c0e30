"""Which group sizes are near-optimal for certain, and which may be.

G is within a tolerance t of the best if f(G) − (1 + t)·f(g) ≤ 0 for every g. For given G and g
this is linear in c₁, c₂, c₃, so that contributions of prompts to these give it an interval like any
mean: the errors of all three components count, and their correlation.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.arrays import Array
from ustat_grpo.laws.group_size import Interval
from ustat_grpo.noise import GroupSizeEstimate, NoiseEstimate
from ustat_grpo.noise.interval import mean_intervals
from ustat_grpo.planner.curve import TOLERANCE, Cost, Curve, last_within

_RIVALS = 17
"""Group sizes in the interval of the best one; between neighbours f changes little."""


def surely_near_optimal(
    noise: NoiseEstimate, point: Curve, best: GroupSizeEstimate
) -> Interval | None:
    """Return the first and last G that are significantly within 5 % of all that may be best.

    Args:
        noise: the estimates.
        point: the curve at the estimate.
        best: the best real G with its interval.
    """
    low, high = np.clip([best.low, best.high], 2, point.largest)
    rivals = _summands(np.append(np.geomspace(low, high, _RIVALS), point.best), point.cost)

    def holds(size: int) -> bool:
        excess = _summands(size, point.cost) - (1 + TOLERANCE) * rivals
        return bool(np.max(mean_intervals(noise.contributions @ excess.T, noise.level).high) <= 0)

    start = point.best_integer
    if not holds(start):
        return None
    return Interval(last_within(start, 2, holds), last_within(start, point.largest, holds))


def possibly_near_optimal(noise: NoiseEstimate, point: Curve) -> Interval:
    """Return the first and last G that are not significantly more than 5 % above the best.

    Args:
        noise: the estimates.
        point: the curve at the estimate.
    """
    least = (1 + TOLERANCE) * _summands(point.best, point.cost)

    def may_hold(size: int) -> bool:
        excess = _summands(size, point.cost) - least
        return bool(mean_intervals(noise.contributions @ excess[:, None], noise.level).low[0] <= 0)

    start = point.best_integer
    return Interval(last_within(start, 2, may_hold), last_within(start, point.largest, may_hold))


def _summands(size: ArrayLike, cost: Cost) -> Float[Array, "... 3"]:
    """Return what c₁, c₂ and c₃ are multiplied by in f(G), shape (…, 3)."""
    sizes = np.asarray(size, dtype=float)
    parts = [np.ones_like(sizes), 1 / sizes, 1 / (sizes * (sizes - 1))]
    return np.stack(parts, axis=-1) * cost.of_prompt(sizes)[..., None]
