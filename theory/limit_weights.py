"""Corollaries 9 and 10: how far GRPO's limit law is from the oracle's, and who beats the oracle.

**Statement.** In the limit law nΔ_n → Σ_k w_k χ²₁ (Theorem 8), at any rate β/i,

    Σ_k w_k = k₁/B + k₂/(BG) + k₃/(BG(G−1)),        k_c = ½ tr(ΛΣ[C_c]),

with C₁ = Cov g(X), C₂ = E[A²WWᵀ] − E[g(X)g(X)ᵀ] and C₃ = E[σ²WWᵀ + g(X)g(X)ᵀ] at θ*. The oracle
has k₃ = 0. Hence GRPO's weights exceed the oracle's by k₃/(BG(G−1)) in sum, exactly, and each of
them by O(G⁻²) (Corollary 9; first-order perturbation of eigenvalues). A prompt-only baseline b
replaces C₂ by C₂ + E[2(V−b)A·WWᵀ + (V−b)²WWᵀ]: under the matrix form of Assumption 2,
E[A·WWᵀ∣x] = 0, the first term vanishes and the second is positive semidefinite, so all weights are
at least the oracle's (Corollary 10).

**Why.** Σ is linear in the covariance of one estimate, and the exact covariances stand in
`ustat_grpo.laws.covariance`. Eigenvalues of ½Λ^½ΣΛ^½ rise with Σ (Weyl).

**Note.** Corollary 10 is empty for policies whose log-probabilities are linear in θ but for a
normaliser, softmax bandits among them: there E[A·WWᵀ∣x] = ∇²V(x), since ∇² log π does not depend on
the output. Its assumption thus makes the Hessian of J vanish, and Theorem 8 has no curved direction
to speak of. At a maximum E[A·WWᵀ] = ∇²J is negative, which favours small baselines: on the tug of
war vanilla's weight is *below* the oracle's. Corollary 9's order holds, with the constant above.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import SupportsInt

import numpy as np

from theory.claims import IDENTITY, Claim, below, equal, limiting_slope, rate, refuted
from theory.problems import small_problems
from ustat_grpo import Snapshot, SoftmaxBandit, TugOfWar
from ustat_grpo.bandits.expansion import Expansion
from ustat_grpo.laws import limit
from ustat_grpo.laws.covariance import NoiseMatrices, grpo, oracle, vanilla
from ustat_grpo.moments import ScoreMoments

ITEM = "Corollaries 9 and 10"
TITLE = "weights of the limit law, estimator by estimator"

_BATCH_SIZE = 4
_STEP = 1e-5
_SIZES = 2 ** np.arange(3, 11)

Noise = Callable[[ScoreMoments], NoiseMatrices]


def claims() -> Iterator[Claim]:
    """Yield the exact difference of weights, its order, and both faces of Corollary 10."""
    three = TugOfWar(0.8, num_axes=3, num_flat=1, separation=(1.5, 2.0, 3.0))
    for name, problem in {"one axis": TugOfWar(), "three axes": three}.items():
        expansion = Expansion(problem.at(problem.optimum))
        yield from _difference(name, expansion)
    yield from _assumption_two()
    yield from _counterexample(Expansion(TugOfWar().at(TugOfWar().optimum)))


def _difference(name: str, expansion: Expansion) -> Iterator[Claim]:
    """Corollary 9, with its constant."""
    components = limit.decaying_gap_components(
        expansion.hessian[0],
        *(matrix[0] for matrix in grpo(expansion.score_moments)),
        rate=_rate(expansion),
    )
    gaps = []
    for size in _SIZES:
        ours, theirs = weights(expansion, grpo, size), weights(expansion, oracle, size)
        gaps.append(np.abs(ours - theirs))
    exact = components.residual / (_BATCH_SIZE * _SIZES * (_SIZES - 1))
    yield equal(
        f"{name}: Σ(w_GRPO − w_oracle) = k₃/(BG(G−1)), G = 8, …, 1024",
        IDENTITY,
        exact,
        np.array([gap.sum() for gap in gaps]),
        tolerance=1e-8,  # a difference of nearly equal weights
    )
    slope, half_width = limiting_slope(_SIZES, [gap.max() for gap in gaps])
    for wrong in (-1.0, -3.0):
        yield rate(
            f"{name}: the largest ∣w_GRPO − w_oracle∣ falls like G⁻² (not G{_exponent(wrong)})",
            -2.0,
            slope,
            half_width,
            wrong,
        )
    yield refuted(
        f"{name}: with G² in place of G(G−1), at G = 8",
        components.residual / (_BATCH_SIZE * 64),
        float(gaps[0].sum()),
    )


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


def weights(expansion: Expansion, noise: Noise, group_size: SupportsInt) -> np.ndarray:
    """Return the weights at β = 1.5/λ_min and B = 4, largest first."""
    hessian = expansion.hessian[0]
    matrix = noise(expansion.score_moments).minibatch(
        batch_size=_BATCH_SIZE, group_size=int(group_size)
    )
    covariance = limit.decaying_covariance(hessian, matrix[0], rate=_rate(expansion))
    return limit.weights(hessian, covariance)


def _rate(expansion: Expansion) -> float:
    return 1.5 / float(limit.identifiable(expansion.hessian[0]).eigenvalues[-1])


def _exponent(power: float) -> str:
    return {-1.0: "⁻¹", -3.0: "⁻³"}[power]


def _indifferent() -> SoftmaxBandit:
    """Two prompts with two actions of probability ½ each, at θ = 0."""
    success = np.array([[0.2, 0.9], [0.7, 0.4]])
    features = np.zeros((2, 2, 1))
    features[:, 1] = 1.0
    return SoftmaxBandit(features, np.array([0.0, 1.0]), np.stack([1 - success, success], axis=-1))
