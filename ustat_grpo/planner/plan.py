"""Which (B, G) for a budget, and how sure that is: measured noise joined with the laws."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ustat_grpo.arrays import Array
from ustat_grpo.checks import integer, real
from ustat_grpo.laws import binary
from ustat_grpo.laws.group_size import Interval
from ustat_grpo.laws.group_size import optimal as best_without_cost
from ustat_grpo.moments import NoiseComponents
from ustat_grpo.noise import GroupSizeEstimate, NoiseEstimate
from ustat_grpo.planner.curve import (
    BUDGET_SLACK,
    FREE_PROMPTS,
    LARGEST_GROUP_SIZE,
    Band,
    Choice,
    Cost,
    Curve,
    Decision,
    band,
    best_group_size,
    decide,
)
from ustat_grpo.planner.near_optimal import NearOptimal, near_optimal_sets
from ustat_grpo.planner.page import write_page
from ustat_grpo.planner.prompt_values import PromptValues
from ustat_grpo.planner.seeds import seeds_to_see
from ustat_grpo.planner.table import table

GROUP_SIZES = (2, 4, 8, 16, 32, 64, 128)
"""The group sizes of the table."""

LARGEST_BUDGET = 2**53
"""Integers above this are no longer doubles."""

QUANTILES = (0.1, 0.5, 0.9)
"""The shares of prompts at which the weights of std normalisation are given."""

_NO_PROMPTS = "no prompt values given"


class StdNormalisation(NamedTuple):
    """What dividing by the group's deviation does to 0/1 rewards: E ĝ(x) = φ_G(V(x))g(x).

    Args:
        gain: E φ_G(V), by which it scales the gradient: a step size in disguise.
        values: V of prompts of the 10th, 50th and 90th percentile.
        weights: φ_G(V)/gain there; 1 is what such a prompt counts without it.
    """

    gain: float
    values: tuple[float, ...]
    weights: tuple[float, ...]


class Prediction(NamedTuple):
    """What a group size does at the cost of the plan.

    Args:
        group_size: G.
        error: E‖ĝ − ∇J‖² relative to the least of all G.
        dead_groups: the probability that all rewards of a group are equal, or None.
        is_extrapolated: whether that is from a beta law of V(X), G being above the sample's M.
        seeds: how many runs of each show that G differs from the recommended one, see
            `seeds_to_see`; infinite for the recommended one.
    """

    group_size: int
    error: Band
    dead_groups: float | None
    is_extrapolated: bool
    seeds: float


@dataclass(frozen=True)
class Plan:
    """An answer to "which group size?", which prints as a table.

    Its parts agree, for every estimate, budget and cost (a test draws thousands):

    - `surely_near_optimal` ⊆ `near_optimal` ⊆ `possibly_near_optimal`, and G is in `near_optimal`
      exactly if its error in `predictions` is at most 1.05;
    - the recommended G is in `possibly_near_optimal`, and in `surely_near_optimal` if that is not
      None; that of `at_estimate` is in `near_optimal` unless `decision_at_estimate.wasteful` says
      which choice of the set leaves too much of the budget over;
    - preferring a budget spent in full costs at most 5 % of the error, whatever G* is in its
      interval, and `decision.whole_budget` says how much.

    Sets and errors are at equal cost, as if B could be any real number; the choices of (B, G) have
    whole prompts, and count as lost what they leave over.

    Note:
        What is said for certain, and every interval, is as certain as the sample can tell. It takes
        prompts drawn independently from those of training. A kind of prompt rarer than about 3/B
        is missing from 5 of 100 samples of B prompts, and then from all intervals. Where a few
        prompts carry most of the noise (score norms of heavy tails), intervals of c₁, c₂, c₃ cover
        less than they say; that of G*, a ratio, suffers less.

    Args:
        budget: what a step may cost.
        cost: of a prompt and of an output.
        min_batch_size: the least B.
        largest: the largest G considered: what the budget has room for, at most 65536.
        contributions: of K prompts, or blocks of prompts, to c₁, c₂, c₃, from which they were
            estimated, shape (K, 3); None if they were given.
        noise: the components at the point estimate; of c₂, see `plan`.
        is_oracle_raised: whether c₂ was moved up, because it cannot be told from zero.
        noise_range: the components at the lower and at the upper end of the interval of G*.
        level: coverage of the interval; None if the components were given, not estimated.
        optimal: G*, the best group size if prompts cost nothing.
        best: the best real group size at the cost, with the interval that follows from that of G*.
        decision: the (B, G) whose relative error is least in the worst case over the interval, of
            those that are near-optimal for certain, or else perhaps; see `decide`.
        decision_at_estimate: the best (B, G) if the point estimate were the truth, likewise.
        near_optimal: the first and last G within 5 % of the best at the point estimate, or None.
        surely_near_optimal: those that are within 5 % with the confidence of `level`, all of them
            together; None if there are none, or none that the budget can be spent on.
        possibly_near_optimal: those for which the estimates do not exclude it, and the recommended.
        predictions: for 2, 4, …, 128 and the recommended G, as far as the budget has room.
        vanilla_crossover: the G above which GRPO has a smaller error than REINFORCE.
        critic_break_even: the RMSE below which a critic beats the group mean at the recommended G.
        std_normalisation: what it changes at the recommended G.
        unknown: why each of the three, or dead groups, is None.
        doubts: why the measurements may be wrong, and the plan with them.
    """

    budget: int
    cost: Cost
    min_batch_size: int
    largest: int
    contributions: Float[Array, "K 3"] | None = field(compare=False, repr=False)
    noise: NoiseComponents
    is_oracle_raised: bool
    noise_range: tuple[NoiseComponents, NoiseComponents]
    level: float | None
    optimal: GroupSizeEstimate
    best: GroupSizeEstimate
    decision: Decision
    decision_at_estimate: Decision
    near_optimal: Interval | None
    surely_near_optimal: Interval | None
    possibly_near_optimal: Interval | None
    predictions: tuple[Prediction, ...]
    vanilla_crossover: float | None
    critic_break_even: float | None
    std_normalisation: StdNormalisation | None
    unknown: dict[str, str]
    doubts: tuple[str, ...] = ()

    @property
    def has_prompts(self) -> bool:
        """Whether the outputs of every prompt are known, not only contributions to the noise."""
        return _NO_PROMPTS not in self.unknown.values()

    @property
    def recommended(self) -> Choice:
        """The recommended (B, G)."""
        return self.decision.choice

    @property
    def at_estimate(self) -> Choice:
        """The (B, G) to recommend if the point estimate were the truth."""
        return self.decision_at_estimate.choice

    def unspent(self, choice: Choice) -> float:
        """Return the share of the budget that a (B, G) leaves over."""
        batch, size = choice
        return 1 - batch * float(self.cost.of_prompt(size)) / self.budget

    @property
    def rarest_kind(self) -> float | None:
        """3/K: kinds of prompts that are rarer may be missing; None if the noise was given."""
        return None if self.contributions is None else 3 / len(self.contributions)

    def __str__(self) -> str:
        """Return the plan as a table of at most 80 columns."""
        return table(self)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write the plan as one self-contained page with sliders for budget and cost.

        Args:
            path: of the file, written whole or not at all.

        Raises:
            OSError: if the file cannot be written.
        """
        write_page(self, path)


