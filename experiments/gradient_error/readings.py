"""What the measured gradient errors say about the paper's claims."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from experiments.running.reading import STANDARD_ERRORS, Reading, plain

CLOSE = 1.5
"""Ratio of GRPO's error to the oracle's that passes for close; what cannot be told apart is within
`STANDARD_ERRORS` of 1."""


def agreement(data: pd.DataFrame) -> Reading:
    """Compare every measured error with its law, in standard errors."""
    mse, law, std_error = (data[name].to_numpy() for name in ("mse", "law", "std_error"))
    if "law_std_error" in data:  # a law may know E‖W‖² from a sample only
        std_error = np.hypot(std_error, data["law_std_error"].to_numpy())
    z = (mse - law) / std_error
    precision = np.max(std_error / mse)
    worst = np.max(np.abs(z))
    verdict = "reproduced" if worst <= STANDARD_ERRORS else "refuted"
    return Reading(
        f"the exact laws give every measured error ({len(data)} points)",
        f"every z within ±{STANDARD_ERRORS:g}",
        f"largest |z| {worst:.1f}, root mean square {np.sqrt(np.mean(z**2)):.2f}, "
        f"relative std. error ≤ {precision:.1e}",
        verdict,
    )


def order(task: str, data: pd.DataFrame) -> Reading:
    """Is the error of vanilla above GRPO's, and GRPO's above the oracle's, everywhere?"""
    wide = _wide(data, "mse")
    noise = _wide(data, "std_error")
    above = _clearly_above(wide, noise, "vanilla", "grpo")
    below = _clearly_above(wide, noise, "grpo", "vanilla")
    over_oracle = _clearly_above(wide, noise, "grpo", "oracle")
    under_oracle = _clearly_above(wide, noise, "oracle", "grpo")
    best = _clearly_above(wide, noise, "oracle", "vanilla")
    cells = len(wide)
    everywhere = above == cells and best == under_oracle == 0
    return Reading(
        f"{plain(task)}: vanilla > GRPO > oracle at every G and policy",
        f"{cells} of {cells} cells",
        f"vanilla above GRPO in {above}, below it in {below}, and below the oracle in {best} of "
        f"{cells}; GRPO above the oracle in {over_oracle} (differences beyond 2 std. errors)",
        "reproduced" if everywhere else "refuted",
    )


def closeness(task: str, data: pd.DataFrame) -> Reading:
    """How far is GRPO's error from the oracle's at G = 8, 32 and 64?"""
    wide, noise = _wide(data, "mse"), _wide(data, "std_error")
    ratio = wide["grpo"] / wide["oracle"]
    relative = (noise["grpo"] / wide["grpo"]) ** 2 + (noise["oracle"] / wide["oracle"]) ** 2
    std_error = ratio * np.sqrt(relative)
    shown, near = [], True
    for size in (8, 32, 64):
        at_size = ratio.xs(size, level="group_size")
        worst = at_size.idxmax()
        noise_at_size = std_error.xs(size, level="group_size")
        told_apart = (at_size - 1 > STANDARD_ERRORS * noise_at_size).any()
        near &= bool(at_size.max() < CLOSE) and not (size > 8 and bool(told_apart))
        shown.append(f"{at_size.max():.3f} ± {std_error[worst, size]:.3f} at G = {size}")
    return Reading(
        f"{plain(task)}: GRPO close to the oracle from G = 8, indistinguishable at 32–64",
        f"ratio of errors < {CLOSE:g} at G = 8, "
        f"within {STANDARD_ERRORS:g} std. errors of 1 at 32–64",
        f"largest ratio over policies {', '.join(shown)}",
        "reproduced" if near else "refuted",
    )


def decrease(task: str, data: pd.DataFrame) -> Reading:
    """Does the error fall with G, and with the skill of the policy?"""
    wide = _wide(data, "mse")["grpo"].unstack("group_size").loc[data["task"].unique()]
    with_size = bool((np.diff(wide.to_numpy(), axis=1) < 0).all())
    with_skill = bool((np.diff(wide.to_numpy(), axis=0) < 0).all())
    first = wide[wide.columns.min()]
    levels = ", ".join(f"{error:.3g}" for error in first)
    return Reading(
        f"{plain(task)}: the error falls with G and with skill",
        "both",
        f"with G: {'yes' if with_size else 'no'}; with skill: {'yes' if with_skill else 'no'} "
        f"(GRPO at G = {wide.columns.min()}, policies in order: {levels})",
        "reproduced" if with_size and with_skill else "refuted",
    )


