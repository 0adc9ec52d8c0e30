"""Copies of one Gymnasium environment, checked for what groups of episodes need of it."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ustat_grpo.environments.self_check import require_own_noise, require_seeded
from ustat_grpo.inputs.checks import integer, real
from ustat_grpo.inputs.quoting import one_line, quoted

DEFAULT_MAX_STEPS = 10_000
"""Steps after which an episode counts as endless where neither time limit nor cap is stated."""

_Make = str | Callable[[], gym.Env[Any, Any]]


class EnvironmentCopies:
    """K copies of one environment with a discrete action space, to play K episodes at once.

    A prompt is a reset seed: it fixes the start, and whatever else the environment draws in its
    `reset`. What it draws later must come from its `np_random`, which is replaced after the reset
    by a generator that is the episode's own. Otherwise a group would share its noise, as copies
    that are reset with one seed do: `ustat_grpo.environments.self_check` plays some hundreds of
    steps to find out, and says what it can miss.

    Copies are used as context managers, or closed by `close`.

    Args:
        make: the id of a registered environment, "module:id" to import its module first, or a
            function that builds a new environment at each call.
        num_copies: K.
        max_steps: most steps of an episode. None takes the environment's own time limit, which ends
            episodes, or else `DEFAULT_MAX_STEPS`.
        hidden_start: whether a reset draws what observations do not show and no later noise is
            wanted, such as a shuffled deck or a maze out of sight. To whoever plays, that is the
            same as noise that a group shares, so it is refused unless you say so.
        discount: γ in (0, 1]; returns are discounted by it.

    Raises:
        ValueError: if a number is out of its range, `make` does not build environments, one at each
            call, the actions are not discrete, the observations neither numbers nor arrays, resets
            with one seed differ, steps draw noise from elsewhere than `np_random`, or do not give
            one finite number as reward.

    Examples:
        >>> from ustat_grpo.environments import EnvironmentCopies
        >>> with EnvironmentCopies("CartPole-v1", num_copies=2) as copies:
        ...     copies.empty_observations().shape  # K copies, four numbers each
        (2, 4)
    """

    def __init__(
        self,
        make: _Make,
        num_copies: int = 32,
        max_steps: int | None = None,
        *,
        hidden_start: bool = False,
        discount: float = 1.0,
    ) -> None:
        count = integer("num_copies", num_copies)
        if max_steps is not None:
            max_steps = integer("max_steps", max_steps)
        self.discount: float = _discount(discount)
        first = _build(make)
        self.environments: list[gym.Env[Any, Any]] = [first]
        try:
            number, lowest = _actions(first)
            self.num_actions: int = number
            self.first_action: int = lowest
            self.observation_space: spaces.Space[Any] = _observation_space(first)
            self.environments += [_build(make) for _ in range(count - 1)]
            if len({id(each.unwrapped) for each in self.environments}) < count:
                raise ValueError("make must build a new environment at each call, got one twice")
            require_seeded(first, self.environments[-1])
            if not hidden_start:
                require_own_noise(first)
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
        """Return a copy of n observations as policies see them: states of Discrete count from 0.

        Raises:
            ValueError: if a state is none of its Discrete space.
        """
        space = self.observation_space
        if not isinstance(space, spaces.Discrete):
            return observations.copy()
        states = observations - space.start
        if states.size and (states.min() < 0 or states.max() >= space.n):
            raise ValueError(f"observations must lie in their space, {space}, got {observations}")
        return states

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


def _discount(discount: float) -> float:
    """Return γ, or raise unless it lies in (0, 1]."""
    if not 0 < real("discount", discount) <= 1:
        raise ValueError(f"discount must lie in (0, 1], got {discount!r}")
    return float(discount)


def _registered(name: str) -> gym.Env[Any, Any]:
    """Return the environment of an id, or raise if Gymnasium makes none of it."""
    try:
        # The checker would add a quarter to a step of CartPole, and repeat its warnings each time.
        return gym.make(name, disable_env_checker=True)
    except (gym.error.Error, ImportError) as error:
        raise ValueError(
            f"make must be the id of a registered environment, got {quoted(name)} "
            f"({one_line(' '.join(str(error).split()))})"
        ) from error


def _build(make: _Make) -> gym.Env[Any, Any]:
    if not callable(make) and not isinstance(make, str):
        raise ValueError(
            f"make must be an id or a function that builds an environment, got {quoted(make)}"
        )
    built = _registered(make) if isinstance(make, str) else make()
    if not isinstance(built, gym.Env):
        raise ValueError(f"make must build a gymnasium.Env, got {built!r}")
    return built


def _actions(environment: gym.Env[Any, Any]) -> tuple[int, int]:
    """Return number and first of the actions, or raise."""
    space = environment.action_space
    if not isinstance(space, spaces.Discrete):
        raise ValueError(f"the action space must be Discrete, got {space}")
    if space.n < 2:
        raise ValueError(f"the action space must hold at least 2 actions, got {space}")
    return int(space.n), int(space.start)


def _observation_space(environment: gym.Env[Any, Any]) -> spaces.Space[Any]:
    space = environment.observation_space
    if not isinstance(
        space, spaces.Discrete | spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary
    ):
        raise ValueError(
            "the observation space must be Discrete, Box, MultiDiscrete or MultiBinary (wrap the "
            f"environment in gymnasium.wrappers.FlattenObservation), got {space}"
        )
    return space
