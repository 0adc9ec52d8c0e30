"""What normalised advantages maximise: their weights of prompts, and where runs come to rest."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import legend
from figures.palette import INTERVAL, command_line, group_size_axis, panel_grid
from figures.tables import at_last_iteration

NAME = "implied_objective"

SHOWN = "leave_one_out_normalised"
"""The estimator of the paper's Algorithm 2, whose φ_G are drawn."""
LOOKS = {
    "grpo": ("#E69F00", "D", "not normalised"),
    "leave_one_out_normalised": ("#D55E00", "o", "leave-one-out mean, normalised"),
    "std_normalised": ("#CC79A7", "s", "own mean, normalised"),
}
"""Colour, marker and name."""
PENALTIES = {
    "k1": "K1: no penalty",
    "k2": r"K2: $\mathrm{KL}(\pi_\theta\,\Vert\,\pi_\mathrm{ref})$",
    "k3": r"K3: $\mathrm{KL}(\pi_\mathrm{ref}\,\Vert\,\pi_\theta)$",
}
MARKER_SIZES = {True: 4.5, False: 8.5}
"""Filled for one update an iteration; around it, hollow, for several."""


def build(data: pd.DataFrame) -> Figure:
    """Draw φ_G, and one panel a penalty; columns as `implied_objective` writes them."""
    penalties = list(dict.fromkeys(data["penalty"].dropna()))
    figure, (curves, *panels) = panel_grid(1 + len(penalties), 1 + len(penalties), height=3.4)
    _draw_gain(curves, data.query("part == 'gain' and estimator == @SHOWN"))
    for axes in panels[1:]:
        axes.sharey(panels[0])
    for axes, penalty in zip(panels, penalties, strict=True):
        axes.set_title(PENALTIES[penalty])
        _draw_maximisers(axes, data.query("penalty == @penalty"))
    panels[0].set_ylabel(r"$\theta$ where runs end")
    legend(figure, "lines: laws; points: means of runs, with 95 % intervals")
    return figure


def _draw_gain(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw φ_G against p, the darker the larger G, and its limit."""
    curves = list(rows.sort_values("success_probability").groupby("group_size"))
    lines, names = [], []
    for place, (size, curve) in enumerate(curves):
        limit = np.isinf(float(str(size)))
        lines += axes.plot(
            curve["success_probability"],
            curve["gain"],
            color="black" if limit else colormaps["viridis"](0.9 - 0.9 * place / len(curves)),
            linestyle=(0, (1, 1.2)) if limit else "-",
        )
        names.append("limit" if limit else f"$G = {size:g}$")
    axes.legend(lines, names, loc="upper center", ncols=2)
    axes.set_title("weight of a prompt")
    axes.set_ylim(0, 6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("success probability $p = V(x)$")
    axes.set_ylabel(r"$\varphi_G(p)$")


def _draw_maximisers(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw each estimator's maximiser against G, the two that do not depend on G, and the runs."""
    law = rows.query("part == 'maximiser'").sort_values("group_size")
    for column, dashes, name in (
        ("predicted_value", (0, (4, 1.5)), r"maximiser of $\mathbb{E}\,V - \kappa\,\mathrm{KL}$"),
        ("predicted_limit", (0, (1, 1.2)),
         r"of $\mathbb{E}\,2\arcsin\sqrt{V} - \kappa\,\mathrm{KL}$"),
    ):  # fmt: skip
        axes.plot(law["group_size"], law[column], color="0.25", linewidth=1.2, linestyle=dashes,
                  zorder=2.5, label=name)  # fmt: skip
    for estimator, own in law.groupby("estimator"):
        axes.plot(own["group_size"], own["predicted"], color=LOOKS[str(estimator)][0], zorder=2)
    runs = at_last_iteration(rows.query("part == 'runs'"))
    series = list(runs.groupby(["num_minibatches", "estimator"], sort=False))
    named = set()
    for (parts, estimator), points in series:  # pyright: ignore
        once = parts == 1
        colour, marker, name = LOOKS[str(estimator)]
        axes.errorbar(
            points["group_size"],
            points["coordinate"],
            INTERVAL * points["std_error"],
            color=colour,
            marker=marker,
            linestyle="none",
            capsize=2,
            markersize=MARKER_SIZES[once],
            markerfacecolor=colour if once else "none",
            markeredgecolor=colour,
            label="" if name in named else name,
            zorder=3,
        )
        named.add(name)
    for parts in sorted({parts for (parts, _), _ in series} - {1}):  # pyright: ignore
        axes.plot([], [], "o", color="0.25", markerfacecolor="none", markersize=MARKER_SIZES[False],
                  label=f"large and hollow: $m = {parts:g}$ updates")  # fmt: skip
    group_size_axis(axes, list(runs["group_size"]))


if __name__ == "__main__":
    command_line(NAME, build)
