"""The best group size against the budget and against n: the law, the measurement, rival rules."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import legend
from figures.palette import LOOKS, Array, command_line, mark_no_best, panel_grid, powers_of_two
from figures.tables import at_last_iteration, only, plain, policies

NAME = "scaling_law"

RULES = {
    r"$N^{1/3}$": ("0.45", (0, (6, 2))),
    r"$\propto \sqrt{N}$, grows with compute": ("0.45", (0, (3, 1, 1, 1))),
    "$G = 2$": ("0.0", (0, (1, 2))),
}
"""Colour and dashes of rival rules."""


def build(data: pd.DataFrame) -> Figure:
    """Draw two panels a policy, GRPO only; columns as `group_size` writes them.

    Left against N, at the last iteration; right against n, at the middle budget.
    """
    panels = policies(data.query("estimator == 'grpo'"))
    figure, grid = panel_grid(2 * len(panels), 2)
    pairs = zip(grid[::2], grid[1::2], panels, strict=True)
    for by_budget, by_iteration, (task, rows) in pairs:
        last = at_last_iteration(rows)
        anchor = last.loc[last["budget"].idxmin()]
        budgets = sorted(set(rows["budget"]))
        middle = rows.loc[rows["budget"] == budgets[(len(budgets) - 1) // 2]]
        _draw(by_budget, last, "budget", anchor)
        _draw(by_iteration, middle, "iteration", anchor)
        by_budget.set_title(f"{plain(task)}, $n = {only(last, 'iteration')}$")
        by_iteration.set_title(f"{plain(task)}, $N = {only(middle, 'budget')}$")
        by_budget.set_xlabel("budget $N = BG$")
        by_iteration.set_xlabel("iterations $n$")
        by_budget.set_ylabel("best group size $G$")
    legend(figure, "GRPO; points: measured, with all $G$ within 2 standard errors of the best")
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, column: str, anchor: pd.Series) -> None:
    """Draw the best group sizes of one policy against a column."""
    x, cells = zip(*rows.groupby(column), strict=True)
    x = np.array(x)
    _draw_rules(axes, x, np.array([cell["budget"].iloc[0] for cell in cells]), anchor)
    colour, marker, dashes = LOOKS["grpo"]
    law = np.array([cell["optimal"].iloc[0] for cell in cells])
    axes.plot(x, np.where(np.isfinite(law), law, np.nan), color=colour, linestyle=dashes,
              marker="_", markersize=10, zorder=3, label="first-order law")  # fmt: skip
    low, best, high = np.transpose([measured_best(cell) for cell in cells])
    axes.errorbar(x, best, [best - low, high - best], color=colour, marker=marker, linestyle="none",
                  capsize=3, markeredgecolor="white", markeredgewidth=0.5, zorder=4,
                  label="measured")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{value}" for value in x])
    axes.minorticks_off()
    axes.margins(x=0.1)
    powers_of_two(axes)
    mark_no_best(axes, x, law)


def _draw_rules(axes: Axes, x: Array, budget: Array, anchor: pd.Series) -> None:
    """Draw the rules of others; what grows with √N does from the law at the smallest budget."""
    start = anchor["optimal"] if np.isfinite(anchor["optimal"]) else np.nan
    sizes = np.cbrt(budget), start * np.sqrt(budget / anchor["budget"]), np.full(len(x), 2.0)
    axes.axhspan(8, 32, color="0.92", zorder=0, label="8 to 32 all the same")
    for (name, (colour, dashes)), size in zip(RULES.items(), sizes, strict=True):
        axes.plot(x, size, color=colour, linestyle=dashes, linewidth=1.0, zorder=1, label=name)


def measured_best(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Return the G of least gap, between the extremes of those within 2 std. errors of it."""
    gap, noise, sizes = (rows[name].to_numpy() for name in ("gap", "std_error", "group_size"))
    least = gap.argmin()
    near = sizes[gap - gap[least] <= 2 * np.hypot(noise, noise[least])]
    return near.min(), sizes[least], near.max()


if __name__ == "__main__":
    command_line(NAME, build)
