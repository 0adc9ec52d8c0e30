"""What the reference tables say about GRPO as it is practised: pure functions of a DataFrame."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments.running.reading import STANDARD_ERRORS, Reading, plain

_SQUARED_ROUNDING = 1e-24
"""A squared relative error below this is rounding."""


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
    largest = max(unbiased["squared_bias"].tolist(), default=np.nan)
    vanishes = largest < _SQUARED_ROUNDING
    slopes = np.array(in_steps + in_rate)
    return Reading(
        "the squared bias of token ratios, and of a K3 penalty on old tokens, grows like m²η²",
        "slopes 2 in η and, as there is none at m = 1, in m − 1, as η → 0; 0 with sequence ratios",
        f"over policies, exact: slope in η {min(in_rate):.2f} … {max(in_rate):.2f}, in m − 1 "
        f"{min(in_steps):.2f} … {max(in_steps):.2f}; sequence ratios "
        f"{'rounding' if vanishes else f'{largest:.0e}'}",
        "refined: (m−1)², with exact constants"
        if np.abs(slopes - 2).max() < 0.1 and vanishes
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
