"""What copies of an environment are tried out for: one start a seed, and noise of their own.

A group shares a start and nothing else. Where noise comes from cannot be seen from outside, so an
environment is played and compared with itself:

1. Seed, noise handed over and actions must determine what every copy does.
2. No generator but `np_random` may move while steps are taken, wherever it is held.
3. After a reset without a seed, which draws its start from a generator that was handed over,
   nothing may depend on the seed of the reset before. An environment that keeps noise keyed by its
   seed where 2 cannot look, in compiled code say, differs here.
4. Seeds whose starts look alike must go on alike under the same noise and actions, unless episodes
   of one seed differ when only the noise does. Noise that a reset draws in advance is found here,
   and so is a start that observations do not show: the two are one to whoever plays.

An environment without noise passes: what its starts show decides all that follows. What is not
found: noise that first appears after `_PROBE_STEPS` steps; noise that 2 cannot see, where besides
every start looks different or other noise is an episode's own, and resets without a seed draw it
anew. All of it takes some 2,000 steps and 1,000 resets at most: 0.03 s of CartPole, 0.2 s of Taxi.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ustat_grpo.environments.generators import generators
from ustat_grpo.environments.stepping import Outcome, start_episode, take_step

_PROBES = 8
"""Seeds that are tried out: by chance, a start among two is the same at all of them in 1 of 2⁸."""

_PROBE_STEPS = 16
"""Steps that are played from each."""

_ALIKE = 32
"""Pairs of starts that look alike, at most: a difference in 1 of 20 of them is missed in 1 of 5."""

_SEARCHED = 64, 256
"""Seeds among which pairs are looked for: so many, and more if that has found any."""

_NOISES = 8
"""Noises under which an episode is replayed to see whether it has noise of its own."""

_NOISE, _ACTIONS, _START = range(3)
"""Streams of a key."""

_Key = tuple[int, ...]
_Path = list[Outcome]
"""The first observation, and what every step gave."""


def require_seeded(first: gym.Env[Any, Any], last: gym.Env[Any, Any]) -> None:
    """Raise unless seed, noise and actions determine what a copy and another one do.

    Raises:
        ValueError: if resets or steps differ, draw from another generator than `np_random`, or do
            not return what Gymnasium's do.
    """
    for seed in range(_PROBES):
        reference = _watched(first, seed)
        for again in (_played(first, seed, (seed,)), _played(last, seed, (seed,))):
            step = _parting(reference, again)
            if step == 0:
                raise ValueError(
                    f"the environment must honour its seed, but two resets with seed {seed} gave "
                    f"the observations {reference[0].observation} and {again[0].observation}"
                )
            if step is not None:
                raise ValueError(
                    "the environment must draw all noise of its steps from self.np_random, but "
                    f"with the same seed, np_random and actions, {_shown(step, reference, again)}"
                )


def require_own_noise(environment: gym.Env[Any, Any]) -> None:
    """Raise if what the steps draw is fixed by the reset, so that a group would share it.

    Raises:
        ValueError: if it is, or may be: a start that observations do not show looks the same.
    """
    for seed in range(_PROBES):
        _require_seed_forgotten(environment, seed)
    if any(_has_noise(environment, seed) for seed in range(_PROBES)):
        return
    for one, other in _pairs_alike(environment):
        _require_alike(environment, one, other)


def _require_seed_forgotten(environment: gym.Env, seed: int) -> None:
    """Raise if steps depend on the seed of a reset before the last one, which had none."""
    other = seed + _PROBES

    def both(key: _Key) -> tuple[_Path, _Path]:
        return _restarted(environment, seed, key), _restarted(environment, other, key)

    for _, (one, two) in _rounds(both, seed, other):
        step = _parting(one, two)
        if step:
            raise ValueError(
                "the environment must draw all noise of its steps from self.np_random, but with "
                f"the same np_random and actions, {_shown(step, one, two)}, which only the seeds "
                f"{seed} and {other} of an earlier reset can have decided"
            )


def _has_noise(environment: gym.Env, seed: int) -> bool:
    """Whether episodes with one seed and the same actions differ."""

    def both(key: _Key) -> tuple[_Path, _Path]:
        return _played(environment, seed, key), _played(environment, seed, (*key, 1), key)

    return any(_parting(*paths) is not None for _, paths in _rounds(both, seed))


def _require_alike(environment: gym.Env, one: int, other: int) -> None:
    """Raise if two seeds start alike and go on differently, but each always in the same way."""

    def both(key: _Key) -> tuple[_Path, _Path]:
        return _played(environment, one, key), _played(environment, other, key)

    for key, paths in _rounds(both, one, other):
        step = _parting(*paths)
        if step is None:
            continue
        for seed, path in zip((one, other), paths, strict=True):
            for noise in range(_NOISES):
                if _parting(path, _played(environment, seed, (*key, noise), key)) is not None:
                    return
        raise ValueError(
            "the environment must draw all noise of its steps from self.np_random, but seeds "
            f"{one} and {other} start alike and {_shown(step, *paths)} under the same actions, "
            "while episodes of either seed repeat each other whatever np_random they are given: "
            "draw in step what is noise, or pass hidden_start=True if it is a start that "
            "observations do not show"
        )


def _pairs_alike(environment: gym.Env) -> Iterator[tuple[int, int]]:
    """Yield pairs of seeds, no seed twice, whose first observations are the same."""
    waiting: dict[bytes, int] = {}
    fewest, most = _SEARCHED
    found = 0
    for seed in range(most):
        if found == _ALIKE or (seed == fewest and not found):
            return
        observation = start_episode(environment, seed, _rng((seed,), _NOISE))
        looks = np.asarray(observation).tobytes()
        if looks in waiting:
            found += 1
            yield waiting.pop(looks), seed
        else:
            waiting[looks] = seed


def _rounds(
    both: Callable[[_Key], tuple[_Path, _Path]], *key: int
) -> Iterator[tuple[_Key, tuple[_Path, _Path]]]:
    """Play two episodes by one key after another, until each has taken enough steps or ended."""
    taken = 0
    for number in range(_PROBE_STEPS):
        paths = both((*key, number))
        yield (*key, number), paths
        taken += max(1, len(paths[0]) - 1)
        if taken >= _PROBE_STEPS:
            return


def _watched(environment: gym.Env, seed: int) -> _Path:
    """Play as `_played` does, or raise if a generator that is not np_random moves meanwhile."""
    observation = start_episode(environment, seed, _rng((seed,), _NOISE))
    watched = generators(environment)
    before = [each.state() for each in watched]
    path = _followed(environment, observation, _rng((seed,), _ACTIONS))
    for (name, state), earlier in zip(watched, before, strict=True):
        if state() != earlier:
            raise ValueError(
                "the environment must draw all noise of its steps from self.np_random, but it "
                f"draws from {name}, which a group of episodes with one seed would share"
            )
    return path


def _played(environment: gym.Env, seed: int, noise: _Key, actions: _Key | None = None) -> _Path:
    """Play from a seed's start, with noise of a key, and actions of the same one or of another."""
    observation = start_episode(environment, seed, _rng(noise, _NOISE))
    return _followed(environment, observation, _rng(actions or noise, _ACTIONS))


