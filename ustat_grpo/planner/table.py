"""A plan in words: a table of at most 80 columns."""

from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from ustat_grpo.laws.group_size import Interval
from ustat_grpo.noise import GroupSizeEstimate

if TYPE_CHECKING:
    from ustat_grpo.planner.plan import Plan, Prediction

_LABEL = 22
_WIDTH = 80
_MANY_SEEDS = 10**6


def table(plan: "Plan", *, preface: str = "") -> str:
    """Return the plan as lines of at most 80 columns, doubts before all.

    Args:
        plan: to show.
        preface: what stands before the plan, but below the doubts.
    """
    rows = [*_choices(plan), *_consequences(plan)]
    least = f", at least {plan.min_batch_size} prompts" if plan.min_batch_size > 1 else ""
    lines = [f"A plan for steps of {_budget(plan)}{least}", ""]
    for label, text in rows:
        lines += _labelled(label, text)
    before = [*_doubts(plan), *([preface, ""] if preface else [])]
    return "\n".join([*before, *lines, "", *_predictions(plan), "", *_notes(plan)])


def _doubts(plan: "Plan") -> list[str]:
    """Return the warnings, each a paragraph of its own."""
    lines = []
    for doubt in plan.doubts:
        lines += [*wrap(f"WARNING: {doubt}", _WIDTH, subsequent_indent="  "), ""]
    return lines


def size_in_words(estimate: GroupSizeEstimate, level: float | None) -> str:
    """Return a best group size with its interval, or the lower bound that it is."""
    if level is None:
        return f"{_size(estimate.value)} (the noise is taken as known)"
    percent = f"{100 * level:g} %"
    if estimate.is_lower_bound:
        guess = "" if np.isinf(estimate.value) else f"; the estimate is {_size(estimate.value)}"
        return (
            f"at least {_size(estimate.low)} ({percent}): the noise of the prompt draw cannot be "
            f"told from zero, so there is no upper end{guess}"
        )
    return (
        f"{_size(estimate.value)}, {percent} interval {_size(estimate.low)} to "
        f"{_size(estimate.high)}"
    )


def _budget(plan: "Plan") -> str:
    if plan.cost.per_prompt == 0 and plan.cost.per_output == 1:
        return f"{plan.budget} outputs"
    cost = plan.cost
    return f"cost {plan.budget}, {cost.per_prompt:g} a prompt and {cost.per_output:g} an output"


def _choices(plan: "Plan") -> list[tuple[str, str]]:
    batch, size = plan.recommended
    rows = [
        ("recommended", f"B = {batch} prompts with G = {size} outputs each"),
        ("best group size G*", size_in_words(plan.optimal, plan.level)),
    ]
    if plan.cost.per_prompt > 0:
        rows.append(("best G at this cost", size_in_words(plan.best, plan.level)))
    if plan.at_estimate != plan.recommended:
        batch, size = plan.at_estimate
        rows.append(("at the estimate alone", f"B = {batch}, G = {size}"))
    rows.append(("within 5 % of the best", f"{_range(plan.near_optimal)} at the estimate"))
    if plan.level is not None:
        sure, perhaps = _range(plan.surely_near_optimal), _range(plan.possibly_near_optimal)
        rows.append(("", f"{sure} for certain, {perhaps} perhaps ({100 * plan.level:g} %)"))
    return rows


def _consequences(plan: "Plan") -> list[tuple[str, str]]:
    size = plan.recommended.group_size
    return [
        ("without a baseline", _vanilla(plan)),
        ("with a critic", _critic(plan, size)),
        ("with std normalised", _normalised(plan)),
    ]


def _vanilla(plan: "Plan") -> str:
    crossover = plan.vanilla_crossover
    if crossover is None:
        return f"- ({plan.unknown['score_norms']})"
    if np.isinf(crossover):
        return "REINFORCE has the smaller error at every G"
    return f"REINFORCE has the smaller error below G = {crossover:.3g}, GRPO above"


def _critic(plan: "Plan", size: int) -> str:
    error = plan.critic_break_even
    if error is None:
        return f"- ({plan.unknown['score_norms']})"
    return f"better than the group mean at G = {size} if its RMSE is below {error:.3g}"


def _normalised(plan: "Plan") -> str:
    change = plan.std_normalisation
    if change is None:
        return f"- ({plan.unknown['success_counts']})"
    values = ", ".join(f"{value:.2g}" for value in change.values)
    weights = ", ".join(f"{weight:.2f}" for weight in change.weights)
    return (
        f"the gradient is {change.gain:.3g} times as long; prompts with V = {values} (of the 10th, "
        f"50th and 90th percentile) count {weights} times as much"
    )


def _predictions(plan: "Plan") -> list[str]:
    has_band = plan.level is not None
    head = "      G    error" + has_band * "  over the interval" + "  dead groups     seeds"
    return [head, *(_prediction(plan, each, has_band) for each in plan.predictions)]


def _prediction(plan: "Plan", row: "Prediction", has_band: bool) -> str:
    chosen = row.group_size == plan.recommended.group_size
    error = row.error
    spread = f"  {f'{_ratio(error.low)} to {_ratio(error.high)}':>17}" if has_band else ""
    dead = "-"
    if row.dead_groups is not None:
        dead = f"{'~' * row.is_extrapolated}{100 * row.dead_groups:.1f} %"
    seeds = "-" if chosen else _seeds(row.seeds)
    mark = "*" if chosen else " "
    return f"{mark} {row.group_size:>5}  {_ratio(error.value):>7}{spread}  {dead:>11}  {seeds:>8}"


def _notes(plan: "Plan") -> list[str]:
    notes = [
        "error: of the gradient, squared, at the same cost, relative to the best G; "
        "* is the recommended G.",
        "seeds: runs of each G that show it differs from the recommended one (level 5 %, power "
        "80 %) if nothing but gradient noise in one direction does; d equal directions take a "
        "d-th as many.",
    ]
    if "success_counts" in plan.unknown:
        notes.append(f"dead groups: - ({plan.unknown['success_counts']}).")
    else:
        notes.append("dead groups: all rewards equal.")
    if any(row.is_extrapolated for row in plan.predictions):
        notes[-1] += " ~ beyond the outputs sampled, by a beta law of the success probabilities."
    return [line for note in notes for line in wrap(note, _WIDTH, subsequent_indent="  ")]


def _labelled(label: str, text: str) -> list[str]:
    first, *rest = wrap(text, _WIDTH - _LABEL - 2)
    indent = " " * (_LABEL + 2)
    return [f"{label:<{_LABEL}}  {first}", *(indent + line for line in rest)]


def _range(interval: Interval | None) -> str:
    if interval is None:
        return "no G"
    low, high = interval
    return f"G = {low:.0f}" if low == high else f"G from {low:.0f} to {high:.0f}"


def _size(value: float) -> str:
    return "infinite" if np.isinf(value) else f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 100 else f"{value:.3g}"


def _seeds(seeds: float) -> str:
    if seeds > _MANY_SEEDS:
        return "over 1e6"
    return f"{seeds:.0f}"
