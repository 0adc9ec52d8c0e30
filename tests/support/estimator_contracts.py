"""What is promised of every public estimator: its formula in loops, and how it behaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

import ustat_grpo
from support.estimator_formulas import (
    HISTORY,
    Formula,
    algorithm_2,
    batch_std,
    best,
    by_group,
    empirical_bayes,
    hit_scaled,
    james_stein,
    mean,
    mean_of_others,
    pass_at_2,
    sign,
    singletons_kept,
    standardised,
    weighted_mean_of_others,
    whitened,
    with_baseline,
    without_equal_groups,
)
from ustat_grpo import (
    BatchStdNormalised,
    BestOfGroup,
    ConstantBaseline,
    Critic,
    DropEqualGroups,
    EmpiricalBayes,
    Estimator,
    GreedyBaseline,
    GroupMean,
    Grpo,
    HitScaled,
    JamesStein,
    KeepSingletons,
    LeaveOneOutNormalised,
    LengthWeightedMean,
    OptimalBaseline,
    Oracle,
    PassAtK,
    RunningRewards,
    ScoreWeightedMean,
    Shrinkage,
    SideInformation,
    Sign,
    StdNormalised,
    Vanilla,
    Whitened,
    gradient,
)

PER_OUTPUT = ("score_norm_squared", "lengths")


class Contract(NamedTuple):
    """What is promised of an estimator.

    Args:
        make: the estimator, its constants moved along with rewards c·Z + a: (c, a) -> estimator.
        formula: (scorable rewards of each group of a batch, what is known of each group: a number,
            or one for each output) -> advantages.
        refuses: group sizes that are too small.
        reads: the side information that it must be given.
        optional: whether it may do without.
        batch: whether it looks at a whole batch.
        degree: advantages of c·Z are those of Z times c to this power.
        shift_invariant: whether moving rewards, constants and side information changes nothing;
            None if neither that nor moving the advantages along.
        mean_factor: G -> what multiplies g(x) in the mean of the gradient; None if nothing does.
        rewards: any, lattice (it compares them, so that rounding matters) or binary.
    """

    make: Callable[[float, float], Estimator]
    formula: Formula
    refuses: tuple[int, ...] = ()
    reads: str | None = None
    optional: bool = False
    batch: bool = False
    degree: int = 1
    shift_invariant: bool | None = True
    mean_factor: Callable[[int], float] | None = lambda group_size: 1.0
    rewards: str = "any"


PAIR = (0, 1)
CONTRACTS = {
    "Vanilla": Contract(
        lambda c, a: Vanilla(), with_baseline(lambda z, i, side: 0.0), shift_invariant=False
    ),
    "Oracle": Contract(
        lambda c, a: Oracle(), with_baseline(lambda z, i, side: side), reads="value"
    ),
    "OptimalBaseline": Contract(
        lambda c, a: OptimalBaseline(),
        with_baseline(lambda z, i, side: side),
        reads="optimal_baseline",
    ),
    "GreedyBaseline": Contract(
        lambda c, a: GreedyBaseline(),
        with_baseline(lambda z, i, side: side),
        reads="greedy_reward",
    ),
    "Critic": Contract(
        lambda c, a: Critic(), with_baseline(lambda z, i, side: side), reads="prediction"
    ),
    "Grpo": Contract(lambda c, a: Grpo(), with_baseline(mean_of_others), PAIR),
    "GroupMean": Contract(
        lambda c, a: GroupMean(),
        with_baseline(lambda z, i, side: mean(z)),
        PAIR,
        mean_factor=lambda group_size: 1 - 1 / group_size,
    ),
    "ConstantBaseline": Contract(
        lambda c, a: ConstantBaseline(0.3 * c + a), with_baseline(lambda z, i, side: 0.3)
    ),
    "Shrinkage": Contract(
        lambda c, a: Shrinkage(0.4, 0.2 * c + a),
        with_baseline(lambda z, i, side: 0.6 * mean_of_others(z, i) + 0.08),
        PAIR,
    ),
    "StdNormalised": Contract(
        lambda c, a: StdNormalised(0.1 * c),
        by_group(standardised),
        PAIR,
        degree=0,
        mean_factor=None,
        rewards="lattice",
    ),
    "LeaveOneOutNormalised": Contract(
        lambda c, a: LeaveOneOutNormalised(0.1 * c, ddof=0),
        by_group(algorithm_2),
        PAIR,
        degree=0,
        mean_factor=None,
        rewards="lattice",
    ),
    "Sign": Contract(
        lambda c, a: Sign(), by_group(sign), PAIR, degree=0, mean_factor=None, rewards="lattice"
    ),
    "ScoreWeightedMean": Contract(
        lambda c, a: ScoreWeightedMean(),
        with_baseline(weighted_mean_of_others),
        PAIR,
        reads="score_norm_squared",
    ),
    "LengthWeightedMean": Contract(
        lambda c, a: LengthWeightedMean(),
        with_baseline(lambda z, i, w: float(np.average(z, weights=w))),
        PAIR,
        reads="lengths",
        mean_factor=None,
    ),
    "EmpiricalBayes": Contract(
        lambda c, a: EmpiricalBayes(RunningRewards().updated(c * HISTORY + a)),
        by_group(empirical_bayes),
        PAIR,
    ),
    "PassAtK": Contract(
        lambda c, a: PassAtK(2),
        by_group(pass_at_2),
        PAIR,
        mean_factor=None,
        rewards="binary",
    ),
    "BestOfGroup": Contract(
        lambda c, a: BestOfGroup(0.1 * c),
        by_group(best),
        PAIR,
        degree=0,
        mean_factor=None,
        rewards="lattice",
    ),
    "KeepSingletons": Contract(
        lambda c, a: KeepSingletons(Shrinkage(0.4, 0.2 * c + a), 0.1),
        by_group(singletons_kept),
        (0,),
    ),
    "BatchStdNormalised": Contract(
        lambda c, a: BatchStdNormalised(0.1 * c),
        batch_std,
        PAIR,
        batch=True,
        mean_factor=None,
        degree=0,
        rewards="lattice",
    ),
    "Whitened": Contract(
        lambda c, a: Whitened(GroupMean(), 0.01 * c**2),
        whitened,
        PAIR,
        reads="lengths",
        optional=True,
        batch=True,
        mean_factor=None,
        degree=0,
        rewards="lattice",
    ),
    "HitScaled": Contract(
        lambda c, a: HitScaled(GroupMean()),
        hit_scaled,
        PAIR,
        batch=True,
        shift_invariant=None,
        mean_factor=None,
    ),
    "DropEqualGroups": Contract(
        lambda c, a: DropEqualGroups(Shrinkage(0.4, 0.2 * c + a)),
        without_equal_groups,
        PAIR,
        batch=True,
        mean_factor=None,
        rewards="lattice",
    ),
    "JamesStein": Contract(lambda c, a: JamesStein(0.01 * c**2), james_stein, PAIR, batch=True),
}
DTYPES = [np.float32, np.float64]
"""What estimators compute in; `test_estimators_precision.py` has those that they are given, too."""

PUBLIC = [
    name
    for name, thing in ((name, getattr(ustat_grpo, name)) for name in ustat_grpo.__all__)
    if isinstance(thing, type)
    and hasattr(thing, "advantages")
    and not getattr(thing, "_is_protocol", False)
]


def rewards_with_gaps(name: str, rng: np.random.Generator) -> np.ndarray:
    """Two by three groups of 5: complete, with one, two, three, four and five rewards missing."""
    rewards = suited(name, rng.normal(size=(2, 3, 5)))
    for missing, group in enumerate(np.ndindex(2, 3)):
        rewards[group][rng.permutation(5)[:missing]] = np.nan
    return rewards


def suited(name: str, rewards: np.ndarray) -> np.ndarray:
    """Rewards that the estimator takes, and that rounding cannot reorder."""
    match CONTRACTS[name].rewards:
        case "binary":
            return np.where(np.isnan(rewards), rewards, rewards > 0)
        case "lattice":
            return np.round(4 * rewards) / 4
    return rewards


def weights_of(rewards: Any) -> np.ndarray:
    """Weights in [0.5, 2.5] that look at the reward, so that they follow an output around."""
    return 1.5 + np.sin(7 * np.asarray(rewards, dtype=float))


def side_of(name: str, rewards: Any, side: Any, weights: Any = None) -> SideInformation:
    reads = CONTRACTS[name].reads
    if reads in PER_OUTPUT:
        weights = weights_of(rewards) if weights is None else weights
        side = torch.as_tensor(weights) if isinstance(rewards, torch.Tensor) else weights
    return SideInformation(**({reads: side} if reads else {}))


def advantages(
    name: str, rewards: Any, side: Any = 0.7, c: float = 1.0, a: float = 0.0, weights: Any = None
) -> Any:
    """Apply the estimator `name`, fitted to rewards c·Z + a, with the side information it reads.

    A lone group is handed to an estimator that looks at batches as a batch of one.
    """
    if CONTRACTS[name].batch and rewards.ndim == 1:
        weights = weights if weights is None else weights[None]
        return advantages(name, rewards[None], side, c, a, weights)[0]
    known = side_of(name, rewards, side, weights)
    return CONTRACTS[name].make(c, a).advantages(rewards, known)


def grouped_gradient(name: str, scores: Any, rewards: Any, side: Any = 0.7) -> Any:
    if CONTRACTS[name].batch and rewards.ndim == 1:
        return grouped_gradient(name, scores[None], rewards[None], side)[0]
    known = side_of(name, rewards, side)
    return gradient(CONTRACTS[name].make(1, 0), scores, rewards, known)


def by_formula(name: str, rewards: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Advantages (..., B, G) by explicit loops; NaN rewards are left out."""
    result = np.zeros(rewards.shape)
    for batch in np.ndindex(rewards.shape[:-2]):
        scored = ~np.isnan(rewards[batch])
        rows = [list(map(float, z[m])) for z, m in zip(rewards[batch], scored, strict=True)]
        known = list(side[batch])
        if CONTRACTS[name].reads in PER_OUTPUT:
            known = [list(weights_of(z)) for z in rows]
        for b, row in enumerate(CONTRACTS[name].formula(rows, known)):
            result[batch][b, scored[b]] = row
    return result