def best_group_size(data: pd.DataFrame) -> Reading:
    """Does the measured best group size lie within the interval that the law predicts?"""
    found, inside = [], 0
    panels = list(data.query("estimator == 'grpo'").groupby("task", sort=False))
    for task, rows in panels:
        best = rows.loc[rows["mse"].idxmin()]
        allowed = rows.query("near_optimal_low <= group_size <= near_optimal_high")
        allowed = rows.query("law == law.min()") if allowed.empty else allowed
        inside += bool(best["group_size"] in list(allowed["group_size"]))
        found.append(f"{plain(str(task))}: {best['group_size']} ({best['optimal']:.2f})")
    return Reading(
        "at a fixed budget the measured best divisor lies in the 5 % interval around "
        "G* = 1 + √(c₃/c₁), or is the law's best where the interval holds none",
        f"{len(panels)} of {len(panels)} policies",
        f"{inside} of {len(panels)}; measured (G*): " + "; ".join(found),
        "reproduced" if inside == len(panels) else "refuted",
    )


def _wide(data: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row a (policy, group size), one column an estimator; policies in their own order."""
    wide = data.pivot(index=["task", "group_size"], columns="estimator", values=column)
    return wide.loc[list(dict.fromkeys(zip(data["task"], data["group_size"], strict=True)))]


def _clearly_above(wide: pd.DataFrame, noise: pd.DataFrame, high: str, low: str) -> int:
    """Count the cells in which one error exceeds the other by two standard errors.

    The estimators share their draws, so this unpaired error bar is on the safe side.
    """
    gap = wide[high].to_numpy() - wide[low].to_numpy()
    return int(np.sum(gap > 2 * np.hypot(noise[high].to_numpy(), noise[low].to_numpy())))


def figure_four(errors: pd.DataFrame) -> Iterator[Reading]:
    """Check the three readings of the gradient-error figure on language models.

    The laws are compared: all in them is exact but E‖W‖² of wrong outputs, so their error bars
    are the smallest.
    """
    laws = errors.query("evidence != 'brute force'").drop(columns=["mse", "std_error"])
    laws = laws.rename(columns={"law": "mse", "law_std_error": "std_error"})
    yield order("arithmetic", laws)
    yield closeness("arithmetic", laws)
    yield decrease("arithmetic", laws)


def brute_force(errors: pd.DataFrame) -> Reading:
    """Does back-propagation through whole minibatches give what the pool gives?"""
    cells = ["task", "estimator", "group_size"]
    whole = errors.query("evidence == 'brute force'").set_index(cells)
    pool = errors.query("evidence == 'pool'").set_index(cells).loc[whole.index]
    noise = np.hypot(whole["std_error"], pool["std_error"])
    z = (whole["mse"] - pool["mse"]) / noise
    size = whole.index.get_level_values("group_size")[0]
    return Reading(
        f"errors of whole minibatch gradients (G = {size}, {whole['replications'].iloc[0]} "
        "replicates) are those from the pool",
        "every z within ±4",
        f"{len(z)} cells, largest |z| {np.abs(z).max():.1f}; relative std. error "
        f"{(whole['std_error'] / whole['mse']).median():.0%} against "
        f"{(pool['std_error'] / pool['mse']).median():.1%} from the pool and "
        f"{(pool['law_std_error'] / pool['law']).median():.2%} of the law (medians)",
        "reproduced" if np.abs(z).max() <= 4 else "refuted",
    )


def hard_prompts(data: pd.DataFrame) -> Iterator[Reading]:
    """On which questions does vanilla beat GRPO?"""
    smallest = data["group_size"].min()
    for task, rows in data.query("group_size == @smallest").groupby("task", sort=False):
        hard, easy = rows.query("value < 0.1"), rows.query("value > 0.5")
        never = np.isinf(rows["crossover"]).mean()
        yield Reading(
            f"{plain(str(task))}: GRPO beats vanilla from some G on (Corollary 5), later on hard "
            "questions",
            "at every question; from G = 1/V on under Assumption 2",
            f"never on {never:.0%} of {len(rows)} questions; at G = {smallest} vanilla's error is "
            f"smaller on {(hard['ratio'] > 1).mean():.0%} of the hard (V < 0.1, {len(hard)}) and "
            f"{(easy['ratio'] > 1).mean():.0%} of the easy (V > 0.5, {len(easy)}); wrong outputs "
            f"have {rows['score_norm_ratio'].median():.1f} times the ‖W‖² of the solution (median)",
            "refuted" if never > 0 else "reproduced",
        )


_PRECISE = 0.05
"""Relative standard error from which on measured errors cannot tell GRPO from the oracle."""


def errors(tasks: dict[str, pd.DataFrame]) -> Iterator[Reading]:
    """Do the laws hold for whole episodes, and do the readings of the gradient-error figure?"""
    for task, rows in tasks.items():
        measured = agreement(rows)
        yield replace(measured, claim=f"{plain(task)}: {measured.claim}")
        yield order(task, rows)
        if np.max(rows["std_error"] / rows["mse"]) < _PRECISE:
            yield closeness(task, rows)
