"""The main job on its smoke scale: measure, draw, print."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.jobs import run_each
from experiments.running.records import REFUSE
from figures.__main__ import draw_all
from figures.tables import by_task

_LEDGER = Path(__file__).parents[1] / "paper_repro.md"


def main(folder: Path, stale: str = REFUSE) -> None:
    """Run all experiments, draw their figures, and say what came out and where it lies."""
    started = time.perf_counter()
    console = Console()
    console.print("measuring gradient errors and suboptimality gaps, smoke scale")
    tables = folder / "smoke"
    done = run_each("smoke", str(folder), tables, stale)
    # The smoke scale pretrains no policy.
    drawn = draw_all((tables / f"{name}.csv" for name, jobs in done if jobs), folder / "figures")
    console.print(_errors(pd.read_csv(tables / "gradient_mse.csv")))
    console.print(_sizes(pd.read_csv(tables / "fixed_budget.csv")))
    console.print(_gaps(pd.read_csv(tables / "group_size.csv")))
    console.print(f"done in {time.perf_counter() - started:.0f} s; figures (PNG, and PDF beside):")
    for path in drawn:
        console.print(f"  {path}", soft_wrap=True)
    console.print(f"ledger, item by item of the paper: {_LEDGER}", soft_wrap=True)


def _errors(data: pd.DataFrame) -> Table:
    """Exact error of the smallest and the largest group, by policy, and how far we measured off."""
    data = data.query("evidence != 'brute force'")
    table = _table("exact gradient error E‖ĝ − ∇J‖² (measured: std. errors above it)")
    for heading in ("G", "vanilla", "grpo", "oracle"):
        table.add_column(heading, justify="right", no_wrap=True)
    ends = data["group_size"].min(), data["group_size"].max()
    for task, panels in by_task(data).items():
        table.add_row(f"[bold]{task}[/]")
        shown = panels[panels["group_size"].isin(ends)].copy()
        noise = np.hypot(shown["std_error"], shown["law_std_error"])
        above = (shown["mse"] - shown["law"]) / noise
        shown["cell"] = [
            f"{law:.2e} ({z:+.1f})" for law, z in zip(shown["law"], above, strict=True)
        ]
        wide = shown.set_index(["task", "group_size", "estimator"])["cell"].unstack(sort=False)
        for (panel, size), cells in wide[["vanilla", "grpo", "oracle"]].iterrows():  # pyright: ignore
            table.add_row(panel.split(": ")[1], str(size), *cells)
    return table


def _table(title: str) -> Table:
    """A table that fits eighty columns."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    return table


def _sizes(data: pd.DataFrame) -> Table:
    """Predicted and measured best group size of GRPO, by policy."""
    budget = data["budget"].iloc[0]
    table = _table(f"group size of least GRPO error at N = {budget} outputs a step")
    for heading in ("measured", "G* = 1+√(c₃/c₁)", "within 5 %", "paper √(c₃/c₁)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for task, panels in by_task(data.query("estimator == 'grpo'")).items():
        table.add_row(f"[bold]{task}[/]")
        for panel, rows in panels.groupby("task", sort=False):
            best = rows.loc[rows["mse"].idxmin()]
            table.add_row(
                str(panel).split(": ")[1],
                f"{best['group_size']}",
                f"{best['optimal']:.2f}",
                f"{best['near_optimal_low']:.1f} … {best['near_optimal_high']:.1f}",
                f"{best['paper_optimal']:.2f}",
            )
    return table


def _gaps(data: pd.DataFrame) -> Table:
    """Predicted and measured best group size for the gap, by policy."""
    last = data.query("estimator == 'grpo' and iteration == iteration.max()")
    last = last.query("budget == budget.max()")
    budget, iteration = last["budget"].iloc[0], last["iteration"].iloc[0]
    table = _table(f"group size of least gap of GRPO at N = {budget}, after {iteration} iterations")
    for heading in ("measured", "law", "gap ± std. error", "law of gap"):
        table.add_column(heading, justify="right", no_wrap=True)
    for task, panels in by_task(last).items():
        table.add_row(f"[bold]{task}[/]")
        for panel, rows in panels.groupby("task", sort=False):
            best = rows.loc[rows["gap"].idxmin()]
            table.add_row(
                str(panel).split(": ")[1],
                f"{best['group_size']}",
                f"{rows.loc[rows['law'].idxmin(), 'group_size']}",
                f"{best['gap']:.3e} ± {best['std_error']:.0e}",
                f"{best['law']:.3e}",
            )
    return table
