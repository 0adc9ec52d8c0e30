"""Corollary 5: under Assumption 2 the value is the best baseline that ignores the outputs.

**Statement.** If ‖W‖² and Z are uncorrelated given x (m = 0), then for every prompt-only baseline b

    MSE_b − MSE_oracle = (V − b)²s/G ≥ 0,

so the oracle is best, vanilla is worse by V²s/G, and GRPO, whose error has the oracle's leading
term, beats every b ≠ V once G is large enough: for G − 1 > (sσ² + ‖g‖²)/((V − b)²s).

**Why.** Theorem 2 with m = 0; the error is a parabola in b with its vertex at V. For GRPO subtract
the second line of Theorem 2 from the first.

**Note.** "Large enough" is not for every G, and m = 0 cannot be dropped: see the chapters
`vanilla_crossover` and `baseline_counterexamples`.
"""

from collections.abc import Iterator

import numpy as np

from theory.claims import ENUMERATION, Claim, below, equal
from theory.enumeration import Outcomes, gradient_distribution, outcomes
from theory.problems import REWARD_LEVELS
from ustat_grpo import ConstantBaseline, Grpo, Oracle, Snapshot, SoftmaxBandit, Vanilla

ITEM = "Corollary 5"
TITLE = "under Assumption 2 the value is the best baseline"

_CORNERS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])


def claims() -> Iterator[Claim]:
    """Yield the parabola in b, its vertex, and who beats whom."""
    problem = equal_norms()
    moments, possible = problem.moments, outcomes(problem, 0)
    value, norm = possible.value, float(moments.score_norm_squared[0])
    covariance = float(moments.score_norm_reward_covariance[0])
    yield equal("Assumption 2 holds here: m = 0", ENUMERATION, 0.0, covariance)

    oracle = gradient_distribution(Oracle(), possible, group_size=2).error(possible.gradient)
    grid = np.linspace(min(REWARD_LEVELS), max(REWARD_LEVELS), 61)
    errors = np.array([error_of_constant(baseline, possible) for baseline in grid])
    predicted = oracle + (value - grid) ** 2 * norm / 2
    yield equal("error of 61 constants b: the oracle's + (V−b)²s/G", ENUMERATION, predicted, errors)
    nearest = float(grid[np.argmin(np.abs(grid - value))])
    best = float(grid[np.argmin(errors)])
    yield equal("the best of them is the one nearest to V", ENUMERATION, nearest, best)
    slope = error_of_constant(value + 0.5, possible) - error_of_constant(value - 0.5, possible)
    yield equal("the derivative at b = V is zero", ENUMERATION, 0.0, slope)

    vanilla = gradient_distribution(Vanilla(), possible, group_size=2).error(possible.gradient)
    yield below("the oracle beats vanilla strictly", ENUMERATION, vanilla, oracle)
    loss = value**2 * norm / 2
    yield equal("vanilla is worse by V²s/G", ENUMERATION, loss, vanilla - oracle)
    yield from _group_mean_against_constants(problem, possible)


def equal_norms() -> Snapshot:
    """Return one prompt whose four equally likely actions have scores of one length."""
    rng = np.random.default_rng(8)
    reward_probs = rng.dirichlet(np.ones(3), size=(1, 4))
    return SoftmaxBandit(_CORNERS[None], np.array(REWARD_LEVELS), reward_probs).at([0.0, 0.0])


def error_of_constant(baseline: float, possible: Outcomes, group_size: int = 2) -> float:
    """Return the enumerated error of a constant baseline at one prompt."""
    estimator = ConstantBaseline(float(baseline))
    distribution = gradient_distribution(estimator, possible, group_size=group_size)
    return distribution.error(possible.gradient)


def _group_mean_against_constants(problem: Snapshot, possible: Outcomes) -> Iterator[Claim]:
    moments = problem.moments
    norm, residual = moments.score_norm_squared[0], moments.residual_norm_squared[0]
    distance = float(np.sqrt(residual / norm / 2.5))  # then the group mean wins from G = 4 on
    for size, grpo_wins in ((4, True), (3, False)):
        grpo = gradient_distribution(Grpo(), possible, group_size=size).error(possible.gradient)
        constant = error_of_constant(possible.value + distance, possible, size)
        sides = (constant, grpo) if grpo_wins else (grpo, constant)
        winner = "GRPO beats" if grpo_wins else "before that, GRPO loses to"
        statement = f"{winner} b = V + {distance:.2f} at G = {size} (predicted: from 3.5 on)"
        yield below(statement, ENUMERATION, *sides)
