"""What a batch of outputs hardly ever gives: estimates far below what they estimate can be.

    ‖g(X)‖², ‖∇J‖², c₁, c₂   and   E[sσ²] − E‖g(X)‖²   (Cauchy–Schwarz; c₃ − 2c₁ is no smaller)

are never negative, their unbiased estimates sometimes are. They are doubted if zero is outside of
the interval that corresponds to four standard errors of a normal mean, even if prompts of a kind
that the batch has none of contributed as much as its rewards and scores allow: estimates are often
negative for want of a rare kind of prompt, or of a group that has a rare output twice. Of 20,295
right batches none was doubted.

Neither does a batch lack groups of equal 0/1 rewards where it should have some. With a_j the mean
of V^j (1−V)^(M−j) over prompts, C(M, j)·a_j of the groups of M outputs have j successes, and

    a_0 a_2 ≥ a_1²   (Cauchy–Schwarz, whatever the prompts),

so groups with one and two successes say how many at least have none. Given the number of groups
with up to two successes, and of the successes in them, that no group is without one has its largest
probability where equality holds, and there it is known exactly. Likewise with failures.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.noise.components import PromptStatistics
from ustat_grpo.noise.groups import MIN_PROMPTS, FlatGroups
from ustat_grpo.noise.interval import mean_interval
from ustat_grpo.noise.possible import Measured, length_bounds

FOUR_ERRORS = 0.999936657516334
"""The probability that a normal deviate is within four standard deviations."""

_UNSEEN = 2.0
"""Prompts of a rare kind that a batch has none of, though it should have so many on average."""

_UNIT = 0.02  # by which a normalised standard deviation may miss 1: trainers add some ε to it

_TOO_LONG = (
    "gradients are too long for the scores: score_norm not squared or over the length, or "
    "gradient columns scaled?"
)
_TOO_SHORT = (
    "gradients are too short for the scores: gradients length-normalised, clipped or scaled, "
    "gradient_norm not squared, or rewards that were normalised?"
)
_PRODUCTS = (
    "gradients of different prompts point apart: gradient_product without the prompt itself, with "
    "the mean in place of the sum, or scaled?"
)
_PROMPTS = (
    "gradients of different prompts are more alike than each is to itself: one of gradient_norm "
    "and gradient_product scaled, or rewards that were normalised?"
)
_DROPPED = (
    "no group has only {what}, which has a probability of {probability:.2g} beside those with one "
    "or two {others}: were groups of equal rewards left out? They belong to the sample, with a "
    "gradient of 0"
)
_PROBES = "was the loss of every probe a plain sum, and its norm squared?"
NORMALISED = (
    "rewards have mean 0 and standard deviation 1 within every group: they are to be those before "
    "any normalisation"
)


def doubts_of_outputs(
    measured: Measured, statistics: PromptStatistics, contributions: Float[Array, "B 3"]
) -> tuple[str, ...]:
    """Return a sentence for everything that is improbable of measured outputs.

    Args:
        measured: what was measured.
        statistics: of every prompt.
        contributions: of the prompts to c₁, c₂, c₃, shape (B, 3).
    """
    prompt, oracle, residual = contributions.T
    gradient = statistics.gradient_norm_squared
    _, most, _ = length_bounds(measured)
    # A rare output is alone in its groups here; those that have it twice, and make up for what is
    # negative there, would be twice as long.
    square, product = float((2 * most.max()) ** 2), float(2 * most.max() * most.mean())
    groups = measured.groups
    output = float((groups.sizes * groups.totals(groups.weights**2 * measured.score_norms)).max())
    doubts = [NORMALISED] if are_normalised(groups) else []
    doubts += missing_dead_groups(groups)
    columns = (
        Expectation("E‖g(X)‖²", gradient, square, _TOO_SHORT),
        Expectation("c₂", oracle, output, _TOO_LONG),
        Expectation("E[sσ²] − E‖g(X)‖²", residual - 2 * gradient, output, _TOO_LONG),
        Expectation("‖∇J‖²", gradient - prompt, product, _PRODUCTS),
        Expectation("c₁", prompt, square + product, _PROMPTS),
    )
    return (*doubts, *_below_zero(columns))


def doubts_of_blocks(contributions: Float[Array, "K 3"]) -> tuple[str, ...]:
    """Return a sentence for everything that is improbable of c₁, c₂, c₃ of blocks."""
    prompt, oracle, residual = contributions.T
    largest = float(np.abs(contributions).max())
    columns = (
        Expectation("c₂", oracle, largest, _PROBES),
        Expectation("c₁", prompt, largest, _PROBES),
        Expectation("c₃ − 2c₁", residual - 2 * prompt, largest, _PROBES),
    )
    return tuple(_below_zero(columns))


class Expectation(NamedTuple):
    """What cannot be negative.

    Args:
        name: of it.
        contributions: whose mean estimates it, shape (K,).
        largest: what a contribution may be in size, as far as rewards and scores tell.
        cause: of an estimate that is far below zero.
    """

    name: str
    contributions: Float[Array, " K"]
    largest: float
    cause: str


def _below_zero(columns: Sequence[Expectation]) -> list[str]:
    """Return a sentence for every expectation that is far below zero, each cause once."""
    doubts: dict[str, str] = {}
    for name, column, largest, cause in columns:
        unseen = largest * _UNSEEN / len(column)
        if mean_interval(column, FOUR_ERRORS).high < -unseen:
            error = float(column.std(ddof=1)) / np.sqrt(len(column))
            times = f"{-float(column.mean()) / error:.3g} standard errors" if error else "far"
            doubts.setdefault(cause, f"{name} is estimated {times} below 0; {cause}")
    return list(doubts.values())


def missing_dead_groups(groups: FlatGroups) -> list[str]:
    """Return a doubt if there should be groups of equal 0/1 rewards, but are none, at either end.

    Groups of one size are compared with each other; those of different sizes are independent.
    """
    if not np.isin(groups.rewards, (0.0, 1.0)).all():
        return []
    successes = groups.totals(groups.rewards).astype(np.int64)
    for counts, what, others in (
        (successes, "failures", "successes"),
        (groups.sizes - successes, "successes", "failures"),
    ):
        if (counts == 0).any():
            continue
        logarithm = 0.0
        for size in np.unique(groups.sizes):
            once, twice = ((counts[groups.sizes == size] == k).sum() for k in (1, 2))
            logarithm += _log_chance_of_no_zero(int(once), int(twice), int(size))
        if 2 * math.exp(logarithm) < 1 - FOUR_ERRORS:  # twice: there are two ends
            probability = math.exp(logarithm)
            return [_DROPPED.format(what=what, probability=probability, others=others)]
    return []


def _log_chance_of_no_zero(once: int, twice: int, size: int) -> float:
    """Return log P(no group has none), given how many have up to two, and their sum.

    Where a_0 a_2 = a_1², z groups with none, n₁ with one and n₂ with two have a probability
    proportional to M^n₁ C(M, 2)^n₂/(z! n₁! n₂!), with n₁ + 2z and n₂ − z given.
    """
    none = np.arange(once // 2 + 1)
    ones, twos = once - 2 * none, twice + none
    logarithms = ones * np.log(size) + twos * np.log(size * (size - 1) / 2)
    logarithms -= gammaln(none + 1) + gammaln(ones + 1) + gammaln(twos + 1)
    return float(logarithms[0] - np.logaddexp.reduce(logarithms))


def are_normalised(groups: FlatGroups) -> bool:
    """Return whether the rewards of all groups that are not equal have mean 0 and deviation 1.

    Two values, or few groups, may do so by chance.
    """
    values = groups.rewards
    squares = groups.totals(groups.centred**2)
    alive = squares > 0
    if alive.sum() < MIN_PROMPTS or len(np.unique(values)) < 3:
        return False
    means = groups.totals(values) / groups.sizes
    deviations = (np.sqrt(squares / (groups.sizes - ddof)) for ddof in (0, 1))
    has_unit = [bool((np.abs(each[alive] - 1) < _UNIT).all()) for each in deviations]
    return bool((np.abs(means[alive]) < _UNIT).all()) and any(has_unit)
