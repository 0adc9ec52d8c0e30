"""What the reference tables of the sequential tasks say: pure functions of a DataFrame."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from experiments.readings import Reading, agreement, closeness, order, plain
from figures.palette import INTERVAL, by_task
from ustat_grpo import NoiseComponents
from ustat_grpo.laws import group_size as law


def errors(tasks: dict[str, pd.DataFrame]) -> Iterator[Reading]:
    """Do the laws hold for whole episodes, and do the readings of the gradient-error figure?"""
    for task, rows in tasks.items():
        measured = agreement(rows)
        yield replace(measured, claim=f"{plain(task)}: {measured.claim}")
        yield order(task, rows)
        yield closeness(task, rows)


def group_sizes(data: pd.DataFrame) -> Iterator[Reading]:
    """Does the group size of least gradient error where runs begin train best?"""
    for task, rows in by_task(data).items():
        for budget, cell in rows.groupby("budget"):
            last = cell.query("iteration == iteration.max()")
            yield _best(task, int(str(budget)), last.query("estimator == 'grpo'"))
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
    first = rows.iloc[0].to_dict()
    noise = NoiseComponents(max(first["prompt"], 0.0), first["oracle"], first["residual"])
    low, high = law.near_optimal(noise)
    by_law = rows.loc[rows["predicted_mse"].idxmin()]
    allowed = set(rows.query("@low <= group_size <= @high")["group_size"])
    allowed |= {by_law["group_size"]}
    may_be_best = [int(size) for size in rows.loc[rows["in_confidence_set"], "group_size"]]
    best, least, most = optimal(first)
    known = "" if first["prompt_std_error"] == 0 else f" ({least:.1f} to {most:.1f})"
    reached = ", ".join(
        f"{size}: {objective:.4g}"
        for size, objective in zip(rows["group_size"], rows["objective"], strict=True)
    )
    ranks = -rows[["predicted_mse", "objective"]].corr("spearman").to_numpy()[0, 1]
    return Reading(
        f"{plain(task)}, N = {budget}, n = {first['iteration']}: the G that trains best is among "
        "those of least gradient error where the runs begin",
        f"G* = {best:.1f}{known}; within 5 %: {low:.1f} … {high:.1f}",
        f"may be best (95 %): {', '.join(map(str, may_be_best))}; J by G over {first['runs']} runs "
        f"{reached} (std. error ≤ {rows['std_error'].max():.2g}); the law's "
        f"G = {by_law['group_size']} loses {by_law['excess']:.2g} ± "
        f"{by_law['excess_std_error']:.1g}; rank correlation with the predicted error {ranks:.2f}",
        "reproduced" if allowed & set(may_be_best) else "refuted",
    )


def _against_vanilla(task: str, budget: int, rows: pd.DataFrame) -> Reading:
    wide = rows.pivot(index="group_size", columns="estimator", values="objective")
    noise = rows.pivot(index="group_size", columns="estimator", values="std_error")
    difference = (wide["grpo"] - wide["vanilla"]).to_numpy()
    reach = 2 * np.hypot(noise["grpo"], noise["vanilla"]).to_numpy()
    better, worse = np.count_nonzero(difference > reach), np.count_nonzero(difference < -reach)
    return Reading(
        f"{plain(task)}, N = {budget}: GRPO trains better than vanilla at every G",
        f"{len(wide)} of {len(wide)} group sizes",
        f"better at {better}, worse at {worse} of {len(wide)} (differences beyond 2 std. errors); "
        f"best of all G: {wide['grpo'].max():.4g} against {wide['vanilla'].max():.4g}",
        "reproduced" if better == len(wide) else "refuted",
    )
