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
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN, CARETUP
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

from figures.tables import REFERENCE, TABLES, pictures

STYLE = Path(__file__).parent / "paper.mplstyle"
DRAWN = Path(__file__).parent / "drawn"

Look = tuple[str, str, str | tuple[int, tuple[float, ...]]]
"""Colour, marker and dashes."""

# Okabe & Ito's colours, told apart by the colour-blind; markers and dashes serve print in grey.
LOOKS: dict[str, Look] = {
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
Build = Callable[[pd.DataFrame], Figure]
Array = NDArray[np.float64]
Columns = tuple[str, str]

INTERVAL = 1.959964
"""Standard errors on either side of a 95 % interval."""
APART = 1.09
"""The factor between abscissae that keeps the intervals of different series apart."""
STRAIGHT = 1e-6
"""A line that passes a point this close, as a share of the panel, passes through it to the eye."""


def draw_estimators(
    axes: Axes, panel: pd.DataFrame, columns: Columns = ("group_size", "mse"), apart: float = 1.0
) -> None:
    """Draw each estimator's law and measurements, neighbours `apart` by a factor in abscissa."""
    groups = list(panel.groupby("estimator", sort=False))
    for place, (estimator, rows) in enumerate(groups):
        shift = apart ** (place - (len(groups) - 1) / 2)
        name = str(estimator)
        draw_series(axes, rows, LOOKS[name], NAMES[name], columns, shift)


def draw_series(
    axes: Axes, rows: pd.DataFrame, look: Look, name: str, columns: Columns, shift: float = 1.0
) -> None:
    """Draw a law as a line, and its measurements with 95 % intervals, beside it by a factor."""
    (x, y), (colour, marker, dashes) = columns, look
    rows = rows.sort_values(x)
    axes.plot(rows[x], rows["law"], color=colour, linestyle=dashes, zorder=2)
    axes.errorbar(
        rows[x] * shift,
        rows[y],
        INTERVAL * rows["std_error"],
        color=colour,
        marker=marker,
        linestyle="none",
        capsize=2,
        markeredgecolor="white",
        markeredgewidth=0.5,
        label=name,
        zorder=3,
    )


def panel_grid(count: int, per_row: int, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels: so many a row, or three where that is more than four."""
    columns = per_row if per_row <= 4 else 3
    rows = -(-count // columns)
    size = (2.9 * columns, height * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for unused in grid.flat[count:]:
        unused.remove()
    return figure, list(grid.flat[:count])


def label_left(grid: list[Axes], label: str) -> None:
    """Label the vertical axes of the first column."""
    for axes in grid:
        place = axes.get_subplotspec()
        axes.set_ylabel(label if place is not None and place.is_first_col() else "")


def group_size_axis(axes: Axes, sizes: list[float]) -> None:
    """Make a logarithmic axis with the group sizes themselves as ticks, every other if many."""
    ticks = np.unique(sizes)
    ticks = ticks if len(ticks) <= 6 else ticks[::2]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("group size $G$ (outputs per prompt)")


def mark_no_best(axes: Axes, x: Array, optimal: Array) -> None:
    """Put arrows where the law of the gap has no best group size: at the top for ∞, or below."""
    for height, arrow, here, name in (
        (1.0, "^", np.isposinf(optimal), "first-order law: the larger $G$ the better"),
        (0.0, "v", np.isnan(optimal), "first-order law: the smaller $G$ the better"),
    ):
        if here.any():
            axes.plot(x[here], np.full(here.sum(), height), arrow, color=LOOKS["grpo"][0],
                      markerfacecolor="white", clip_on=False, zorder=4, label=name,
                      transform=axes.get_xaxis_transform())  # fmt: skip


def mark_beyond(axes: Axes) -> None:
    """Put arrows at the ends of the vertical axis below and above which markers would lie."""
    low, high = axes.get_ylim()
    for line in list(axes.lines):
        if line.get_marker() in ("None", "", None) or line.get_transform() != axes.transData:
            continue
        x, y = np.asarray(line.get_xydata(), dtype=float).T
        for height, arrow, beyond in ((1.0, CARETUP, y > high), (0.0, CARETDOWN, y < low)):
            if beyond.any():
                axes.plot(x[beyond], np.full(beyond.sum(), height), marker=arrow, markersize=5,
                          color=line.get_color(), linestyle="none", clip_on=False,
                          transform=axes.get_xaxis_transform())  # fmt: skip


def powers_of_two(axes: Axes) -> None:
    """Make the vertical axis one of group sizes, with ticks between powers of two if few.

    Where the sizes differ by less than a factor of two the axis is linear.
    """
    low, high = axes.dataLim.intervaly
    if 0 < high < 2 * low:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        return
    axes.set_yscale("log", base=2)
    low, high = axes.get_ylim()
    steps = (1.0,) if high > 8 * low else (1.0, 1.5)
    axes.yaxis.set_major_locator(LogLocator(base=2, subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axes.minorticks_off()


def error_axis(axes: Axes, crowded: float = 100.0) -> None:
    """Make a logarithmic axis that has ticks even where the data span less than a decade.

    Args:
        axes: to change.
        crowded: the ratio of its ends from which on powers of ten are enough.
    """
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    steps = (1.0,) if high > crowded * low else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(_power_of_ten))
    axes.minorticks_off()


def _power_of_ten(value: float, _position: int) -> str:
    """Write 5e-4 as 5·10⁻⁴, and 1e-3 as 10⁻³."""
    mantissa, exponent = f"{value:.1e}".split("e")
    factor = "" if float(mantissa) == 1 else rf"{float(mantissa):g}\cdot"
    return rf"${factor}10^{{{int(exponent)}}}$"


def draw_tasks(csv: Path, folder: Path, name: str, build: Build) -> list[Path]:
    """Draw one figure a task of a CSV, and a job if there are several; return the PNGs' paths.

    Args:
        csv: the table.
        folder: where the figures go.
        name: the figure's.
        build: draws one figure.
    """
    with plt.style.context(STYLE):
        return [
            save(build(rows), folder / f"{stem}.png")
            for stem, rows in pictures(pd.read_csv(csv), name)
        ]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and as PDF, the same bytes at each run, and close it.

    The ends of axes come from logarithms, whose last bit is the processor's: nine digits are kept,
    or all ticks and grid lines would move by a digit of the PDF now and then.
    """
    for axes in figure.axes:
        for ends, set_ends in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
            low, high = (float(f"{end:.9g}") for end in ends)
            set_ends(low, high)
        for line in list(axes.lines):
            _draw_turns(axes, line)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(figure)
    return path


def _draw_turns(axes: Axes, line: Line2D) -> None:
    """Draw a line through its ends and the points at which it turns, and markers at all points.

    A renderer joins two strokes where their edges meet. Where a line hardly turns, as a law that is
    a power of G does not on logarithmic axes, the edges are parallel but for the digits of a table:
    where they meet is then a quotient of two differences that the rounding of a logarithm decides,
    and with it the shade of a pixel.
    """
    if line.get_transform() != axes.transData or line.get_linestyle() == "None":
        return
    points: Array = np.asarray(line.get_xydata(), dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        turns = turning((axes.transScale + axes.transLimits).transform(points))
    if len(turns) == len(points):
        return
    if line.get_marker() not in ("None", "", " ", None):
        stroke = Line2D([], [])
        stroke.update_from(line)
        stroke.set_marker("None")
        stroke.set_zorder(line.get_zorder() - 1e-3)
        line.set_linestyle("None")
        axes.add_line(stroke)
        line = stroke
    line.set_data(*points[turns].T)


def turning(places: Array) -> list[int]:
    """Return the indices of the ends of a line and of the points at which it turns.

    Args:
        places: the points `(n, 2)`, as shares of a panel.
    """
    if len(places) < 3 or not np.isfinite(places).all():
        return list(range(len(places)))
    kept = [0]
    for index in range(1, len(places) - 1):
        chord = places[index + 1] - places[kept[-1]]
        length = np.hypot(*chord)
        passed = places[kept[-1] + 1 : index + 1] - places[kept[-1]]
        along = np.array([0.0, *(passed @ chord), length**2])
        beside = np.abs(passed @ np.array([-chord[1], chord[0]]))
        if (np.diff(along) <= 0).any() or (beside >= STRAIGHT * length).any():
            kept.append(index)
    return [*kept, len(places) - 1]


def command_line(name: str, build: Build) -> None:
    """Draw a figure from the command line: a CSV and a folder, by default the reference."""
    reference = REFERENCE / f"{TABLES.get(name, name)}.csv"
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
    except ValueError as error:
        parser.error(f"{error} in {arguments.csv}")
    except OSError as error:
        parser.error(f"folder must be writable, got {arguments.folder} ({error})")
    print(*drawn, sep="\n")
