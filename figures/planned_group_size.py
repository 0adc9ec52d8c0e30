"""What following a plan loses against fixed group sizes: 0 is the best of the sweep, 1 the worst.

One panel a policy, one row of dots a budget and optimiser.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import legend
from figures.palette import INTERVAL, command_line, panel_grid
from figures.tables import at_last_iteration, only, plain, policies

NAME = "planned_group_size"


class Look(NamedTuple):
    """A rule's colour, marker, filling and name."""

    colour: str
    marker: str
    filling: str
    name: str


_PLANS = {"planned": ("full", "planned"), "planned at the estimate": ("none", "at the estimate")}
_OF_PLANS = ("D", "o", "h")
"""Markers of first batches, the smallest first."""
_OTHERS = {
    "law (gradient error)": Look("#000000", "|", "full", "law (gradient error), exact"),
    "law (gap)": Look("#CC79A7", "x", "full", "law (gap), first order"),
    "fixed 8": Look("#56B4E9", "v", "full", "fixed 8"),
    "fixed 16": Look("0.45", "s", "none", "fixed 16"),
    "fixed 64": Look("#D55E00", "^", "full", "fixed 64"),
}
"""The best of the sweep is the line at zero. No colour is that of an estimator: all is GRPO."""
_APART = 0.09
_LEAST_ROWS = 3
"""Fewer are drawn as far apart, or a legend would be larger than they are."""
_ROW = ["optimizer", "budget"]


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a policy; columns as `planned_group_size` writes them."""
    panels = policies(at_last_iteration(data))
    rows = max(panel.groupby(_ROW).ngroups for _, panel in panels)
    figure, grid = panel_grid(
        len(panels), min(len(panels), 3), height=1.2 + 0.62 * max(rows, _LEAST_ROWS)
    )
    for axes, (task, panel) in zip(grid, panels, strict=True):
        axes.set_title(plain(task))
        _draw(axes, panel)
        axes.set_ylim(-rows + 0.5, 0.5)  # dots are as far apart in all panels
        axes.set_xlabel("excess (0: best $G$, 1: worst)")
    plans, outputs = only(data, "plans"), only(data, "num_outputs")
    legend(figure, f"last iteration; {plans} plans from {outputs} outputs a prompt; 95 % intervals")
    return figure


def _draw(axes: Axes, panel: pd.DataFrame) -> None:
    """Draw one row a budget and optimiser, and in it one dot a rule, each at its own height."""
    axes.axvline(0, color="0.5", linewidth=0.8, zorder=1)
    series, names = list(_series(panel)), []
    several = len(set(panel["optimizer"])) > 1
    by_budget = panel.sort_values("budget", kind="stable").groupby(_ROW, sort=False)
    for place, ((optimizer, budget), rows) in enumerate(by_budget):  # pyright: ignore
        names.append(f"$N={budget}$" + (f"\n{optimizer}" if several else ""))
        if place % 2 == 1:
            axes.axhspan(-place - 0.5, -place + 0.5, color="0.95", zorder=0, linewidth=0)
        for number, (rule, prompts, look) in enumerate(series):
            row = rows.loc[(rows["rule"] == rule) & (rows["num_prompts"] == prompts)]
            axes.errorbar(
                row["relative_excess"],
                [-place + ((len(series) - 1) / 2 - number) * _APART] * len(row),
                xerr=INTERVAL * row["relative_std_error"],
                color=look.colour, marker=look.marker, fillstyle=look.filling, markersize=4.5,
                linestyle="none", linewidth=0.9, label=look.name, zorder=3,
            )  # fmt: skip
    axes.set_yticks([-place for place in range(len(names))], names)
    axes.grid(visible=False, axis="y")


def _series(panel: pd.DataFrame) -> Iterator[tuple[str, int, Look]]:
    """Yield every rule that is known of a policy, with its first batch; fixed sizes need none."""
    sizes = sorted(set(panel["num_prompts"]))
    for rule, (filling, name) in _PLANS.items():
        for prompts, marker in zip(sizes, _OF_PLANS, strict=False):
            yield rule, prompts, Look("#E69F00", marker, filling, f"{name}, {prompts} prompts")
    for rule, look in _OTHERS.items():
        if rule in set(panel["rule"]):
            yield rule, sizes[0], look


if __name__ == "__main__":
    command_line(NAME, build)
