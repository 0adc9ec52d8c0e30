"""Copies of one Gymnasium environment, checked for what groups of episodes need of it."""

import pickle
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ustat_grpo.checks import integer

DEFAULT_MAX_STEPS = 10_000
"""Steps after which an episode counts as endless where neither time limit nor cap is stated."""

_PROBES = 8
"""Seeds that are tried out: by chance, a start among two is the same at all of them in 1 of 2⁸."""

_PROBE_STEPS = 16
"""Steps that are played from each."""

_Make = str | Callable[[], gym.Env]
_Path = list[tuple[Any, float, bool]]
"""Observation, reward and whether the episode has ended: after the reset, and after each step."""


class EnvironmentCopies:
    """K copies of one environment with a discrete action space, to play K episodes at once.

    A prompt is a reset seed: it fixes the start, and whatever else the environment draws in its
    `reset`. What it draws later must come from its `np_random`, which is replaced after the reset
    by a generator that is the episode's own. Otherwise a group would share its noise, as copies
    that are reset with one seed do.

    Copies are used as context managers, or closed by `close`.

    Args:
        make: the id of a registered environment, "module:id" to import its module first, or a
            function that builds a new environment at each call.
        num_copies: K.
        max_steps: most steps of an episode. None takes the environment's own time limit, which ends
            episodes, or else `DEFAULT_MAX_STEPS`.

    Raises:
        ValueError: if a number is not positive, `make` does not build environments, one at each
            call, the actions are not discrete, the observations neither numbers nor arrays, resets
            with one seed differ, or steps draw noise from elsewhere than `np_random`.
    """

    def __init__(self, make: _Make, num_copies: int = 32, max_steps: int | None = None) -> None:
        count = integer("num_copies", num_copies)
        if max_steps is not None:
            max_steps = integer("max_steps", max_steps)
        first = _build(make)
        self.environments: list[gym.Env] = [first]
        try:
            self.num_actions, self.first_action = _actions(first)
            self.observation_space = _observation_space(first)
            self.environments += [_build(make) for _ in range(count - 1)]
            if len({id(each.unwrapped) for each in self.environments}) < count:
                raise ValueError("make must build a new environment at each call, got one twice")
            _require_seeded(first, self.environments[-1])
        except Exception:
            self.close()
            raise
        limit = None if first.spec is None else first.spec.max_episode_steps
        self.max_steps: int = max_steps or limit or DEFAULT_MAX_STEPS

    def __len__(self) -> int:
        """K."""
        return len(self.environments)

    def empty_observations(self) -> NDArray[Any]:
        """Return room for an observation of each copy as the environment gives it, (K, ...)."""
        dtype = np.int64 if isinstance(self.observation_space, spaces.Discrete) else None
        shape = self.observation_space.shape or ()
        return np.empty((len(self), *shape), dtype or self.observation_space.dtype)

    def observed(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return a copy of n observations as policies see them: states of Discrete count from 0."""
        if isinstance(self.observation_space, spaces.Discrete):
            return observations - self.observation_space.start
        return observations.copy()

    def close(self) -> None:
        """Close all copies."""
        for each in self.environments:
            each.close()

    def __enter__(self) -> Self:
        """Return the copies."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all copies."""
        self.close()


def start_episode(environment: gym.Env, seed: int, noise: np.random.Generator) -> Any:
    """Reset with a seed, hand over the noise of what follows, and return the first observation."""
    observation, _ = environment.reset(seed=seed)
    environment.unwrapped.np_random = noise
    return observation


def _build(make: _Make) -> gym.Env:
    # The checker would add a quarter to a step of CartPole, and repeat its warnings for each copy.
    built = gym.make(make, disable_env_checker=True) if isinstance(make, str) else make()
    if not isinstance(built, gym.Env):
        raise ValueError(f"make must build a gymnasium.Env, got {built!r}")
    return built


def _actions(environment: gym.Env) -> tuple[int, int]:
    """Return number and first of the actions, or raise."""
    space = environment.action_space
    if not isinstance(space, spaces.Discrete):
        raise ValueError(f"the action space must be Discrete, got {space}")
    if space.n < 2:
        raise ValueError(f"the action space must hold at least 2 actions, got {space}")
    return int(space.n), int(space.start)


def _observation_space(environment: gym.Env) -> spaces.Space[Any]:
    space = environment.observation_space
    if not isinstance(
        space, spaces.Discrete | spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary
    ):
        raise ValueError(
            "the observation space must be Discrete, Box, MultiDiscrete or MultiBinary (wrap the "
            f"environment in gymnasium.wrappers.FlattenObservation), got {space}"
        )
    return space


def _require_seeded(first: gym.Env, last: gym.Env) -> None:
    """Raise unless seed, noise and actions determine what a copy and another one do."""
    for seed in range(_PROBES):
        reference = _probe(first, seed)
        for again in (_probe(first, seed), _probe(last, seed)):
            _require_same(seed, reference, again)


def _probe(environment: gym.Env, seed: int) -> _Path:
    """Play a few steps whose actions and noise depend on the seed alone."""
    noise, choice = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    observation = start_episode(environment, seed, noise)
    shape = environment.observation_space.shape
    if np.shape(observation) != shape:
        raise ValueError(
            f"observations must have the shape of their space, {shape}, got {np.shape(observation)}"
        )
    others = _other_generators(environment)
    path: _Path = [(np.copy(observation), 0.0, False)]
    space = environment.action_space
    assert isinstance(space, spaces.Discrete)
    for action in (choice.integers(space.n, size=_PROBE_STEPS) + space.start).tolist():
        observation, reward, terminated, truncated, _ = environment.step(action)
        path.append((np.copy(observation), float(reward), bool(terminated or truncated)))
        if path[-1][-1]:
            break
    drawn = [
        name for name, state in _other_generators(environment).items() if state != others.get(name)
    ]
    if drawn:
        raise ValueError(
            "the environment must draw all noise of its steps from self.np_random, but it draws "
            f"from {drawn[0]}, which a group of episodes with one seed would share"
        )
    return path


def _other_generators(environment: gym.Env) -> dict[str, bytes]:
    """Return the states of the generators that the environment holds beside its np_random."""
    inner = environment.unwrapped
    kinds = np.random.Generator | np.random.RandomState | random.Random
    return {
        name: pickle.dumps(held)
        for name, held in vars(inner).items()
        if isinstance(held, kinds) and held is not inner.np_random
    }


def _require_same(seed: int, reference: _Path, again: _Path) -> None:
    for step, (one, other) in enumerate(zip(reference, again, strict=False)):
        if np.array_equal(one[0], other[0], equal_nan=True) and one[1:] == other[1:]:
            continue
        if step == 0:
            raise ValueError(
                f"the environment must honour its seed, but two resets with seed {seed} gave "
                f"the observations {one[0]} and {other[0]}"
            )
        raise ValueError(
            "the environment must draw all noise of its steps from self.np_random, but with the "
            f"same seed, np_random and actions, step {step} gave {_shown(one)} and {_shown(other)}"
        )


def _shown(outcome: tuple[Any, float, bool]) -> str:
    observation, reward, ended = outcome
    return f"(observation {observation}, reward {reward:g}, {'end' if ended else 'no end'})"
