"""What the reference tables of the language models say: pure functions of a DataFrame."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments.group_size.resolution import (
    Resolution,
    best_and_rival,
    by_seed,
    components,
    summary,
)
from experiments.running.reading import Reading, plain
from ustat_grpo.arithmetic.problems import KINDS
from ustat_grpo.laws import group_size as law

_CLOSE_RANKING = 0.85
"""Spearman's correlation that passes for the same order, where neighbours may be tied."""


def policies(curve: pd.DataFrame) -> Iterator[Reading]:
    """Say what each policy that was kept can do, by kind of problem."""
    for row in curve.dropna(subset=["policy"]).to_dict(orient="records"):
        kinds = ", ".join(f"{plain(kind)} {row[kind]:.2f}" for kind in KINDS)
        yield Reading(
            f"the policy {row['policy']!r}: accuracy of sampled outputs on 500 held-out questions, "
            f"exact, after {row['step']} steps",
            "three policies of rising skill",
            f"{row['accuracy']:.3f} ({kinds}); loss {row['loss']:.3f} nats a solution",
            "reproduced, with small transformers in place of Qwen2.5-0.5B",
        )


def group_sizes(data: pd.DataFrame) -> Iterator[Reading]:
    """Which group size ends with the best accuracy, and can the sweep tell?"""
    found = summary(data)
    last = [each for each in found if each.iteration == max(v.iteration for v in found)]
    for each in last:
        yield _final(each)
    yield _ranking(data, last)
    yield _few_seeds(data)
    yield _universal(last)
    yield _universal_in_iterations(found)
    yield _path(data)


def _final(each: Resolution) -> Reading:
    low, high = each.predicted
    sizes = list(each.accuracy.index)
    inside = [size for size in sizes if low <= size <= high] or [
        min(sizes, key=lambda size: abs(np.log(size / np.sqrt(low * high))))
    ]
    rivals = each.rivals
    agree = bool(set(inside) & set(each.may_be_best))
    listed = ", ".join(f"{size}: {value:.3f}" for size, value in each.accuracy.items())
    return Reading(
        f"{each.optimizer}, N = {each.budget}, n = {each.iteration}: the G of largest accuracy is "
        "among those of least gradient error where the runs begin",
        f"G in {low:.1f} … {high:.1f}",
        f"may be best (95 %): {', '.join(map(str, each.may_be_best))}; mean accuracy of "
        f"{each.seeds} seeds {listed}; G = {rivals.better} over {rivals.worse} by "
        f"{rivals.difference:.4f} ± {rivals.std_error:.4f} (paired), which takes "
        f"{rivals.seeds_needed:.0f} seeds to see; noise floor {each.noise.floor:.4f}",
        "reproduced" if agree else "refuted",
    )


def _ranking(data: pd.DataFrame, last: list[Resolution]) -> Reading:
    """Do accuracies after training rank the group sizes as gradient errors at the start do?"""
    noise = components(data.query("iteration == 0"))
    found = []
    for each in last:
        errors = {
            size: law.error_at_budget(noise, group_size=float(size), budget=each.budget)
            for size in each.accuracy.index
        }
        correlation = -each.accuracy.corr(pd.Series(errors), method="spearman")
        found.append((f"{each.optimizer}, N = {each.budget}", correlation))
    shown = "; ".join(f"{name}: {value:.2f}" for name, value in found)
    return Reading(
        "the larger the gradient error at the start, the smaller the accuracy after training "
        "(over group sizes)",
        "rank correlation 1, up to ties",
        shown,
        "reproduced" if all(value > _CLOSE_RANKING for _, value in found) else "refuted",
    )


def _few_seeds(data: pd.DataFrame) -> Reading:
    """With five seeds, as in the paper: how often can the two best sizes be told apart?"""
    told, cells = 0, 0
    for _, rows in data.query("iteration > 0").groupby(["optimizer", "budget", "iteration"]):
        accuracies = by_seed(rows).iloc[:5]
        told += best_and_rival(accuracies).p_value < 0.05
        cells += 1
    return Reading(
        "five seeds, as in the paper, tell the best group size from the second best",
        "rarely: the paper's differences are mostly not significant",
        f"in {told} of {cells} (optimizer, N, n), paired, at level 5 %",
        "reproduced: a sweep of five seeds does not resolve neighbours"
        if told <= cells / 2
        else "refuted",
    )


def _universal(last: list[Resolution]) -> Reading:
    plain_ascent = [each for each in last if each.optimizer == "sgd"]
    shared = set.intersection(*(set(each.may_be_best) for each in plain_ascent))
    sets = "; ".join(
        f"N = {each.budget}: {', '.join(map(str, each.may_be_best))}" for each in plain_ascent
    )
    return Reading(
        "one group size is best at every budget (universality in N; cf. Table 2)",
        "the confidence sets have a size in common",
        sets,
        "reproduced: not rejected" if shared else "refuted",
    )


def _universal_in_iterations(found: list[Resolution]) -> Reading:
    """Has every sweep a size that may be best at each of its checkpoints?"""
    sweeps = dict.fromkeys((each.optimizer, each.budget) for each in found)
    shared = {
        sweep: set.intersection(
            *(set(each.may_be_best) for each in found if (each.optimizer, each.budget) == sweep)
        )
        for sweep in sweeps
    }
    shown = "; ".join(
        f"{optimizer}, N = {budget}: {', '.join(map(str, sorted(sizes))) or 'none'}"
        for (optimizer, budget), sizes in shared.items()
    )
    checkpoints = sorted({each.iteration for each in found})
    return Reading(
        f"one group size is best at every n = {', '.join(map(str, checkpoints))} (universality in "
        "n; cf. Figure 5)",
        "the confidence sets have a size in common",
        shown,
        "reproduced: not rejected" if all(shared.values()) else "refuted",
    )


def _path(data: pd.DataFrame) -> Reading:
    measured = data.dropna(subset=["prompt"]).query("optimizer == 'sgd'")
    sizes = 1 + np.sqrt(measured["residual"] / measured["prompt"])
    start = sizes[measured["iteration"] == 0].mean()
    end = sizes[measured["iteration"] == measured["iteration"].max()]
    return Reading(
        "G* = 1 + √(c₃/c₁) of the gradient can be estimated at a few parameter values",
        "it stays near its value at the start",
        f"{start:.2f} at the start; {end.min():.2f} … {end.max():.2f} after "
        f"{measured['iteration'].max()} iterations, over group sizes, budgets and seeds",
        "reproduced" if end.max() < 1.5 * start and end.min() > start / 1.5 else "refuted",
    )
