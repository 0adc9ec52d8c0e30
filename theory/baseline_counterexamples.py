"""Corollary 5 needs its assumption: without it the value is not the best baseline.

**Statement.** In general the best prompt-only baseline is b* = E‖W‖²Z/s = V + m/s (Greensmith,
Bartlett & Baxter 2004). It saves m²/(sG) over the oracle. Vanilla beats the oracle wherever
V²s + 2Vm < 0, that is, for positive rewards, m < −Vs/2; and there it beats GRPO at every G.

**Why.** By Theorem 2 the error is (τ − ‖g‖² + 2(V−b)m + (V−b)²s)/G, a parabola in b whose vertex
is V + m/s and lies m²/(sG) below its value at V. At b = 0 it exceeds the oracle's by
(V²s + 2Vm)/G, and GRPO's error is never below the oracle's.

**When.** A softmax policy that prefers an action gives it a short score, so ‖W‖² is small where the
action is likely. If that action is also the better one, m is negative: Assumption 2 fails as soon
as a policy has learned something. The tug-of-war bandit at its own optimum t = 1 is such a case,
with ordinary 0/1 rewards.
"""

from collections.abc import Iterator

import numpy as np

from theory.baseline_optimality import error_of_constant
from theory.claims import ENUMERATION, Claim, below, equal, refuted
from theory.enumeration import (
    gradient_distribution,
    group_errors,
    minibatch_error,
    outcomes,
    unordered_groups,
)
from theory.problems import random_problem
from ustat_grpo import Grpo, OptimalBaseline, Oracle, Snapshot, TugOfWar, Vanilla

ITEM = "Corollary 5"
TITLE = "without Assumption 2 the value is not the best baseline"


def claims() -> Iterator[Claim]:
    """Yield the best baseline and its gain, then vanilla ahead of oracle and GRPO."""
    yield from _best_baseline(random_problem(4, num_actions=4, dimension=3))
    game = TugOfWar()
    yield from _vanilla_ahead(game.at(game.theta(1.0)))


def _best_baseline(problem: Snapshot) -> Iterator[Claim]:
    moments, possible, size = problem.moments, outcomes(problem, 0), 2
    value, norm = possible.value, float(moments.score_norm_squared[0])
    covariance = float(moments.score_norm_reward_covariance[0])
    at = [error_of_constant(value + shift, possible) for shift in (-1.0, 0.0, 1.0)]
    slope, curvature = (at[2] - at[0]) / 2, at[2] - 2 * at[1] + at[0]
    expected = -2 * covariance / size
    yield equal("the derivative at b = V is −2m/G, not 0", ENUMERATION, expected, slope)
    vertex = value - slope / curvature
    yield equal("the vertex in b is V + m/s", ENUMERATION, value + covariance / norm, vertex)
    yield equal("the vertex is also E‖W‖²Z/s", ENUMERATION, possible.optimal_baseline, vertex)

    oracle, best = (
        gradient_distribution(estimator, possible, group_size=size).error(possible.gradient)
        for estimator in (Oracle(), OptimalBaseline())
    )
    loss = covariance**2 / norm / size
    yield equal("the oracle loses m²/(sG) to the best", ENUMERATION, loss, oracle - best)
    yield refuted("the oracle's error is the least of all prompt-only baselines", oracle, best)


def _vanilla_ahead(problem: Snapshot) -> Iterator[Claim]:
    moments = problem.moments
    value, norm = moments.value, moments.score_norm_squared
    excess = value**2 * norm + 2 * value * moments.score_norm_reward_covariance
    vanilla, oracle = (
        group_errors(estimator, problem, group_size=3) for estimator in (Vanilla(), Oracle())
    )
    statement = "tug-of-war at t = 1: vanilla less oracle is (V²s + 2Vm)/G"
    yield equal(statement, ENUMERATION, excess / 3, vanilla - oracle)
    yield below(
        "tug-of-war at t = 1: vanilla beats the oracle",
        ENUMERATION,
        0.0,
        float((vanilla - oracle)[0]),
    )
    minibatch = [
        minibatch_error(estimator, problem, batch_size=2, group_size=2)
        for estimator in (Oracle(), Vanilla())
    ]
    statement = "tug-of-war at t = 1: vanilla beats the oracle over minibatches too"
    yield below(statement, ENUMERATION, *minibatch)
    yield refuted("the oracle never loses to vanilla", *minibatch)
    gaps = [
        group_errors(Vanilla(), problem, group_size=size, groups=unordered_groups)
        - group_errors(Grpo(), problem, group_size=size, groups=unordered_groups)
        for size in range(2, 17)
    ]
    statement = "tug-of-war at t = 1: vanilla beats GRPO at every G from 2 to 16"
    yield below(statement, ENUMERATION, 0.0, float(np.max(gaps)))