def plan(
    noise: NoiseEstimate | NoiseComponents,
    *,
    budget: int,
    cost: Cost = FREE_PROMPTS,
    prompts: PromptValues | None = None,
    min_batch_size: int = 1,
) -> Plan:
    """Recommend a batch size and a group size for a budget.

    c₃ is taken at its estimate. What is unsure is c₁, hence G*, which moves over its interval: the
    recommended (B, G) has the least worst excess over that interval, so it is not driven to a
    single huge group by an estimate of c₁ that happens to be zero. Nor is it by one of c₂: of a c₂
    near zero a huge group has many times the error of a larger one still, and the worst case would
    look at nothing else. So c₂ moves, too: where its interval reaches below zero, where no c₂ is,
    the interval is moved up until it begins at zero, and the estimate with it. With components that
    are known the choice is the best one.

    Args:
        noise: estimates with their intervals, or components that are known.
        budget: what a step may cost, B(a + bG); the number N = BG of outputs by default.
        cost: of a prompt and of an output; 0 and 1 by default.
        prompts: a summary of the outputs, for dead groups, vanilla, the critic and std
            normalisation.
        min_batch_size: the least B, such as the number of devices that share a step.

    Raises:
        ValueError: if the budget has no room for `min_batch_size` prompts of two outputs, or c₃ is
            not positive.
    """
    total = integer("budget", budget, at_least=2, at_most=LARGEST_BUDGET)
    least = integer("min_batch_size", min_batch_size, at_most=LARGEST_BUDGET)
    if total < least * cost.of_prompt(2):
        raise ValueError(
            f"budget must have room for {least} {'prompt' if least == 1 else 'prompts'} with 2 "
            f"outputs, which cost {least * cost.of_prompt(2):g}, got {budget!r}"
        )
    optimal, components = _estimates(noise)
    largest = _largest(total / least, cost)
    curves = tuple(Curve(each, cost, largest) for each in components)
    point, *ends = curves
    best = GroupSizeEstimate(*(best_group_size(each, cost) for each in components))
    surely, near_optimal, possibly = _near_optimal(noise, curves, best)
    decision = decide(ends, total, [surely, possibly])
    size = decision.choice.group_size
    is_estimate = isinstance(noise, NoiseEstimate)
    return Plan(
        budget=total,
        cost=cost,
        min_batch_size=least,
        largest=largest,
        contributions=noise.contributions if is_estimate else None,
        noise=components[0],
        is_oracle_raised=is_estimate and components[0].oracle > noise.oracle,
        noise_range=components[1:],
        level=noise.level if is_estimate else None,
        optimal=optimal,
        best=best,
        decision=decision,
        decision_at_estimate=decide([point], total, [near_optimal]),
        near_optimal=near_optimal,
        surely_near_optimal=surely if _holds(surely, size) else None,
        possibly_near_optimal=_with(possibly, size),
        predictions=_predictions(point, ends, size, prompts),
        vanilla_crossover=_vanilla_crossover(components[0], prompts),
        critic_break_even=_critic_break_even(components[0], prompts, size),
        std_normalisation=_std_normalisation(prompts, size),
        unknown=_unknown(prompts),
        doubts=noise.doubts if is_estimate else (),
    )


