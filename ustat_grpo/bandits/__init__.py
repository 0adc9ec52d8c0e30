"""Finite problems on which everything can be computed exactly."""

from ustat_grpo.bandits.arithmetic_choice import arithmetic_choice, train_to
from ustat_grpo.bandits.expansion import Expansion, expand
from ustat_grpo.bandits.random import random_bandit
from ustat_grpo.bandits.snapshot import Snapshot
from ustat_grpo.bandits.softmax import SoftmaxBandit
from ustat_grpo.bandits.token_bandit import TokenBandit, random_token_bandit
from ustat_grpo.bandits.tug_of_war import TugOfWar, one_axis

__all__ = [
    "Expansion",
    "Snapshot",
    "SoftmaxBandit",
    "TokenBandit",
    "TugOfWar",
    "arithmetic_choice",
    "expand",
    "one_axis",
    "random_bandit",
    "random_token_bandit",
    "train_to",
]
