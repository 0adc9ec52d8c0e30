"""Theorem 2: the error of a group's gradient, to the last term.

**Statement.** At one prompt let A = Z − V, s = E‖W‖², σ² = Var Z, τ = E‖W‖²A², m = E‖W‖²A and
g = E[WA]. The mean squared error E‖ĝ − g‖² of a group of G outputs is

    GRPO                    (τ − ‖g‖²)/G + (sσ² + ‖g‖²)/(G(G−1))
    baseline b(x)           (τ + 2(V−b)m + (V−b)²s − ‖g‖²)/G        oracle b = V, vanilla b = 0
    group mean              ((G−1)/G)²·MSE_GRPO + ‖g‖²/G²
    (1−λ)Z̄⁽⁻ⁱ⁾ + λc         that of b = V + λ(c−V), plus (1−λ)²(sσ² + ‖g‖²)/(G(G−1)).

Only finite second moments are needed. The paper has the first line up to O(E‖W‖²/G²).

**Why.** *Baseline b(x):* ĝ is a mean of G independent copies of W(A + V − b), whose second moment
is τ + 2(V−b)m + (V−b)²s and whose mean is g because E W = 0. *GRPO:* by Lemma 1 ĝ is the oracle's
gradient plus 2/(G(G−1)) Σ_{i<j} ζ₂(i, j). Since E[ζ₂(i, j)∣i] = 0, its terms are uncorrelated
with one another and with anything that depends on one output at a time. There are G(G−1)/2 of
them, so they add 2·tr Var ζ₂/(G(G−1)) = (sσ² + ‖g‖²)/(G(G−1)). *Shrinkage:* (1−λ) times GRPO plus λ
times the baseline c, so the first-order parts add to the baseline V + λ(c−V) and the degenerate
part is scaled by 1−λ. *Group mean:* it is (1 − 1/G) times GRPO, hence biased by −g/G.

**Note.** ‖g‖² ≤ sσ² (Cauchy–Schwarz), so the second term is at most 2sσ²/(G(G−1)): the constant
hidden in the paper's O is 2·Var Z, up to G/(G−1).
"""

from collections.abc import Callable, Iterator

import numpy as np

from theory.claims import (
    ENUMERATION,
    Claim,
    below,
    equal,
    limiting_slope,
    rate,
    refuted,
    simulated,
)
from theory.enumeration import group_errors, group_means, outcomes, unordered_groups
from theory.problems import random_problem, small_problems, two_actions
from ustat_grpo import (
    ConstantBaseline,
    Estimator,
    GroupMean,
    Grpo,
    Moments,
    OptimalBaseline,
    Oracle,
    Shrinkage,
    Vanilla,
    gradient,
)
from ustat_grpo.laws import mse

ITEM = "Theorem 2"
TITLE = "the error of a group's gradient, to the last term"

Law = Callable[[Moments, int], np.ndarray]

CASES: dict[str, tuple[Estimator, Law]] = {
    "vanilla": (Vanilla(), lambda x, size: mse.vanilla(x, group_size=size)),
    "oracle": (Oracle(), lambda x, size: mse.oracle(x, group_size=size)),
    "GRPO": (Grpo(), lambda x, size: mse.grpo(x, group_size=size)),
    "group mean": (GroupMean(), lambda x, size: mse.group_mean(x, group_size=size)),
    "constant baseline 0.3": (
        ConstantBaseline(0.3),
        lambda x, size: mse.constant_baseline(x, group_size=size, baseline=0.3),
    ),
    "optimal baseline": (
        OptimalBaseline(),
        lambda x, size: mse.optimal_baseline(x, group_size=size),
    ),
    "shrinkage 0.4 toward −0.7": (
        Shrinkage(0.4, -0.7),
        lambda x, size: mse.shrinkage(x, group_size=size, weight=0.4, target=-0.7),
    ),
}
"""Every estimator of the library beside its law."""

GROUP_SIZES = (2, 3, 4)
_DOUBLINGS = (8, 16, 32, 64)


