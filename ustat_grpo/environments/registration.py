"""Names for `gymnasium.make` and `gymnasium.make_vec`, given when this is first imported."""

import gymnasium

from ustat_grpo.environments.arithmetic import ArithmeticEnv
from ustat_grpo.environments.contextual_bandit import (
    ContextualBanditEnv,
    ContextualBanditVectorEnv,
)
from ustat_grpo.environments.tug_of_war import tug_of_war, tug_of_war_vector

_ENTRY_POINTS = {
    "ustat_grpo/ContextualBandit-v0": (ContextualBanditEnv, ContextualBanditVectorEnv),
    "ustat_grpo/TugOfWar-v0": (tug_of_war, tug_of_war_vector),
    "ustat_grpo/Arithmetic-v0": (ArithmeticEnv, None),
}

for _name, (_single, _vector) in _ENTRY_POINTS.items():
    if _name not in gymnasium.registry:  # registering twice warns, when a module is reloaded, say
        gymnasium.register(_name, _single, vector_entry_point=_vector)
