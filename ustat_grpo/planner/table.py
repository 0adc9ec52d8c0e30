"""A plan in words: a table of at most 80 columns."""

from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from ustat_grpo.laws.group_size import Interval
from ustat_grpo.noise import GroupSizeEstimate
from ustat_grpo.planner.curve import LARGEST_GROUP_SIZE, TOLERANCE, Decision

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
    lines = [*_wrapped(f"A plan for steps of {_budget(plan)}{least}", _WIDTH, indent="  "), ""]
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
        *(("", reason) for reason in _reasons(plan, plan.decision)),
        ("best group size G*", size_in_words(plan.optimal, plan.level)),
    ]
    if plan.cost.per_prompt > 0:
        rows.append(("best G at this cost", size_in_words(plan.best, plan.level)))
    if plan.at_estimate != plan.recommended:
        batch, size = plan.at_estimate
        rows.append(("at the estimate alone", f"B = {batch}, G = {size}"))
        rows += [("", reason) for reason in _reasons(plan, plan.decision_at_estimate)]
    return [*rows, *_near_optimal(plan)]


def _reasons(plan: "Plan", decision: Decision) -> list[str]:
    """Say where a choice is not simply that of the least error."""
    reasons, percent = [], f"{100 * TOLERANCE:g} %"
    if decision.whole_budget is not None:
        (batch, size), cost = decision.whole_budget
        reasons.append(
            f"spends the budget in full, preferred within {percent}: its error is at most "
            f"{_percent(cost)} above that of B = {batch}, G = {size}"
        )
    if decision.wasteful is not None:
        batch, size = decision.wasteful
        reasons.append(
            f"not G = {size}, near-optimal at equal cost: of the budget B = {batch} leaves "
            f"{_percent(plan.unspent(decision.wasteful))} unspent"
        )
    return reasons


def _near_optimal(plan: "Plan") -> list[tuple[str, str]]:
    alike = " (c₁ taken as 0)" if plan.noise.prompt == 0 else ""
    label = f"within {100 * TOLERANCE:g} % of the best"
    rows = [(label, f"{_range(plan.near_optimal)} at the estimate{alike}")]
    if plan.level is not None:
        perhaps, share = plan.possibly_near_optimal, f"({100 * plan.level:g} %)"
        has_no_end = plan.optimal.is_lower_bound and perhaps and perhaps.high == plan.largest
        shown = f"G from {perhaps.low:.0f} on" if perhaps and has_no_end else _range(perhaps)
        rows.append(
            ("", f"{_range(plan.surely_near_optimal)} for certain, {shown} perhaps {share}")
        )
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
        "error: of the gradient, squared, at the same cost, as if B could be a fraction, relative "
        "to the best G; * is the recommended G.",
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
    notes += [*_bound(plan), *conditions(plan)]
    return [line for note in notes for line in _wrapped(note, _WIDTH, indent="  ")]


def conditions(plan: "Plan") -> list[str]:
    """Say on what a plan depends beside its numbers, whatever the budget: what the sample shows."""
    notes = []
    if plan.is_oracle_raised:
        notes.append(
            f"c₂ cannot be told from zero: it is taken as {plan.noise.oracle:.3g}, moved up with "
            "its interval until that begins at zero."
        )
    if plan.level is not None and plan.contributions is not None and plan.rarest_kind is not None:
        count, rare = len(plan.contributions), _percent(plan.rarest_kind)
        what = "prompts" if plan.has_prompts else "prompts, or blocks of them,"
        notes.append(
            f"{100 * plan.level:g} %, for certain, perhaps: as far as {count} {what} can tell. A "
            f"kind of prompt rarer than about 3/{count} = {rare} may be missing "
            "from the sample, hence from all of this; where a few prompts carry most of the noise, "
            "intervals hold less often than they say."
        )
    return notes


def _bound(plan: "Plan") -> list[str]:
    """Say that there is a largest G where one that is named is it."""
    named = [plan.recommended.group_size, plan.at_estimate.group_size]
    named += [each.high for each in (plan.near_optimal, plan.possibly_near_optimal) if each]
    return [f"No G above {LARGEST_GROUP_SIZE} is considered."] * (LARGEST_GROUP_SIZE in named)


def _labelled(label: str, text: str) -> list[str]:
    first, *rest = _wrapped(text, _WIDTH - _LABEL - 2)
    indent = " " * (_LABEL + 2)
    return [f"{label:<{_LABEL}}  {first}", *(indent + line for line in rest)]


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return lines of a text that keep numbers with their units and names."""
    tied = text.replace(" = ", "\xa0=\xa0").replace(" %", "\xa0%")
    return [line.replace("\xa0", " ") for line in wrap(tied, width, subsequent_indent=indent)]


def _range(interval: Interval | None) -> str:
    if interval is None:
        return "no G"
    low, high = interval
    return f"G = {low:.0f}" if low == high else f"G from {low:.0f} to {high:.0f}"


def _size(value: float) -> str:
    return "infinite" if np.isinf(value) else f"{value:.3g}"


def _ratio(value: float) -> str:
    """Write a relative error; one above the tolerance never looks as if it were within."""
    if value > 1 + TOLERANCE and f"{value:.3f}" == f"{1 + TOLERANCE:.3f}":
        return f">{1 + TOLERANCE:.3f}"
    return f"{value:.3f}" if value < 100 else f"{value:.3g}"


def _percent(share: float) -> str:
    """Write a share that is not negative, rounded up, so that it bounds what it stands for."""
    return f"{np.ceil(1000 * share - 1e-9) / 10:g} %"


def _seeds(seeds: float) -> str:
    if seeds > _MANY_SEEDS:
        return "over 1e6"
    return f"{seeds:.0f}"