_Three = tuple[NoiseComponents, NoiseComponents, NoiseComponents]


def _estimates(noise: NoiseEstimate | NoiseComponents) -> tuple[GroupSizeEstimate, _Three]:
    """Return G*, and the components at its estimate and at both ends."""
    if isinstance(noise, NoiseEstimate):
        oracle = _oracle(noise)
        value, low, high = (
            replace(noise.components(size), oracle=oracle) for size in noise.optimal
        )
        return noise.optimal, (value, low, high)
    real("noise.residual", noise.residual, above=0.0)
    size = best_without_cost(noise)
    return GroupSizeEstimate(size, size, size), (noise, noise, noise)


def _oracle(noise: NoiseEstimate) -> float:
    """Return ĉ₂, moved up by as much as its interval reaches below zero; see `plan`."""
    return noise.oracle - min(noise.intervals[1].low, 0.0)


def _largest(share: float, cost: Cost) -> int:
    """Return the largest G that is considered where a prompt and its outputs may cost so much."""
    room = (share - cost.per_prompt) / cost.per_output * (1 + BUDGET_SLACK)
    return int(min(np.floor(room), LARGEST_GROUP_SIZE))


def _near_optimal(
    noise: NoiseEstimate | NoiseComponents, curves: Sequence[Curve], best: GroupSizeEstimate
) -> NearOptimal:
    """Return the near-optimal G; of known noise there is no doubt."""
    if isinstance(noise, NoiseEstimate):
        return near_optimal_sets(noise, curves, best)
    known = curves[0].near_optimal()
    return NearOptimal(known, known, known)


def _holds(interval: Interval | None, size: int) -> bool:
    return interval is not None and interval.low <= size <= interval.high


def _with(interval: Interval | None, size: int) -> Interval:
    """Return the interval, extended to a group size."""
    if interval is None:
        return Interval(size, size)
    return Interval(min(interval.low, size), max(interval.high, size))


def _predictions(
    point: Curve, ends: Sequence[Curve], recommended: int, prompts: PromptValues | None
) -> tuple[Prediction, ...]:
    reference = float(point.relative(recommended))

    def of(size: int) -> Prediction:
        error = band(point, ends, size)
        dead = None if prompts is None else prompts.dead_group_probability(size)
        guessed = dead is not None and prompts is not None and prompts.is_extrapolated(size)
        return Prediction(size, error, dead, guessed, seeds_to_see(error.value, reference))

    sizes = {size for size in GROUP_SIZES if size <= point.largest} | {recommended}
    return tuple(of(size) for size in sorted(sizes))


def _vanilla_crossover(noise: NoiseComponents, prompts: PromptValues | None) -> float | None:
    """1 + c₃/E[V²s + 2Vm]; infinite where vanilla is at least as good for every G."""
    if prompts is None or prompts.vanilla_excess is None:
        return None
    gain = float(prompts.vanilla_excess.mean())
    return 1 + noise.residual / gain if gain > 0 else np.inf


def _critic_break_even(
    noise: NoiseComponents, prompts: PromptValues | None, group_size: int
) -> float | None:
    """√(c₃/(E[s](G−1))): an unbiased critic adds e²E[s]/(BG), the group c₃/(BG(G−1))."""
    if prompts is None or prompts.score_norm_squared is None:
        return None
    return float(np.sqrt(noise.residual / (prompts.score_norm_squared.mean() * (group_size - 1))))


def _std_normalisation(prompts: PromptValues | None, group_size: int) -> StdNormalisation | None:
    if prompts is None or prompts.beta_law is None:
        return None
    advantages = binary.std_normalised(group_size)
    gain = prompts.beta_law.mean_gain(advantages)
    values = [prompts.beta_law.quantile(share) for share in QUANTILES]
    weights = binary.gain(advantages, values) / gain
    return StdNormalisation(gain, tuple(values), tuple(weights.tolist()))


def _unknown(prompts: PromptValues | None) -> dict[str, str]:
    """Return why numbers are not known, by what is missing."""
    if prompts is None:
        return {"score_norms": _NO_PROMPTS, "success_counts": _NO_PROMPTS}
    reasons = {}
    if prompts.score_norm_squared is None:
        reasons["score_norms"] = "no score norms given"
    if prompts.successes is None:
        reasons["success_counts"] = "rewards are not 0 and 1"
    return reasons
