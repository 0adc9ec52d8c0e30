"""Colours, markers and files that all figures share."""

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

STYLE = Path(__file__).parent / "paper.mplstyle"
DRAWN = Path(__file__).parent / "drawn"

# Okabe & Ito's colours, told apart by the colour-blind; markers and dashes serve print in grey.
LOOKS = {
    "vanilla": ("#0072B2", "s", (0, (4, 1.5))),
    "grpo": ("#E69F00", "o", "-"),
    "oracle": ("#009E73", "^", (0, (1, 1.2))),
    "group_mean": ("#CC79A7", "D", (0, (6, 1, 1, 1))),
    "constant_baseline": ("#56B4E9", "v", (0, (2, 1))),
    "optimal_baseline": ("#000000", "P", (0, (3, 1, 1, 1, 1, 1))),
    "shrinkage": ("#D55E00", "X", (0, (5, 2))),
}
NAMES = {
    "vanilla": "vanilla",
    "grpo": "GRPO",
    "oracle": "oracle",
    "group_mean": "group mean",
    "constant_baseline": "constant",
    "optimal_baseline": "optimal baseline",
    "shrinkage": "shrinkage",
}
JOBS = {"gradient_mse": "batch_size", "fixed_budget": "budget"}
"""The column that tells the jobs of one task apart, by figure: each gets a picture of its own."""

Build = Callable[[pd.DataFrame], Figure]

INTERVAL = 1.959964
"""Standard errors on either side of a 95 % interval."""


def draw_estimators(axes: Axes, panel: pd.DataFrame) -> None:
    """Draw each estimator against group size: its law as a line, measurements with intervals."""
    for estimator, rows in panel.groupby("estimator", sort=False):
        colour, marker, dashes = LOOKS[str(estimator)]
        rows = rows.sort_values("group_size")
        axes.plot(rows["group_size"], rows["law"], color=colour, linestyle=dashes, zorder=2)
        axes.errorbar(
            rows["group_size"],
            rows["mse"],
            INTERVAL * rows["std_error"],
            color=colour,
            marker=marker,
            linestyle="none",
            capsize=2,
            markeredgecolor="white",
            markeredgewidth=0.5,
            label=NAMES[str(estimator)],
            zorder=3,
        )


def group_size_axis(axes: Axes, sizes: list[float]) -> None:
    """Make a logarithmic axis with the group sizes themselves as ticks, every other if many."""
    ticks = np.unique(sizes)
    ticks = ticks if len(ticks) <= 6 else ticks[::2]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("group size $G$ (outputs per prompt)")


def error_axis(axes: Axes) -> None:
    """Make a logarithmic axis that has ticks even where the data span less than a decade."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    steps = (1.0,) if high > 30 * low else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(_power_of_ten))
    axes.minorticks_off()


def _power_of_ten(value: float, _position: int) -> str:
    """Write 5e-4 as 5·10⁻⁴, and 1e-3 as 10⁻³."""
    mantissa, exponent = f"{value:.1e}".split("e")
    factor = "" if float(mantissa) == 1 else rf"{float(mantissa):g}\cdot"
    return rf"${factor}10^{{{int(exponent)}}}$"


def by_task(data: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split a table by task, whose panels are named 'task: panel'."""
    tasks = data["task"].str.split(":").str[0]
    return {str(task): rows for task, rows in data.groupby(tasks, sort=False)}


def only(data: pd.DataFrame, column: str) -> int:
    """Return the one value of a column; points of several jobs must not be joined by a line.

    Raises:
        ValueError: if there are several.
    """
    values = data[column].unique().tolist()
    if len(values) > 1:
        raise ValueError(f"{column} must be the same throughout a figure, got {values}")
    return values[0]


def draw_tasks(csv: Path, folder: Path, name: str, build: Build) -> list[Path]:
    """Draw one figure a task of a CSV, and a job if there are several; return the PNGs' paths.

    Args:
        csv: the table.
        folder: where the figures go.
        name: the figure's, a key of `JOBS`.
        build: draws one figure.
    """
    drawn, job = [], JOBS[name]
    with plt.style.context(STYLE):
        for task, panels in by_task(pd.read_csv(csv)).items():
            jobs = list(panels.groupby(job, sort=False))
            for value, rows in jobs:
                suffix = f"_{job}{value}" if len(jobs) > 1 else ""
                drawn.append(save(build(rows), folder / f"{name}_{task}{suffix}.png"))
    return drawn


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and as PDF, the same bytes at each run, and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(figure)
    return path


def command_line(name: str, build: Build) -> None:
    """Draw a figure from the command line: a CSV and a folder, by default the reference."""
    reference = Path(__file__).parents[1] / "experiments" / "reference" / f"{name}.csv"
    parser = argparse.ArgumentParser(prog=f"python -m figures.{name}")
    parser.add_argument("csv", type=Path, nargs="?", default=reference)
    parser.add_argument("--folder", type=Path, default=DRAWN)
    arguments = parser.parse_args()
    if not arguments.csv.exists():
        parser.error(f"csv must be an existing file, got {arguments.csv}")
    try:
        drawn = draw_tasks(arguments.csv, arguments.folder, name, build)
    except KeyError as error:
        parser.error(f"csv must have a column {error}, got {arguments.csv}")
    except OSError as error:
        parser.error(f"folder must be writable, got {arguments.folder} ({error})")
    print(*drawn, sep="\n")
