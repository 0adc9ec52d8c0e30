"""Finite problems on which everything can be computed exactly."""

from ustat_grpo.bandits.arithmetic_choice import arithmetic_choice, train_to
from ustat_grpo.bandits.random import random_bandit
from ustat_grpo.bandits.snapshot import Snapshot
from ustat_grpo.bandits.softmax import SoftmaxBandit
from ustat_grpo.bandits.tug_of_war import TugOfWar

__all__ = [
    "Snapshot",
    "SoftmaxBandit",
    "TugOfWar",
    "arithmetic_choice",
    "random_bandit",
    "train_to",
]
