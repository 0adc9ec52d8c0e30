"""What the table of all advantage estimators says: pure functions of a DataFrame."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments.running.reading import STANDARD_ERRORS, Reading, plain

_NOT_RANKED = (
    "oracle", "optimal_baseline", "critic", "dr_grpo", "grpo_verl", "grpo_openrlhf", "grpo_paper",
)  # fmt: skip
"""They know V or b*, or come with an error of our choice; or are a multiple of another one."""

_AIMED = 10.0
"""Degrees off the gradient up to which an estimator is still one of it."""

_EXACT = 1e-10

_POINT = ["task", "group_size"]


def estimator_zoo(data: pd.DataFrame) -> Iterator[Reading]:
    """Say who is unbiased, who points where the gradient points, and who is least noisy."""
    one_prompt = data["task"].str.startswith("success_probability")
    policies = data.loc[~one_prompt]
    yield _unbiased(policies)
    yield _direction(policies)
    yield _distortion(policies)
    yield _epsilon(data)
    yield _against(policies, "grpo_trl", "rloo", "std normalisation lowers the noise of RLOO")
    yield _dynamic_sampling(policies)
    for name, claim in (
        ("remax", "the greedy output is a better baseline than the group, for its price"),
        ("score_weighted", "weights ‖W‖² make the leave-one-out mean a better baseline"),
        ("james_stein", "shrinking toward the batch makes it a better baseline"),
        ("reinforce_pp", "REINFORCE++ (batch mean and std) is less noisy than RLOO"),
    ):
        yield _against(policies, name, "rloo", claim)
    yield from _rankings(policies)


def _zero(data: pd.DataFrame, column: str) -> pd.DataFrame:
    """By estimator: whether a squared quantity is 0 in every row, exactly or as far as is seen."""
    bound = STANDARD_ERRORS * data[f"{column}_std_error"] + _EXACT
    zero = data.assign(zero=data[column].abs() <= bound)
    return zero.groupby("estimator", sort=False).agg({"zero": "all", "evidence": "first"})


def _members(table: pd.DataFrame) -> str:
    """List the estimators for which something holds, by evidence."""
    held = table.loc[table["zero"]]
    exact = [plain(str(name)) for name in held.index[held["evidence"] == "law"]]
    seen = [plain(str(name)) for name in held.index[held["evidence"] != "law"]]
    return f"exactly: {', '.join(exact)}; not told apart: {', '.join(seen) or 'none'}"


def _unbiased(data: pd.DataFrame) -> Reading:
    found = _zero(data, "squared_bias")
    return Reading(
        f"unbiased estimators, of {len(found)}",
        "those whose baseline does not look at the output's own reward",
        _members(found),
        "quantified",
    )


def _direction(data: pd.DataFrame) -> Reading:
    several = data.loc[~data["task"].str.startswith("tug_of_war")]  # all of g(x) along one line
    found = _zero(several, "squared_sine")
    return Reading(
        "estimators whose mean points along ∇J at every G",
        "the unbiased ones and their multiples; batch normalisation up to O(1/B)",
        _members(found),
        "quantified",
    )


def _distortion(data: pd.DataFrame) -> Reading:
    several = data.loc[~data["task"].str.startswith("tug_of_war")]
    rows = several.loc[several["estimator"] == "grpo_trl"]
    degrees = {
        int(str(size)): np.degrees(np.arcsin(np.sqrt(np.maximum(part["squared_sine"], 0.0))))
        for size, part in rows.groupby("group_size")
    }
    shown = [
        f"G = {size}: {min(angles):.1f}°…{max(angles):.1f}°" for size, angles in degrees.items()
    ]
    pairs, most = max(degrees[min(degrees)]), max(max(angles) for angles in degrees.values())
    return Reading(
        "std normalisation turns the mean gradient",
        "by nothing at G = 2, more and more as φ_G nears 1/√(p(1−p))",
        f"angle to ∇J over policies, {', '.join(shown)}",
        "reproduced" if pairs < 0.01 < most else "refuted",
    )


def _epsilon(data: pd.DataFrame) -> Reading:
    """Compare the rows that differ by ε alone."""
    wide = data.pivot(index=_POINT, columns="estimator", values="scale_free_error")
    ours = wide[["grpo_trl", "grpo_verl", "grpo_openrlhf"]].to_numpy()
    spread = float(np.max(ours.max(axis=1) / ours.min(axis=1) - 1))
    return Reading(
        "the ε of TRL, verl and OpenRLHF (1e-4, 1e-6, 1e-9) makes no difference to 0/1 rewards",
        "std is at least 1/√G where it is not 0",
        f"errors differ by at most {spread:.1e} of themselves in {len(wide)} cells, exactly",
        "reproduced" if spread < 0.01 else "refuted",
    )


def _ratios(data: pd.DataFrame, name: str, other: str) -> pd.DataFrame:
    """The error of one estimator over that of another at equal cost, with its standard error."""
    ours, theirs = (data.loc[data["estimator"] == each].set_index(_POINT) for each in (name, other))
    theirs = theirs.loc[ours.index]
    ratio = ours["relative_error"] / theirs["relative_error"]
    noise = ours["relative_error_std_error"] / theirs["relative_error"]
    return pd.DataFrame({"ratio": ratio, "noise": noise})


def _against(data: pd.DataFrame, name: str, other: str, claim: str) -> Reading:
    """Count the cells in which an estimator is less noisy than another."""
    found = _ratios(data, name, other)
    margin = STANDARD_ERRORS * found["noise"] + _EXACT
    below, above = 1 - margin - found["ratio"], found["ratio"] - 1 - margin
    less, more = np.sum(below > 0), np.sum(above > 0)
    sizes = found.groupby("group_size")["ratio"]
    shown = [f"G = {size}: {part.min():.2f}…{part.max():.2f}" for size, part in sizes]
    return Reading(
        f"{claim} (tr Var/‖mean‖² at equal cost)",
        f"in {len(found)} cells of policy and G",
        f"less in {less}, more in {more}, the same or not told apart in "
        f"{len(found) - less - more}; ratio of errors over policies, {', '.join(shown)}",
        "reproduced"
        if less == len(found)
        else "refuted"
        if more == len(found)
        else "depends on policy and G",
    )


def _dynamic_sampling(data: pd.DataFrame) -> Reading:
    """Compare dynamic sampling with GRPO on as many sampled outputs."""
    found = _ratios(data, "dynamic_sampling", "grpo_trl")["ratio"].to_numpy()
    rows = data.loc[data["estimator"] == "dynamic_sampling"].set_index(_POINT)
    cost, dead = rows["cost"], rows["dead_groups"]
    return Reading(
        "dynamic sampling is less noisy than GRPO on as many sampled outputs",
        "always: of one sampled group by 1/q − 1, q the share of groups kept, since the number of "
        "groups that count is no longer left to chance",
        f"ratio of errors {found.min():.3f}…{found.max():.4f} in {len(found)} cells, for "
        f"{cost.min():.2f}…{cost.max():.2f} groups sampled a kept one ({dead.min():.1%}…"
        f"{dead.max():.0%} dead)",
        "reproduced" if found.max() <= 1 + _EXACT else "refuted",
    )


def _rankings(data: pd.DataFrame) -> Iterator[Reading]:
    """Name the least noisy estimators at the smallest, a middle and the largest G."""
    aimed = data["squared_sine"] < np.sin(np.radians(_AIMED)) ** 2
    usable = data.loc[aimed & ~data["estimator"].isin(_NOT_RANKED)]
    sizes = sorted(set(usable["group_size"]))
    for task, rows in usable.groupby(usable["task"].str.split(":").str[0], sort=False):
        shown = []
        for size in dict.fromkeys((sizes[0], sizes[len(sizes) // 2], sizes[-1])):
            for panel, part in rows.loc[rows["group_size"] == size].groupby("task", sort=False):
                best = part.sort_values("relative_error").head(3)
                names = [
                    f"{plain(str(name))} {error:.2f}"
                    for name, error in zip(best["estimator"], best["relative_error"], strict=True)
                ]
                shown.append(f"G = {size}, {str(panel).split(': ')[1]}: {', '.join(names)}")
        yield Reading(
            f"{plain(str(task))}: the three least noisy estimators that can be had, of those "
            f"whose mean is within {_AIMED:g}° of ∇J",
            "error at equal cost, of the oracle's",
            "; ".join(shown),
            "quantified",
        )
