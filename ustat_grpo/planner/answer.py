"""A plan as an answer: its data, the same in words, and what its page computes from."""

import math
from dataclasses import dataclass, field
from os import PathLike
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.laws.group_size import GroupSizeRange
from ustat_grpo.moments import NoiseComponents
from ustat_grpo.noise import GroupSizeEstimate
from ustat_grpo.planner.curve import (
    LARGEST_GROUP_SIZE,
    TOLERANCE,
    Band,
    Choice,
    Cost,
    Decision,
)
from ustat_grpo.planner.near_optimal import RIVALS
from ustat_grpo.planner.page import write_page

_LABEL = 22
_WIDTH = 80
_MANY_SEEDS = 10**6
GROUP_SIZES = (2, 4, 8, 16, 32, 64, 128)
"""The group sizes of the table."""
QUANTILES = (0.1, 0.5, 0.9)
"""The shares of prompts at which the weights of std normalisation are given."""
_NO_PROMPTS = "no prompt values given"


class StdNormalisation(NamedTuple):
    """What dividing by the group's deviation does to 0/1 rewards: E ĝ(x) = φ_G(V(x))g(x).

    Args:
        gain: E φ_G(V), by which it scales the gradient: a step size in disguise.
        values: V of prompts of the 10th, 50th and 90th percentile.
        weights: φ_G(V)/gain there; 1 is what such a prompt counts without it.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import NoiseComponents, plan
        >>> from ustat_grpo.planner import prompt_values
        >>> rewards = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]] * 2
        >>> prompts = prompt_values(np.ravel(rewards), np.repeat(np.arange(8), 4))
        >>> noise = NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0)
        >>> std = plan(noise, budget=16, prompts=prompts).std_normalisation
        >>> [round(value, 2) for value in std.values]  # of a hard, a medium and an easy prompt
        [0.02, 0.5, 0.98]
        >>> [round(weight, 2) for weight in std.weights]  # the medium one counts least
        [1.03, 0.97, 1.03]
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

    Examples:
        >>> from ustat_grpo import NoiseComponents, plan
        >>> answer = plan(NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0), budget=16)
        >>> [(each.group_size, round(each.error.value, 3)) for each in answer.predictions]
        [(2, 1.444), (4, 1.0), (8, 1.254), (16, 2.067)]
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

    Examples:
        >>> from ustat_grpo import NoiseComponents, plan
        >>> answer = plan(NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0), budget=48)
        >>> answer.recommended, answer.optimal.value
        (Choice(batch_size=12, group_size=4), 4.0)
        >>> answer.near_optimal  # all whose error is within 5 % of the least
        GroupSizeRange(low=4, high=5)
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
    near_optimal: GroupSizeRange | None
    surely_near_optimal: GroupSizeRange | None
    possibly_near_optimal: GroupSizeRange | None
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
        write_page(page_data(self), str(self), self.doubts, path)


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
    percent = _coverage(level)
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
        perhaps, share = plan.possibly_near_optimal, f"({_coverage(plan.level)})"
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
            f"{_coverage(plan.level)}, for certain, perhaps: as far as {count} {what} can tell. A "
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


def _range(interval: GroupSizeRange | None) -> str:
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


def _coverage(level: float) -> str:
    """Return a level below 1 in percent, in as many digits as it takes not to look like 100 %."""
    shown = (f"{100 * level:.{digits}g}" for digits in range(6, 18))
    return f"{next(text for text in shown if float(text) < 100)} %"


def _percent(share: float) -> str:
    """Write a share that is not negative, rounded up, so that it bounds what it stands for."""
    return f"{np.ceil(1000 * share - 1e-9) / 10:g} %"


def _seeds(seeds: float) -> str:
    if seeds > _MANY_SEEDS:
        return "over 1e6"
    return f"{seeds:.0f}"


def page_data(plan: "Plan") -> dict[str, Any]:
    """Return what the page computes from, with None for infinity."""
    low, high = plan.noise_range
    return {
        "prompt": plan.noise.prompt,
        "prompt_range": [high.prompt, low.prompt],
        "oracle": plan.noise.oracle,
        "residual": plan.noise.residual,
        "contributions": _moments(plan),
        "optimal": [size if math.isfinite(size) else None for size in plan.optimal],
        "level": plan.level,
        "budget": plan.budget,
        "min_batch_size": plan.min_batch_size,
        "cost": {"per_prompt": plan.cost.per_prompt, "per_output": plan.cost.per_output},
        "tolerance": TOLERANCE,
        "largest": LARGEST_GROUP_SIZE,
        "dead_groups": {
            str(row.group_size): {"probability": row.dead_groups, "guessed": row.is_extrapolated}
            for row in plan.predictions
            if row.dead_groups is not None
        },
        "conditions": conditions(plan),
    }


def _moments(plan: "Plan") -> dict[str, Any] | None:
    """Return all that intervals of weighted sums of c₁, c₂, c₃ depend on; None of known noise.

    Mean, variance and third moment of any such sum of contributions follow from the moments of the
    three, so that the page finds the near-optimal sets of any budget and cost.
    """
    if plan.contributions is None or plan.level is None:
        return None
    mean, count = plan.contributions.mean(axis=0), len(plan.contributions)
    centred = plan.contributions - mean
    second = np.einsum("bi,bj->ij", centred, centred) / count
    third = np.einsum("bi,bj,bk->ijk", centred, centred, centred) / count
    return {
        "count": count,
        "mean": mean.tolist(),
        "second": second.tolist(),
        "third": third.tolist(),
        "critical": float(stdtrit(count - 1, (1 + plan.level) / 2)),
        "rivals": RIVALS,
    }
