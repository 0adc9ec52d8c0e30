"""Panels of suboptimality gaps, which several figures are made of."""

from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from figures.palette import (
    APART,
    LOOKS,
    draw_estimators,
    error_axis,
    group_size_axis,
    label_left,
    panel_grid,
)
from figures.tables import policies_by

DrawPanel = Callable[[Axes, pd.DataFrame], None]


def draw_gaps(data: pd.DataFrame, column: str, draw: DrawPanel, label: str) -> Figure:
    """Draw the gap against group size, one panel a policy and value of a column."""
    panels = policies_by(data, column)
    figure, grid = panel_grid(len(panels), len(set(data[column])))
    for axes, (title, panel) in zip(grid, panels, strict=True):
        axes.set_title(title)
        draw(axes, panel)
        gap_axis(axes)
        group_size_axis(axes, list(panel["group_size"]))
    label_left(grid, label)
    return figure


def draw_estimators_gaps(axes: Axes, panel: pd.DataFrame) -> None:
    """Draw each estimator's gap, and the first-order law's best G for GRPO, if near the sizes."""
    for best in panel.loc[panel["estimator"] == "grpo", "optimal"].head(1):
        if panel["group_size"].min() / 2 <= best <= 2 * panel["group_size"].max():
            axes.axvline(best, color=LOOKS["grpo"][0], linewidth=1.0, linestyle=(0, (1, 2)),
                         zorder=1, label="first-order law's best $G$ for GRPO")  # fmt: skip
    draw_estimators(axes, panel, ("group_size", "gap"), APART)


def gap_axis(axes: Axes) -> None:
    """Make a logarithmic axis, or a linear one where the data span less than a factor of five."""
    low, high = axes.dataLim.intervaly
    if high > 5 * low:
        error_axis(axes, crowded=200.0)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        formatter = ScalarFormatter(useOffset=False)
        formatter.set_scientific(False)
        axes.yaxis.set_major_formatter(formatter)
