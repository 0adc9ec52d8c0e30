"""Finite problems on which everything can be computed exactly."""

from ustat_grpo.bandits.random import random_bandit
from ustat_grpo.bandits.snapshot import Snapshot
from ustat_grpo.bandits.softmax import SoftmaxBandit
from ustat_grpo.bandits.tug_of_war import TugOfWar

__all__ = ["Snapshot", "SoftmaxBandit", "TugOfWar", "random_bandit"]
