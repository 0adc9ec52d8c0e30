"""Lemma 1: GRPO's gradient is a second-order U-statistic.

**Statement.** With scores W and rewards Z of the G outputs to one prompt,

    ĝ = (1/G) Σᵢ Wᵢ (Zᵢ − Z̄⁽⁻ⁱ⁾) = 1/(G(G−1)) Σ_{i≠j} h(i, j),   h(i, j) = ½ (Wᵢ − Wⱼ)(Zᵢ − Zⱼ).

An identity: it needs no assumption on policy or reward, only G ≥ 2.

**Why.** Zᵢ − Z̄⁽⁻ⁱ⁾ averages Zᵢ − Zⱼ over j ≠ i, so ĝ averages Wᵢ(Zᵢ − Zⱼ) over ordered pairs.
Averaging each pair with its mirror image Wⱼ(Zⱼ − Zᵢ) gives h. The same sum is the sample
covariance of W and Z with ddof 1.

**Hoeffding's split.** Let A = Z − V and g = E[WA]; h does not change when Z is replaced by A. Since
E W = 0 and E A = 0, h averaged over one of its outputs is ½(WA + g), so that with h₀ = g

    h(i, j) = h₀ + h₁(i) + h₁(j) + ζ₂(i, j),   h₁ = ½(WA − g),   ζ₂(i, j) = −½(Wᵢ Aⱼ + Wⱼ Aᵢ),

and therefore ĝ_GRPO = ĝ_oracle + 2/(G(G−1)) Σ_{i<j} ζ₂(i, j): the group mean costs the degenerate
part and nothing else. Its size is 4 E‖ζ₂‖² = 2 E‖W‖² E A² + 2 E[AW]·E[WA], that is
2·tr Var ζ₂ = sσ² + ‖g‖².

**Note.** After the lemma the paper equates 2h₁ with WA. Averaged over one output the kernel is
½(WA + g), centred it is ½(WA − g); neither doubles to WA, and the means, 2g and 0, tell. The last
line of the paper's proof has both the ½ of the kernel and 1/(2G(G−1)), which is half the gradient.
"""

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from theory.claims import ENUMERATION, IDENTITY, Claim, equal, refuted
from theory.enumeration import Outcomes, outcomes
from theory.problems import random_problem
from ustat_grpo import Grpo, Oracle, gradient
from ustat_grpo.ustatistics import (
    HoeffdingDecomposition,
    covariance_kernel,
    covariance_u_statistic,
    hoeffding,
    u_statistic,
)

ITEM = "Lemma 1"
TITLE = "GRPO's gradient is a second-order U-statistic"


def claims() -> Iterator[Claim]:
    """Yield the identity on random data, the split on a finite problem, and two slips."""
    rng = np.random.default_rng(1)
    scores, rewards = rng.normal(size=(7, 5)), rng.normal(size=7)
    yield from _identity(scores, rewards)
    possible = outcomes(random_problem(1), 0)
    split = hoeffding(covariance_kernel, (possible.scores, possible.rewards), possible.probs)
    yield from _split(possible, split)
    yield from _slips(possible, split, scores, rewards)


def _identity(scores: np.ndarray, rewards: np.ndarray) -> Iterator[Claim]:
    from torch import from_numpy

    grpo = gradient(Grpo(), scores, rewards)
    pairs = u_statistic((scores, rewards), covariance_kernel)
    tensors = gradient(Grpo(), from_numpy(scores), from_numpy(rewards))
    closed = covariance_u_statistic(scores, rewards)
    sample_covariance = np.cov(scores.T, rewards, ddof=1)[:-1, -1]
    yield equal("ĝ_GRPO is the mean of h over all pairs (NumPy)", IDENTITY, pairs, grpo)
    yield equal("ĝ_GRPO is the mean of h over all pairs (torch)", IDENTITY, pairs, tensors.numpy())
    yield equal("the mean over pairs has a closed form in O(Gd)", IDENTITY, pairs, closed)
    yield equal("it is the sample covariance, ddof 1", IDENTITY, sample_covariance, grpo)


def _split(possible: Outcomes, split: HoeffdingDecomposition) -> Iterator[Claim]:
    centred = possible.rewards - possible.value
    weighted = possible.scores * centred[:, None]
    variance = possible.probs @ centred**2
    score_norm = possible.probs @ np.sum(possible.scores**2, axis=-1)
    residual = score_norm * variance + np.sum(possible.gradient**2)
    cross = possible.scores[:, None] * centred[:, None]
    yield equal("h₀ = g", ENUMERATION, possible.gradient, split.mean)
    first = weighted - possible.gradient
    yield equal("2h₁ = WA − g at every output", ENUMERATION, first, 2 * split.first)
    second = -(cross + cross.swapaxes(0, 1)) / 2
    yield equal("ζ₂ = −½(WᵢAⱼ + WⱼAᵢ) at every pair", ENUMERATION, second, split.second)
    doubled = 2 * np.trace(split.second_variance)
    yield equal("2·tr Var ζ₂ = sσ² + ‖g‖²", ENUMERATION, residual, doubled)

    group = np.random.default_rng(2).choice(len(centred), size=6, p=possible.probs)
    scores, rewards = possible.scores[group], possible.rewards[group]
    oracle = gradient(Oracle(), scores, rewards, possible.side)
    degenerate = sum(split.second[i, j] for i, j in permutations(group, 2)) / (6 * 5)
    statement = "ĝ_GRPO − ĝ_oracle is the mean of ζ₂ over all pairs of a group"
    yield equal(statement, IDENTITY, degenerate, gradient(Grpo(), scores, rewards) - oracle)


def _slips(
    possible: Outcomes, split: HoeffdingDecomposition, scores: np.ndarray, rewards: np.ndarray
) -> Iterator[Claim]:
    size = float(np.linalg.norm(possible.gradient))
    uncentred = 2 * possible.probs @ (split.first + split.mean)
    centred = 2 * possible.probs @ split.first
    statement = "2h₁ = WA, whose mean has norm ‖g‖ (h₁ not centred: norm 2‖g‖)"
    yield refuted(statement, size, float(np.linalg.norm(uncentred)))
    statement = "2h₁ = WA, whose mean has norm ‖g‖ (h₁ centred: norm 0)"
    yield refuted(statement, size, float(np.linalg.norm(centred)))

    pairs = permutations(range(len(rewards)), 2)
    ordered = sum((scores[i] - scores[j]) * (rewards[i] - rewards[j]) for i, j in pairs)
    number = len(rewards) * (len(rewards) - 1)
    halved_twice = float(np.linalg.norm(ordered / 2 / (2 * number)))
    truth = float(np.linalg.norm(gradient(Grpo(), scores, rewards)))
    yield refuted("½ in the kernel and 1/(2G(G−1)) before the sum", halved_twice, truth)
    yield equal(
        "with both factors the result is half of the gradient: ratio",
        IDENTITY,
        2.0,
        truth / halved_twice,
    )
