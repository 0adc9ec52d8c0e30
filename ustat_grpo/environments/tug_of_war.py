"""The two-prompt tug-of-war as an environment."""

from jaxtyping import Float

from ustat_grpo.bandits import TugOfWar
from ustat_grpo.environments.contextual_bandit import (
    ContextualBanditEnv,
    ContextualBanditVectorEnv,
)
from ustat_grpo.inputs.arrays import Array


def tug_of_war(*, signal: float = 0.8, render_mode: str | None = None) -> ContextualBanditEnv:
    """Return the bandit with two contexts that want opposite actions of two.

    success = [[(1−signal)/2, (1+signal)/2], [(1+signal)/2, (1−signal)/2]]

    What else `TugOfWar` says is about its policy, which an environment leaves to the user.

    Args:
        signal: how much the reward depends on the action, in (0, 1].
        render_mode: None or "ansi".

    Raises:
        ValueError: if the signal is out of its range or the mode unknown.
    """
    return ContextualBanditEnv(_success(signal), render_mode=render_mode)


def tug_of_war_vector(num_envs: int = 1, *, signal: float = 0.8) -> ContextualBanditVectorEnv:
    """Return `num_envs` copies of `tug_of_war`; see `ContextualBanditVectorEnv`."""
    return ContextualBanditVectorEnv(num_envs, _success(signal))


def _success(signal: float) -> Float[Array, "2 2"]:
    return TugOfWar(signal=signal).bandit.reward_probs[..., 1]
