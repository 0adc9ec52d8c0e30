"""The law of n·Δ at the last iteration beside its limit, a weighted sum of χ²₁: Theorem 8."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from figures.legends import legend
from figures.palette import INTERVAL, LOOKS, NAMES, command_line, panel_grid
from figures.tables import JOBS, at_last_iteration, only, plain

NAME = "limit_law"
POINTS = 20
"""Quantiles to mark, about; the laws' lines take all."""


def build(data: pd.DataFrame) -> Figure:
    """Draw quantiles and density of each estimator; columns as `limit_law` writes."""
    sizes = f"$B = {only(data, 'batch_size')}$, $G = {only(data, JOBS[NAME])}$"
    last = at_last_iteration(data)
    cells = list(last.groupby(["task", "estimator"], sort=False))
    figure, grid = panel_grid(2 * len(cells), 2, height=2.7)
    panels = zip(grid[::2], grid[1::2], cells, strict=True)
    for left, right, ((task, estimator), rows) in panels:  # pyright: ignore
        rows = rows.sort_values("probability")
        step = max(1, len(rows) // POINTS)
        _draw_quantiles(left, rows, rows.iloc[step - 1 :: step], estimator)
        _draw_density(right, rows, rows.iloc[step - 1 :: step], estimator)
        for axes in (left, right):
            axes.set_title(f"{plain(task)}, {NAMES[estimator]}")
            axes.set_xscale("log")
            axes.minorticks_off()
    title = f"{sizes}, $n = {only(last, 'iteration')}$, {only(last, 'runs')} runs"
    legend(figure, f"{title}; points: measured, with 95 % intervals")
    return figure


def _draw_quantiles(axes: Axes, rows: pd.DataFrame, marked: pd.DataFrame, name: str) -> None:
    """Draw measured against predicted quantiles; se(log q̂) = √(p(1−p)/R)/(q f(q))."""
    # The diagonal by its ends: of points on a line, rounding decides which ones a renderer merges.
    ends = rows["law"].iloc[[0, -1]]
    axes.plot(ends, ends, color="0.25", linewidth=1.0, label="limit law")
    axes.plot(rows["law"], rows["law_without_beta_squared"], color="0.25", linewidth=1.0,
              linestyle=(0, (1, 2)), label=r"without its factor $\beta^2$")  # fmt: skip
    p, slope = marked["probability"], marked["law"] * marked["law_density"]
    half = INTERVAL * np.sqrt(p * (1 - p) / marked["runs"]) / slope
    q = marked["quantile"]
    _draw_points(axes, marked["law"], q, [q - q * np.exp(-half), q * np.exp(half) - q], name)
    axes.set_yscale("log")
    axes.set_xlabel("quantile of the limit law")
    axes.set_ylabel(r"quantile of $n\Delta_n$")


def _draw_density(axes: Axes, rows: pd.DataFrame, marked: pd.DataFrame, name: str) -> None:
    """Draw the density of log n·Δ, between quantiles; a share p of R runs has se √(p(1−p)/R)."""
    axes.plot(rows["law"], rows["law"] * rows["law_density"], color="0.25", linewidth=1.0)
    ends, share = marked["quantile"].to_numpy(), np.diff(marked["probability"])
    density = share / np.log(ends[1:] / ends[:-1])
    relative = np.sqrt((1 - share) / (share * marked["runs"].iloc[0]))
    centres = np.sqrt(ends[1:] * ends[:-1])
    _draw_points(axes, centres, density, INTERVAL * density * relative, name)
    row = marked.iloc[0]
    mean, error = row["mean"] / row["law_mean"], row["mean_std_error"] / row["law_mean"]
    axes.text(0.03, 0.97, f"mean/law's = {mean:.3f} ± {error:.3f}\n"
              f"KS $p$ = {row['ks_p_value']:.2g}", transform=axes.transAxes, va="top",
              fontsize="small")  # fmt: skip
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])
    axes.set_xlabel(r"$n\Delta_n$")
    axes.set_ylabel(r"density of $\log n\Delta_n$")


def _draw_points(axes: Axes, x: ArrayLike, y: ArrayLike, error: ArrayLike, name: str) -> None:
    colour, marker, _ = LOOKS[name]
    axes.errorbar(x, y, error, color=colour, marker=marker, linestyle="none", capsize=2,
                  markeredgecolor="white", markeredgewidth=0.5)  # fmt: skip


if __name__ == "__main__":
    command_line(NAME, build)
