"""One reset and one step of a Gymnasium environment, checked for what episodes need of them."""

import math
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from ustat_grpo.inputs.checks import finite
from ustat_grpo.inputs.quoting import quoted

_STEP = "(observation, reward, terminated, truncated, info)"


class Outcome(NamedTuple):
    """What a step gives."""

    observation: Any
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False

    @property
    def ended(self) -> bool:
        """Whether the episode is over: a time limit ends it as any other end does."""
        return self.terminated or self.truncated


def start_episode(environment: gym.Env[Any, Any], seed: int, noise: np.random.Generator) -> Any:
    """Reset with a seed, hand over the noise of what follows, and return the first observation.

    Raises:
        ValueError: if the reset does not return an observation and a dictionary.
    """
    given: Any = environment.reset(seed=seed)
    if not isinstance(given, tuple) or len(given) != 2:
        raise ValueError(f"reset must return (observation, info), got {_what(given)}")
    environment.unwrapped.np_random = noise
    return given[0]


def take_step(environment: gym.Env[Any, Any], action: int) -> Outcome:
    """Take a step, or raise unless it gives what an episode can be summed from.

    Raises:
        ValueError: if the step does not return Gymnasium's five values, or its reward is no finite
            number: None, NaN, infinite, or an array of more than one.
    """
    try:
        given: Any = environment.step(action)
    except ValueError as error:
        if "values to unpack" not in str(error):
            raise
        raise ValueError(  # a wrapper's: it says neither which values nor of what
            f"step must return {_STEP}, but a wrapper found {error}"
        ) from None
    if not isinstance(given, tuple) or len(given) != 5:
        raise ValueError(f"step must return {_STEP}, got {_what(given)}")
    observation, reward, terminated, truncated, _ = given
    if type(reward) is not float or not math.isfinite(reward):
        reward = _number(reward)
    return Outcome(observation, reward, bool(terminated), bool(truncated))


def _number(reward: Any) -> float:
    """Return a reward of any type that holds one finite number, or raise."""
    is_tensor = hasattr(reward, "detach")  # of torch, with derivatives or in half precision
    given = reward.detach().cpu().double().numpy() if is_tensor else reward
    try:
        numbers = finite("reward", given, ndim=np.ndim(given))
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.size != 1:
        raise ValueError(f"the reward of a step must be one finite number, got {quoted(reward)}")
    return float(numbers.reshape(()))


def _what(given: Any) -> str:
    return f"{len(given)} values" if isinstance(given, tuple) else f"one of {type(given).__name__}"
