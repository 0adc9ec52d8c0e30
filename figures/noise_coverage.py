"""How often 95 % intervals of noise components and of G* cover the truth, against prompts."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import legend
from figures.palette import APART, INTERVAL, Array, Look, command_line, label_left, panel_grid
from figures.tables import plain, policies

NAME = "noise_coverage"
# Not the colours of estimators.
_LOOKS: dict[str, Look] = {
    "prompt": ("#56B4E9", "s", (0, (4, 1.5))),
    "oracle": ("#CC79A7", "^", (0, (1, 1.2))),
    "residual": ("#D55E00", "o", "-"),
    "optimal": ("#000000", "D", (0, (6, 1, 1, 1))),
}
_NAMES = {
    "prompt": "$c_1$ (prompt)",
    "oracle": "$c_2$ (oracle)",
    "residual": "$c_3$ (residual)",
    "optimal": "$G^*$",
}
_ACCEPTED = 92.0, 98.0
"""Coverage in per cent that passes for 95 %."""


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a population and M, a row for each M.

    Columns as `noise_coverage` writes them.
    """
    populations = policies(data)
    panels = [
        (task, outputs, rows.query("num_outputs == @outputs"))
        for outputs in np.unique(data["num_outputs"])
        for task, rows in populations
    ]
    figure, grid = panel_grid(len(panels), max(2, len(populations)), height=2.6)
    for axes, (task, outputs, rows) in zip(grid, panels, strict=True):
        axes.axhspan(*_ACCEPTED, color="0.92", zorder=0)
        axes.axhline(95, color="0.5", linewidth=0.8, linestyle="--", zorder=1)
        for place, name in enumerate(_LOOKS):
            _draw(axes, rows, name, APART ** (2 * place - (len(_LOOKS) - 1)))
        axes.set_title(f"{plain(task)}, $M = {outputs}$")
        _prompts_axis(axes, rows["num_prompts"].to_numpy())
    lowest = min(axes.get_ylim()[0] for axes in grid)
    for axes in grid:
        axes.set_ylim(min(lowest, 90.5), 100)
    label_left(grid, "coverage of 95 % intervals, %")
    replicates = data["replicates"].min()
    legend(figure, f"{replicates} samples a point, with 95 % error bars; "
                   f"band: {_ACCEPTED[0]:g} to {_ACCEPTED[1]:g} %")  # fmt: skip
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, name: str, shift: float) -> None:
    """Draw the coverage of one quantity with its own 95 % intervals."""
    rows, (colour, marker, dashes) = rows.sort_values("num_prompts"), _LOOKS[name]
    share = rows[f"{name}_coverage"].to_numpy()
    low, high = _wilson(share, (rows["replicates"] - rows["refused"]).to_numpy())
    axes.errorbar(rows["num_prompts"] * shift, 100 * share,
                  100 * np.array([share - low, high - share]), color=colour, marker=marker,
                  linestyle=dashes, linewidth=0.9, capsize=2, markeredgecolor="white",
                  markeredgewidth=0.5, label=_NAMES[name], zorder=3)  # fmt: skip


def _wilson(share: Array, count: Array) -> tuple[Array, Array]:
    """Return Wilson's interval for a probability, which has a length even where all cover."""
    spread = INTERVAL**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = np.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    return centre - half, centre + half


def _prompts_axis(axes: Axes, numbers: Array) -> None:
    ticks = np.unique(numbers)
    axes.set_xscale("log", base=2)
    axes.set_xlim(ticks[0] / 1.5, ticks[-1] * 1.5)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("prompts $B$ of the sample")


if __name__ == "__main__":
    command_line(NAME, build)
