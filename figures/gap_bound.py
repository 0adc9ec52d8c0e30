"""The gap against the iteration: measured, its law, and the bounds of Lemma 6 above them."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import legend
from figures.palette import LOOKS, command_line, draw_estimators, error_axis, label_left, panel_grid
from figures.tables import JOBS, only, plain

NAME = "gap_bound"

BOUNDS = {
    "bound": ("0.25", "Lemma 6 (dashes: estimator)"),
    "recursive_bound": ("0.65", "recursion of its proof"),
}


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a policy and schedule; columns as `gap_bound` writes them."""
    sizes = f"$B = {only(data, 'batch_size')}$, $G = {only(data, JOBS[NAME])}$"
    panels = list(data.groupby(["task", "schedule"], sort=False))
    figure, grid = panel_grid(len(panels), len(set(data["schedule"])))
    for axes, ((task, schedule), panel) in zip(grid, panels, strict=True):  # pyright: ignore
        axes.set_title(f"{plain(task)}, rate: {schedule}")
        _draw_bounds(axes, panel)
        draw_estimators(axes, panel, ("iteration", "gap"))
        axes.set_xscale("log")
        error_axis(axes)
        axes.set_xlabel("iterations $n$")
    label_left(grid, r"gap $\mathbb{E}\,\Delta_n$")
    points = "points: measured, with 95 % intervals; coloured lines: first-order laws"
    legend(figure, f"{sizes}; {points}")
    return figure


def _draw_bounds(axes: Axes, panel: pd.DataFrame) -> None:
    """Draw each estimator's bounds in grey, in the dashes of its law."""
    for estimator, rows in panel.groupby("estimator", sort=False):
        rows = rows.sort_values("iteration")
        for column, (grey, name) in BOUNDS.items():
            axes.plot(rows["iteration"], rows[column], color=grey, linewidth=1.0, zorder=1,
                      linestyle=LOOKS[str(estimator)][2], label=name)  # fmt: skip


if __name__ == "__main__":
    command_line(NAME, build)
