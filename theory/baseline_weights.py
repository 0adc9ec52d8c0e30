"""Corollary 10: which baselines have smaller weights in the limit law than the oracle?

**Statement.** A prompt-only baseline b replaces C₂ = E[A²WWᵀ] − E[g(X)g(X)ᵀ] by

    C₂ + E[2(V−b)A·WWᵀ + (V−b)²WWᵀ].

Under the matrix form of Assumption 2, E[A·WWᵀ∣x] = 0, the first term vanishes and the second is
positive semidefinite, so all weights of the limit law are at least the oracle's.

**Why.** Eigenvalues of ½Λ^½ΣΛ^½ rise with Σ (Weyl), and Σ with the covariance of one estimate.

**Note.** The corollary is empty for policies whose log-probabilities are linear in θ but for a
normaliser, softmax bandits among them: there E[A·WWᵀ∣x] = ∇²V(x), since ∇² log π does not depend on
the output. Its assumption thus makes the Hessian of J vanish, and Theorem 8 has no curved direction
to speak of. At a maximum E[A·WWᵀ] = ∇²J is negative, which favours small baselines: on the tug of
war vanilla's weight is *below* the oracle's.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from theory.claims import IDENTITY, Claim, below, equal, refuted
from theory.limit_weights import weights
from theory.problems import small_problems
from ustat_grpo import Snapshot, SoftmaxBandit, TugOfWar
from ustat_grpo.bandits.expansion import Expansion
from ustat_grpo.laws.covariance import grpo, oracle, vanilla

ITEM = "Corollary 10"
TITLE = "weights of the limit law under other baselines"

_STEP = 1e-5


def claims() -> Iterator[Claim]:
    """Yield what the assumption leaves, and a baseline that beats the oracle without it."""
    yield from _assumption_two()
    yield from _counterexample(Expansion(TugOfWar().at(TugOfWar().optimum)))


def _assumption_two() -> Iterator[Claim]:
    """E[A·WWᵀ] is the Hessian of J, so that Assumption 2 in matrix form leaves none."""
    for problem in small_problems():
        expansion = Expansion(problem)
        moments = expansion.score_moments
        centred = moments.mean_reward - moments.value[:, None]
        yield equal(
            f"E[A·WWᵀ] = ∇²J, here by differences of ∇J (d = {problem.dimension})",
            IDENTITY,
            _differences(problem),
            moments.weighted_score_covariance(centred),
            tolerance=1e-7,  # of central differences
        )
    indifferent = _indifferent().at(np.zeros(1))
    expansion = Expansion(indifferent)
    moments = expansion.score_moments
    yield equal(
        "two actions of probability ½: Assumption 2 holds at each prompt",
        IDENTITY,
        np.zeros(2),
        indifferent.moments.score_norm_reward_covariance,
    )
    yield equal("hence no curvature, ∇²J = 0", IDENTITY, 0.0, float(expansion.hessian.squeeze()))
    level = np.broadcast_to(moments.value[:, None] ** 2, moments.mean_reward.shape)
    excess = float(moments.weighted_score_covariance(level).squeeze())
    ours = float((vanilla(moments).output - oracle(moments).output).squeeze())
    yield equal("and vanilla adds E[V²WWᵀ] to the noise of an output", IDENTITY, excess, ours)
    yield below("which is positive", IDENTITY, 0.0, -ours)


def _differences(problem: Snapshot) -> np.ndarray:
    """∇²J in blocks, by central differences of ∇J along each parameter."""
    blocks = Expansion(problem).gradient.shape
    columns = [
        (shifted(problem, step).gradient - shifted(problem, -step).gradient) / (2 * _STEP)
        for step in _STEP * np.eye(problem.dimension)
    ]
    full = np.array(columns).reshape(*blocks, *blocks)
    return np.stack([full[block, :, block] for block in range(blocks[0])])


def shifted(problem: Snapshot, step: np.ndarray) -> Snapshot:
    """Return the problem at θ + step."""
    if problem.features is None:
        logits = step.reshape(problem.action_probs.shape)
    else:
        logits = problem.features @ step
    weights = problem.action_probs * np.exp(logits)
    return replace(problem, action_probs=weights / weights.sum(axis=1, keepdims=True))


def _counterexample(expansion: Expansion) -> Iterator[Claim]:
    """Corollary 10 without its assumption."""
    ours = float(weights(expansion, vanilla, 4)[0])
    theirs = float(weights(expansion, oracle, 4)[0])
    leave_one_out = float(weights(expansion, grpo, 4)[0])
    yield below("tug of war, B = G = 4: vanilla's weight is below the oracle's", IDENTITY,
                theirs, ours)  # fmt: skip
    yield below("tug of war, B = G = 4: and below GRPO's", IDENTITY, leave_one_out, ours)
    yield refuted("tug of war: no prompt-only baseline has a smaller weight than the oracle",
                  max(ours, theirs), ours)  # fmt: skip


def _indifferent() -> SoftmaxBandit:
    """Two prompts with two actions of probability ½ each, at θ = 0."""
    success = np.array([[0.2, 0.9], [0.7, 0.4]])
    features = np.zeros((2, 2, 1))
    features[:, 1] = 1.0
    return SoftmaxBandit(features, np.array([0.0, 1.0]), np.stack([1 - success, success], axis=-1))
