"""What training on a sequential task reaches against group size, and the best G by law."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import Own, foot_legends, labelled, legend
from figures.palette import APART, INTERVAL, LOOKS, NAMES, command_line, group_size_axis, panel_grid
from figures.tables import at_last_iteration

NAME = "sequential_group_size"
_MARKERS = "os^Dv"
_BEST = "law's best $G$ for the gradient"


def build(data: pd.DataFrame) -> Figure:
    """Draw a row a budget: GRPO after n iterations on the left, all estimators on the right."""
    budgets = list(data.sort_values("group_size", kind="stable").groupby("budget"))
    figure, grid = panel_grid(2 * len(budgets), 2)
    for (budget, rows), left, right in zip(budgets, grid[::2], grid[1::2], strict=True):
        last = at_last_iteration(rows)
        _draw_checkpoints(left, rows.query("estimator == 'grpo'"))
        _draw_estimators(right, last)
        left.set_title(f"GRPO, $N = BG = {budget}$")
        right.set_title(f"$N = {budget}$, $n = {last['iteration'].iloc[0]}$")
        left.set_ylabel(r"objective $J(\theta_n)$")
    left, right = labelled(grid[::2]), labelled(grid[1::2])
    best = {_BEST: left.pop(_BEST)}
    right.pop(_BEST)
    foot_legends(figure, [Own(grid[-2], "", left), Own(grid[-1], "", right)])
    note = "measured, with 95 % intervals; band: gradient error within 5 % of the least"
    legend(figure, note, best)
    return figure


def _draw_checkpoints(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw J after n iterations, one line a checkpoint, over the law's best group sizes."""
    _mark_law(axes, rows)
    checkpoints = list(rows.groupby("iteration"))
    shades = colormaps["viridis"](np.linspace(0.85, 0.1, len(checkpoints)))
    for place, ((iteration, at_point), shade) in enumerate(zip(checkpoints, shades, strict=True)):
        shift = APART ** (place - (len(checkpoints) - 1) / 2)
        axes.errorbar(at_point["group_size"] * shift, at_point["objective"],
                      INTERVAL * at_point["std_error"], color=shade,
                      marker=_MARKERS[place % len(_MARKERS)], capsize=2, linewidth=1.0,
                      label=f"$n = {iteration}$")  # fmt: skip
    group_size_axis(axes, list(rows["group_size"]))


def _draw_estimators(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw J of every estimator at the last checkpoint."""
    _mark_law(axes, rows)
    found = list(rows.groupby("estimator", sort=False))
    for place, (estimator, of_one) in enumerate(found):
        colour, marker, dashes = LOOKS[str(estimator)]
        shift = APART ** (place - (len(found) - 1) / 2)
        axes.errorbar(of_one["group_size"] * shift, of_one["objective"],
                      INTERVAL * of_one["std_error"], color=colour, marker=marker,
                      linestyle=dashes, linewidth=1.0, capsize=2,
                      label=NAMES[str(estimator)])  # fmt: skip
    group_size_axis(axes, list(rows["group_size"]))


def _mark_law(axes: Axes, rows: pd.DataFrame) -> None:
    """Mark the law's best G where the runs begin, and what is within 5 % of the least error.

    Both as far as there are runs: where G* = 1 + √(c₃/c₁) is beyond them, the end is marked.
    """
    first = rows.iloc[0]
    prompt, oracle, residual = (max(first[name], 0.0) for name in ("prompt", "oracle", "residual"))
    sizes = np.geomspace(rows["group_size"].min(), rows["group_size"].max(), 1000)
    error = prompt * sizes + oracle + residual / (sizes - 1)
    near = sizes[error <= 1.05 * error.min()]
    axes.axvspan(near[0], near[-1], color=LOOKS["grpo"][0], alpha=0.15, linewidth=0)
    axes.axvline(sizes[error.argmin()], color=LOOKS["grpo"][0], linewidth=1.0,
                 linestyle=(0, (1, 2)), label=_BEST)  # fmt: skip


if __name__ == "__main__":
    command_line(NAME, build)
