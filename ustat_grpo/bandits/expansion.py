"""J and its noise around one θ, to second and third order: exact, for every bandit.

Arrays are kept in M blocks of k parameters between which the Hessian of J has no entries: M = P
prompts of k = K actions for one-hot features, else a single block, k = d.

With A(x, y) = E[Z∣x, y] − V(x) and c = φ(x, Y) − E[φ(x, Y)∣x] along a direction, the derivatives of
V(x) are joint cumulants: E[Ac], E[Ac²] and E[Ac³] − 3E[Ac]E[c²].
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from ustat_grpo.bandits.snapshot import Snapshot
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.moments import ScoreMoments


@dataclass(frozen=True, eq=False)
class Expansion:
    """Derivatives of J at one θ; see the module's docstring for the block form.

    Args:
        snapshot: the problem at θ.

    Examples:
        >>> from ustat_grpo import TugOfWar
        >>> from ustat_grpo.bandits import expand
        >>> task = TugOfWar(num_flat=0)  # one parameter
        >>> best = expand(task.at)(task.optimum)
        >>> float(abs(best.gradient).max()) < 1e-12, float(best.hessian.max()) < 0
        (True, True)
    """

    snapshot: Snapshot

    @property
    def objective(self) -> float:
        """J(θ)."""
        return self.snapshot.objective

    @property
    def gradient(self) -> Float[Array, "M k"]:
        """∇J(θ), shape (M, k)."""
        return self.snapshot.gradient.reshape(self._num_blocks, -1)

    @property
    def hessian(self) -> Float[Array, "M k k"]:
        """∇²J(θ), shape (M, k, k): E over x of E[A cc′∣x]."""
        return self._hessian

    @property
    def score_moments(self) -> ScoreMoments:
        """What the covariance of every estimator is made of."""
        snapshot = self.snapshot
        gradients = snapshot.prompt_gradients
        if snapshot.features is None:
            # A block is g(x) of one prompt, which is drawn or not: Cov = f(1−f)·g(x)g(x)ᵀ.
            weights = snapshot.prompt_probs[:, None, None]
            second = weights * gradients[:, :, None] * gradients[:, None, :]
            spread = (1 - weights) * second
        else:
            deviations = gradients - snapshot.gradient
            second = (gradients.T * snapshot.prompt_probs @ gradients)[None]
            spread = (deviations.T * snapshot.prompt_probs @ deviations)[None]
        return ScoreMoments(
            value=snapshot.value,
            optimal_baseline=snapshot.optimal_baseline,
            mean_reward=snapshot.mean_reward,
            centred_square_reward=snapshot.centred_square_reward,
            reward_variance=snapshot.moments.reward_variance,
            gradient=self.gradient,
            gradient_second_moment=second,
            gradient_covariance=spread,
            weighted_score_covariance=self._weighted,
        )

    def drift(self, covariance: Float[Array, "... M k k"]) -> Float[Array, "... M k"]:
        """Return ½∇tr(∇²J·C) at fixed C: how spread of θ moves the mean gradient.

        Args:
            covariance: C, symmetric blocks, shape (..., M, k, k).

        Returns:
            Shape (..., M, k).
        """
        features = self.snapshot.features
        if features is None:
            spread = covariance  # already between the logits of one prompt
        else:
            spread = features @ covariance @ np.swapaxes(features, -1, -2)
        along = self._drift_of_logits(spread) * self.snapshot.prompt_probs[:, None]
        if features is None:
            return along
        return np.einsum("...pk,pkd->...d", along, features)[..., None, :]

    @property
    def prompt_gradients(self) -> Float[Array, "P d"]:
        """g(x), shape (P, d); for features only."""
        return self.snapshot.prompt_gradients

    def mean_hessian_product(self, vectors: Float[Array, "P d"]) -> Float[Array, " d"]:
        """Return E_x[H(x) u_x] for one vector u_x a prompt, H(x) the Hessian of V(x); shape (d,).

        Args:
            vectors: shape (P, d); for features only.
        """
        snapshot = self.snapshot
        scores = self._scores.reshape(*snapshot.action_probs.shape, -1)
        along = np.einsum("pkd,pd->pk", scores, vectors)
        mass = snapshot.prompt_probs[:, None] * snapshot.action_probs * self._centred * along
        return mass.ravel() @ self._scores

    @property
    def _num_blocks(self) -> int:
        return 1 if self.snapshot.features is not None else len(self.snapshot.value)

    @cached_property
    def _hessian(self) -> Array:
        return self._weighted(self._centred)

    @cached_property
    def _centred(self) -> Array:
        """A(x, y) = E[Z∣x, y] − V(x), shape (P, K)."""
        return self.snapshot.mean_reward - self.snapshot.value[:, None]

    @cached_property
    def _scores(self) -> Array:
        """W(x, y) as rows of one matrix, shape (P·K, d)."""
        scores = self.snapshot.dense_scores()
        return scores.reshape(-1, scores.shape[-1])

    @cached_property
    def _block_scores(self) -> Array:
        """The one block of W(x, y) that is not zero, shape (P, K, K), for one-hot features."""
        probs = self.snapshot.action_probs
        return np.eye(probs.shape[1]) - probs[:, None, :]

    def _weighted(self, weights: Array) -> Array:
        """Return E[w(X, Y) WWᵀ], shape (M, k, k), for weights of shape (P, K)."""
        snapshot = self.snapshot
        mass = snapshot.prompt_probs[:, None] * snapshot.action_probs * weights
        if snapshot.features is None:
            scores = self._block_scores
            return np.swapaxes(scores, 1, 2) @ (mass[:, :, None] * scores)
        return (self._scores.T @ (mass.reshape(-1, 1) * self._scores))[None]

    def _drift_of_logits(self, spread: Array) -> Array:
        """½∇tr(∇²V·C) with respect to the logits of each prompt; C and result (..., P, K, ·).

        tr(∇²V·C) = Σ p A u with u = diag C − 2Cp; its derivative follows the product rule.
        """
        probs, centred = self.snapshot.action_probs, self._centred
        mixed = np.einsum("...pij,pj->...pi", spread, probs)  # Cp
        u = np.diagonal(spread, axis1=-2, axis2=-1) - 2 * mixed
        weighted = probs * centred
        trace = np.einsum("pk,...pk->...p", weighted, u)[..., None]
        mean_u = np.einsum("pk,...pk->...p", probs, u)[..., None]
        crossed = np.einsum("...pij,pj->...pi", spread, weighted)
        overlap = np.einsum("pk,...pk->...p", weighted, mixed)[..., None]
        return 0.5 * probs * (centred * (u - mean_u) - trace - 2 * crossed + 2 * overlap)


def expand(at: Callable[[Array], Snapshot]) -> Callable[[Array], Expansion]:
    """Return the function that expands a bandit at any θ, from its `at`.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit
        >>> from ustat_grpo.bandits import expand
        >>> coin = SoftmaxBandit([[[0], [1]]], [0, 1], [[[1, 0], [0, 1]]])  # J = sigmoid(θ)
        >>> here = expand(coin.at)([0.0])
        >>> here.gradient.tolist(), here.hessian.tolist()  # M = 1 block of k = 1 parameter
        ([[0.25]], [[[0.0]]])
    """
    return lambda theta: Expansion(at(theta))
