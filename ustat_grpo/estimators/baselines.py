"""Baselines that do not depend on the group: none, a constant, or what is known of the prompt."""

from dataclasses import dataclass

from ustat_grpo.estimators.interface import NOTHING, SideInformation
from ustat_grpo.estimators.scored import Array, Scored, in_working_precision, prompt_level
from ustat_grpo.inputs.checks import real


@dataclass(frozen=True)
class Vanilla:
    """REINFORCE without a baseline: A_i = Z_i (Williams 1992). Unbiased.

    Examples:
        >>> from ustat_grpo import Vanilla
        >>> Vanilla().advantages([1, 0, float("nan"), 0]).tolist()  # NaN could not be scored
        [1.0, 0.0, 0.0, 0.0]
    """

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return the rewards themselves; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        return z.values


@dataclass(frozen=True)
class Oracle:
    """The value function as baseline: A_i = Z_i − V(x). Unbiased; needs to know V.

    Examples:
        >>> from ustat_grpo import Oracle, SideInformation
        >>> rewards = [[1, 0], [1, 1]]  # two prompts with two outputs each
        >>> Oracle().advantages(rewards, SideInformation(value=[0.5, 0.75])).tolist()
        [[0.5, -0.5], [0.25, 0.25]]
    """

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return rewards less the value; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        return z.less(prompt_level("value", "Oracle", side.value, z))


@dataclass(frozen=True)
class ConstantBaseline:
    """One number for all prompts: A_i = Z_i − c. Unbiased.

    Args:
        baseline: c, in units of reward.

    Examples:
        >>> from ustat_grpo import ConstantBaseline
        >>> ConstantBaseline(0.25).advantages([1, 0, 0, 0]).tolist()
        [0.75, -0.25, -0.25, -0.25]
    """

    baseline: float

    def __post_init__(self) -> None:
        """Raise if the baseline is no finite number."""
        real("baseline", self.baseline)

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return rewards less the constant; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        return z.less(float(self.baseline))


@dataclass(frozen=True)
class OptimalBaseline:
    """The prompt-only baseline of least variance: A_i = Z_i − b*(x). Unbiased.

    b*(x) = E[‖W‖²Z∣x]/E[‖W‖²∣x] (Greensmith, Bartlett & Baxter 2004) equals V(x) only if ‖W‖² and
    Z are uncorrelated given x (Assumption 2 of the paper).

    Examples:
        >>> from ustat_grpo import OptimalBaseline, SideInformation
        >>> best = (4 * 1 + 1 * 0) / (4 + 1)  # ‖W‖² = 4 with reward 1, 1 with 0
        >>> side = SideInformation(optimal_baseline=best)
        >>> OptimalBaseline().advantages([1, 0], side).round(3).tolist()
        [0.2, -0.8]
    """

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return rewards less the optimal baseline; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        known = prompt_level("optimal_baseline", "OptimalBaseline", side.optimal_baseline, z)
        return z.less(known)


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
