"""A critic along training against the error at which GRPO does as well, and what both cost."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import Own, foot_legends, labelled, legend, side_legends
from figures.palette import INTERVAL, command_line, error_axis, panel_grid
from figures.tables import only

NAME = "critic"
_NAMES = {
    "grpo": "GRPO",
    "critic": "critic, reads prompts",
    "token_critic": "critic, reads outputs",
}
_LOOKS: dict[str, tuple[str, str, str | tuple[int, tuple[float, ...]]]] = {
    "grpo": ("YlOrBr", "o", "-"),
    "critic": ("Purples", "s", (0, (4, 1.5))),
    "token_critic": ("RdPu", "^", (0, (1, 1.2))),
}
"""Colour map over group sizes, marker and dashes."""
_LIMIT = "0.45"
_MEMORY = {
    "policy: weights, moments": ("0.35", ["policy weights", "policy moments"]),
    "critic: weights, moments": ("#6A51A3", ["critic weights", "critic moments"]),
    "activations and gradients": ("0.8", []),
}
_SECONDS = {
    "sampling": ("#F0E442", ["sampling"]),
    "critic: forward, backward, step": ("#6A51A3", ["critic"]),
    "policy: forward, backward, step": ("0.35", ["policy"]),
}
_OPTIMIZERS = {"adamw": "AdamW", "sgd": "plain ascent"}
Bars = Mapping[str, tuple[str, list[str]]]
Key = tuple[str, int]


def build(data: pd.DataFrame) -> Figure:
    """Draw error, excess and accuracy along training, then memory and time, and what is saved."""
    figure, (error, excess, accuracy, memory, seconds, share) = panel_grid(6, 3, height=3.1)
    _draw_error(error, data)
    _draw_excess(excess, data)
    _draw_accuracy(accuracy, data)
    for axes in (error, excess, accuracy):
        axes.set_xlabel("iterations $n$")
    _draw_bars(memory, data.query("quantity == 'bytes'"), _MEMORY, 1e-6)
    memory.set_xlabel("peak memory of a step, MB")
    _draw_bars(seconds, data.query("quantity == 'seconds'"), _SECONDS, 1e3)
    seconds.set_xlabel("time of a step, ms")
    _draw_share(share, data)
    side_legends(figure, [Own(accuracy, "", labelled([error, excess, accuracy]))])
    foot_legends(figure, [Own(axes, "", labelled([axes])) for axes in (memory, seconds, share)])
    legend(figure, f"$N = BG = {only(data, 'budget')}$; means over seeds with 95 % intervals; "
                   "bars: AdamW, on a CPU", {})  # fmt: skip
    return figure


def _curves(data: pd.DataFrame, quantity: str) -> Iterator[tuple[Key, pd.DataFrame]]:
    """Yield mean and standard error over seeds along training, by method and group size."""
    rows = data.loc[data["quantity"] == quantity]
    for method in dict.fromkeys(rows["method"]):
        for size in _sizes(rows, method):
            run = rows.loc[(rows["method"] == method) & (rows["group_size"] == size)]
            found = run.groupby("iteration")["value"]
            yield (method, size), pd.DataFrame({"mean": found.mean(), "sem": found.sem()})


def _draw_curves(axes: Axes, data: pd.DataFrame, quantity: str) -> None:
    for key, means in _curves(data, quantity):
        shades, marker, dashes = _LOOKS[key[0]]
        sizes = _sizes(data, key[0])
        colour = colormaps[shades](np.linspace(0.85, 0.4, len(sizes)))[sizes.index(key[1])]
        axes.errorbar(means.index, means["mean"], INTERVAL * means["sem"], color=colour,
                      marker=marker, markersize=4, linestyle=dashes, linewidth=1.2, capsize=2,
                      label=f"{_NAMES[key[0]]}, $G = {key[1]}$", zorder=3)  # fmt: skip


def _draw_limits(axes: Axes, data: pd.DataFrame, level: pd.Series, power: float) -> None:
    """Draw level/(G−1)^power along training for every group size, named at its right end."""
    for size in _sizes(data, "grpo"):
        heights = (level / (size - 1) ** power).to_numpy()
        axes.plot(level.index, heights, color=_LIMIT, linewidth=0.9, zorder=2)
        axes.annotate(f"$G={size}$", (level.index[-1], heights[-1]), xytext=(4, 0), va="center",
                      textcoords="offset points", color=_LIMIT, fontsize="small")  # fmt: skip


def _mean(data: pd.DataFrame, quantity: str) -> pd.Series:
    """Return a quantity along training, the mean over all runs in which it was measured."""
    rows = data[data["quantity"] == quantity]
    return pd.Series(rows.groupby("iteration")["value"].mean())


def _sizes(data: pd.DataFrame, method: str) -> list[int]:
    return sorted(data.loc[data["method"] == method, "group_size"].unique().tolist())


def _draw_error(axes: Axes, data: pd.DataFrame) -> None:
    """Draw the critics' RMSE, and σ/√(G−1)."""
    _draw_curves(axes, data, "critic_rmse")
    _draw_limits(axes, data, _mean(data, "reward_variance") ** 0.5, 0.5)
    error_axis(axes)
    axes.set_ylabel(r"RMSE of $\hat V(x)$; grey: $\sigma/\sqrt{G-1}$")


