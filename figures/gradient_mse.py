"""Error of the gradient against group size: the paper's gradient-error figure, with laws."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from figures.palette import JOBS, command_line, draw_estimators, error_axis, group_size_axis, only

NAME = "gradient_mse"


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a policy, log–log; columns as `experiments.gradient_mse` writes them."""
    only(data, JOBS[NAME])
    panels = list(data.groupby("task", sort=False))
    figure, grid = plt.subplots(
        1, len(panels), figsize=(2.9 * len(panels), 3.0), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axes, (task, panel) in zip(grid[0], panels, strict=True):
        draw_estimators(axes, panel)
        error_axis(axes)
        group_size_axis(axes, list(panel["group_size"]))
        axes.set_title(str(task).replace(": ", "\n").replace("_", " "))
    grid[0][0].set_ylabel(r"gradient error $\mathbb{E}\,\|\hat{g} - \nabla J\|^2$")
    handles, names = grid[0][0].get_legend_handles_labels()
    title = "points: measured, with 95 % intervals; lines: exact laws"
    figure.legend(handles, names, loc="outside lower center", ncols=7, title=title)
    return figure


if __name__ == "__main__":
    command_line(NAME, build)
