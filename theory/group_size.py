"""Theorem 7, error part: the group size of least error at a fixed budget.

**Statement.** With N = BG outputs a step, GRPO's minibatch error is (c₁G + c₂ + c₃/(G−1))/N. Over
real G > 1 it is least at

    G* = 1 + √(c₃/c₁),

whatever N is, and at any other G it is larger by exactly c₁(G − G*)²/((G−1)N). Always

    c₃ ≥ 2c₁, hence G* ≥ 1 + √2,

so G = 2 is never strictly better than G = 3, and the two tie only if c₃ = 2c₁.

**Why.** Put B = N/G into Proposition 3. With u = G − 1 the part that depends on G is c₁u + c₃/u =
2√(c₁c₃) + (√c₁·u − √c₃)²/u, which gives minimum, minimiser and excess in one line. Without it the
bound: ‖g(x)‖² = ‖E[WA]‖² ≤ E‖W‖²·E A² = sσ² (Cauchy–Schwarz), so c₃ ≥ 2E‖g(X)‖² ≥ 2c₁. Equality
needs W = A·v(x) at every prompt, such as two actions with sure rewards, and g = 0, such
as two prompts that pull in opposite directions. G = 2 exceeds G = 3 by (c₃/2 − c₁)/N.

**Note.** The paper has √(c₃/c₁): its proof replaces G(G−1) by G². Its value is one too small,
whatever the problem, and can fall below 2, where GRPO does not exist.

**Flatness.** The excess is a parabola in log(G − 1) near G*, and a wide one: see the last claims.
"""

from collections.abc import Iterator

import numpy as np
from scipy.optimize import fminbound

from theory.claims import ENUMERATION, IDENTITY, Claim, below, equal, refuted
from theory.enumeration import group_errors, minibatch_error, outcomes, unordered_groups
from theory.problems import random_problem
from ustat_grpo import Grpo, NoiseComponents, Snapshot, TugOfWar
from ustat_grpo.laws import group_size

ITEM = "Theorem 7"
TITLE = "group size of least error"

_DIVISORS = (2, 3, 4, 6, 12)
_OPTIMISER = 1e-6
"""Relative accuracy of a numerical minimiser: about the square root of rounding."""


def claims() -> Iterator[Claim]:
    """Yield the minimiser, the paper's, the bound, and how flat the error is around it."""
    problem = random_problem(11, num_actions=2, num_levels=2, num_prompts=3)
    yield from _at_fixed_budget(problem)
    noise = components_from_enumeration(problem)
    yield from _minimiser(noise)
    yield from _least_group_size()
    yield from _flatness(noise)


def components_from_enumeration(problem: Snapshot) -> NoiseComponents:
    """Solve the enumerated errors of one prompt at G = 2, 3, 4 for c₁, c₂ and c₃."""
    sizes = np.array([2.0, 3.0, 4.0])
    errors = [_single_prompt_error(problem, int(size)) for size in sizes]
    terms = np.stack([np.ones(3), 1 / sizes, 1 / (sizes * (sizes - 1))], axis=-1)
    return NoiseComponents(*np.linalg.solve(terms, errors))


def numerical_minimiser(noise: NoiseComponents, budget: float) -> float:
    """Return the G at which (c₁G + c₂ + c₃/(G−1))/N is least, by golden section and parabolas."""

    def error(log_others: float) -> float:
        others = np.exp(log_others)
        numerator = noise.prompt * (others + 1) + noise.oracle + noise.residual / others
        return float(numerator / budget)

    return 1 + float(np.exp(np.asarray(fminbound(error, -3.0, 9.0, xtol=1e-10))))


def _single_prompt_error(problem: Snapshot, size: int) -> float:
    """E‖ĝ − g‖² with B = 1, by enumeration: the error at a prompt plus that of the prompt."""
    gradients = np.array([outcomes(problem, x).gradient for x in range(len(problem.prompt_probs))])
    deviations = gradients - problem.prompt_probs @ gradients
    errors = group_errors(Grpo(), problem, group_size=size, groups=unordered_groups)
    return float(problem.prompt_probs @ (errors + np.sum(deviations**2, axis=-1)))


