"""What the reference tables say about GRPO as it is practised: pure functions of a DataFrame."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments.readings import STANDARD_ERRORS, Reading, plain


def critic(data: pd.DataFrame) -> Iterator[Reading]:
    """Say what a value network costs here, what it is worth, and who learns faster."""
    memory, seconds = (_costs(data, quantity) for quantity in ("bytes", "seconds"))
    sizes = data.groupby("method")["group_size"].agg(set)
    size = max(sizes["grpo"] & sizes["critic"])
    budget = int(data["budget"].iloc[0])
    yield _memory(memory, size, budget)
    yield _published_memory(memory, size, budget)
    yield _time(seconds, size, budget)
    yield _break_even(data)
    yield _accuracy(data)


def _costs(data: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """One row an optimizer, method and group size, one column a part."""
    rows = data.loc[data["quantity"] == quantity]
    return rows.pivot(index=["optimizer", "method", "group_size"], columns="part", values="value")


def _memory(memory: pd.DataFrame, size: int, budget: int) -> Reading:
    shown = []
    for optimizer in ("sgd", "adamw"):
        ours, theirs = (memory.loc[(optimizer, name, size)] for name in ("grpo", "critic"))
        network = theirs["critic weights"] + theirs["critic moments"]
        saved = theirs["peak"] - ours["peak"]
        shown.append(
            f"{optimizer}: {saved / theirs['peak']:.0%} ({theirs['peak'] / 1e6:.1f} to "
            f"{ours['peak'] / 1e6:.1f} MB), of which the network with its moments is "
            f"{network / theirs['peak']:.1%}; the rest are the outputs of groups with equal "
            "rewards, which need no backward pass"
        )
    return Reading(
        f"no value network saves half of the peak memory (N = {budget}, G = {size} for both)",
        "30–50 %, as published for large models",
        "; ".join(shown),
        "refined: little of what is saved here is the network's; most memory is activations",
    )


def _published_memory(memory: pd.DataFrame, size: int, budget: int) -> Reading:
    row = memory.loc[("adamw", "critic", size)]
    state = row[["critic weights", "critic gradients", "critic moments"]].sum()
    active = row[["sampling working", "policy working", "critic working"]].max()
    few = budget * (1 / 0.3 - 2) * state / active
    reference = state / (2 * state + row["policy weights"])
    return Reading(
        "the network's share S/(2S + R + A): S its weights, gradients and moments, R a reference "
        "policy, A the activations of one pass at a time",
        "30 % needs R + A ≤ 4S/3; 50 % needs neither",
        f"S = {state / 1e6:.1f} MB with AdamW, A = {active / 1e6:.1f} MB for {budget} outputs: "
        f"{state / (2 * state + active):.0%}; 30 % from passes of at most {few:.0f} outputs on; "
        f"with a reference policy in full precision never above {reference:.0%}",
        "refined",
    )


def _time(seconds: pd.DataFrame, size: int, budget: int) -> Reading:
    adam = seconds.loc["adamw"]
    ours, theirs = adam.loc[("grpo", size)], adam.loc[("critic", size)]
    shares = [
        f"{_plain(method)}, G = {group}: {row['critic'] / row['step']:.0%}"
        for (method, group), row in adam.dropna(subset=["critic"]).iterrows()
    ]
    return Reading(
        f"no value network saves half of the time of a step (N = {budget})",
        "30–50 %; by operations 6 of 14 (sampling 2, policy 6, critic 6 a weight and token), 43 %",
        f"the critic's part of its step: {', '.join(shares)}; GRPO at G = {size} takes "
        f"{1 - ours['step'] / theirs['step']:.0%} less ({1e3 * theirs['step']:.0f} to "
        f"{1e3 * ours['step']:.0f} ms), for it also leaves out groups with equal rewards",
        "reproduced in part",
    )


def _break_even(data: pd.DataFrame) -> Reading:
    """Compare RMSE < σ/√(G−1) with the errors of the gradients themselves."""
    cells = data.query("method == 'critic'").pivot_table(
        index=["group_size", "seed", "iteration"], columns="quantity", values="value"
    )
    cells = cells.dropna(subset=["excess"])
    sizes = sorted(data.query("method == 'grpo'")["group_size"].unique())
    agreed = {"variance": 0, "residual": 0}  # the law in brief, and with e² weighed by ‖W‖²
    for size in sizes:
        better = cells["excess"] < cells["residual"] / (size - 1)
        for level, error in (("variance", "squared_error"), ("residual", "squared_excess")):
            predicted = cells[error] < cells[level] / (size - 1)
            agreed[level] += int((predicted == better).sum())
    total = len(sizes) * len(cells)
    last = cells.xs(cells.index.get_level_values("iteration").max(), level="iteration").mean()
    across = cells["excess"] - cells["squared_excess"]
    single = 2 * np.sqrt(last["prompt"] * last["residual"])
    return Reading(
        "a critic has the smaller gradient error than groups of G if its RMSE is below σ/√(G−1)",
        f"in {total} cells of run, checkpoint and G; at the end for G below "
        f"{1 + last['variance'] / last['squared_error']:.1f} (RMSE "
        f"{np.sqrt(last['squared_error']):.3f}, σ {np.sqrt(last['variance']):.3f})",
        f"in {agreed['variance']}; with e² weighed by ‖W‖², in {agreed['residual']}. The rest is "
        f"2E(V−V̂)m, {across.min():.0f} … {across.max():.0f} beside c₃ = {last['residual']:.0f}: "
        "wrong outputs have the longer scores (m < 0), so a critic that says too little does "
        f"better than its RMSE. In {np.sum(cells['excess'] < 0)} of {len(cells)} checkpoints "
        "it beats the oracle itself. With one output a prompt at the same N it beats every G if "
        f"its excess is below 2√(c₁c₃) = {single:.0f}; at the end it is {last['excess']:.0f}",
        "reproduced" if agreed["variance"] == total else "refined: true of a critic without bias",
    )


def _accuracy(data: pd.DataFrame) -> Reading:
    """Compare accuracies at the end, paired by seed."""
    last = max(data["iteration"])
    rows = data.loc[(data["quantity"] == "accuracy") & (data["iteration"] == last)]
    found = {
        (str(method), int(size)): run.sort_values("seed")["value"].to_numpy()
        for (method, size), run in rows.groupby(["method", "group_size"], sort=False)  # pyright: ignore[reportGeneralTypeIssues]
    }
    best = max((each for each in found if each[0] == "grpo"), key=lambda each: found[each].mean())
    single = min(each for each in found if each[0] == "critic")
    paired = found[single] - found[best]
    difference, noise = paired.mean(), paired.std(ddof=1) / len(paired) ** 0.5
    shown = ", ".join(
        f"{_plain(name)} {size}: {values.mean():.4f}" for (name, size), values in found.items()
    )
    return Reading(
        f"a critic with one output a prompt learns no faster than GRPO at the same N (n = {last})",
        "no difference",
        f"accuracy by method and G, {len(paired)} seeds: {shown}; critic over the best GRPO by "
        f"{difference:.4f} ± {noise:.4f} (paired)",
        "reproduced" if abs(difference) <= 2 * noise else "refuted",
    )


def _plain(method: str) -> str:
    return {"grpo": "GRPO", "critic": "critic", "token_critic": "token critic"}[method]


def practical_bias(data: pd.DataFrame) -> Iterator[Reading]:
    """Say how the bias of re-used outputs grows, and where it matters."""
    data = data.assign(
        moved=data["learning_rate"] * (data["num_minibatches"] - 1),
        share=data["squared_bias"] / data["sampling_error"],
    )
    yield _bias_order(data)
    for task, rows in data.groupby("task", sort=False):
        yield _bias_share(str(task), rows)


def _bias_order(data: pd.DataFrame) -> Reading:
    """Fit slopes where the policy moved least."""
    exact = data.query("path == 'exact'")
    biased = exact.query("ratio == 'token' or penalty_weight > 0")
    in_steps, in_rate = [], []
    for _, rows in biased.groupby(["task", "ratio", "penalty_weight"], sort=False):
        slowest = rows.query("learning_rate == learning_rate.min()")
        in_steps.append(_slope(slowest, "num_minibatches", less=1))
        fewest = rows.query("num_minibatches == num_minibatches.min()")
        in_rate.append(_slope(fewest.sort_values("learning_rate").head(2), "learning_rate"))
    unbiased = exact.query("ratio == 'sequence' and penalty_weight == 0")
    rounding = max(unbiased["squared_bias"].tolist(), default=np.nan)
    slopes = np.array(in_steps + in_rate)
    return Reading(
        "the squared bias of token ratios, and of a K3 penalty on old tokens, grows like m²η²",
        "slopes 2 in η and, as there is none at m = 1, in m − 1, as η → 0; 0 with sequence ratios",
        f"over policies, exact: slope in η {min(in_rate):.2f} … {max(in_rate):.2f}, in m − 1 "
        f"{min(in_steps):.2f} … {max(in_steps):.2f}; sequence ratios {rounding:.0e}",
        "refined: (m−1)², with exact constants"
        if np.abs(slopes - 2).max() < 0.1 and rounding < 1e-24
        else "refuted",
    )


def _slope(rows: pd.DataFrame, column: str, less: int = 0) -> float:
    """Return the slope of log squared bias against a column, less a number, on log scales."""
    return float(np.polyfit(np.log(rows[column] - less), np.log(rows["squared_bias"]), 1)[0])


def _bias_share(task: str, rows: pd.DataFrame) -> Reading:
    """Compare the bias with the error of GRPO on all outputs of an iteration."""
    parts = {
        (ratio, path): rows.query("ratio == @ratio and path == @path and penalty_weight == 0")
        for ratio, path in (("token", "sampled"), ("token", "exact"), ("none", "exact"))
    }
    shown, small = [], True
    for (ratio, path), part in parts.items():
        reached = part["moved"][part["share"] >= 1].tolist()
        at = f"from η(m−1) = {min(reached):.2g} on" if reached else "nowhere"
        highest = max(part["share"].tolist())
        small &= ratio != "token" or highest < 1
        shown.append(f"{ratio}, {path} steps: {at} (at most {highest:.2g} of it)")
    both = ["num_minibatches", "learning_rate"]
    sampled, exact = (
        parts["token", path].set_index(both)["squared_bias"] for path in ("sampled", "exact")
    )
    factor = float(np.median(sampled / exact))
    return Reading(
        f"{plain(task)}: the ratios' squared bias is small beside the sampling error (N = "
        f"{rows['budget'].iloc[0]}, G = {rows['group_size'].iloc[0]}, η(m−1) ≤ "
        f"{rows['moved'].max():.2g})",
        "it vanishes with η",
        f"where it reaches that error: {'; '.join(shown)}; sampled steps have {factor:.1f} times "
        "the bias of exact ones (median), since noise moves the policy too",
        "reproduced" if small else "refined: not at the largest rates",
    )


def implied_objective(data: pd.DataFrame) -> Iterator[Reading]:
    """Say what runs of Algorithm 2 maximise, with normalised advantages and without."""
    runs = data.query("part == 'runs'")
    ends = runs.loc[runs["iteration"] == runs["iteration"].max()]
    alone = ends["estimator"] == "grpo"
    yield _normalised_end(ends.loc[~alone])
    yield _unnormalised_end(ends.loc[alone])
    yield _which_divergence(ends)


def _off(rows: pd.DataFrame, column: str) -> np.ndarray:
    """Return how far means lie from a candidate, in standard errors."""
    distance = rows["coordinate"].to_numpy() - rows[column].to_numpy()
    return np.abs(distance) / rows["std_error"].to_numpy()


def _normalised_end(rows: pd.DataFrame) -> Reading:
    """Do runs end at their own maximiser, and not at one of the others?"""
    own, value, limit = (_off(rows, f"predicted{each}") for each in ("", "_value", "_limit"))
    told_apart = bool(min(value.min(), limit.min()) > STANDARD_ERRORS)
    shown = [
        f"G = {size:g}: {part['coordinate'].iloc[0]:.4f} ± {part['std_error'].iloc[0]:.4f} "
        f"(E F_G: {part['predicted'].iloc[0]:.4f}, E V: {part['predicted_value'].iloc[0]:.4f}, "
        f"limit: {part['predicted_limit'].iloc[0]:.4f})"
        for size, part in rows.groupby("group_size")
    ]
    return Reading(
        f"with normalised advantages runs end where E 2 arcsin √V − κ KL is largest ({len(rows)} "
        "cells of estimator, G, penalty and m)",
        "at finite G where E F_G − κ KL is; F₂ is a multiple of V",
        f"within {own.max():.1f} std. errors of E F_G's in every cell; at least {value.min():.0f} "
        f"from E V's and {limit.min():.1f} from the limit's. First cell of each G: "
        + "; ".join(shown),
        "refuted"
        if own.max() > STANDARD_ERRORS
        else "refined: E F_G at each G, 2 arcsin √V in the limit only"
        if told_apart
        else "not resolved in every cell",
    )


def _unnormalised_end(rows: pd.DataFrame) -> Reading:
    """Do runs without normalisation end at the maximiser of the value?"""
    value, limit = _off(rows, "predicted_value"), _off(rows, "predicted_limit")
    return Reading(
        "without normalisation they end where E V − κ KL is largest, at every G",
        f"{len(rows)} of {len(rows)} cells",
        f"{np.sum(value <= STANDARD_ERRORS)}; within {value.max():.1f} std. errors of it, and at "
        f"least {limit.min():.0f} from the arcsine's",
        "reproduced" if value.max() <= STANDARD_ERRORS < limit.min() else "refuted",
    )


def _which_divergence(ends: pd.DataFrame) -> Reading:
    """Hold runs with K3 against what KL(π_θ ‖ π_ref), K2's divergence, predicts."""
    keys = ["estimator", "group_size", "num_minibatches"]
    k2, k3 = (ends.query("penalty == @name").set_index(keys) for name in ("k2", "k3"))
    own, other = _off(k3, "predicted"), _off(k3.assign(k2=k2["predicted"]), "k2")
    return Reading(
        "the penalty that K3, differentiated as a loss, puts on runs is KL(π_θ ‖ π_ref)",
        "its mean gradient is that of KL(π_ref ‖ π_θ); K2's is that of KL(π_θ ‖ π_ref)",
        f"runs with K3 are within {own.max():.1f} std. errors of where KL(π_ref ‖ π_θ) puts them, "
        f"and at least {other.min():.0f} from where KL(π_θ ‖ π_ref) would",
        "refuted as stated: the proposition's divergence takes K2"
        if own.max() <= STANDARD_ERRORS < other.min()
        else "not resolved in every cell",
    )
