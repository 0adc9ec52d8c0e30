"""Squared bias of updates from old outputs, against how far the policy has moved."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import legend
from figures.palette import INTERVAL, Look, command_line, error_axis, label_left, panel_grid
from figures.tables import plain, policies

NAME = "practical_bias"
_MARKERS = "os^Dv"
# Orange is GRPO's, whose steps have the token ratio; no other colour is an estimator's.
_LOOKS: dict[str, Look] = {
    "none": ("#56B4E9", "s", (0, (4, 1.5))),
    "token": ("#E69F00", "o", "-"),
    "penalty": ("#CC79A7", "D", (0, (6, 1, 1, 1))),
}
_NAMES = {"token": "token ratio", "none": "no ratio", "penalty": "K3 on old tokens"}
_ROUNDING = 1e-20
"""The sequence ratio has no bias; what is left of it is not drawn."""


def build(data: pd.DataFrame) -> Figure:
    """Draw two panels a policy: exact gradient steps, and sampled minibatches.

    Columns as `practical_bias` writes them.
    """
    data = data.query("squared_bias > @_ROUNDING")
    moved = data["learning_rate"] * (data["num_minibatches"] - 1)
    source = data["ratio"].where(data["penalty_weight"] == 0, "penalty")
    panels = policies(data.assign(moved=moved, source=source))
    figure, grid = panel_grid(2 * len(panels), max(2, len(panels)))
    for place, axes in enumerate(grid):
        task, rows = panels[place % len(panels)]
        exact = rows.query("path == 'exact'")
        if place < len(panels):
            for name in _LOOKS:
                _draw_exact(axes, exact.query("source == @name"), name)
            axes.set_title(f"{plain(task)}, exact steps")
        else:
            _draw_sampled(axes, rows.query("path == 'sampled'"))
            _draw_first_order(axes, exact.query("source == 'token'"), "token")
            axes.set_title(f"{plain(task)}, sampled steps")
        _draw_levels(axes, rows)
        low = rows["squared_bias"] - INTERVAL * rows["std_error"].fillna(0)
        drawn = rows[["squared_bias", "law", "sampling_error"]].assign(low=low.where(low > 0))
        axes.set_ylim(drawn.min(axis=None) / 2, drawn.max(axis=None) * 2)
        axes.set_xscale("log")
        error_axis(axes)
        axes.set_xlabel(r"$\eta\,(m-1)$")
    label_left(grid, "squared bias of update $m$")
    legend(figure, _title(data))
    return figure


def _draw_exact(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """Draw what exact steps lead to, at every m and η, and the first order."""
    if rows.empty:
        return
    _draw_first_order(axes, rows, name)
    colour, marker, _ = _LOOKS[name]
    label = _NAMES[name]
    if name == "penalty":
        label = rf"{label}, $\kappa = {rows['penalty_weight'].iloc[0]:g}$"
    axes.plot(rows["moved"], rows["squared_bias"], marker, color=colour, markersize=4,
              markeredgecolor="white", markeredgewidth=0.5, zorder=3, label=label)  # fmt: skip


def _draw_first_order(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """Draw a law of slope 2."""
    colour, _, dashes = _LOOKS[name]
    rows = rows.sort_values("moved")
    axes.plot(rows["moved"], rows["law"], color=colour, linestyle=dashes, zorder=2)


def _draw_sampled(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw what sampled minibatches lead to, and the first order where it is known."""
    numbers = list(rows.groupby("num_minibatches"))
    shades = colormaps["viridis"](np.linspace(0.8, 0.1, len(numbers)))
    for place, ((number, part), shade) in enumerate(zip(numbers, shades, strict=True)):
        part = part.sort_values("moved")
        axes.plot(part["moved"], part["law"], color=shade, linewidth=0.8, zorder=1)
        axes.errorbar(part["moved"], part["squared_bias"], INTERVAL * part["std_error"],
                      color=shade, marker=_MARKERS[place % len(_MARKERS)], linestyle="none",
                      markersize=4, markeredgecolor="white", markeredgewidth=0.5, capsize=2,
                      zorder=4, label=f"token ratio, sampled, $m = {number}$")  # fmt: skip


def _draw_levels(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw what the bias is to be compared with."""
    (size,), (budget,) = rows["group_size"].unique(), rows["budget"].unique()
    axes.axhline(rows["sampling_error"].iloc[0], color="0", linewidth=1.2, zorder=1,
                 label=f"GRPO's error, $N = {budget}$, $G = {size}$")  # fmt: skip
    axes.axhline(rows["gradient_norm_squared"].iloc[0], color="0.6", linewidth=1.0,
                 linestyle="--", zorder=1, label=r"$\Vert\nabla J\Vert^2$")  # fmt: skip


def _title(data: pd.DataFrame) -> str:
    runs = max(data["runs"].dropna().astype(int).tolist())
    return f"lines: first order in η; sampled: {runs} runs, 95 % intervals; all else exact"


if __name__ == "__main__":
    command_line(NAME, build)
