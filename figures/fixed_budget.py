"""Error of the gradient at a fixed budget N = B·G: where the best group size lies, and how flat."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.palette import JOBS, command_line, draw_estimators, error_axis, group_size_axis, only

NAME = "fixed_budget"


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a policy; columns as `fixed_budget` writes them."""
    budget = only(data, JOBS[NAME])
    panels = list(data.groupby("task", sort=False))
    figure, grid = plt.subplots(
        1, len(panels), figsize=(2.9 * len(panels), 2.9), squeeze=False, layout="constrained"
    )
    for axes, (task, panel) in zip(grid[0], panels, strict=True):
        _mark_predictions(axes, panel)
        draw_estimators(axes, panel)
        error_axis(axes)
        group_size_axis(axes, list(panel["group_size"]))
        axes.set_title(str(task).replace(": ", "\n").replace("_", " "))
    grid[0][0].set_ylabel(f"gradient error at $N = BG = {budget}$")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


def _mark_predictions(axes: Axes, panel: pd.DataFrame) -> None:
    """Mark G* with its 5 % interval, and the paper's √(c₃/c₁)."""
    row = panel.iloc[0]
    axes.axvspan(
        row["near_optimal_low"], row["near_optimal_high"], color="0.9", zorder=0,
        label="within 5 % of the best",
    )  # fmt: skip
    axes.axvline(row["optimal"], color="0.25", linewidth=1.0, zorder=1,
                 label=r"$G^* = 1 + \sqrt{c_3/c_1}$")  # fmt: skip
    axes.axvline(row["paper_optimal"], color="0.25", linewidth=1.0, linestyle=(0, (1, 2)),
                 zorder=1, label=r"paper: $\sqrt{c_3/c_1}$")  # fmt: skip


if __name__ == "__main__":
    command_line(NAME, build)