def _restarted(environment: gym.Env, seed: int, key: _Key) -> _Path:
    """Play from a start drawn from a generator that is handed over after a reset with a seed.

    Empty if the environment cannot be reset without a seed: then nothing is learned.
    """
    start_episode(environment, seed, _rng(key, _START))
    try:
        observation, _ = environment.reset()
        environment.unwrapped.np_random = _rng(key, _NOISE)
        return _followed(environment, observation, _rng(key, _ACTIONS))
    except Exception:  # whatever: some ask for a seed, in words of their own
        return []


def _followed(environment: gym.Env, observation: Any, choice: np.random.Generator) -> _Path:
    """Take random steps from where the environment is."""
    space = environment.action_space
    assert isinstance(space, spaces.Discrete)
    path = [Outcome(_copied(environment, observation))]
    for action in (choice.integers(space.n, size=_PROBE_STEPS) + space.start).tolist():
        given = take_step(environment, action)
        path.append(given._replace(observation=_copied(environment, given.observation)))
        if given.ended:
            break
    return path


def _copied(environment: gym.Env, observation: Any) -> Any:
    """Return a copy of an observation, or raise if it is none of its space."""
    space = environment.observation_space
    if np.shape(observation) != space.shape:
        raise ValueError(
            f"observations must have the shape of their space, {space.shape}, "
            f"got {np.shape(observation)}"
        )
    if isinstance(space, spaces.Discrete) and not space.contains(np.asarray(observation)[()]):
        raise ValueError(f"observations must lie in their space, {space}, got {observation!r}")
    return np.copy(observation)


def _rng(key: _Key, stream: int) -> np.random.Generator:
    return np.random.default_rng([*key, stream])


def _parting(one: _Path, other: _Path) -> int | None:
    """Return the first step after which two episodes differ; 0 for the reset, None for never."""
    for step, (left, right) in enumerate(zip(one, other, strict=False)):
        if left[1:] != right[1:] or not np.array_equal(left[0], right[0], equal_nan=True):
            return step
    return None


def _shown(step: int, one: _Path, other: _Path) -> str:
    return f"step {step} gave {_outcome(one[step])} and {_outcome(other[step])}"


def _outcome(given: Outcome) -> str:
    ended = "end" if given.ended else "no end"
    return f"(observation {given.observation}, reward {given.reward:g}, {ended})"
