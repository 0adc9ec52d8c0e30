"""Baselines that something else has worked out for each prompt: one more output, or a network."""

from dataclasses import dataclass

from ustat_grpo.estimators.arrays import Array, Scored, in_working_precision, prompt_level
from ustat_grpo.estimators.interface import NOTHING, SideInformation


@dataclass(frozen=True)
class GreedyBaseline:
    """Reward of the most likely output as baseline: A_i = Z_i − Z(x, y_greedy).

    ReMax (arXiv 2310.10505). Unbiased, since the greedy output is none of the group; costs one
    more output for each prompt. Needs `side.greedy_reward`.

    Examples:
        >>> from ustat_grpo import GreedyBaseline, SideInformation
        >>> side = SideInformation(greedy_reward=[1, 0])  # of two prompts
        >>> GreedyBaseline().advantages([[1, 0], [1, 0]], side).tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return rewards less the greedy reward; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        return z.less(prompt_level("greedy_reward", "GreedyBaseline", side.greedy_reward, z))


@dataclass(frozen=True)
class Critic:
    """A given or learned value as baseline: A_i = Z_i − V̂(x).

    Unbiased if V̂ was not fitted to this very group. Needs `side.prediction`, through which torch
    gradients flow: detach it where the policy is to be trained and the critic is not.

    Examples:
        >>> from ustat_grpo import Critic, SideInformation
        >>> side = SideInformation(prediction=[0.5, 0.25])  # of two prompts
        >>> Critic().advantages([[1, 0], [1, 0]], side).tolist()
        [[0.5, -0.5], [0.75, -0.25]]
    """

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return rewards less the prediction; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        return z.less(prompt_level("prediction", "Critic", side.prediction, z))