def claims() -> Iterator[Claim]:
    """Yield errors, means, orders in 1/G, and what the neighbouring formulas would say."""
    problems = small_problems()
    covariances = [problem.moments.score_norm_reward_covariance for problem in problems]
    smallest = float(np.abs(np.concatenate(covariances)).min())
    yield refuted("m = 0 (Assumption 2) at some prompt of these problems", 0.0, smallest)
    for name, (estimator, law) in CASES.items():
        pairs = [
            (law(problem.moments, size), group_errors(estimator, problem, group_size=size))
            for problem in problems
            for size in GROUP_SIZES
        ]
        expected, obtained = (np.concatenate(side) for side in zip(*pairs, strict=True))
        yield equal(f"{name}: error of every problem, G = 2, 3, 4", ENUMERATION, expected, obtained)
    yield from _means()
    yield from _orders()
    yield from _wrong_formulas()
    yield from _beyond_enumeration()


def _means() -> Iterator[Claim]:
    problem = random_problem(3, num_actions=4)
    for name, (estimator, _) in CASES.items():
        means, gradients = group_means(estimator, problem, group_size=3)
        if isinstance(estimator, GroupMean):
            gain = mse.group_mean_gain(3)
            yield equal(f"{name}: E ĝ = ⅔g at G = 3", ENUMERATION, gain * gradients, means)
        else:
            yield equal(f"{name}: E ĝ = g", ENUMERATION, gradients, means)


def _orders() -> Iterator[Claim]:
    """Enumerated, not from the law: with three outcomes a group of 64 is no obstacle."""
    problem = two_actions(0.3, [0.2, 1.0])
    errors = {
        estimator: np.concatenate(
            [
                group_errors(estimator, problem, group_size=size, groups=unordered_groups)
                for size in _DOUBLINGS
            ]
        )
        for estimator in (Grpo(), Oracle())
    }
    total = limiting_slope(_DOUBLINGS, errors[Grpo()])
    extra = limiting_slope(_DOUBLINGS, errors[Grpo()] - errors[Oracle()])
    yield rate("GRPO's error falls like G⁻¹", -1.0, *total, wrong=-2.0)
    yield rate("what it adds to the oracle's falls like G⁻² (not G⁻¹)", -2.0, *extra, wrong=-1.0)
    yield rate("what it adds to the oracle's falls like G⁻² (not G⁻³)", -2.0, *extra, wrong=-3.0)


def _wrong_formulas() -> Iterator[Claim]:
    problem, size = two_actions(0.3, [0.2, 1.0]), 3
    moments = problem.moments
    truth = float(group_errors(Grpo(), problem, group_size=size)[0])
    law = float(mse.grpo(moments, group_size=size)[0])
    residual = float(moments.residual_norm_squared[0])
    norm = float(moments.gradient_norm_squared[0])
    leading = float(moments.oracle_norm_squared[0]) - norm
    wrong = leading / size + residual / size**2
    yield refuted("second term over G² in place of G(G−1)", wrong, truth)
    wrong = leading / (size - 1) + residual / (size * (size - 1))
    yield refuted("leading term over G−1 in place of G", wrong, truth)
    yield refuted("second term without ‖g‖²", law - norm / (size * (size - 1)), truth)
    yield refuted("leading term without −‖g‖²", law + norm / size, truth)


def _beyond_enumeration() -> Iterator[Claim]:
    """Twelve outcomes in groups of 16: too many to list, so draw."""
    problem = random_problem(3, num_actions=4)
    possible = outcomes(problem, 0)
    rng = np.random.default_rng(3)
    groups = rng.choice(len(possible.probs), size=(20_000, 16), p=possible.probs)
    estimates = gradient(Grpo(), possible.scores[groups], possible.rewards[groups])
    squares = np.sum((estimates - possible.gradient) ** 2, axis=-1)
    expected = float(mse.grpo(problem.moments, group_size=16)[0])
    yield simulated("GRPO: error at G = 16 over 20 000 groups", expected, squares)
    bounds = 2 * problem.moments.score_norm_squared * problem.moments.reward_variance
    ratio = float(np.max(problem.moments.residual_norm_squared / bounds))
    yield below("sσ² + ‖g‖² ≤ 2sσ² (as a ratio)", ENUMERATION, 1.0, ratio)
