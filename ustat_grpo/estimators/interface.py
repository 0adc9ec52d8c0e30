"""What an estimator is: rewards of groups of outputs in, advantages out."""

from dataclasses import dataclass, replace
from typing import Protocol

from array_api_compat import array_namespace

from ustat_grpo.estimators.scored import Array, Scored, beside, floating, plain, working
from ustat_grpo.inputs.checks import masked_entries


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

    Examples:
        >>> from ustat_grpo import Oracle, SideInformation
        >>> Oracle().advantages([1, 0], SideInformation(value=0.25)).tolist()
        [0.75, -0.25]
        >>> SideInformation(scores=[[3, 4], [0, 1]]).norms().tolist()  # ‖W‖² of two outputs
        [25.0, 1.0]
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
        scores = working(plain("scores", self.scores))
        return array_namespace(scores).sum(scores * scores, axis=-1)


NOTHING = SideInformation()
"""No side information."""


class Estimator(Protocol):
    """Anything that maps rewards (..., G) to advantages (..., G)."""

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return the advantage of each output.

        Args:
            rewards: Z, shape (..., G), or (..., B, G) for estimators that look at the whole batch:
                an array, masked or not, or a list. What is not finite is not scorable.
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
        rewards: Z, shape (..., G); of an unscorable output it is not finite, and no mean is taken
            over it.
        side: for estimators that need more; the scores are known to them in any case. Torch
            gradients flow through what it holds.

    Returns:
        One gradient a prompt, shape (..., d). A group without scorable output gives zero.

    Raises:
        ValueError: if `scores` and `rewards` differ in their leading axes, or scores of a scorable
            output are masked.

    Examples:
        >>> from ustat_grpo import Grpo, gradient
        >>> scores = [[2, 0], [0, 2]]  # W of two outputs, d = 2
        >>> gradient(Grpo(), scores, [1, 0]).tolist()  # advantages 1 and −1
        [1.0, -1.0]
    """
    array, rewards = plain("scores", scores), plain("rewards", rewards)
    if tuple(array.shape[:-1]) != tuple(rewards.shape):
        raise ValueError(
            "scores must have the shape of rewards plus one axis, got scores "
            f"{tuple(array.shape)} and rewards {tuple(rewards.shape)}"
        )
    if hasattr(array, "detach"):  # torch derivatives must survive
        rewards = beside("rewards", rewards, array)
    array = beside("scores", array, rewards)
    z = Scored.of(rewards)
    if masked_entries(scores) and z.xp.any(z.xp.isnan(array[z.scored])):
        raise ValueError(
            "scores must not be masked where there is a reward, "
            f"got {masked_entries(scores)} masked entries"
        )
    xp, result = z.xp, floating(z.xp, array).dtype
    scores = working(floating(xp, array))
    advantages = estimator.advantages(z.rewards, replace(side, scores=scores))
    if not xp.all(z.scored):  # an unscorable output may well have no score either
        scores = xp.where(z.scored[..., None], scores, xp.zeros_like(scores))
    weights = xp.astype(advantages / xp.where(z.count > 0, z.count, 1.0), scores.dtype, copy=False)
    return xp.astype(xp.matmul(weights[..., None, :], scores)[..., 0, :], result, copy=False)
