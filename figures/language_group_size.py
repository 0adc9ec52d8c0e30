"""Accuracy of a language model against group size, at several n and budgets; the path of G*."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import Own, foot_legends, labelled, legend
from figures.palette import (
    APART,
    INTERVAL,
    LOOKS,
    command_line,
    group_size_axis,
    panel_grid,
    powers_of_two,
)
from figures.tables import JOBS, only

NAME = "language_group_size"
_MARKERS = "os^Dv"
_BEST = "law's best $G$ for the gradient, at the start"


def build(data: pd.DataFrame) -> Figure:
    """Draw a row a budget: accuracy against G on the left, G* along training on the right."""
    only(data, JOBS[NAME])
    data = data.assign(optimal=1 + np.sqrt(data["residual"] / data["prompt"]))
    budgets = list(data.groupby("budget"))
    figure, grid = panel_grid(2 * len(budgets), 2)
    for (budget, rows), left, right in zip(budgets, grid[::2], grid[1::2], strict=True):
        _draw_accuracy(left, rows)
        _draw_path(right, rows)
        left.set_title(f"$N = BG = {budget}$")
    left, right = labelled(grid[::2]), labelled(grid[1::2])
    best = {_BEST: left.pop(_BEST)}
    foot_legends(figure, [Own(grid[-2], "accuracy after $n$ iterations", left),
                          Own(grid[-1], "trained with", right)])  # fmt: skip
    legend(figure, "means over seeds with 95 % intervals; dashed: where runs begin", best)
    return figure


def _draw_accuracy(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the accuracy after n iterations, one line a checkpoint."""
    start = rows.loc[rows["iteration"] == 0]
    axes.axhline(start["accuracy"].iloc[0], color="0.5", linestyle="--", linewidth=1.0)
    best = start["optimal"].mean()
    axes.axvline(best, color=LOOKS["grpo"][0], linewidth=1.0, linestyle=(0, (1, 2)),
                 label=_BEST)  # fmt: skip
    checkpoints = list(rows[rows["iteration"] > 0].groupby("iteration"))
    shades = colormaps["viridis"](np.linspace(0.85, 0.1, len(checkpoints)))
    for place, ((iteration, at_point), shade) in enumerate(zip(checkpoints, shades, strict=True)):
        found = at_point.groupby("group_size")["accuracy"].agg(["mean", "sem"])
        shift = APART ** (place - (len(checkpoints) - 1) / 2)
        axes.errorbar(found.index * shift, found["mean"], INTERVAL * found["sem"], color=shade,
                      marker=_MARKERS[place % len(_MARKERS)], capsize=2, linewidth=1.0,
                      label=f"$n = {iteration}$")  # fmt: skip
    group_size_axis(axes, list(rows["group_size"]))
    axes.set_ylabel("accuracy on held-out questions")


def _draw_path(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw G* along training, one line a group size that was trained with."""
    sizes = list(rows.groupby("group_size"))
    shades = colormaps["cividis"](np.linspace(0.9, 0.0, len(sizes)))
    for (size, trained), shade in zip(sizes, shades, strict=True):
        path = trained.groupby("iteration").agg({"optimal": "mean"})
        axes.plot(list(path.index), list(path["optimal"]), color=shade, marker=".",
                  label=f"$G = {size}$")  # fmt: skip
    powers_of_two(axes)
    axes.set_xlabel("iterations $n$")
    axes.set_ylabel("best $G$ for the gradient,\n" + r"$1 + \sqrt{c_3/c_1}$")


if __name__ == "__main__":
    command_line(NAME, build)
