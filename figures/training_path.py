"""The best group size along a training path: for the gradient's error, and for the final gap."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import legend
from figures.palette import LOOKS, command_line, mark_no_best, panel_grid, powers_of_two
from figures.tables import plain, policies

NAME = "training_path"


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a policy, below its objective; columns as `training_path`'s."""
    panels = policies(data)
    figure, grid = panel_grid(len(panels), len(panels), height=3.6)
    for place, (whole, (task, rows)) in enumerate(zip(grid, panels, strict=True)):
        axes, top = _split(figure, whole)
        rows = rows.sort_values("iteration")
        _draw_optima(axes, rows)
        top.plot(rows["iteration"], rows["objective"], color="0.25")
        top.margins(y=0.15)
        top.set_title(plain(task))
        axes.set_xlabel("iterations $n$")
        if place == 0:
            axes.set_ylabel("best group size $G$")
            top.set_ylabel("$J$")
    legend(figure, "with exact moments, along the path of exact gradient ascent")
    return figure


def _split(figure: Figure, whole: Axes) -> tuple[Axes, Axes]:
    """Put a panel, and a flat one above it, in the place of one."""
    place = whole.get_subplotspec()
    assert place is not None
    whole.remove()
    above, below = place.subgridspec(2, 1, height_ratios=(1, 3))
    axes = figure.add_subplot(below)
    top = figure.add_subplot(above, sharex=axes)
    top.tick_params(labelbottom=False)
    return axes, top


def _draw_optima(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the three best group sizes, and arrows where the law of the gap has none."""
    n, best = rows["iteration"].to_numpy(), rows["gap_optimal"].to_numpy()
    axes.fill_between(n, rows["near_optimal_low"], rows["near_optimal_high"], color="0.9",
                      linewidth=0, zorder=0, label="within 5 % of the least error")  # fmt: skip
    axes.plot(n, rows["gradient_error_optimal"], color="0.25", linewidth=1.0,
              label=r"gradient error: $G^* = 1 + \sqrt{c_3/c_1}$")  # fmt: skip
    axes.plot(n, rows["paper_optimal"], color="0.25", linewidth=1.0, linestyle=(0, (1, 2)),
              label=r"paper: $\sqrt{c_3/c_1}$")  # fmt: skip
    colour, marker, _ = LOOKS["grpo"]
    finite = np.where(np.isfinite(best), best, np.nan)
    axes.plot(n, finite, color=colour, marker=marker, markersize=2.5, zorder=3,
              label="first-order law: gap, were training to stop at $n$")  # fmt: skip
    axes.set_xscale("log")
    powers_of_two(axes)
    mark_no_best(axes, n, best)


if __name__ == "__main__":
    command_line(NAME, build)
