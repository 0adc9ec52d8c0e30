"""The error of a gradient against G at a fixed cost, and how it depends on what is not known.

A step of B prompts with G outputs each costs B(a + bG). At a fixed cost the error is proportional
to

    f(G) = (c₁ + c₂/G + c₃/(G(G−1)))(a + bG),

which is convex in G > 1, so the group sizes within a tolerance of the best are an interval.
For one (B, G) the error is linear in c₁ and the least error over all G, a minimum of linear
functions, is concave in c₁. Their ratio is quasi-convex in c₁: over an interval of G* it is largest
at one of the two ends, and least at the c₁ for which G is best, or the nearest there is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array, Booleans, Integers
from ustat_grpo.inputs.checks import first_smallest, numbers, real
from ustat_grpo.laws import group_size as law
from ustat_grpo.laws.group_size import GroupSizeRange
from ustat_grpo.moments import NoiseComponents

TOLERANCE = 0.05
"""The relative excess of a group size that is as good as the best."""

BUDGET_SLACK = 1e-12
"""B(a + bG) may miss the budget by this much, relative."""

LARGEST_GROUP_SIZE = 2**16
"""No larger G is considered, in choices, sets and tables: no trainer draws more to a prompt."""


@dataclass(frozen=True)
class Cost:
    """What a prompt with G outputs costs: a + bG.

    Args:
        per_prompt: a, such as the prefill of the prompt; not negative.
        per_output: b, positive, in the same unit.

    Raises:
        ValueError: if a cost is not finite or has the wrong sign.

    Examples:
        >>> from ustat_grpo import Cost, NoiseComponents, plan
        >>> noise = NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0)
        >>> Cost(per_prompt=10.0).of_prompt([1, 4]).tolist()  # a + bG
        [11.0, 14.0]
        >>> for a in (0.0, 10.0):  # where prompts cost something, more outputs of each
        ...     print(a, plan(noise, budget=480, cost=Cost(per_prompt=a)).recommended)
        0.0 Choice(batch_size=120, group_size=4)
        10.0 Choice(batch_size=24, group_size=10)
    """

    per_prompt: float = 0.0
    per_output: float = 1.0

    def __post_init__(self) -> None:
        """Raise if a cost has the wrong sign."""
        if real("per_prompt", self.per_prompt) < 0:
            raise ValueError(f"per_prompt must not be negative, got {self.per_prompt!r}")
        real("per_output", self.per_output, above=0.0)

    def of_prompt(self, group_size: ArrayLike) -> Array:
        """Return a + bG."""
        return self.per_prompt + self.per_output * numbers("group_size", group_size)


FREE_PROMPTS = Cost()
"""Outputs cost one each and prompts nothing, so that a step costs N = BG."""


class Choice(NamedTuple):
    """A batch size B and a group size G.

    Examples:
        >>> from ustat_grpo import NoiseComponents, plan
        >>> noise = NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0)
        >>> B, G = plan(noise, budget=48).recommended
        >>> B, G
        (12, 4)
    """

    batch_size: int
    group_size: int


class WholeBudget(NamedTuple):
    """What it costs to prefer a choice that spends the budget to the last output.

    Args:
        passed_over: the (B, G) that would have been chosen, which leaves something over.
        cost: by how much the error of the choice is above that of `passed_over`, relative, with all
            that either leaves over counted as lost: the most over the interval of G*.
    """

    passed_over: Choice
    cost: float


class Decision(NamedTuple):
    """A choice, and what was passed over for it.

    Args:
        choice: (B, G).
        whole_budget: what preferring a budget spent in full costs; None where it changed nothing.
        wasteful: the best (B, G) with a near-optimal G, where none was taken because all of them
            leave too much of the budget over; else None.
    """

    choice: Choice
    whole_budget: WholeBudget | None
    wasteful: Choice | None


class Band(NamedTuple):
    """An error relative to the least there is: at the point estimate, and over the interval of G*.

    Args:
        value: at the estimate.
        low: the least over the interval.
        high: the largest over the interval.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.noise import NoiseEstimate
        >>> from ustat_grpo import plan
        >>> noise = NoiseEstimate(contributions=np.array([[0, 2, 9], [2, 2, 9]] * 4), level=0.95)
        >>> pairs = plan(noise, budget=48).predictions[0]
        >>> pairs.group_size, round(pairs.error.value, 3)  # (2 + 2 + 9)/(4 + 2 + 3)
        (2, 1.444)
        >>> pairs.error.low < pairs.error.value < pairs.error.high
        True
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """The error against G at a fixed cost.

    Args:
        noise: the components; c₃ is positive.
        cost: of a prompt.
        largest: the largest G, at least 2.
    """

    noise: NoiseComponents
    cost: Cost
    largest: int

    def of_prompt(self, group_size: ArrayLike) -> Array:
        """Return the error of a single prompt, c₁ + c₂/G + c₃/(G(G−1))."""
        size = np.asarray(group_size, dtype=float)
        noise = self.noise
        return noise.prompt + noise.oracle / size + noise.residual / (size * (size - 1))

    @cached_property
    def best(self) -> float:
        """The real G of least error, between 2 and the largest."""
        return float(np.clip(best_group_size(self.noise, self.cost), 2, self.largest))

    @cached_property
    def least(self) -> float:
        """The error times the cost at the best G."""
        return float(self.of_prompt(self.best) * self.cost.of_prompt(self.best))

    def relative(self, group_size: ArrayLike) -> Array:
        """Return f(G)/min f, at least 1."""
        return self.of_prompt(group_size) * self.cost.of_prompt(group_size) / self.least

    def near_optimal(self, tolerance: float = TOLERANCE) -> GroupSizeRange | None:
        """Return the first and the last integer G within `tolerance` of the best, or None."""

        def holds(size: int) -> bool:
            return bool(self.relative(size) <= 1 + tolerance)

        start = self.best_integer
        if not holds(start):
            return None
        return GroupSizeRange(last_within(start, 2, holds), last_within(start, self.largest, holds))

    @property
    def best_integer(self) -> int:
        """The integer G of least error; of two that tie the smaller."""
        around = np.array([np.floor(self.best), np.ceil(self.best)])
        return int(around[first_smallest(self.relative(around))])


