"""What the reference tables of the sequential tasks say: pure functions of a DataFrame."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from experiments.running.reading import Reading, plain
from figures.palette import INTERVAL
from figures.tables import by_task
from ustat_grpo import NoiseComponents
from ustat_grpo.laws import group_size as law


def group_sizes(data: pd.DataFrame) -> Iterator[Reading]:
    """Does the group size of least gradient error where runs begin train best?"""
    for task, rows in by_task(data).items():
        for budget, cell in rows.groupby("budget"):
            yield _best(task, int(str(budget)), cell.query("estimator == 'grpo'"))
            last = cell.query("iteration == iteration.max()")
            yield _against_vanilla(task, int(str(budget)), last)


def optimal(row: dict[Any, Any]) -> tuple[float, float, float]:
    """Return G* = 1 + √(c₃/c₁), and its ends as c₁ runs through its 95 % interval."""
    reach = INTERVAL * row["prompt_std_error"]
    found = [
        law.optimal(NoiseComponents(max(prompt, 0.0), row["oracle"], row["residual"]))
        for prompt in (row["prompt"], row["prompt"] + reach, row["prompt"] - reach)
    ]
    return found[0], found[1], found[2]


def _best(task: str, budget: int, rows: pd.DataFrame) -> Reading:
    last = rows.query("iteration == iteration.max()")
    first = last.iloc[0].to_dict()
    noise = NoiseComponents(max(first["prompt"], 0.0), first["oracle"], first["residual"])
    low, high = law.near_optimal(noise)
    by_law = last.loc[last["predicted_mse"].idxmin()]
    allowed = set(last.query("@low <= group_size <= @high")["group_size"])
    allowed |= {by_law["group_size"]}
    may_be_best = {
        iteration: [int(size) for size in at_point.loc[at_point["in_confidence_set"], "group_size"]]
        for iteration, at_point in rows.groupby("iteration")
    }
    best, least, most = optimal(first)
    known = "" if first["prompt_std_error"] == 0 else f" ({least:.1f} to {most:.1f})"
    reached = ", ".join(
        f"{size}: {objective:.4g}"
        for size, objective in zip(last["group_size"], last["objective"], strict=True)
    )
    error, objective = (pd.Series(last[name]) for name in ("predicted_mse", "objective"))
    ranks = -objective.corr(error, method="spearman")
    return Reading(
        f"{plain(task)}, N = {budget}: the G that trains best is among those of least gradient "
        "error where the runs begin",
        f"G* = {best:.1f}{known}; within 5 %: {low:.1f} … {high:.1f}",
        f"may be best (95 %): {_sets(may_be_best, len(last))}; J by G at n = {first['iteration']} "
        f"over {first['runs']} runs {reached} (std. error ≤ {last['std_error'].max():.2g}); the "
        f"law's G = {by_law['group_size']} loses {by_law['excess']:.2g} ± "
        f"{by_law['excess_std_error']:.1g}; rank correlation with the predicted error {ranks:.2f}",
        _verdict(may_be_best, allowed, len(last)),
    )


def _sets(may_be_best: dict[Any, list[int]], count: int) -> str:
    """Write the confidence set of every checkpoint."""
    return "; ".join(
        f"n = {iteration}: {'any' if len(sizes) == count else ', '.join(map(str, sizes))}"
        for iteration, sizes in may_be_best.items()
    )


def _verdict(may_be_best: dict[Any, list[int]], allowed: set[int], count: int) -> str:
    """Say whether the prediction is in every confidence set, and any of these is of use."""
    if not all(allowed & set(sizes) for sizes in may_be_best.values()):
        return "refuted"
    if all(len(sizes) == count for sizes in may_be_best.values()):
        return "not resolved: the runs cannot tell the sizes apart"
    return "reproduced"


def _against_vanilla(task: str, budget: int, rows: pd.DataFrame) -> Reading:
    wide = rows.pivot(index="group_size", columns="estimator", values="objective")
    noise = rows.pivot(index="group_size", columns="estimator", values="std_error")
    difference = (wide["grpo"] - wide["vanilla"]).to_numpy()
    reach = 2 * np.hypot(noise["grpo"].to_numpy(), noise["vanilla"].to_numpy())
    better, worse = np.count_nonzero(difference > reach), np.count_nonzero(difference < -reach)
    return Reading(
        f"{plain(task)}, N = {budget}: GRPO trains better than vanilla at every G",
        f"{len(wide)} of {len(wide)} group sizes",
        f"better at {better}, worse at {worse} of {len(wide)} (differences beyond 2 std. errors); "
        f"best of all G: {wide['grpo'].max():.4g} against {wide['vanilla'].max():.4g}",
        "reproduced" if better == len(wide) else "refuted",
    )
