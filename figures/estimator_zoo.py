"""The zoo: noise of every estimator beside the oracle's, and what each makes of a prompt's p."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures.legends import Own, labelled, legend, side_legends
from figures.palette import (
    INTERVAL,
    LOOKS,
    Look,
    command_line,
    group_size_axis,
    mark_beyond,
)
from figures.tables import plain, policies

NAME = "estimator_zoo"

BY_PROBABILITY = "success_probability"
"""The task whose panels are values of p, one prompt each."""

# Estimators that differ by a constant factor, or by an ε that no eye can see, are drawn once.
_FAMILIES: dict[str, dict[str, tuple[str, Look]]] = {
    "baselines": {
        "vanilla": ("none (REINFORCE)", ("#0072B2", "s", (0, (4, 1.5)))),
        "rloo": ("leave-one-out\n(RLOO, Dr. GRPO)", ("#E69F00", "o", "-")),
        "critic": ("critic, $V \\pm 0.1$", ("#56B4E9", "v", (0, (2, 1)))),
        "remax": ("greedy output (ReMax)", ("#CC79A7", "D", (0, (6, 1, 1, 1)))),
        "optimal_baseline": ("best, $b^*$", ("#000000", "P", (0, (3, 1, 1, 1, 1, 1)))),
        "score_weighted": ("leave-one-out,\n$\\|W\\|^2$-weighted", ("#D55E00", "X", (0, (5, 2)))),
        "james_stein": ("James–Stein", ("#882255", "^", (0, (1, 1.2)))),
    },
    "std and transforms": {
        "rloo": ("leave-one-out\n(RLOO, Dr. GRPO)", ("#E69F00", "o", "-")),
        "grpo_trl": ("std-normalised (GRPO)", ("#7A2E8E", "s", "-")),
        "dynamic_sampling": ("dynamic sampling (DAPO)", ("#000000", "^", (0, (4, 1.5)))),
        "sign": ("sign", ("#8C8C8C", "v", (0, (1, 1.2)))),
        "pass_at_4": ("pass@4", ("#B2182B", "D", (0, (6, 1, 1, 1)))),
        "grpo_passk": ("best less second best", ("#E7889A", "X", (0, (2, 1)))),
    },
    "whole batch": {
        "rloo": ("leave-one-out\n(RLOO, Dr. GRPO)", ("#E69F00", "o", "-")),
        "reinforce_pp": ("batch mean and std\n(REINFORCE++)", ("#332288", "s", (0, (4, 1.5)))),
        "reinforce_pp_baseline": (
            "group mean, whitened\n(REINFORCE++ baseline)", ("#CC79A7", "D", (0, (6, 1, 1, 1))),
        ),
        "grpo_batch_std": ("group mean / batch std", ("#56B4E9", "v", (0, (1, 1.2)))),
        "drop_equal_groups": ("GRPO less equal groups\n(DAPO)", ("#000000", "^", (0, (5, 2)))),
        "gpg": ("group mean / hit rate (GPG)", ("#A6611A", "P", (0, (2, 1)))),
    },
}  # fmt: skip
_SIZES = (2, 8, 64)
_TICKS = (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 8)
_WORST = 8.0
"""Relative errors above this are arrows at the edge."""
_LIMIT = r"$1/\sqrt{p(1-p)}$, GRPO's limit"

_SAME_PHI = "dynamic_sampling"
"""Over several prompts it multiplies every φ by one number: its shape is that of GRPO."""


def build(data: pd.DataFrame) -> Figure:
    """Draw one figure of a task; columns as `estimator_zoo` writes them."""
    if str(data["task"].iloc[0]).split(":")[0] == BY_PROBABILITY:
        return _by_probability(data)
    return _by_group_size(data)


def _by_group_size(data: pd.DataFrame) -> Figure:
    """One column a policy, one row a family."""
    panels = policies(data)
    figure, grid = _grid(len(_FAMILIES), len(panels), 2.5)
    for place, (family, members) in enumerate(_FAMILIES.items()):
        for axes, (task, rows) in zip(grid[place], panels, strict=True):
            for name, each in members.items():
                found = rows.loc[rows["estimator"] == name].sort_values("group_size")
                _draw(axes, found, "group_size", "relative_error", each)
            group_size_axis(axes, list(rows["group_size"]))
            if place < len(_FAMILIES) - 1:
                axes.set_xlabel("")
            if place == 0:
                axes.set_title(plain(task))
        _finish_errors(grid[place])
        grid[place][0].set_ylabel(f"{family}\nerror / oracle's")
    side_legends(figure, [Own(row[-1], "", labelled(row)) for row in grid])
    error = r"$\mathrm{tr\,Var}\,\hat{g}/\|\mathbb{E}\,\hat{g}\|^2$"
    legend(figure, f"error: {error} at equal cost in outputs; arrows: beyond the axis", {})
    return figure


def _by_probability(data: pd.DataFrame) -> Figure:
    """One column a group size; above φ(p) relative to φ(½), below the error."""
    data = data.assign(p=data["task"].str.split("= ").str[1].astype(float))
    shown = {name: each for members in _FAMILIES.values() for name, each in members.items()}
    measured = sorted(set(data["group_size"]))
    sizes = [size for size in measured if size in _SIZES] or measured
    figure, grid = _grid(2, len(sizes), 2.5)
    for place, size in enumerate(sizes):
        rows = data.loc[data["group_size"] == size].sort_values("p")
        for name, each in shown.items():
            found = rows.loc[rows["estimator"] == name]
            middle = found.iloc[(found["p"] - 0.5).abs().argsort()[:1]]["gain"].sum()
            if name != _SAME_PHI:
                _draw(grid[0][place], found.assign(gain=found["gain"] / middle), "p", "gain", each)
            _draw(grid[1][place], found, "p", "relative_error", each)
        _finish_gains(grid[0][place], rows["p"].to_numpy())
        _probability_axis(grid[1][place])
        grid[0][place].set_title(f"$G = {size}$")
        grid[1][place].set_xlabel("success probability $p$")
    _finish_errors(grid[1])
    grid[0][0].set_ylabel(r"$\varphi_G(p)/\varphi_G(\frac{1}{2})$")
    grid[1][0].set_ylabel("error / oracle's")
    _name_families(figure, grid)
    legend(figure, "exact: one prompt; error at equal cost in outputs; arrows: beyond the axis", {})
    return figure


def _name_families(figure: Figure, grid: list[list[Axes]]) -> None:
    """Name the estimators of all panels beside them, one family above the other."""
    entries = labelled([axes for row in grid for axes in row])
    named, legends = set(), []
    for row, (family, reference) in zip(
        grid, (("baselines", _LIMIT), ("std and transforms", "oracle")), strict=True
    ):
        names = [name for name, _ in _FAMILIES[family].values() if name not in named]
        names = [name for name in (*names, reference) if name in entries]
        legends.append(Own(row[-1], family, {name: entries[name] for name in names}))
        named |= set(names)
    side_legends(figure, legends)


def _grid(rows: int, columns: int, height: float) -> tuple[Figure, list[list[Axes]]]:
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.6 * columns, height * rows), squeeze=False, sharey="row",
        layout="constrained",
    )  # fmt: skip
    return figure, [list(row) for row in grid]


def _draw(axes: Axes, rows: pd.DataFrame, x: str, y: str, named: tuple[str, Look]) -> None:
    """Draw one estimator, with 95 % intervals where it is measured."""
    if rows.empty:
        return
    label, (colour, marker, dashes) = named
    axes.plot(
        rows[x], rows[y], color=colour, marker=marker, linestyle=dashes, linewidth=1.1,
        markersize=3.5, markeredgecolor="white", markeredgewidth=0.4, label=label,
    )  # fmt: skip
    noise = INTERVAL * rows[f"{y}_std_error"]
    axes.errorbar(rows[x], rows[y], noise, color=colour, linestyle="none", linewidth=0.8)


def _finish_errors(row: list[Axes]) -> None:
    """Make logarithmic axes around 1, the oracle, that hold all but the worst."""
    ends = [axes.dataLim.intervaly for axes in row]
    low = max(0.93 * min(*(each[0] for each in ends), 0.9), 1 / _WORST)
    high = min(1.05 * max(*(each[1] for each in ends), 1.2), _WORST)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    for axes in row:
        axes.axhline(1.0, color=LOOKS["oracle"][0], linewidth=1.2, zorder=1, label="oracle")
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        mark_beyond(axes)


def _finish_gains(axes: Axes, probs: NDArray[np.float64]) -> None:
    """Make a logarithmic axis of φ, with the limit of std normalisation."""
    fine = np.linspace(probs.min(), probs.max(), 200)
    axes.plot(fine, 0.5 / np.sqrt(fine * (1 - fine)), color="0.25", linewidth=0.8, zorder=1,
              label=_LIMIT)  # fmt: skip
    _probability_axis(axes)
    ticks = (0.2, 0.5, 1, 2, 5)
    axes.set_yscale("log")
    axes.set_ylim(0.2, 7)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    mark_beyond(axes)


def _probability_axis(axes: Axes) -> None:
    """Make an axis of log-odds."""
    ticks = (0.02, 0.1, 0.5, 0.9, 0.98)
    axes.set_xscale("logit")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


if __name__ == "__main__":
    command_line(NAME, build)
