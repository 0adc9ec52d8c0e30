"""Which group sizes are near-optimal for certain, and which may be.

G is within a tolerance t of the best if f(G) − (1 + t)·f(g) ≤ 0 for every g. For given G and g
this is linear in c₁, c₂, c₃, so that contributions of prompts to these give it an interval like any
mean: the errors of all three components count, and their correlation.

That test does not know c₁ ≥ 0, and alone it could contradict the interval of G*, which does. So
both must agree: for certain is only what is near-optimal at the estimate and at both ends of the
interval of G*, too; perhaps is all that either of them allows, and what lies between. Hence

    for certain ⊆ at the estimate ⊆ perhaps,

and every G whose error somewhere over the interval of G* is within the tolerance is perhaps
near-optimal.

"For certain" is as certain as the sample can tell. It takes contributions that are independent and
like those of prompts to come. What no prompt of the sample shows is not in the intervals: a kind of
prompt rarer than about 3/B is missing from 5 of 100 samples of B prompts. And where tails are
heavy, so that a few prompts carry most of the noise, intervals cover less than they say.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.laws.group_size import GroupSizeRange
from ustat_grpo.noise import GroupSizeEstimate, NoiseEstimate
from ustat_grpo.noise.interval import mean_intervals
from ustat_grpo.planner.curve import TOLERANCE, Cost, Curve, last_within

RIVALS = 17
"""Group sizes in the interval of the best one; between neighbours f changes little."""


class NearOptimal(NamedTuple):
    """The first and last G within 5 % of the best, in three degrees of certainty.

    Args:
        surely: those that are significantly so, all of them together; None if there are none.
        at_estimate: those that are if the estimates are the truth; None if there are none.
        possibly: those for which the estimates do not exclude it.
    """

    surely: GroupSizeRange | None
    at_estimate: GroupSizeRange | None
    possibly: GroupSizeRange | None


def near_optimal_sets(
    noise: NoiseEstimate, curves: Sequence[Curve], best: GroupSizeEstimate
) -> NearOptimal:
    """Return which G are near-optimal, for certain, at the estimate and perhaps.

    Args:
        noise: the estimates.
        curves: at the estimate and at both ends of the interval of G*.
        best: the best real G with its interval.
    """
    known = [curve.near_optimal() for curve in curves]
    sure, perhaps = _tested_surely(noise, curves[0], best), _tested_possibly(noise, curves[0], best)
    near_best = [
        each or GroupSizeRange(curve.best_integer, curve.best_integer)
        for each, curve in zip(known, curves, strict=True)
    ]
    return NearOptimal(
        _intersection([sure, *known]),
        known[0],
        GroupSizeRange(min(each.low for each in (perhaps, *near_best)),
                 max(each.high for each in (perhaps, *near_best))),
    )  # fmt: skip


def _intersection(intervals: Sequence[GroupSizeRange | None]) -> GroupSizeRange | None:
    some = [each for each in intervals if each is not None]
    if len(some) < len(intervals):
        return None
    low, high = max(each.low for each in some), min(each.high for each in some)
    return GroupSizeRange(low, high) if low <= high else None


def _tested_surely(
    noise: NoiseEstimate, point: Curve, best: GroupSizeEstimate
) -> GroupSizeRange | None:
    """Return the G for which f(G) ≤ 1.05 f(g) is significant for all g in the interval of G*."""
    low, high = np.clip([best.low, best.high], 2, point.largest)
    rivals = _summands(np.append(np.geomspace(low, high, RIVALS), point.best), point.cost)

    def holds(size: int) -> bool:
        excess = _summands(size, point.cost) - (1 + TOLERANCE) * rivals
        return bool(np.max(mean_intervals(noise.contributions @ excess.T, noise.level).high) <= 0)

    start = point.best_integer
    if not holds(start):
        return None
    return GroupSizeRange(last_within(start, 2, holds), last_within(start, point.largest, holds))


def _tested_possibly(noise: NoiseEstimate, point: Curve, best: GroupSizeEstimate) -> GroupSizeRange:
    """Return the G that are not significantly more than 5 % above the best at the estimate.

    Where the interval of the best G has no upper end, above its lower end instead: the error of a
    huge group is known too badly to rule out anything.
    """
    rival = min(best.low, point.largest) if best.is_lower_bound else point.best
    least = (1 + TOLERANCE) * _summands(max(rival, 2.0), point.cost)

    def may_hold(size: int) -> bool:
        excess = _summands(size, point.cost) - least
        return bool(mean_intervals(noise.contributions @ excess[:, None], noise.level).low[0] <= 0)

    start = point.best_integer
    return GroupSizeRange(
        last_within(start, 2, may_hold), last_within(start, point.largest, may_hold)
    )


def _summands(size: ArrayLike, cost: Cost) -> Float[Array, "... 3"]:
    """Return what c₁, c₂ and c₃ are multiplied by in f(G), shape (…, 3)."""
    sizes = np.asarray(size, dtype=float)
    parts = [np.ones_like(sizes), 1 / sizes, 1 / (sizes * (sizes - 1))]
    return np.stack(parts, axis=-1) * cost.of_prompt(sizes)[..., None]
