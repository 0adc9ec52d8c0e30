"""Which (B, G) for a budget, and how sure that is: measured noise joined with the laws."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import NamedTuple

import numpy as np

from ustat_grpo.checks import integer, real
from ustat_grpo.laws import binary
from ustat_grpo.laws.group_size import Interval
from ustat_grpo.laws.group_size import optimal as best_without_cost
from ustat_grpo.moments import NoiseComponents
from ustat_grpo.noise import GroupSizeEstimate, NoiseEstimate
from ustat_grpo.planner.curve import (
    FREE_PROMPTS,
    ROUNDING,
    Band,
    Choice,
    Cost,
    Curve,
    band,
    best_group_size,
    choose,
)
from ustat_grpo.planner.near_optimal import possibly_near_optimal, surely_near_optimal
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

    Args:
        budget: what a step may cost.
        cost: of a prompt and of an output.
        min_batch_size: the least B.
        noise: the components at the point estimate.
        noise_range: the components at the lower and at the upper end of the interval of G*.
        level: coverage of the interval; None if the components were given, not estimated.
        optimal: G*, the best group size if prompts cost nothing.
        best: the best real group size at the cost, with the interval that follows from that of G*.
        recommended: the (B, G) whose relative error is least in the worst case over the interval.
        at_estimate: the best (B, G) if the point estimate were the truth.
        near_optimal: the first and last G within 5 % of the best at the point estimate, or None.
        surely_near_optimal: those that are within 5 % with the confidence of `level`, all of them
            together; None if there are none.
        possibly_near_optimal: those for which the estimates do not exclude it.
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
    noise: NoiseComponents
    noise_range: tuple[NoiseComponents, NoiseComponents]
    level: float | None
    optimal: GroupSizeEstimate
    best: GroupSizeEstimate
    recommended: Choice
    at_estimate: Choice
    near_optimal: Interval | None
    surely_near_optimal: Interval | None
    possibly_near_optimal: Interval | None
    predictions: tuple[Prediction, ...]
    vanilla_crossover: float | None
    critic_break_even: float | None
    std_normalisation: StdNormalisation | None
    unknown: dict[str, str]
    doubts: tuple[str, ...] = ()

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

    c₂ and c₃ are taken at their estimates; what is unsure is c₁, hence G*, which moves over its
    interval. The recommended (B, G) has the least worst excess over that interval, so it is not
    driven to a single huge group by an estimate of c₁ that happens to be zero. With components
    that are known it is the best one.

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
    optimal, components, level = _estimates(noise)
    share = total / least - cost.per_prompt  # for the outputs to a prompt
    largest = int(min(share / cost.per_output * (1 + ROUNDING), LARGEST_BUDGET))
    point, *ends = (Curve(each, cost, largest) for each in components)
    best = GroupSizeEstimate(*(best_group_size(each, cost) for each in components))
    surely, possibly = _bounds(noise, point, best)
    recommended = choose(ends, total)
    size = recommended.group_size
    return Plan(
        budget=total,
        cost=cost,
        min_batch_size=least,
        noise=components[0],
        noise_range=components[1:],
        level=level,
        optimal=optimal,
        best=best,
        recommended=recommended,
        at_estimate=choose([point], total),
        near_optimal=point.near_optimal(),
        surely_near_optimal=surely,
        possibly_near_optimal=possibly,
        predictions=_predictions(point, ends, size, prompts),
        vanilla_crossover=_vanilla_crossover(components[0], prompts),
        critic_break_even=_critic_break_even(components[0], prompts, size),
        std_normalisation=_std_normalisation(prompts, size),
        unknown=_unknown(prompts),
        doubts=noise.doubts if isinstance(noise, NoiseEstimate) else (),
    )


_Three = tuple[NoiseComponents, NoiseComponents, NoiseComponents]


def _estimates(
    noise: NoiseEstimate | NoiseComponents,
) -> tuple[GroupSizeEstimate, _Three, float | None]:
    """Return G*, the components at its estimate and at both ends, and the level."""
    if isinstance(noise, NoiseEstimate):
        optimal = noise.optimal
        value, low, high = (noise.components(size) for size in optimal)
        return optimal, (value, low, high), noise.level
    real("noise.residual", noise.residual, above=0.0)
    size = best_without_cost(noise)
    return GroupSizeEstimate(size, size, size), (noise, noise, noise), None


def _bounds(
    noise: NoiseEstimate | NoiseComponents, point: Curve, best: GroupSizeEstimate
) -> tuple[Interval | None, Interval | None]:
    """Return the near-optimal G for certain and perhaps; of known noise there is no doubt."""
    if isinstance(noise, NoiseComponents):
        return point.near_optimal(), point.near_optimal()
    return surely_near_optimal(noise, point, best), possibly_near_optimal(noise, point)


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
        reason = "no prompt values given"
        return {"score_norms": reason, "success_counts": reason}
    reasons = {}
    if prompts.score_norm_squared is None:
        reasons["score_norms"] = "no score norms given"
    if prompts.successes is None:
        reasons["success_counts"] = "rewards are not 0 and 1"
    return reasons