def _at_fixed_budget(problem: Snapshot) -> Iterator[Claim]:
    noise, budget = problem.noise, 12
    errors = [_single_prompt_error(problem, size) * size / budget for size in _DIVISORS]
    law = [group_size.error_at_budget(noise, group_size=s, budget=budget) for s in _DIVISORS]
    yield equal("error at N = 12, G = 2, 3, 4, 6, 12", ENUMERATION, law, errors)
    best = _DIVISORS[int(np.argmin(errors))]
    chosen = group_size.best_divisor(noise, budget=budget)
    yield equal("the best divisor of 12", ENUMERATION, chosen, best)


def _minimiser(noise: NoiseComponents) -> Iterator[Claim]:
    best = group_size.optimal(noise)
    small, large = (numerical_minimiser(noise, budget) for budget in (48.0, 49152.0))
    statement = "G* = 1 + √(c₃/c₁), c's solved from enumerated errors"
    yield equal(statement, ENUMERATION, best, small, _OPTIMISER)
    statement = "G* is the same at N = 48 and N = 49152"
    yield equal(statement, ENUMERATION, small, large, _OPTIMISER)
    yield refuted("G* = √(c₃/c₁)", best - 1, small)


def _least_group_size() -> Iterator[Claim]:
    noises = [
        random_problem(seed, num_actions=2 + seed % 3, dimension=1 + seed % 2).noise
        for seed in range(200)
    ]
    largest = max(noise.prompt / noise.residual for noise in noises)
    yield below("c₁/c₃ ≤ ½: the largest in 200 random problems", IDENTITY, 0.5, largest)
    largest = max(_error(noise, 3) / _error(noise, 2) for noise in noises)
    statement = "G = 3 is never worse than G = 2: largest ratio of errors"
    yield below(statement, IDENTITY, 1.0, largest)

    extreme = TugOfWar(signal=1.0, separation=0.0).at([0.0, 0.0])
    noise = components_from_enumeration(extreme)
    ratio = noise.residual / noise.prompt
    yield equal("opposing prompts with sure rewards: c₃/c₁ = 2", ENUMERATION, 2.0, ratio)
    minimiser = numerical_minimiser(noise, 48.0)
    statement = "opposing prompts with sure rewards: G* = 1 + √2, the least there is"
    yield equal(statement, ENUMERATION, 1 + np.sqrt(2), minimiser, _OPTIMISER)
    two, three = (
        minibatch_error(Grpo(), extreme, batch_size=6 // size, group_size=size) for size in (2, 3)
    )
    statement = "opposing prompts with sure rewards: G = 2 and G = 3 tie at N = 6"
    yield equal(statement, ENUMERATION, two, three)
    statement = "opposing prompts with sure rewards: the paper's √(c₃/c₁) is below 2"
    yield below(statement, ENUMERATION, 2.0, float(np.sqrt(ratio)))


def _flatness(noise: NoiseComponents) -> Iterator[Claim]:
    best = group_size.optimal(noise)
    sizes = np.array([2.0, 3.0, 8.0, 64.0])
    excess = [_error(noise, size) - _error(noise, best) for size in sizes]
    predicted = noise.prompt * (sizes - best) ** 2 / (sizes - 1)
    statement = "excess over the least error: c₁(G−G*)²/((G−1)N)"
    yield equal(statement, IDENTITY, predicted, excess)
    low, high = group_size.near_optimal(noise, tolerance=0.05)
    ratios = [_error(noise, size) / _error(noise, best) for size in (low, high)]
    yield equal("both ends of the 5 % interval cost 5 %", IDENTITY, [1.05, 1.05], ratios)
    symmetric = (low - 1) * (high - 1)
    statement = "the interval is symmetric in log(G−1)"
    yield equal(statement, IDENTITY, (best - 1) ** 2, symmetric)

    flat = NoiseComponents(prompt=1.0, oracle=31.0**2, residual=31.0**2)
    for size, per_cent in ((8, 8), (128, 7)):
        cost = _error(flat, size) / _error(flat, group_size.optimal(flat)) - 1
        predicted = (size - 32) ** 2 / ((size - 1) * (32 + 31**2 + 31))
        statement = f"G* = 32, c₂ = c₃: G = {size} costs about {per_cent} % more"
        yield equal(statement, IDENTITY, predicted, cost)


def _error(noise: NoiseComponents, size: float) -> float:
    return group_size.error_at_budget(noise, group_size=size, budget=1)
