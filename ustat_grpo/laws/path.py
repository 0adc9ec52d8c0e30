"""The expected gap of Algorithm 1 after n iterations, to first order in the noise, at any (B, G).

Write θ_i = m_i + δ_i + noise, where m follows the exact gradient from θ₀. To first order in the
noise of a gradient estimate, Γ = prompt/B + output/(BG) + pair/(BG(G−1)),

    m ← m + ηg(m),    C ← (I + ηH) C (I + ηH) + η²Γ,    δ ← (I + ηH)δ + η·½∇³J[C],

and J* − E J(θ_n) = J* − J(m_n) − g·δ_n − ½ tr(HC_n). The recursions are linear in Γ: one pass
carries its three parts, and the gap at all (B, G) follows,

    E Δ_n = Δ(m_n) + a₁/B + a₂/(BG) + a₃/(BG(G−1)),

the form of the gradient's error with other weights: at a fixed budget the best group size is
1 + √(a₃/a₁). The paper's bound (Lemma 6) has c₁, c₂ and c₃ in their place. No assumption on the
landscape is made; what is left out is of second order in the noise, of order 1/N² at a fixed G.
At small N, a large rate or on few prompts that may be more than all the rest, and then the law, its
best G included, says nothing: ask `laws.spread.second_order` at the (B, G) in question.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, increasing, integer, real
from ustat_grpo.laws.covariance import NoiseMatrices, minibatch_weights
from ustat_grpo.moments import ScoreMoments


class LocalExpansion(Protocol):
    """J and its noise around one θ, in M blocks of k parameters."""

    @property
    def objective(self) -> float:
        """J(θ)."""
        ...

    @property
    def gradient(self) -> Float[Array, "M k"]:
        """∇J(θ), shape (M, k)."""
        ...

    @property
    def hessian(self) -> Float[Array, "M k k"]:
        """∇²J(θ), shape (M, k, k)."""
        ...

    @property
    def score_moments(self) -> ScoreMoments:
        """What the covariance of every estimator is made of."""
        ...

    def drift(self, covariance: Float[Array, "... M k k"]) -> Float[Array, "... M k"]:
        """½∇³J[C], shape (..., M, k)."""
        ...


@dataclass(frozen=True, eq=False)
class ExpectedGap:
    """The law of the mean gap after n iterations, to first order in the noise, for all (B, G).

    Args:
        iteration: n.
        path_gap: Δ(m_n), of exact gradient ascent.
        prompt: a₁, what prompt noise adds, times B; negative where noise helps.
        output: a₂, what the noise of single outputs adds, times BG.
        pair: a₃, what the leave-one-out mean adds, times BG(G−1).

    Examples:
        >>> from ustat_grpo import laws
        >>> law = laws.path.ExpectedGap(iteration=9, path_gap=0.1, prompt=1.0, output=2.0, pair=9.0)
        >>> law.best_group_size  # 1 + √(9/1)
        4.0
        >>> round(law.gap(batch_size=10, group_size=4), 6)  # 0.1 + 1/10 + 2/40 + 9/120
        0.325
    """

    iteration: int
    path_gap: float
    prompt: float
    output: float
    pair: float

    @property
    def best_group_size(self) -> float:
        """The G of least E Δ_n to first order at any fixed budget, over real G > 1: 1 + √(a₃/a₁).

        ∞ where few prompts are best: prompt noise does good (a₁ < 0), or no harm and the
        leave-one-out mean does some. NaN where neither matters, or where the leave-one-out mean
        does good (a₃ < 0 ≤ a₁): the law falls toward G = 1, where it is void. It knows no budget,
        so it cannot tell whether the first order holds there: `laws.spread.second_order` at a
        (B, G) can, by its `share` and `first_order_holds`.
        """
        if self.prompt < 0 or (self.prompt == 0 and self.pair > 0):
            return np.inf
        if self.prompt == 0 or self.pair < 0:
            return np.nan
        return 1 + float(np.sqrt(self.pair / self.prompt))

    def gap(self, *, batch_size: float, group_size: float, prompt_factor: float = 1.0) -> float:
        """Return E Δ_n to first order in the noise.

        Args:
            batch_size: B.
            group_size: G; above 1 for leave-one-out baselines.
            prompt_factor: of the prompt noise; `without_replacement(P, B)` for such minibatches.
        """
        weights = minibatch_weights(batch_size, group_size)
        parts = (real("prompt_factor", prompt_factor) * self.prompt, self.output, self.pair)
        return self.path_gap + float(np.dot(weights, parts))


def without_replacement(num_prompts: int, batch_size: int) -> float:
    """Return (P−B)/(P−1), the factor of prompt noise for B distinct prompts out of P.

    Raises:
        ValueError: if there are fewer than B prompts.

    Examples:
        >>> from ustat_grpo import laws
        >>> laws.path.without_replacement(num_prompts=9, batch_size=5)  # 4/8
        0.5
        >>> laws.path.without_replacement(num_prompts=9, batch_size=9)  # all of them: no noise
        0.0
    """
    if integer("batch_size", batch_size) > integer("num_prompts", num_prompts):
        raise ValueError(f"batch_size must be at most num_prompts={num_prompts}, got {batch_size}")
    return (num_prompts - batch_size) / (num_prompts - 1) if num_prompts > 1 else 0.0


def expected_gap(
    expand: Callable[[Array], LocalExpansion],
    noise: Callable[[ScoreMoments], NoiseMatrices],
    *,
    theta0: ArrayLike,
    rates: ArrayLike,
    checkpoints: Sequence[int],
    best_objective: float,
) -> list[ExpectedGap]:
    """Carry the law, to first order in the noise, from θ₀ along the path of exact ascent.

    Args:
        expand: gives the expansion of the problem at any θ.
        noise: of the estimator, a function of `laws.covariance`.
        theta0: shape (d,).
        rates: η₁, …, η_n, shape (n,).
        checkpoints: increasing iterations, at most n, at which the law is wanted.
        best_objective: J*.

    Returns:
        One law a checkpoint. A projection is not seen: it must be rare that noise leaves Θ.

    Raises:
        ValueError: if the checkpoints are not increasing or beyond the rates.

    Examples:
        >>> from ustat_grpo import TugOfWar, laws
        >>> from ustat_grpo.bandits import expand
        >>> task = TugOfWar()
        >>> (law,) = laws.path.expected_gap(
        ...     expand(task.at),
        ...     laws.covariance.grpo,
        ...     theta0=task.theta(0.0),
        ...     rates=[1.0] * 20,
        ...     checkpoints=[20],
        ...     best_objective=task.bandit.best_objective,
        ... )
        >>> law.iteration, round(law.best_group_size, 1)
        (20, 2.7)
    """
    steps, theta = finite("rates", rates, ndim=1), finite("theta0", theta0, ndim=1)
    points = increasing("checkpoints", checkpoints, at_most=len(steps))
    best = real("best_objective", best_objective)
    here = expand(theta)
    shape = 3, *here.hessian.shape
    state = _State(np.zeros(shape), np.zeros(shape[:-1]))
    laws = []
    for iteration, rate in enumerate(steps[: points[-1]], start=1):
        state = _advance(state, here, np.stack(noise(here.score_moments)), rate)
        theta = theta + rate * here.gradient.ravel()
        here = expand(theta)
        if iteration == points[len(laws)]:
            effects = state.effects(here)
            laws.append(ExpectedGap(iteration, best - here.objective, *effects))
    return laws


@dataclass(frozen=True, eq=False)
class _State:
    """Covariance C and mean shift δ that each of the three parts of the noise has caused."""

    covariance: Array  # (3, M, k, k)
    shift: Array  # (3, M, k)

    def effects(self, here: LocalExpansion) -> tuple[float, float, float]:
        """Return −g·δ − ½ tr(HC) of each part."""
        slope = np.einsum("mk,cmk->c", here.gradient, self.shift)
        bend = np.einsum("mij,cmij->c", here.hessian, self.covariance)
        prompt, output, pair = -slope - bend / 2
        return float(prompt), float(output), float(pair)


def _advance(state: _State, here: LocalExpansion, noise: Array, rate: float) -> _State:
    """One iteration of both recursions; I + ηH is symmetric."""
    step = np.eye(here.hessian.shape[-1]) + rate * here.hessian
    covariance = step @ state.covariance @ step + rate**2 * noise
    shift = np.einsum("mij,cmj->cmi", step, state.shift)
    busy = state.covariance.any(axis=(1, 2, 3))  # without a group mean there is no third part
    shift[busy] += rate * here.drift(state.covariance[busy])
    return _State(covariance, shift)
