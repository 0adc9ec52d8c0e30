"""Names for `gymnasium.make` and `gymnasium.make_vec`, given when this is first imported.

One of them is a table of the contextual bandit that is worth a name: the tug-of-war of two prompts.
"""

import gymnasium
from jaxtyping import Float

from ustat_grpo.bandits import TugOfWar
from ustat_grpo.environments.arithmetic import ArithmeticEnv
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


_ENTRY_POINTS = {
    "ustat_grpo/ContextualBandit-v0": (ContextualBanditEnv, ContextualBanditVectorEnv),
    "ustat_grpo/TugOfWar-v0": (tug_of_war, tug_of_war_vector),
    "ustat_grpo/Arithmetic-v0": (ArithmeticEnv, None),
}

for _name, (_single, _vector) in _ENTRY_POINTS.items():
    if _name not in gymnasium.registry:  # registering twice warns, when a module is reloaded, say
        gymnasium.register(_name, _single, vector_entry_point=_vector)
