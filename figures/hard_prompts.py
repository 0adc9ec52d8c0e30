"""GRPO's error over vanilla's, question by question, against how often the policy solves it."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from figures.legends import legend
from figures.palette import command_line, error_axis, label_left, panel_grid
from figures.tables import plain, policies

NAME = "hard_prompts"
_MARKERS = "o^s"
_LEAST = 1e-4
"""Questions solved less often, or missed less often, stand at the edge."""
_MOST = 1e4
"""So do questions at which the errors differ more."""


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a policy; columns as `hard_prompts` writes them."""
    panels = policies(data)
    figure, grid = panel_grid(len(panels), len(panels))
    sizes = sorted(data["group_size"].unique())
    shades = colormaps["viridis"](np.linspace(0.85, 0.1, len(sizes)))
    for axes, (task, panel) in zip(grid, panels, strict=True):
        for place, (size, shade) in reversed(list(enumerate(zip(sizes, shades, strict=True)))):
            rows = panel.query("group_size == @size")
            axes.scatter(rows["value"].clip(_LEAST, 1 - _LEAST), rows["ratio"].clip(upper=_MOST),
                         s=6, color=shade, marker=_MARKERS[place % len(_MARKERS)], linewidths=0,
                         label=f"$G = {size}$")  # fmt: skip
            # Small signal, and scores that do not depend on the reward (Assumption 2).
            chance = 1 / (1 + np.exp(-np.linspace(np.log(_LEAST), 3.0, 200)))
            law = (1 - chance) * (1 + 1 / (size - 1))
            axes.plot(chance, law, color=shade, linewidth=1.0)
        axes.axhline(1.0, color="0.5", linewidth=0.8, linestyle="--", zorder=1)
        axes.set_xscale("logit")
        axes.set_xticks(
            [1e-4, 1e-2, 0.5, 0.99, 0.9999], ["0.0001", "0.01", "0.5", "0.99", "0.9999"]
        )
        axes.minorticks_off()
        error_axis(axes)
        axes.set_title(plain(task))
        axes.set_xlabel("$V(x)$, probability of the solution")
    label_left(grid, "error of GRPO / error of vanilla")
    legend(figure, "points: questions, at the edges where beyond them; "
                   "lines: under Assumption 2, for a small gradient")  # fmt: skip
    for handle in figure.legends[0].legend_handles:
        handle.set_sizes([30])  # pyright: ignore
    return figure


if __name__ == "__main__":
    command_line(NAME, build)