def last_within(inside: int, end: int, holds: Callable[[int], bool]) -> int:
    """Return the last integer for which something holds on the way from one for which it does."""
    if holds(end):
        return end
    outside = end
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return inside


def best_group_size(noise: NoiseComponents, cost: Cost) -> float:
    """Return the real G of least error at a fixed cost; G* if prompts cost nothing."""
    if cost.per_prompt == 0:
        return law.optimal(noise)
    return law.cost_aware(noise, cost_per_prompt=cost.per_prompt, cost_per_output=cost.per_output)


def band(point: Curve, ends: Sequence[Curve], group_size: int) -> Band:
    """Return the relative error at G, and its range while G* moves between the ends.

    Args:
        point: the curve at the estimate.
        ends: the curves at the ends of the interval of G*, which differ from it in c₁.
        group_size: G.
    """
    errors = [float(curve.relative(group_size)) for curve in ends]
    possible = [curve.noise.prompt for curve in ends]
    is_best_once = min(possible) <= _prompt_noise_best_for(point, group_size) <= max(possible)
    value = float(point.relative(group_size))
    return Band(value, min(1.0 if is_best_once else np.inf, value, *errors), max(value, *errors))


def _prompt_noise_best_for(curve: Curve, size: int) -> float:
    """Return the c₁ for which G is best: b·c₁ = a(c₂/G² + c₃(2G−1)/(G(G−1))²) + b·c₃/(G−1)²."""
    noise, cost, pairs = curve.noise, curve.cost, size * (size - 1)
    fixed = noise.oracle / size**2 + noise.residual * (2 * size - 1) / pairs**2
    return cost.per_prompt / cost.per_output * fixed + noise.residual / (size - 1) ** 2


def choose(curves: Sequence[Curve], budget: float, tolerance: float = TOLERANCE) -> Choice:
    """Return the (B, G) of `decide` if no group size is near-optimal before others."""
    return decide(curves, budget, [], tolerance).choice


def decide(
    curves: Sequence[Curve],
    budget: float,
    near_optimal: Sequence[GroupSizeRange | None],
    tolerance: float = TOLERANCE,
) -> Decision:
    """Choose the (B, G) whose relative error is least in the worst case over the curves.

    B is what the budget has room for, ⌊budget/(a + bG)⌋, and what is left over counts as lost. No G
    above `LARGEST_GROUP_SIZE` is considered. Two rules go before the worst case; both together
    raise it by no more than the tolerance:

    - G is taken from the first of the `near_optimal` sets that has one whose worst case, leftover
      included, is within the tolerance of the least of all (B, G): a choice does not contradict
      what is said for certain unless the budget does.
    - Choices that spend the budget to the last output, the divisors of N if prompts cost nothing,
      are preferred among those that the first rule leaves if their error is within the tolerance of
      that of the best of these on every curve, hence for every G* of the interval. What that costs
      is part of the answer.

    Args:
        curves: of one cost and one largest G; one, or the two ends of an interval of G*.
        budget: with room for one prompt of two outputs.
        near_optimal: sets of G, the preferred one first; None is an empty one.
        tolerance: relative.
    """
    cost, largest = curves[0].cost, min(curves[0].largest, LARGEST_GROUP_SIZE)
    sizes = np.arange(2, largest + 1)
    of_prompt = cost.of_prompt(sizes)
    batches = np.floor(budget / of_prompt * (1 + BUDGET_SLACK))
    errors: Float[Array, "curves sizes"] = np.stack(
        [curve.of_prompt(sizes) / batches * (budget / curve.least) for curve in curves]
    )
    worst = errors.max(axis=0)
    good = worst <= (1 + tolerance) * worst.min()
    sets = [_inside(sizes, each) for each in near_optimal if each is not None]
    allowed = next((good & each for each in sets if (good & each).any()), good)

    def best_of(some: Booleans) -> int:
        return int(first_smallest(np.where(some, worst, np.inf)))

    def choice(place: int) -> Choice:
        return Choice(int(batches[place]), int(sizes[place]))

    free = best_of(allowed)
    spent = batches * of_prompt >= budget * (1 - BUDGET_SLACK)
    # At fixed c₂ and c₃ the ratio of two errors is monotone in c₁: the most is at an end.
    ratios = (errors / errors[:, [free]]).max(axis=0)
    whole = allowed & spent & (ratios <= 1 + tolerance)
    taken = best_of(whole) if whole.any() else free
    return Decision(
        choice(taken),
        WholeBudget(choice(free), float(ratios[taken]) - 1) if taken != free else None,
        choice(best_of(sets[0])) if sets and sets[0].any() and not sets[0][taken] else None,
    )


def _inside(sizes: Integers, interval: GroupSizeRange) -> Booleans:
    return (sizes >= interval.low) & (sizes <= interval.high)
