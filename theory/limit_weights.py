"""Corollary 9: how far GRPO's limit law is from the oracle's.

**Statement.** In the limit law nΔ_n → Σ_k w_k χ²₁ (Theorem 8), at any rate β/i,

    Σ_k w_k = k₁/B + k₂/(BG) + k₃/(BG(G−1)),        k_c = ½ tr(ΛΣ[C_c]),

with C₁ = Cov g(X), C₂ = E[A²WWᵀ] − E[g(X)g(X)ᵀ] and C₃ = E[σ²WWᵀ + g(X)g(X)ᵀ] at θ*. The oracle
has k₃ = 0. Hence GRPO's weights exceed the oracle's by k₃/(BG(G−1)) in sum, exactly, and each of
them by O(G⁻²) (first-order perturbation of eigenvalues).

**Why.** Σ is linear in the covariance of one estimate, and the exact covariances stand in
`ustat_grpo.laws.covariance`.

**Note.** The paper has the order only; k₃ is the constant, and G(G−1) holds for every G.
"""

from collections.abc import Callable, Iterator
from typing import SupportsInt

import numpy as np

from theory.claims import IDENTITY, Claim, equal, limiting_slope, rate, refuted
from ustat_grpo import TugOfWar
from ustat_grpo.bandits.expansion import Expansion
from ustat_grpo.laws import limit
from ustat_grpo.laws.covariance import NoiseMatrices, grpo, oracle
from ustat_grpo.moments import ScoreMoments

ITEM = "Corollary 9"
TITLE = "weights of GRPO's limit law"

_BATCH_SIZE = 4
_SIZES = 2 ** np.arange(3, 11)

Noise = Callable[[ScoreMoments], NoiseMatrices]


def claims() -> Iterator[Claim]:
    """Yield the exact difference of weights and its order."""
    three = TugOfWar(0.8, num_axes=3, num_flat=1, separation=(1.5, 2.0, 3.0))
    for name, problem in {"one axis": TugOfWar(), "three axes": three}.items():
        expansion = Expansion(problem.at(problem.optimum))
        yield from _difference(name, expansion)


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
