"""Proposition 3: the error of a minibatch, to the last term.

**Statement.** Let ĝ average the gradients of B i.i.d. prompts, G outputs each. For GRPO

    E‖ĝ − g‖² = c₁/B + c₂/(BG) + c₃/(BG(G−1)),

c₁ = E‖g(X) − g‖² (prompt noise), c₂ = E[τ − ‖g(X)‖²] (oracle noise), c₃ = E[sσ² + ‖g(X)‖²]
(residual noise). For an estimator with E[ĝ(x)] = αg(x) and error MSE(x) at a prompt

    E‖ĝ − g‖² = (E[MSE(X)] + (2α−1)c₁)/B + (1 − 1/B)(1−α)²‖g‖².

If every prompt is taken once, ĝ = Σ f(x)ĝ(x), there is no prompt noise:

    E‖ĝ − g‖² = Σ f(x)²(MSE(x) − (1−α)²‖g(x)‖²) + (1−α)²‖g‖².

**Why.** ĝ is a mean of B independent copies of ĝ(X), with mean αg. One copy has
E‖ĝ(X) − g‖² = E[MSE(X)] + 2E[(αg(X) − g(X))·(g(X) − g)] + c₁ = E[MSE(X)] + (2α−1)c₁,
since E[g(X)·(g(X) − g)] = c₁. Averaging B copies divides all but the squared bias (1−α)²‖g‖² by B.
For α = 1 insert Theorem 2. Taking each prompt once, the variances MSE(x) − (1−α)²‖g(x)‖² add with
weights f(x)², and the bias is (α−1)g again.

**Note.** The paper gives the last term of the first line as O(E‖W‖²/(BG²)).
"""

from collections.abc import Iterator

import numpy as np

from theory.claims import ENUMERATION, Claim, equal, refuted
from theory.enumeration import minibatch_error
from theory.group_error import CASES
from theory.problems import tiny_problems
from ustat_grpo import GroupMean, Grpo, Moments, Snapshot
from ustat_grpo.laws import mse

ITEM = "Proposition 3"
TITLE = "the error of a minibatch, to the last term"

_SIZES = ((1, 2), (1, 3), (2, 2), (2, 3), (3, 2))  # (B, G)


def claims() -> Iterator[Claim]:
    """Yield the error over every minibatch, drawn or complete, and three wrong formulas."""
    problems = tiny_problems()
    expected = [_three_terms(problem.moments, *size) for problem in problems for size in _SIZES]
    obtained = [
        minibatch_error(Grpo(), problem, batch_size=batch_size, group_size=group_size)
        for problem in problems
        for batch_size, group_size in _SIZES
    ]
    statement = "GRPO: c₁/B + c₂/(BG) + c₃/(BG(G−1)), B ≤ 3"
    yield equal(statement, ENUMERATION, expected, obtained)
    for batch_size in (2, None):
        drawn = "each prompt once" if batch_size is None else f"B = {batch_size} prompts drawn"
        for name in CASES:
            pairs = [_law_and_sum(name, problem, batch_size) for problem in problems]
            law, enumerated = np.transpose(pairs)
            yield equal(f"{name}: {drawn}, G = 2", ENUMERATION, law, enumerated)
    yield from _wrong_formulas(problems[0])


def _three_terms(moments: Moments, batch_size: int, group_size: int) -> float:
    noise = moments.noise
    within = noise.oracle + noise.residual / (group_size - 1)
    return (noise.prompt + within / group_size) / batch_size


def _law_and_sum(name: str, problem: Snapshot, batch_size: int | None) -> tuple[float, float]:
    estimator, law = CASES[name]
    gain = mse.group_mean_gain(2) if isinstance(estimator, GroupMean) else 1.0
    errors = law(problem.moments, 2)
    expected = mse.minibatch(errors, problem.moments, batch_size=batch_size, gain=gain)
    return expected, minibatch_error(estimator, problem, batch_size=batch_size, group_size=2)


def _wrong_formulas(problem: Snapshot) -> Iterator[Claim]:
    moments = problem.moments
    truth = minibatch_error(Grpo(), problem, batch_size=2, group_size=2)
    per_output = _three_terms(moments, 2, 2) - moments.prompt_noise / 4
    yield refuted("prompt noise c₁/(BG): outputs of a group as independent", per_output, truth)

    truth = minibatch_error(GroupMean(), problem, batch_size=2, group_size=2)
    errors = mse.group_mean(moments, group_size=2)
    unbiased = mse.minibatch(errors, moments, batch_size=2)
    yield refuted("group mean: its bias left out of the average", unbiased, truth)
    once = mse.minibatch(errors, moments, batch_size=None, gain=0.5)
    yield refuted("group mean: a complete pass in place of a drawn minibatch", once, truth)