def _draw_excess(axes: Axes, data: pd.DataFrame) -> None:
    """Draw what the critics add to the gradient's error, and what the group mean adds."""
    _draw_curves(axes, data, "excess")
    residual = _mean(data, "residual")
    _draw_limits(axes, data, residual, 1.0)
    budget = 2 * (residual * _mean(data, "prompt")) ** 0.5
    axes.plot(budget.index, budget.to_numpy(), color="black", linewidth=1.2, linestyle=(0, (5, 2)),
              label=r"$2\sqrt{c_1c_3}$: best $G$")  # fmt: skip
    # What a critic adds may be negative: less error than with the exact value.
    axes.set_yscale("symlog", linthresh=100.0)
    axes.axhline(0.0, color="black", linewidth=0.6, zorder=1)
    axes.set_ylabel(r"$E[e^2s + 2(V-\hat V)m]$; grey: $c_3/(G-1)$")


def _draw_accuracy(axes: Axes, data: pd.DataFrame) -> None:
    _draw_curves(axes, data, "accuracy")
    axes.set_ylabel("accuracy on held-out questions")


def _draw_bars(axes: Axes, data: pd.DataFrame, bars: Bars, scale: float) -> None:
    """Draw a stacked bar a method; the part that names no rows is what is left of the peak."""
    rows = data.query("optimizer == 'adamw'")
    order = rows[["method", "group_size"]].drop_duplicates()
    table = rows.pivot(index=["method", "group_size"], columns="part", values="value").fillna(0.0)
    table = table.loc[list(zip(order["method"], order["group_size"], strict=True))[::-1]]
    left = np.zeros(len(table))
    for name, (colour, parts) in bars.items():
        width = (table[parts].sum(axis=1) if parts else table["peak"] - left / scale) * scale
        axes.barh(range(len(table)), width, left=left, color=colour, label=name, height=0.75)
        left = left + width.to_numpy()
    short = {"grpo": "GRPO", "critic": "critic", "token_critic": "token critic"}
    names = [f"{short[str(method)]}, $G = {size}$" for method, size in table.index]
    axes.set_yticks(range(len(table)), names)
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)


def _draw_share(axes: Axes, data: pd.DataFrame) -> None:
    """Draw S/(2S + A), A in proportion to the outputs that are scored together."""
    size = max(set(_sizes(data, "grpo")) & set(_sizes(data, "critic")))
    rows = data.loc[(data["method"] == "critic") & (data["group_size"] == size)]
    rows = rows.loc[rows["quantity"] == "bytes"]
    table = rows.pivot(index="optimizer", columns="part", values="value")
    outputs = np.geomspace(1, data["budget"].max(), 50)
    for optimizer, dashes in (("adamw", "-"), ("sgd", (0, (4, 1.5)))):
        row = table.loc[optimizer]
        state = row[["critic weights", "critic gradients", "critic moments"]].sum()
        active = row[["sampling working", "critic working", "policy working"]].max()
        saved = state / (2 * state + active * outputs / data["budget"].max())
        axes.plot(outputs, 100 * saved, color="black", linestyle=dashes,
                  label=_OPTIMIZERS[optimizer])  # fmt: skip
    axes.axhspan(30, 50, color="0.9", zorder=0, label="published: 30–50 %")
    axes.set_xscale("log")
    axes.set_xlabel("outputs scored at a time")
    axes.set_ylabel("memory saved without it, %")
    axes.set_ylim(0, 55)


if __name__ == "__main__":
    command_line(NAME, build)
