"""What judging the planner by sweeps says: pure functions of a DataFrame."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments.planning.planned_group_size import AT_ESTIMATE, FIXED, PLANNED, fixed
from experiments.planning.planned_panels import GAP_LAW, GRADIENT_LAW
from experiments.running.reading import Reading, plain
from figures.tables import at_last_iteration, by_task

_FIXED = tuple(map(fixed, FIXED))
_CELL = ["task", "optimizer", "budget", "num_prompts"]
_CLEAR = 2.0
"""Standard errors of a paired difference that counts."""


def plans(data: pd.DataFrame) -> Iterator[Reading]:
    """Is the planned G among those that may be the best, and what does following it lose?

    Every policy, budget, optimiser and size of the first batch is a cell. Excess is over the best G
    of the cell's sweep at its last checkpoint, 1 being the excess of the worst. A sweep that rules
    out no size has no such scale, and judges nothing.
    """
    last = at_last_iteration(data)
    telling = last.loc[last["set_size"] < last["num_sizes"]]
    for task, rows in by_task(telling).items():
        yield _of_task(task, rows)
    yield _overall(telling, _count(last))
    yield _caution(telling)
    yield _gradient_or_loss(telling)


def _of_task(task: str, rows: pd.DataFrame) -> Reading:
    cells, counts = _count(rows), _against_fixed(rows)
    planned = _of_rule(rows, PLANNED)
    shares = "; ".join(
        f"{prompts} prompts: {some['in_confidence_set'].mean():.0%} of the plans, "
        f"{some['lower_bound'].mean():.0%} with a lower bound on G* only, "
        f"{some['refused'].mean():.0%} refused"
        for prompts, some in planned.groupby("num_prompts")
    )
    sizes = f"{planned['set_size'].min()} to {planned['set_size'].max()}"
    return Reading(
        f"{plain(task)}: a plan from a first batch names a G that may be the best (95 %), and "
        "loses no more than a fixed 8, 16 or 64",
        f"no fixed size clearly better than the plan in any of {cells} cells",
        f"in the confidence set ({sizes} of {planned['num_sizes'].max()} sizes) {shares}; mean "
        f"excess (0: best G, 1: worst) {_means(rows)}; {_compared(counts, cells)}"
        f"{_setback(rows)}",
        _verdict(counts, cells),
    )


def _overall(rows: pd.DataFrame, all_cells: int) -> Reading:
    cells, counts = _count(rows), _against_fixed(rows)
    wide = _wide(rows, "relative_excess")
    least = wide[list(_FIXED)].to_numpy().min(axis=1)
    ahead = np.count_nonzero(wide[PLANNED].to_numpy() <= least)
    inside = _of_rule(rows, PLANNED)["in_confidence_set"].mean()
    gains = ", ".join(
        f"{rule} by {gain:+.3f} ± {error:.3f}" for rule, (gain, error) in _gains(rows).items()
    )
    return Reading(
        "all tasks: following the plan is better than any fixed default",
        "a smaller mean excess than fixed 8, 16 and 64, in every cell",
        f"{cells} of {all_cells} cells, the others' sweeps rule out no size; "
        f"{inside:.0%} of the plans in the confidence set; mean excess {_means(rows)}; better than "
        f"{gains} (mean over cells, standard error at most); with every task of the same weight "
        f"{_by_task(rows)}; no fixed size below the plan in {ahead} cells; "
        f"{_compared(counts, cells)}",
        _overall_verdict(_gains(rows), counts),
    )


def _caution(rows: pd.DataFrame) -> Reading:
    """Compare the least worst case over the interval of G* with trusting the point estimate."""
    found = []
    for prompts, some in rows.groupby("num_prompts"):
        planned, trusting = (_mean(some, rule) for rule in (PLANNED, AT_ESTIMATE))
        found.append(f"{prompts} prompts: {planned:.3f} against {trusting:.3f}")
    better, worse = _clear(rows, AT_ESTIMATE)
    return Reading(
        "planning for the least worst case over the interval of G* loses less than trusting the "
        "point estimate",
        "a smaller excess, above all from small batches",
        f"mean excess {'; '.join(found)}; clearly better in {better}, worse in {worse} of "
        f"{_count(rows)} cells",
        "reproduced" if better > worse else "refuted",
    )


def _gradient_or_loss(rows: pd.DataFrame) -> Reading:
    """Is the G of least gradient error that of least loss, where both laws are exact?"""
    sweeps = rows.drop_duplicates(["task", "optimizer", "budget", "rule"])
    known, of_gap = (_of_rule(sweeps, rule) for rule in (GRADIENT_LAW, GAP_LAW))
    outside = known.loc[known["in_confidence_set"] < 1]
    missed = ", ".join(
        f"{plain(str(row['task']))} at N = {row['budget']} (excess {row['relative_excess']:.2f})"
        for row in outside.to_dict(orient="records")
    )
    return Reading(
        "the G of least gradient error where runs begin, known exactly, may be the best for the "
        "loss: what no estimate can mend",
        f"in the confidence set of {len(known)} of {len(known)} sweeps",
        f"{len(known) - len(outside)} of {len(known)}, mean excess "
        f"{known['relative_excess'].mean():.3f}{'; not in ' if missed else ''}{missed}; the exact "
        f"law of the gap, where it is known: {of_gap['in_confidence_set'].sum():.0f} of "
        f"{len(of_gap)}, mean excess {of_gap['relative_excess'].mean():.3f}",
        "refuted" if len(outside) else "reproduced",
    )


def _against_fixed(rows: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Return in how many cells the plan is clearly better and worse than each fixed size."""
    return {rule: _clear(rows, rule) for rule in _FIXED}


