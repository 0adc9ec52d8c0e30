"""What the runs with a value network say: pure functions of a DataFrame."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments.running.reading import Reading

_PUBLISHED, _LEAST_PUBLISHED = "30–50 %", 0.3
"""What papers on large models say a trainer saves by having no value network."""


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
    shown, shares = [], []
    for optimizer in ("sgd", "adamw"):
        ours, theirs = (memory.loc[(optimizer, name, size)] for name in ("grpo", "critic"))
        network = theirs[["critic weights", "critic moments"]].sum()
        shares.append(network / theirs["peak"])
        saved = 1 - ours["peak"] / theirs["peak"]
        shown.append(
            f"{optimizer}: weights and moments of the network are {shares[-1]:.1%} of "
            f"{theirs['peak'] / 1e6:.1f} MB; GRPO takes {saved:.0%} less ({ours['peak'] / 1e6:.1f} "
            "MB)"
        )
    return Reading(
        f"leaving out the value network saves {_PUBLISHED} of the peak memory (N = {budget}, "
        f"G = {size} for both)",
        f"{_PUBLISHED}, as published for large models",
        f"{'; '.join(shown)}, but for another reason: it scores no outputs of groups with equal "
        "rewards, while a critic's advantages are never 0",
        "reproduced"
        if max(shares) >= _LEAST_PUBLISHED
        else "refuted at this size: activations are most of the memory, and both have them",
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
        "refined: what the published share takes",
    )


def _time(seconds: pd.DataFrame, size: int, budget: int) -> Reading:
    adam = seconds.loc["adamw"]
    ours, theirs = adam.loc[("grpo", size)], adam.loc[("critic", size)]
    parts = adam.dropna(subset=["critic"])
    shares = parts["critic"] / parts["step"]
    shown = [
        f"{_plain(method)}, G = {group}: {share:.0%}" for (method, group), share in shares.items()
    ]
    low, high = shares.min(), shares.max()
    return Reading(
        f"leaving out the value network saves {_PUBLISHED} of the time of a step (N = {budget})",
        "by operations 6 of 14 (sampling 2, policy 6, critic 6 a weight and token), 43 %",
        f"the critic's part of its step: {', '.join(shown)}; GRPO at G = {size} takes "
        f"{1 - ours['step'] / theirs['step']:.0%} less ({1e3 * theirs['step']:.0f} to "
        f"{1e3 * ours['step']:.0f} ms), for it also scores no groups with equal rewards",
        "reproduced"
        if low >= _LEAST_PUBLISHED
        else "refuted"
        if high < _LEAST_PUBLISHED
        else f"refined: {low:.0%} to {high:.0%}, by how many outputs share a prompt",
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
    from scipy import stats  # slow to import

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
    resolved = abs(difference) > stats.t.ppf(0.975, len(paired) - 1) * noise
    shown = ", ".join(
        f"{_plain(name)} {size}: {values.mean():.4f}" for (name, size), values in found.items()
    )
    return Reading(
        f"a critic with one output a prompt learns no faster than GRPO at the same N (n = {last})",
        "a critic of a small enough error beats every group mean of the same N",
        f"accuracy by method and G, {len(paired)} seeds: {shown}; critic over the best GRPO by "
        f"{difference:.4f} ± {noise:.4f} (paired)",
        "not resolved by these seeds"
        if not resolved
        else "refuted"
        if difference > 0
        else "reproduced",
    )


def _plain(method: str) -> str:
    return {"grpo": "GRPO", "critic": "critic", "token_critic": "token critic"}[method]
