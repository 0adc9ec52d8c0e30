"""How copies of an environment play many episodes: as one ends, its copy begins the next."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ustat_grpo.environments.copies import EnvironmentCopies
from ustat_grpo.environments.policies import Observations
from ustat_grpo.environments.stepping import start_episode, take_step
from ustat_grpo.inputs.arrays import Array

_BLOCK = 32
"""Uniform numbers that an episode draws at a time, one for each step: a call each is slow."""


@dataclass(frozen=True, eq=False)
class EpisodeStreams:
    """Episode e is member e mod G of the group at position e div G."""

    seeds: NDArray[np.int64]
    group_size: int
    noise_key: np.uint64
    action_key: np.uint64

    @property
    def num_episodes(self) -> int:
        """B·G."""
        return len(self.seeds) * self.group_size

    def stream(self, key: np.uint64, episode: int) -> np.random.Generator:
        """Return the stream of an episode in a family: counters that no other of them reaches."""
        counter = np.array([0, 0, *divmod(episode, self.group_size)], dtype=np.uint64)
        words = np.array([key, 0], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(counter=counter, key=words))


@dataclass(frozen=True, eq=False)
class Tape:
    """What is kept: lengths and returns of all episodes, and the steps in the order of play."""

    lengths: NDArray[np.int64]
    returns: Array
    observations: list[Observations] = field(default_factory=list)
    actions: list[NDArray[np.int64]] = field(default_factory=list)
    episodes: list[NDArray[np.int64]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Live:
    """The k episodes in play: each an environment, where it is, its number, how far it is."""

    environments: list[gym.Env[Any, Any]]
    current: Observations
    episode: NDArray[np.int64]
    taken: NDArray[np.int64]
    choices: NDArray[np.object_]  # a generator each
    uniforms: Array

    def begin(self, place: int, episode: int, streams: EpisodeStreams) -> None:
        """Start an episode in a place."""
        seed = int(streams.seeds[episode // streams.group_size])
        noise = streams.stream(streams.noise_key, episode)
        self.current[place] = start_episode(self.environments[place], seed, noise)
        self.episode[place], self.taken[place] = episode, 0
        self.choices[place] = streams.stream(streams.action_key, episode)

    def next_uniforms(self) -> Array:
        """Return the uniform number of the step that each episode is about to take."""
        position = self.taken % _BLOCK
        for place in np.flatnonzero(position == 0).tolist():
            self.uniforms[place] = self.choices[place].random(_BLOCK)
        return self.uniforms[np.arange(len(position)), position]

    def without(self, gone: list[int]) -> "_Live":
        """Return what is left once no episode is to follow in some places."""
        left = np.delete(np.arange(len(self.taken)), gone)
        return _Live(
            [self.environments[place] for place in left],
            self.current[left],
            self.episode[left],
            self.taken[left],
            self.choices[left],
            self.uniforms[left],
        )


def play(
    copies: EnvironmentCopies,
    streams: EpisodeStreams,
    logits: Callable[[Observations], Array],
    tape: Tape,
) -> None:
    """Play all episodes, as many at a time as there are copies."""
    begun = min(len(copies), streams.num_episodes)
    live = _Live(
        copies.environments[:begun],
        copies.empty_observations()[:begun],
        np.zeros(begun, dtype=np.int64),
        np.zeros(begun, dtype=np.int64),
        np.empty(begun, dtype=object),
        np.empty((begun, _BLOCK)),
    )
    for place in range(begun):
        live.begin(place, place, streams)
    while len(live.taken):
        gone = []
        for place in _step(copies, streams, logits, live, tape):
            tape.lengths[live.episode[place]] = live.taken[place]
            if begun == streams.num_episodes:
                gone.append(place)
                continue
            live.begin(place, begun, streams)
            begun += 1
        if gone:
            live = live.without(gone)


def _step(
    copies: EnvironmentCopies,
    streams: EpisodeStreams,
    logits: Callable[[Observations], Array],
    live: _Live,
    tape: Tape,
) -> list[int]:
    """Let every live episode take a step; return the places of those that have ended."""
    seen = copies.observed(live.current)
    chosen = _invert(logits(seen), live.next_uniforms())
    tape.observations.append(seen)
    tape.actions.append(chosen)
    tape.episodes.append(live.episode.copy())
    rewards, ended = [], []
    actions = (chosen + copies.first_action).tolist()
    for place, (environment, action) in enumerate(zip(live.environments, actions, strict=True)):
        live.current[place], reward, terminated, truncated = take_step(environment, action)
        rewards.append(reward)
        if terminated or truncated:
            ended.append(place)
    tape.returns[live.episode] += copies.discount**live.taken * np.array(rewards)
    live.taken[:] += 1
    late = live.taken >= copies.max_steps
    late[ended] = False
    if late.any():
        raise ValueError(
            f"episodes must end within max_steps = {copies.max_steps} steps, got one that has not: "
            "give the environment a time limit (max_episode_steps), or raise max_steps"
        )
    return ended


def _invert(logits: Array, uniforms: Array) -> NDArray[np.int64]:
    """Return the actions at which the cumulative probabilities pass the uniform numbers."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    cumulative = np.cumsum(weights, axis=1)
    total = cumulative[:, -1:]
    if not np.isfinite(total).all():
        bad = np.sum(~np.isfinite(logits))
        raise ValueError(f"logits of the policy must be finite, got {bad} that are not")
    return (cumulative[:, :-1] <= uniforms[:, None] * total).sum(axis=1)
