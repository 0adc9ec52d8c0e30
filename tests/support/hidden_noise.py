"""The README's corridor, with the noise of its steps hidden in one way after another."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Discrete


class Corridor(gym.Env):
    """Walk to the right end; the floor is slippery, and episodes begin anywhere in between.

    Args:
        hide: is called by each reset with environment and seed, and returns what draws a uniform
            number in a step; None draws from `np_random`, as it should be.
    """

    observation_space = Discrete(8)
    action_space = Discrete(2)

    def __init__(self, hide: Callable[[Corridor, int | None], Callable[[], float]] | None = None):
        self.hide = hide

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell, self.taken = int(self.np_random.integers(1, 7)), 0
        if self.hide is not None:
            self.draw = self.hide(self, seed)
        return self.cell, {}

    def step(self, action):
        self.taken += 1
        slips = (self.np_random.random() if self.hide is None else self.draw()) < 0.3
        self.cell += 1 if (action == 1) != slips else -1
        return self.cell, float(self.cell == 7), self.cell in (0, 7), False, {}


class Floor:
    """A part of an environment, without a dictionary to look into."""

    __slots__ = ("generators",)

    def __init__(self, generator: np.random.Generator | random.Random) -> None:
        self.generators = [{"slips": generator}]

    def draw(self) -> float:
        """Return a uniform number."""
        return self.generators[0]["slips"].random()


def torch_generator(corridor: Corridor, seed: int | None) -> Callable[[], float]:
    """A torch generator that the environment holds."""
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    return lambda: float(torch.rand((), generator=generator))


def torch_seeded(corridor: Corridor, seed: int | None) -> Callable[[], float]:
    """Torch's own generator, reseeded."""
    torch.manual_seed(0 if seed is None else seed)
    return lambda: float(torch.rand(()))


def numpy_seeded(corridor: Corridor, seed: int | None) -> Callable[[], float]:
    """NumPy's global generator, reseeded from what the reset draws."""
    np.random.seed(int(corridor.np_random.integers(2**31)))
    return np.random.random


def python_seeded(corridor: Corridor, seed: int | None) -> Callable[[], float]:
    """Python's global generator, reseeded."""
    random.seed(seed)
    return random.random


def spawned(corridor: Corridor, seed: int | None) -> Callable[[], float]:
    """A generator function over a child of np_random: its frame holds it."""

    (child,) = corridor.np_random.spawn(1)

    def numbers() -> Iterator[float]:
        while True:
            yield child.random()

    return numbers().__next__


def keyed_by_seed(corridor: Corridor, seed: int | None) -> Callable[[], float]:
    """A new generator at every step, of a seed that a reset without one keeps."""
    corridor.key = getattr(corridor, "key", 0) if seed is None else seed
    return lambda: random.Random(f"{corridor.key}, {corridor.taken}").random()


def drawn_in_advance(corridor: Corridor, seed: int | None) -> Callable[[], float]:
    """All noise is drawn by the reset."""
    tape = corridor.np_random.random(200)
    return lambda: tape[corridor.taken]


FOUND_AS_GENERATOR = {
    "a generator that draw leads to": (
        lambda corridor, seed: Floor(corridor.np_random).draw,
        lambda corridor, seed: Floor(random.Random(seed)).draw,
        lambda corridor, seed: corridor.np_random.random,
        torch_generator,
        spawned,
    ),
    "torch's global generator": (torch_seeded,),
    "NumPy's global generator": (numpy_seeded,),
    "the global generator of random": (python_seeded,),
}
"""By the name that the error gives to where the noise comes from."""
