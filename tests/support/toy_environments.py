"""Small environments that the tests can see through, and what is wrong with some of them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete

SUCCESS = np.array([[0.9, 0.2, 0.4], [0.1, 0.6, 0.3]])
"""P(Z = 1) of `OneStep` at its two states and three actions."""


class Walk(gym.Env):
    """Three cells in a ring, a random number of steps, noisy rewards; nothing counts from 0.

    Args:
        fault: "" for none, or where starts, noise or ends go wrong.
    """

    def __init__(self, fault: str = "") -> None:
        self.observation_space = Discrete(3, start=5)
        self.action_space = Discrete(2, start=1)
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        if self.fault != "once" or self._np_random is None:
            super().reset(seed=seed)
        self.own = np.random.default_rng(seed)
        self.alias = self.np_random
        unseeded = self.fault == "start"
        self.cell = int((np.random.default_rng() if unseeded else self.np_random).integers(3))
        return self._seen(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        draws = {"own": self.own, "alias": self.alias, "elsewhere": np.random.default_rng()}
        noise = draws.get(self.fault, self.np_random)
        self.cell = (self.cell + action) % 3
        ended = noise.random() < 0.3 and self.fault != "endless"
        return self._seen(), self.cell + noise.normal(), ended, False, {}

    def _seen(self):
        return np.array([5]) if self.fault == "shape" else 5 + self.cell


class OneStep(gym.Env):
    """A bandit of two states: one action, then a reward of 0 or `scale` by the table `SUCCESS`."""

    def __init__(self, scale: float = 1.0) -> None:
        self.observation_space = Discrete(2)
        self.action_space = Discrete(3)
        self.scale = scale

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(2))
        return self.state, {}

    def step(self, action):
        reward = self.scale * float(self.np_random.random() < SUCCESS[self.state, action])
        return self.state, reward, True, False, {}


class Counting(gym.Env):
    """Step t = 1, 2, 3 has the reward t, whatever is done; then the episode ends."""

    def __init__(self, num_actions: int = 2) -> None:
        self.observation_space = Discrete(1)
        self.action_space = Discrete(num_actions)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken = 0
        return 0, {}

    def step(self, action):
        self.taken += 1
        return 0, float(self.taken), self.taken == 3, False, {}


def seeds_of_states(num_each: int) -> np.ndarray:
    """Seeds from which `OneStep` starts in state 0, and as many from which it starts in state 1."""
    environment = OneStep()
    of_state: list[list[int]] = [[], []]
    seed = 0
    while min(map(len, of_state)) < num_each:
        of_state[environment.reset(seed=seed)[0]].append(seed)
        seed += 1
    return np.array([each[:num_each] for each in of_state]).ravel()


gym.register("Walk-v0", entry_point=Walk)
gym.register("TimedWalk-v0", entry_point=Walk, kwargs={"fault": "endless"}, max_episode_steps=7)
