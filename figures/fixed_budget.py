"""How many outputs per prompt: error of the gradient against G at a fixed budget N = B·G.

The error is U-shaped: few outputs know too little of their prompt's value, many leave too few
prompts. The vertical axes count in GRPO's least error, so a height says what another G costs.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import labelled, legend
from figures.palette import (
    LOOKS,
    NAMES,
    command_line,
    draw_estimators,
    group_size_axis,
    label_left,
    panel_grid,
)
from figures.tables import JOBS, only, policies

NAME = "fixed_budget"
_MULTIPLES = np.outer(10.0 ** np.arange(-4, 6), [1, 1.5, 2, 3, 5, 7]).ravel()
_TICKS = 7
"""At most so many ticks, by leaving out the finer multiples."""
_ROOM = 0.4
"""Of a panel's octaves, what the names of the curves take on its left."""
_LINE = 0.075
"""Of a panel's height, the least distance between two names."""


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a policy; columns as `fixed_budget` writes them."""
    budget = only(data, JOBS[NAME])
    panels = policies(data)
    figure, grid = panel_grid(len(panels), len(panels), height=3.4)
    for axes, (task, panel) in zip(grid, panels, strict=True):
        own = panel.loc[panel["estimator"] == "grpo"].sort_values("group_size")
        _mark_predictions(axes, panel)
        draw_estimators(axes, panel)
        group_size_axis(axes, list(panel["group_size"]))
        axes.set_yscale("log")
        _name_curves(axes, panel)
        name = task.replace("_", " ")
        if len(own):
            best = _mark_measured(axes, own)
            name += f"\nbest $G$: {panel['optimal'].iloc[0]:.3g} by law, {best} measured"
        axes.set_title(name)
        _count_in(axes, float(np.min((own if len(own) else panel)["law"])))
    unit = "GRPO's least" if "grpo" in set(data["estimator"]) else "the least"
    label_left(grid, f"gradient error ÷ {unit}\nat $N = BG = {budget}$")
    marks = labelled(figure.axes)
    for name in NAMES.values():  # they stand beside their curves
        marks.pop(name, None)
    legend(figure, "points: measured, with 95 % intervals; lines: exact laws", marks)
    return figure


def _mark_predictions(axes: Axes, panel: pd.DataFrame) -> None:
    """Mark G* with its 5 % interval, and the paper's √(c₃/c₁)."""
    row = panel.iloc[0]
    axes.axvspan(
        row["near_optimal_low"], row["near_optimal_high"], color="0.9", zorder=0,
        label="within 5 % of the best",
    )  # fmt: skip
    axes.axvline(row["optimal"], color="0.25", linewidth=1.2, zorder=1,
                 label=r"best by law: $G^* = 1 + \sqrt{c_3/c_1}$")  # fmt: skip
    axes.axvline(row["paper_optimal"], color="0.25", linewidth=1.0, linestyle=(0, (1, 2)),
                 zorder=1, label=r"paper: $\sqrt{c_3/c_1}$")  # fmt: skip


def _mark_measured(axes: Axes, own: pd.DataFrame) -> int:
    """Put a ring around GRPO's least measured error; return where."""
    best = own.loc[own["mse"].idxmin()]
    axes.plot([best["group_size"]], [best["mse"]], "o", color="black", markerfacecolor="none",
              markersize=11, markeredgewidth=1.3, zorder=4, label="best measured")  # fmt: skip
    return int(best["group_size"])


def _name_curves(axes: Axes, panel: pd.DataFrame) -> None:
    """Write the names of the estimators where their laws begin, one above the other."""
    smallest, largest = (float(end) for end in np.quantile(panel["group_size"], [0, 1]))
    axes.set_xlim(smallest * (smallest / largest) ** _ROOM, axes.get_xlim()[1])
    first = panel.loc[panel["group_size"] == smallest].sort_values("law")
    low, high = np.log(axes.get_ylim())
    wanted = (np.log(first["law"].to_numpy()) - low) / (high - low)
    places = wanted.copy()
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + _LINE)
    places += max((wanted - places).mean(), _LINE / 2 - places[0])
    for place, estimator in zip(places, first["estimator"], strict=True):
        axes.text(smallest / 1.3, place, NAMES[estimator], color=LOOKS[estimator][0],
                  transform=axes.get_xaxis_transform(), ha="right", va="center",
                  weight="bold")  # fmt: skip


def _count_in(axes: Axes, unit: float) -> None:
    """Label a logarithmic axis with multiples of a unit."""
    low, high = (end / unit for end in axes.get_ylim())
    for leads in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
        lead = _MULTIPLES / 10 ** np.floor(np.log10(_MULTIPLES) + 1e-9)
        ticks = _MULTIPLES[np.isclose(lead[:, None], leads).any(axis=1)]
        ticks = ticks[(low <= ticks) & (ticks <= high)]
        if len(ticks) <= _TICKS:
            break
    axes.set_yticks(ticks * unit, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


if __name__ == "__main__":
    command_line(NAME, build)
