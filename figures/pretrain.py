"""Training curves of the arithmetic policies: accuracy by kind of problem, and where we stopped."""

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import legend
from figures.palette import command_line, error_axis, panel_grid

NAME = "pretrain"
_NO_KIND = ["task", "policy", "step", "loss", "accuracy"]


def build(data: pd.DataFrame) -> Figure:
    """Draw accuracy and loss against optimiser steps; columns as `pretrain` writes."""
    data = data.sort_values("step")
    figure, (left, right) = panel_grid(2, 2)
    left.plot(data["step"], data["accuracy"], color="black", linewidth=1.6, label="all")
    kinds = [name for name in data if name not in _NO_KIND]
    shades = colormaps["viridis"].resampled(len(kinds) + 1).colors  # pyright: ignore
    for kind, shade in zip(kinds, shades, strict=False):
        left.plot(data["step"], data[kind], color=shade, label=kind.replace("_", " "))
    left.set_ylabel("accuracy on held-out questions")
    right.plot(data["step"], data["loss"], color="black")
    error_axis(right)
    right.set_ylabel("loss (nats a solution)")
    for axes in (left, right):
        _mark_stages(axes, data)
        axes.set_xlabel("steps")
    legend(figure, "vertical lines: where a policy was kept")
    return figure


def _mark_stages(axes: Axes, data: pd.DataFrame) -> None:
    for row in data.dropna(subset=["policy"]).itertuples():
        axes.axvline(float(row.step), color="0.5", linewidth=0.8, linestyle=":", zorder=1)  # pyright: ignore
        axes.annotate(str(row.policy), (float(row.step), 1.0), xycoords=("data", "axes fraction"),  # pyright: ignore
                      va="bottom", ha="center", fontsize="small")  # fmt: skip


if __name__ == "__main__":
    command_line(NAME, build)
