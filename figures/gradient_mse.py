"""Error of the gradient against group size: the paper's gradient-error figure, with laws."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import legend
from figures.palette import (
    INTERVAL,
    LOOKS,
    command_line,
    draw_estimators,
    error_axis,
    group_size_axis,
)
from figures.tables import JOBS, only, plain, policies

NAME = "gradient_mse"
BRUTE_FORCE = "brute force"
"""The evidence of rows that no pool of outputs stands behind."""


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a policy, log–log; columns as `gradient_mse` writes them."""
    only(data, JOBS[NAME])
    panels = policies(data)
    figure, grid = plt.subplots(
        1, len(panels), figsize=(2.9 * len(panels), 3.0), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axes, (task, panel) in zip(grid[0], panels, strict=True):
        draw_estimators(axes, panel.loc[panel["evidence"] != BRUTE_FORCE])
        draw_brute_force(axes, panel.loc[panel["evidence"] == BRUTE_FORCE])
        error_axis(axes)
        group_size_axis(axes, list(panel["group_size"]))
        axes.set_title(plain(task))
    grid[0][0].set_ylabel(r"gradient error $\mathbb{E}\,\|\hat{g} - \nabla J\|^2$")
    legend(figure, "points: measured, with 95 % intervals; lines: exact laws")
    return figure


def draw_brute_force(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw large hollow points for errors of whole minibatch gradients."""
    for estimator, found in rows.groupby("estimator", sort=False):
        colour, marker, _ = LOOKS[str(estimator)]
        axes.errorbar(
            found["group_size"],
            found["mse"],
            INTERVAL * found["std_error"],
            color=colour,
            marker=marker,
            markerfacecolor="none",
            markersize=9,
            linestyle="none",
            capsize=4,
            zorder=4,
        )
    if len(rows):
        axes.plot([], [], "o", color="0.25", markerfacecolor="none", markersize=9,
                  label="large and hollow: by brute force")  # fmt: skip


if __name__ == "__main__":
    command_line(NAME, build)
