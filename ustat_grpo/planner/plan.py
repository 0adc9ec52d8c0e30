"""Which (B, G) for a budget, and how sure that is: measured noise joined with the laws."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ustat_grpo.inputs.checks import integer, real
from ustat_grpo.laws import binary
from ustat_grpo.laws.group_size import GroupSizeRange
from ustat_grpo.laws.group_size import optimal as best_without_cost
from ustat_grpo.moments import NoiseComponents
from ustat_grpo.noise import GroupSizeEstimate, NoiseEstimate
from ustat_grpo.planner.answer import (
    _NO_PROMPTS,
    GROUP_SIZES,
    QUANTILES,
    Plan,
    Prediction,
    StdNormalisation,
)
from ustat_grpo.planner.curve import (
    BUDGET_SLACK,
    FREE_PROMPTS,
    LARGEST_GROUP_SIZE,
    Cost,
    Curve,
    band,
    best_group_size,
    decide,
)
from ustat_grpo.planner.near_optimal import NearOptimal, near_optimal_sets
from ustat_grpo.planner.prompt_values import PromptValues
from ustat_grpo.planner.seeds import seeds_to_see

LARGEST_BUDGET = 2**53
"""Integers above this are no longer doubles."""


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

    Examples:
        >>> from ustat_grpo import NoiseComponents, plan
        >>> noise = NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0)  # G* = 1 + √(9/1)
        >>> plan(noise, budget=48).recommended
        Choice(batch_size=12, group_size=4)
        >>> plan(noise, budget=48, min_batch_size=16).recommended  # as for 16 devices
        Choice(batch_size=16, group_size=3)
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


def _holds(interval: GroupSizeRange | None, size: int) -> bool:
    return interval is not None and interval.low <= size <= interval.high


def _with(interval: GroupSizeRange | None, size: int) -> GroupSizeRange:
    """Return the interval, extended to a group size."""
    if interval is None:
        return GroupSizeRange(size, size)
    return GroupSizeRange(min(interval.low, size), max(interval.high, size))


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
