"""A transition table against steps of the environment that it was read from.

A wrapper, or a subclass, may change what is played and leave the table as it was. Wrappers are
refused but for those of Gymnasium that change nothing. Then every state and action is tried, as far
as states can be set, and some episodes are played as long as possible, for what first shows late.
Each outcome must be one of the table's, and no episode may be cut before the horizon. How often the
outcomes come is compared with their probabilities by one Pearson statistic of all.

What is not found: what an environment changes in a way that shows in few steps, at certain times or
after many episodes.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import wrappers
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from ustat_grpo.environments.stepping import take_step
from ustat_grpo.inputs.checks import ROUNDING

_STEPS = 2048
"""Steps that are played, and as many as there are pairs of state and action if these are more."""

_STEPS_AHEAD = 200
"""The chance of surviving so many further steps orders actions as that of many more does."""

_STEPS_A_RESET = 64
"""What a reset draws unseen, whether a passenger will be fickle say, is met many times."""

_LONG_EPISODES = 4
_LONGEST = 2500
"""Steps after which a long episode is left."""

_NEUTRAL = (
    wrappers.TimeLimit,
    wrappers.OrderEnforcing,
    wrappers.PassiveEnvChecker,
    wrappers.RecordEpisodeStatistics,
    wrappers.RecordVideo,
    wrappers.HumanRendering,
    wrappers.RenderCollection,
)
"""Wrappers that leave steps as they are; a time limit is compared with the horizon."""

_LIMIT = 6.0
"""Standard deviations of the Pearson statistic: right tables are refused once in millions."""

_Outcome = tuple[int, float, bool]
_Outcomes = dict[_Outcome, float]
"""Probability of each next state, reward and end."""

_Pair = tuple[int, int]
_Table = dict[_Pair, _Outcomes]


def require_played(environment: gym.Env[Any, Any], table: Any, starts: Any, horizon: int) -> None:
    """Raise unless steps of the environment do what its table says; it is reset by this.

    Args:
        environment: with its wrappers.
        table: P[s][a] = [(probability, next state, reward, terminated), …].
        starts: the states that a reset may give.
        horizon: steps after which an episode may be cut, and not before.

    Raises:
        ValueError: if a wrapper may change steps, a played outcome is not in the table, outcomes
            come more or less often, or an episode is cut before the horizon.
    """
    _require_neutral_wrappers(environment)
    spaces = environment.observation_space, environment.action_space
    if spaces != (Discrete(len(table)), Discrete(len(table[0]))):
        raise ValueError(
            f"environment must have the {len(table)} states and {len(table[0])} actions of its "
            f"table P, got {spaces[0]} and {spaces[1]}"
        )
    possible = {
        (s, a): _merged(table[s][a]) for s in range(len(table)) for a in range(len(table[s]))
    }
    played: dict[_Pair, Counter[_Outcome]] = {}
    player = _Player(environment, set(np.asarray(starts).tolist()), horizon)
    for steps in (player.tried_out(list(possible)), player.long(surviving_actions(possible))):
        for pair, outcome in steps:
            _require_possible(possible, pair, outcome)
            played.setdefault(pair, Counter())[outcome] += 1
    deviation = _deviation(possible, played)
    if deviation > _LIMIT:
        raise ValueError(
            "environment must step as its table P says, but its outcomes come more or less often: "
            f"Pearson's statistic is {deviation:.0f} standard deviations too large"
        )


def _require_neutral_wrappers(environment: gym.Env[Any, Any]) -> None:
    """Raise if a wrapper is none of those known to leave steps as they are."""
    level = environment
    while isinstance(level, gym.Wrapper):
        if type(level) not in _NEUTRAL:
            known = ", ".join(kind.__name__ for kind in _NEUTRAL)
            raise ValueError(
                "environment must have no wrapper that may change what its table P says, got "
                f"{type(level).__name__} (known to change nothing: {known}): unwrap it, or "
                "estimate moments from episodes (episode_pool)"
            )
        level = level.env


def _require_possible(possible: _Table, pair: _Pair, outcome: _Outcome) -> None:
    """Raise if a played outcome is not among those of its state and action."""
    if possible[pair].get(outcome, 0.0) == 0.0:
        raise ValueError(
            f"environment must step as its table P says, but action {pair[1]} in state "
            f"{pair[0]} gave {_shown(outcome)}, which is not among its outcomes there: its "
            "moments can only be estimated from episodes (episode_pool)"
        )


class _Player:
    """Plays an environment, and looks whether it starts and is cut where it should.

    Args:
        environment: with its wrappers.
        starts: the states that a reset may give.
        horizon: steps after which an episode may be cut.
    """

    def __init__(self, environment: gym.Env[Any, Any], starts: set[int], horizon: int) -> None:
        """Play nothing yet."""
        self._environment, self._starts, self._horizon = environment, starts, horizon
        self._rng = np.random.default_rng(0)
        self._state, self._taken, self._ended = 0, 0, True
        self._seed: int | None = 0

    def tried_out(self, pairs: list[_Pair]) -> Iterator[tuple[_Pair, _Outcome]]:
        """Yield what each state and action gives, in any order, as far as states can be set."""
        inner = self._environment.unwrapped
        rounds = -(-_STEPS // len(pairs))
        order = np.concatenate([self._rng.permutation(len(pairs)) for _ in range(rounds)])
        for wanted, action in (pairs[place] for place in order.tolist()):
            if self._ended or self._taken == _STEPS_A_RESET:
                self._start()
            if hasattr(inner, "s"):  # as those of Gymnasium have: any state can be tried
                inner.s = self._state = wanted  # pyright: ignore[reportAttributeAccessIssue]
            yield self._step(action)

    def long(self, actions: list[NDArray[np.int64]]) -> Iterator[tuple[_Pair, _Outcome]]:
        """Yield the steps of some episodes in which only such actions of each state are taken."""
        for _ in range(_LONG_EPISODES):
            self._start()
            while not self._ended and self._taken < min(self._horizon, _LONGEST):
                yield self._step(int(self._rng.choice(actions[self._state])))

    def _start(self) -> None:
        observation, _ = self._environment.reset(seed=self._seed)
        self._state, self._taken, self._ended = _state(self._environment, observation), 0, False
        self._seed = None
        if self._state not in self._starts:
            raise ValueError(
                f"environment must start where initial_state_distrib says, got state {self._state}"
            )

    def _step(self, action: int) -> tuple[_Pair, _Outcome]:
        given = take_step(self._environment, action)
        self._taken += 1
        if given.truncated and self._taken < self._horizon:
            raise ValueError(
                f"environment must play on until the horizon, {self._horizon} steps, but an "
                f"episode was truncated after step {self._taken}"
            )
        pair, self._state = (self._state, action), _state(self._environment, given.observation)
        self._ended = given.ended
        return pair, (self._state, given.reward, given.terminated)


def _state(environment: gym.Env[Any, Any], observation: Any) -> int:
    """Return an observation as a row of the table, or raise if it is no state."""
    state = np.asarray(observation)
    if not environment.observation_space.contains(state[()]):
        raise ValueError(
            f"observations must be states of {environment.observation_space}, got {observation!r}"
        )
    return int(state)


def _merged(outcomes: Iterable[tuple[float, int, float, bool]]) -> _Outcomes:
    """Return the probability of each different outcome that is possible at all."""
    merged: _Outcomes = {}
    for probability, state, reward, terminated in outcomes:
        if probability > 0:
            key = int(state), float(reward), bool(terminated)
            merged[key] = merged.get(key, 0.0) + probability
    return merged


def _deviation(possible: _Table, played: dict[_Pair, Counter[_Outcome]]) -> float:
    """Return by how many standard deviations Pearson's X² exceeds its mean.

    Of n trials of K outcomes, X² = Σ_k (n_k − n p_k)²/(n p_k) has mean K − 1 and variance
    2(K − 1) + (Σ_k 1/p_k − K² − 2K + 2)/n, exactly. Rare outcomes (n p < 1) would give it a heavy
    tail: pairs that have any are left out.
    """
    excess = variance = 0.0
    for pair, counts in played.items():
        probs, number = np.array(list(possible[pair].values())), counts.total()
        kinds = len(probs)
        if kinds < 2 or number * probs.min() < 1:
            continue
        seen = np.array([counts[outcome] for outcome in possible[pair]])
        excess += float(((seen - number * probs) ** 2 / (number * probs)).sum()) - (kinds - 1)
        variance += 2 * (kinds - 1)
        variance += float((1 / probs).sum() - kinds**2 - 2 * kinds + 2) / number
    return excess / math.sqrt(variance) if variance > 0 else 0.0


def _shown(outcome: _Outcome) -> str:
    state, reward, terminated = outcome
    return f"state {state}, reward {reward:g}{' and the end' if terminated else ''}"


def surviving_actions(
    table: Mapping[tuple[int, int], Mapping[tuple[int, float, bool], float]],
) -> list[NDArray[np.int64]]:
    """Return for each state the actions after which an episode is likeliest to last.

    By value iteration: v(s) = max_a Σ p(s', no end | s, a) v(s'), normalised to max v = 1.

    Args:
        table: of each state and action, the probability of each next state, reward and end.
    """
    num_states, num_actions = (1 + max(place) for place in zip(*table, strict=True))
    rows = [
        (state, action, outcome[0], probability)
        for (state, action), outcomes in table.items()
        for outcome, probability in outcomes.items()
        if not outcome[2]
    ]
    lasting = np.zeros((num_states, num_actions))
    if rows:
        states, actions, following, probs = (np.array(column) for column in zip(*rows, strict=True))
        value = np.ones(num_states)
        for _ in range(_STEPS_AHEAD):
            lasting[:] = 0.0
            np.add.at(lasting, (states, actions), probs * value[following])
            value = lasting.max(axis=1)
            if value.max() == 0:
                break
            value /= value.max()
    best = lasting >= (1 - ROUNDING) * lasting.max(axis=1, keepdims=True)
    return [np.flatnonzero(row) for row in best]
