"""What an estimator is: rewards of groups of outputs in, advantages out."""

from dataclasses import dataclass, replace
from typing import Protocol

from array_api_compat import array_namespace

from ustat_grpo.estimators.arrays import Array, floating, scorable


@dataclass(frozen=True, eq=False)
class SideInformation:
    """What an estimator may know beside the rewards; each reads what it needs, or raises.

    Args:
        value: V(x), shape (...).
        optimal_baseline: b*(x) = E[‖W‖²Z∣x]/E[‖W‖²∣x], shape (...).
        prediction: V̂(x) of a critic, shape (...).
        greedy_reward: reward of the most likely output to each prompt, shape (...).
        score_norm_squared: ‖W‖² of each output, shape (..., G).
        lengths: tokens of each output, shape (..., G).
        scores: W, shape (..., G, d); stand in for `score_norm_squared`, see `norms`.
    """

    value: Array | None = None
    optimal_baseline: Array | None = None
    prediction: Array | None = None
    greedy_reward: Array | None = None
    score_norm_squared: Array | None = None
    lengths: Array | None = None
    scores: Array | None = None

    def norms(self) -> Array | None:
        """Return ‖W‖² of each output, shape (..., G), if it or the scores are known."""
        if self.score_norm_squared is not None or self.scores is None:
            return self.score_norm_squared
        return array_namespace(self.scores).sum(self.scores * self.scores, axis=-1)


NOTHING = SideInformation()
"""No side information."""


class Estimator(Protocol):
    """Anything that maps rewards (..., G) to advantages (..., G)."""

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return the advantage of each output.

        Args:
            rewards: Z, shape (..., G), or (..., B, G) for estimators that look at the whole batch.
            side: what else is known.

        Raises:
            ValueError: if the estimator needs to know more, or larger groups.
        """
        ...


def gradient(
    estimator: Estimator, scores: Array, rewards: Array, side: SideInformation = NOTHING
) -> Array:
    """Estimate the policy gradient at each prompt: ĝ(x) = (1/G) Σ_i W_i A_i.

    Average the result over the prompt axis to get the gradient of a minibatch (Algorithm 1).

    Args:
        estimator: turns rewards into advantages.
        scores: W = ∇_θ log π_θ(Y∣X), shape (..., G, d).
        rewards: Z, shape (..., G); NaN marks an unscorable output, over which no mean is taken.
        side: for estimators that need more; the scores are known to them in any case. Torch
            gradients flow through what it holds.

    Returns:
        One gradient a prompt, shape (..., d). A group without scorable output gives zero.

    Raises:
        ValueError: if `scores` and `rewards` differ in their leading axes.
    """
    if tuple(scores.shape[:-1]) != tuple(rewards.shape):
        raise ValueError(
            "scores must have the shape of rewards plus one axis, got scores "
            f"{tuple(scores.shape)} and rewards {tuple(rewards.shape)}"
        )
    xp, scored, _, count = scorable(rewards)
    scores = floating(xp, scores)
    advantages = estimator.advantages(rewards, replace(side, scores=scores))
    if not xp.all(scored):  # an unscorable output may well have no score either
        scores = xp.where(scored[..., None], scores, xp.zeros_like(scores))
    weights = xp.astype(advantages / xp.where(count > 0, count, 1.0), scores.dtype, copy=False)
    return xp.matmul(weights[..., None, :], scores)[..., 0, :]
