"""Which group size for this task and this budget? Measure them all, and say how sure the answer is.

Runs of Algorithm 1 at every division of N = B·G outputs a step share their random numbers; their
paired differences tell which sizes may be the best, the law of the gap tells what was to be
expected, and what the usual defaults cost. Try

    python -m experiments find_group_size task=bandit budget=1024
    python -m experiments find_group_size task=tug_of_war budget=96 scale.runs=2000 estimator=paper
"""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.group_size.confidence import LEVEL, compare
from experiments.group_size.config import GroupSize
from experiments.group_size.group_size import describe, measured_gaps, predicted
from experiments.running.app import App
from experiments.running.estimators import Compared
from experiments.running.reading import STANDARD_ERRORS
from experiments.tasks.bandits import Start, bandit_task, prepare
from ustat_grpo import NoiseComponents, laws
from ustat_grpo.bandits.expansion import expand
from ustat_grpo.inputs.checks import first_smallest
from ustat_grpo.laws.path import ExpectedGap
from ustat_grpo.laws.spread import LARGEST_SHARE

COLUMNS = [
    "task", "estimator", "budget", "iteration", "group_size", "batch_size", "runs", "gap",
    "std_error", "law", "excess", "excess_std_error", "law_excess", "in_confidence_set",
    "near_best_by_law", "optimal", "gradient_optimal",
]  # fmt: skip

TOLERANCE = 0.05
DEFAULTS = (2, 8, 16, 64)
"""Group sizes that trainers and papers start from."""


def run(config: GroupSize) -> pd.DataFrame:
    """Measure every estimator at every group size, for each panel of the task."""
    tables = []
    for panel, start in bandit_task(config.task).starts.items():
        for name, each in config.compared.items():
            by_size = predicted(config, start, each)
            gaps = measured_gaps(config, panel, start, name)
            for point in range(len(config.iterations)):
                at_point = {size: laws_of_size[point] for size, laws_of_size in by_size.items()}
                table = compare(gaps[:, :, point], config.group_size)
                table = _with_law(table, at_point, config.budget).assign(
                    task=panel,
                    estimator=name,
                    iteration=config.iterations[point],
                    runs=len(gaps),
                    gradient_optimal=gradient_optimal(start, each),
                )
                tables.append(table)
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


def gradient_optimal(start: Start, compared: Compared) -> float:
    """Return the G of least gradient error at θ₀: 1 + √(c₃/c₁) with the estimator's own c₃.

    It is 1 without a group mean: more prompts are then always better.
    """
    moments = expand(start.bandit.at)(start.theta0).score_moments
    traces = [np.trace(part, axis1=1, axis2=2).sum() for part in compared.noise(moments)]
    return laws.group_size.optimal(NoiseComponents(*(max(float(each), 0.0) for each in traces)))


def _with_law(
    table: pd.DataFrame, at_point: Mapping[int, ExpectedGap], budget: int
) -> pd.DataFrame:
    """Add the law of each size.

    A size is near the best if its law exceeds the least by at most 5 % of the noise's effect
    there, |E Δ_n − Δ(m_n)|: the gap of exact gradient ascent would hide every difference.
    """
    sizes = list(at_point)
    exact = np.array(
        [law.gap(batch_size=budget // size, group_size=size) for size, law in at_point.items()]
    )
    best = int(first_smallest(exact))
    law = at_point[sizes[best]]
    excess = exact - exact[best]
    return table.reset_index().assign(
        budget=budget,
        batch_size=[budget // size for size in sizes],
        law=exact,
        law_excess=excess,
        near_best_by_law=excess <= TOLERANCE * abs(exact[best] - law.path_gap),
        optimal=law.best_group_size,
    )


def show(data: pd.DataFrame, console: Console) -> None:
    """Print one table and its conclusions a panel, estimator and iteration."""
    for keys, rows in data.groupby(["task", "estimator", "iteration"], sort=False):
        panel, estimator, iteration = keys  # pyright: ignore
        first = rows.iloc[0]
        console.print(
            f"\n[bold]{panel}[/]: {estimator}, N = {first['budget']}, "
            f"{first['runs']} runs of {iteration} iterations"
        )
        console.print(_table(rows))
        for line in conclusions(rows):
            console.print(line, highlight=False)


def conclusions(rows: pd.DataFrame) -> list[str]:
    """Say in words what the table of one panel, estimator and iteration says."""
    best = rows.loc[rows["gap"].idxmin()]
    lines = [
        f"measured best G = {best['group_size']}, "
        f"{_percent(LEVEL)} confidence set {_members(rows, 'in_confidence_set')}",
        f"predicted G* {_readable(best['optimal'])} (gap), least noise effect or within "
        f"{_percent(TOLERANCE)}: {_members(rows, 'near_best_by_law')}",
        f"G* for the gradient's error {_readable(best['gradient_optimal'])}",
    ]
    lines += _out_of_range(rows)
    usual = [row for row in rows.to_dict(orient="records") if row["group_size"] in DEFAULTS]
    if usual:
        lines.append("what the usual defaults lose (by law), of the measured best gap:")
    for row in usual:
        lines.append(
            f"  G = {row['group_size']}: {_excess(row)} ({row['law_excess']:.2e}), "
            f"{100 * row['excess'] / best['gap']:.1f} %"
        )
    return lines


def _out_of_range(rows: pd.DataFrame) -> list[str]:
    """Say at which G the law, of first order in the noise, is refuted by what was measured.

    A gap counts as refuting beyond 4 standard errors, if the law also misses it by more than a
    tenth of what it tells sizes apart by: less hardly moves its best G.
    """
    missed = (rows["gap"] - rows["law"]).abs()
    told_apart = LARGEST_SHARE * rows["law_excess"].max()
    wrong = (missed > STANDARD_ERRORS * rows["std_error"]) & (missed > told_apart)
    if not bool(wrong.to_numpy().any()):
        return []
    sizes = ", ".join(str(size) for size in rows["group_size"][wrong])
    return [
        f"the first order in the noise does not hold at G = {sizes}: the measured gap refutes the "
        "law there, so do not go by its G*"
    ]


def _table(rows: pd.DataFrame) -> Table:
    """A table that fits eighty columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("G", "gap ± s.e.", "law", "excess ± s.e.", "by law", f"{_percent(LEVEL)} set"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows.to_dict(orient="records"):
        table.add_row(
            str(row["group_size"]),
            f"{row['gap']:.3e} ± {row['std_error']:.0e}",
            f"{row['law']:.3e}",
            _excess(row),
            f"{row['law_excess']:.2e}",
            "yes" if row["in_confidence_set"] else "no",
        )
    return table


def _excess(row: Mapping[Hashable, Any]) -> str:
    """Say what a size loses over the measured best, which loses nothing over itself."""
    if row["excess"] == row["excess_std_error"] == 0:
        return "none"
    return f"{row['excess']:.2e} ± {row['excess_std_error']:.0e}"


def _readable(size: float) -> str:
    """Say where a best group size lies that the law puts at no finite G above 1."""
    if np.isnan(size):
        return "→ 1"
    return "→ ∞" if np.isinf(size) else f"= {size:.3g}"


def _members(rows: pd.DataFrame, column: str) -> str:
    chosen = [str(size) for size in rows["group_size"][rows[column]]]
    return f"{{{', '.join(chosen)}}}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"


APP = App(
    "find_group_size",
    GroupSize,
    run,
    describe,
    prepare,
    report=lambda data: show(data, Console()),
)
