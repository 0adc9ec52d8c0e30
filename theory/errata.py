"""Three slips in the paper's algebra, each decided by a number.

**Cross term.** Expanding ‖W‖²(A + V − b)² gives ‖W‖²A² + 2(V−b)‖W‖²A + (V−b)²‖W‖². Display (24)
has the middle term once. Under Assumption 2 it vanishes and no result changes; without it the
difference is (V−b)m/G.

**Discriminant.** The contraction factor of Lemma 6, ρ(β) = Lμβ² − 2μβ + 1, has discriminant
4μ² − 4Lμ, not μ² − 4Lμ. Since μ ≤ L it is never positive, so ρ ≥ 0, and it is zero at μ = L: there
β = 1/L contracts all the way, ρ = 0, as it should for a quadratic. The slip would make it −3μ² and
deny that root.

**Minimum at N = nBG.** With n iterations in the budget, c₁/B + c₂/(BG) + c₃/(BG²) at B = N/(nG) is
n(c₁G + c₂ + c₃/G)/N. At G = √(c₃/c₁) the first and last terms are 2n√(c₁c₃)/N, linear in n: the
paper has √n there. The minimiser is not affected.
"""

from collections.abc import Iterator

import numpy as np
from scipy.optimize import fminbound

from theory.baseline_optimality import error_of_constant
from theory.claims import ENUMERATION, IDENTITY, Claim, equal, refuted
from theory.enumeration import gradient_distribution, outcomes
from theory.problems import random_problem
from ustat_grpo import Oracle

ITEM = "Errata"
TITLE = "three slips in the paper's algebra"


def claims() -> Iterator[Claim]:
    """Yield each correction and the refutation of what it corrects."""
    yield from _cross_term()
    yield from _discriminant()
    yield from _minimum()


def _cross_term() -> Iterator[Claim]:
    problem, size = random_problem(4, num_actions=4, dimension=3), 2
    moments, possible = problem.moments, outcomes(problem, 0)
    shift, norm = 0.7, float(moments.score_norm_squared[0])
    covariance = float(moments.score_norm_reward_covariance[0])
    oracle = gradient_distribution(Oracle(), possible, group_size=size).error(possible.gradient)
    truth = error_of_constant(possible.value - shift, possible, size)
    once = oracle + (shift * covariance + shift**2 * norm) / size
    twice = once + shift * covariance / size
    yield equal("cross term 2(V−b)m, m ≠ 0", ENUMERATION, twice, truth)
    yield refuted("cross term (V−b)m", once, truth)
    off_by = shift * covariance / size
    yield equal("the cross term taken once is off by (V−b)m/G", ENUMERATION, off_by, truth - once)


def _discriminant() -> Iterator[Claim]:
    for strong, smooth in ((0.2, 1.3), (0.5, 0.5)):  # μ and L; second, μ = L
        roots = np.roots([smooth * strong, -2 * strong, 1.0])
        spread = float((((roots[0] - roots[1]) * smooth * strong) ** 2).real)
        expected, slip = 4 * strong**2 - 4 * smooth * strong, strong**2 - 4 * smooth * strong
        case = f"μ = {strong}, L = {smooth}"
        yield equal(f"{case}: discriminant 4μ² − 4Lμ, from the roots", IDENTITY, expected, spread)
        yield refuted(f"{case}: discriminant μ² − 4Lμ", slip, spread)
    least = float(np.polyval([smooth * strong, -2 * strong, 1.0], 1 / smooth))
    yield equal("μ = L: the double root is β = 1/L, where ρ = 0", IDENTITY, 0.0, least)


def _minimum() -> Iterator[Claim]:
    prompt, oracle, residual, budget, iterations = 0.3, 1.1, 7.0, 9600.0, 25

    def error(size: float) -> float:
        batch_size = budget / (iterations * size)
        return prompt / batch_size + (oracle + residual / size) / (batch_size * size)

    minimiser = np.asarray(fminbound(error, 1.0, 100.0, xtol=1e-9))
    least = error(float(minimiser)) - iterations * oracle / budget
    root = np.sqrt(prompt * residual)
    expected = 2 * iterations * root / budget
    yield equal("minimum 2n√(c₁c₃)/N + nc₂/N at N = nBG", IDENTITY, expected, least)
    yield refuted("minimum 2√(c₁c₃n)/N", float(2 * root * np.sqrt(iterations) / budget), least)
