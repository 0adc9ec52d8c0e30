"""A plan as a JSON object; docs/planner.md says what its keys mean."""

import math
from typing import Any

from ustat_grpo.noise import GroupSizeEstimate, NoiseEstimate, OutputSample, SignSample
from ustat_grpo.planner import Plan
from ustat_grpo.planner.curve import TOLERANCE, Decision


def counts_of(sample: OutputSample | SignSample) -> dict[str, int]:
    """Return how much was measured, by what it is called."""
    if isinstance(sample, SignSample):
        return {"blocks": len(sample.components)}
    return {"prompts": len(sample.groups.sizes), "outputs": len(sample.rewards)}


def as_json(
    sample: OutputSample | SignSample, noise: NoiseEstimate, answer: Plan
) -> dict[str, Any]:
    """Return a sample's size, its noise and its plan, with None for infinity."""
    return {
        "doubts": list(answer.doubts),
        "sample": counts_of(sample),
        "level": noise.level,
        "budget": answer.budget,
        "cost": vars(answer.cost),
        "min_batch_size": answer.min_batch_size,
        "noise": _noise(noise),
        "optimal": _group_size(answer.optimal),
        "best_at_cost": _group_size(answer.best),
        "noise_taken": _taken(answer),
        "largest_group_size": answer.largest,
        "tolerance": TOLERANCE,
        "rarest_kind": answer.rarest_kind,
        "reasons": _reasons(answer, answer.decision),
        "reasons_at_estimate": _reasons(answer, answer.decision_at_estimate),
        **{name: _plain(getattr(answer, name)) for name in _OF_PLAN},
    }


_OF_PLAN = (
    "recommended",
    "at_estimate",
    "near_optimal",
    "surely_near_optimal",
    "possibly_near_optimal",
    "predictions",
    "vanilla_crossover",
    "critic_break_even",
    "std_normalisation",
    "unknown",
)


def _noise(noise: NoiseEstimate) -> dict[str, Any]:
    return {
        name: {"value": getattr(noise, name), "std_error": float(error), **_plain(interval)}
        for name, error, interval in zip(
            ("prompt", "oracle", "residual"), noise.std_errors, noise.intervals, strict=True
        )
    }


def _taken(answer: Plan) -> dict[str, Any]:
    """Return the components that the plan is made with."""
    return {**vars(answer.noise), "is_oracle_raised": answer.is_oracle_raised}


def _reasons(answer: Plan, decision: Decision) -> dict[str, Any]:
    """Return why a choice is not simply that of the least error."""
    wasteful = decision.wasteful
    left_over = None
    if wasteful is not None:
        left_over = {**_plain(wasteful), "unspent": answer.unspent(wasteful)}
    return {"whole_budget": _plain(decision.whole_budget), "wasteful": left_over}


def _group_size(estimate: GroupSizeEstimate) -> dict[str, Any]:
    return {**_plain(estimate), "is_lower_bound": bool(estimate.is_lower_bound)}


def _plain(value: Any) -> Any:
    """Return what JSON knows: objects for named tuples, None for what is not finite."""
    if hasattr(value, "_asdict"):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
