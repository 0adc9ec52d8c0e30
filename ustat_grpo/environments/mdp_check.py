"""A transition table against steps of the environment that it was read from.

A wrapper, or a subclass, may change what is played and leave the table as it was. So every state
and action is tried, as far as states can be set, and each outcome must be one of the table's; how
often the outcomes come is compared with their probabilities by one Pearson statistic of all.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete

from ustat_grpo.environments.stepping import take_step

_STEPS = 2048
"""Steps that are played, and as many as there are pairs of state and action if these are more."""

_STEPS_A_RESET = 64
"""What a reset draws unseen, whether a passenger will be fickle say, is met many times."""

_LIMIT = 6.0
"""Standard deviations of the Pearson statistic: right tables are refused once in millions."""

_Outcome = tuple[int, float, bool]
_Outcomes = dict[_Outcome, float]
"""Probability of each next state, reward and end."""

_Pair = tuple[int, int]
_Table = dict[_Pair, _Outcomes]


def require_played(environment: gym.Env[Any, Any], table: Any, starts: Any) -> None:
    """Raise unless steps of the environment do what its table says; it is reset by this.

    Args:
        environment: with its wrappers.
        table: P[s][a] = [(probability, next state, reward, terminated), …].
        starts: the states that a reset may give.

    Raises:
        ValueError: if a played outcome is not in the table, or outcomes come more or less often.
    """
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
    for pair, outcome in _steps(environment, possible, set(np.asarray(starts).tolist())):
        if possible[pair].get(outcome, 0.0) == 0.0:
            raise ValueError(
                f"environment must step as its table P says, but action {pair[1]} in state "
                f"{pair[0]} gave {_shown(outcome)}, which is not among its outcomes there: its "
                "moments can only be estimated from episodes (episode_pool)"
            )
        played.setdefault(pair, Counter())[outcome] += 1
    deviation = _deviation(possible, played)
    if deviation > _LIMIT:
        raise ValueError(
            "environment must step as its table P says, but its outcomes come more or less often: "
            f"Pearson's statistic is {deviation:.0f} standard deviations too large"
        )


def _steps(
    environment: gym.Env[Any, Any], possible: _Table, starts: set[int]
) -> Iterator[tuple[_Pair, _Outcome]]:
    """Play, and yield state and action with what they gave."""
    rng, inner = np.random.default_rng(0), environment.unwrapped
    pairs = list(possible)
    rounds = -(-_STEPS // len(pairs))
    order = np.concatenate([rng.permutation(len(pairs)) for _ in range(rounds)]).tolist()
    state, ended = 0, True
    for taken, place in enumerate(order):
        if ended or taken % _STEPS_A_RESET == 0:
            observation, _ = environment.reset(seed=None if taken else 0)
            state = _state(environment, observation)
            if state not in starts:
                raise ValueError(
                    f"environment must start where initial_state_distrib says, got state {state}"
                )
        wanted, action = pairs[place]
        if hasattr(inner, "s"):  # as those of Gymnasium have: any state can be tried
            inner.s = state = wanted  # pyright: ignore[reportAttributeAccessIssue]
        given = take_step(environment, action)
        pair, state = (state, action), _state(environment, given.observation)
        yield pair, (state, given.reward, given.terminated)
        ended = given.ended


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
