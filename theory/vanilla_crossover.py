"""Corollary 5 is about large groups: below a predicted size vanilla beats GRPO.

**Statement.** At one prompt

    MSE_vanilla − MSE_GRPO = (V²s + 2Vm − (sσ² + ‖g‖²)/(G−1))/G,

so GRPO has the smaller error exactly when G exceeds 1 + (sσ² + ‖g‖²)/(V²s + 2Vm), if the
denominator is positive, and never otherwise. For 0/1 rewards with m = 0 and g = 0 that is G > 1/V:
on a prompt that is solved less than once a group REINFORCE without any baseline is better. Over
i.i.d. prompts numerator and denominator are averaged.

**Why.** Subtract two lines of Theorem 2. With σ² = V(1−V) and m = g = 0 the ratio is (1−V)/V.

**Note.** No contradiction to the paper, which compares leading terms; but a corollary that reads
"strictly below vanilla" is misleading for a hard prompt and G = 8.
"""

from collections.abc import Iterator

import numpy as np

from theory.claims import ENUMERATION, Claim, below, equal
from theory.enumeration import group_errors, minibatch_error, unordered_groups
from theory.problems import two_actions
from ustat_grpo import Grpo, Snapshot, SoftmaxBandit, Vanilla
from ustat_grpo.laws import group_size

ITEM = "Corollary 5"
TITLE = "below a predicted group size vanilla beats GRPO"


def claims() -> Iterator[Claim]:
    """Yield both sides of the crossover on an easy prompt, a hard prompt and a minibatch."""
    yield from _both_sides("an easy prompt, V = 0.4", two_actions(0.5, [0.3, 0.5]))
    yield from _both_sides("a hard prompt, V = 0.05", two_actions(0.5, [0.04, 0.06]))
    yield from _both_sides("a prompt with m ≠ 0", two_actions(0.4, [0.1, 0.3]))
    yield from _one_over_value()
    yield from _minibatch()


def _errors(problem: Snapshot, size: int) -> tuple[float, float]:
    """Return the enumerated errors of vanilla and GRPO at the first prompt."""
    vanilla, grpo = (
        group_errors(estimator, problem, group_size=size, groups=unordered_groups)[0]
        for estimator in (Vanilla(), Grpo())
    )
    return float(vanilla), float(grpo)


def _crossover_from_errors(problem: Snapshot) -> float:
    """Solve (MSE_vanilla − MSE_GRPO)·G = gain − loss/(G−1), known at G = 2 and 3, for its zero."""
    (vanilla, grpo), (next_vanilla, next_grpo) = (_errors(problem, size) for size in (2, 3))
    two, three = 2 * (vanilla - grpo), 3 * (next_vanilla - next_grpo)
    loss = 2 * (three - two)
    return 1 + loss / (two + loss)


def _both_sides(name: str, problem: Snapshot) -> Iterator[Claim]:
    crossover = float(group_size.vanilla_crossover(problem.moments)[0])
    found = _crossover_from_errors(problem)
    yield equal(f"{name}: G at which GRPO overtakes vanilla", ENUMERATION, crossover, found)
    size = int(crossover)
    vanilla, grpo = _errors(problem, size)
    yield below(f"{name}: vanilla beats GRPO at G = {size}", ENUMERATION, grpo, vanilla, 1e-12)
    if size >= 8:
        vanilla, grpo = _errors(problem, 8)
        yield below(f"{name}: vanilla beats GRPO at G = 8", ENUMERATION, grpo, vanilla)
    vanilla, grpo = _errors(problem, size + 1)
    yield below(f"{name}: GRPO beats vanilla at G = {size + 1}", ENUMERATION, vanilla, grpo, 1e-12)


def _one_over_value() -> Iterator[Claim]:
    problem = two_actions(0.5, [0.05, 0.05])
    vanilla, grpo = _errors(problem, 20)
    yield equal("V = 1/20 and no signal: a tie at G = 1/V = 20", ENUMERATION, vanilla, grpo)


def _minibatch() -> Iterator[Claim]:
    """Yield both sides for a minibatch of an easy and a hard prompt."""
    success = np.array([[0.3, 0.5], [0.1, 0.2]])
    bandit = SoftmaxBandit(
        np.array([[[0.0], [1.0]]] * 2), np.array([0.0, 1.0]), np.stack([1 - success, success], -1)
    )
    problem = bandit.at([0.0])
    crossover = group_size.vanilla_crossover_minibatch(problem.moments)
    for size in (int(crossover), int(crossover) + 1):
        vanilla, grpo = (
            minibatch_error(estimator, problem, batch_size=1, group_size=size)
            for estimator in (Vanilla(), Grpo())
        )
        pair = (grpo, vanilla) if size < crossover else (vanilla, grpo)
        winner = "vanilla" if size < crossover else "GRPO"
        statement = f"two prompts, crossover {crossover:.2f}: {winner} is better at G = {size}"
        yield below(statement, ENUMERATION, *pair)