def _clear(rows: pd.DataFrame, rule: str) -> tuple[int, int]:
    of_rule = _of_rule(rows, rule)
    over = of_rule["over_planned"].to_numpy()
    reach = _CLEAR * of_rule["over_planned_std_error"].to_numpy()
    return int((over > reach).sum()), int((-over > reach).sum())


def _setback(rows: pd.DataFrame) -> str:
    """Say how much of the best size's loss is lost where a fixed size is clearly better."""
    lost = []
    for rule in _FIXED:
        of_rule = _of_rule(rows, rule)
        behind = -of_rule["over_planned"]
        clear = behind > _CLEAR * of_rule["over_planned_std_error"]
        lost += list((behind / of_rule["best_loss"])[clear])
    return f", there by at most {max(lost):.1%} of the loss at the best G" if lost else ""


def _gains(rows: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return the mean over cells of what a fixed size loses more than the plan, relative.

    Sweeps of one policy share random numbers: their errors are added up, an upper bound. Those of
    different policies are independent.
    """
    relative, errors = _wide(rows, "relative_excess"), _wide(rows, "over_planned_std_error")
    worst = _wide(rows, "excess").sum(axis=1).to_numpy() / relative.sum(axis=1).to_numpy()
    policies = relative.index.get_level_values("task").to_numpy()
    found = {}
    for rule in _FIXED:
        gain = relative[rule].to_numpy() - relative[PLANNED].to_numpy()
        scaled = errors[rule].to_numpy() / worst
        of_policies = [scaled[policies == policy].sum() for policy in np.unique(policies)]
        found[rule] = float(gain.mean()), float(np.linalg.norm(of_policies) / len(gain))
    return found


def _of_rule(rows: pd.DataFrame, rule: str) -> pd.DataFrame:
    return rows.loc[rows["rule"] == rule]


def _wide(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row a cell and one column a rule; NaN where a rule is not known."""
    return rows.pivot(index=_CELL, columns="rule", values=column)


def _mean(rows: pd.DataFrame, rule: str) -> float:
    return float(np.mean(_of_rule(rows, rule)["relative_excess"].to_numpy()))


def _means(rows: pd.DataFrame) -> str:
    """Return the mean excess of every rule over the cells in which it is known."""
    known = set(rows["rule"])
    shown = [rule for rule in (PLANNED, *_FIXED, GRADIENT_LAW, GAP_LAW) if rule in known]
    return ", ".join(f"{rule} {_mean(rows, rule):.3f}" for rule in shown)


def _by_task(rows: pd.DataFrame) -> str:
    """Return the mean over tasks of their means over cells."""
    tasks = by_task(rows).values()
    return ", ".join(
        f"{rule} {np.mean([_mean(each, rule) for each in tasks]):.3f}"
        for rule in (PLANNED, *_FIXED)
    )


def _count(rows: pd.DataFrame) -> int:
    return len(_of_rule(rows, PLANNED))


def _compared(counts: dict[str, tuple[int, int]], cells: int) -> str:
    better = "/".join(str(better) for better, _ in counts.values())
    worse = "/".join(str(worse) for _, worse in counts.values())
    return (
        f"the plan is clearly better than fixed 8/16/64 in {better} and worse in {worse} of "
        f"{cells} cells (differences beyond 2 std. errors)"
    )


def _verdict(counts: dict[str, tuple[int, int]], cells: int) -> str:
    """Say whether the plan is ever clearly worse than a fixed size."""
    if not any(map(np.any, counts.values())):
        return "not resolved: the runs cannot tell the plan from fixed sizes"
    lost = {rule: worse for rule, (_, worse) in counts.items() if worse}
    if not lost:
        return "reproduced"
    ahead = [f"{rule} in {worse}" for rule, worse in lost.items() if worse > counts[rule][0]]
    if ahead:
        return f"refuted: clearly behind {', '.join(ahead)} of {cells} cells"
    return "refined: ahead of each fixed size more often than behind"


def _overall_verdict(
    gains: dict[str, tuple[float, float]], counts: dict[str, tuple[int, int]]
) -> str:
    """Say whether the plan is better on average, and nowhere clearly worse."""
    ahead = [rule for rule, (gain, error) in gains.items() if gain > _CLEAR * error]
    rest = ", ".join(rule for rule in gains if rule not in ahead)
    behind = any(worse for _, worse in counts.values())
    if not rest:
        return "refined: clearly better on average, but not everywhere" if behind else "reproduced"
    if not behind:
        return f"not resolved: on average not clearly better than {rest}"
    if not ahead:
        return f"refuted: on average not clearly better than {rest}"
    return f"refuted: on average clearly better than {', '.join(ahead)}, but not than {rest}"
