"""Compiled episodes on a transition table: draw them in groups, and add up what they passed.

The score of an episode is Σ_t w(s_t, a_t), so what a gradient needs of a group is, for every state
and action, the sum of the advantages of the episodes that passed it, counted as often as they did:

    ĝ(x) = (1/G) Σ_i A_i W_i = (1/G) Σ_{s, a} c(s, a) w(s, a),    c(s, a) = Σ_i A_i n_i(s, a).

Episodes are kept as the pairs that they passed, for advantages are known only when a group is
complete. Every (replicate, slot of the minibatch, member of the group) has a random stream of its
own, from which step t takes positions 2t and 2t + 1: a larger group begins with the episodes of a
smaller one, whatever their lengths.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

from ustat_grpo.compiled.cache import compiled
from ustat_grpo.compiled.draws import alias_tables, draw_prompts, padded_size
from ustat_grpo.compiled.rng import stream_of, substream, word_at
from ustat_grpo.environments.mdp import TabularMdp

_PROMPT_STREAM = 0
_OUTPUT_STREAM = 1
_UNIT = 2.0**-53


class PlayTables(NamedTuple):
    """An MDP laid out for the loop: S states, A actions, K outcomes of each, P starts."""

    starts: NDArray[np.int64]  # (P,)
    start_aliases: NDArray[np.uint64]  # (1, padded P)
    outcome_ends: NDArray[np.float64]  # (S·A, K): cumulative, see `cumulative`
    next_state: NDArray[np.int64]  # (S·A, K)
    rewards: NDArray[np.float64]  # (S·A, K)
    ends: NDArray[np.bool_]  # (S·A, K): whether the episode ends
    horizon: int
    discount: float


class Played(NamedTuple):
    """R minibatches of B groups of G episodes."""

    prompts: NDArray[np.int64]  # (R, B): which start
    passed: NDArray[np.int32]  # (R, B, G, T): s·A + a of every step
    lengths: NDArray[np.int64]  # (R, B, G)
    returns: NDArray[np.float64]  # (R, B, G)


def play_tables(mdp: TabularMdp) -> PlayTables:
    """Lay an MDP out for the loop."""
    shape = -1, mdp.probs.shape[2]
    starts = np.zeros((1, padded_size(len(mdp.starts))))
    starts[0, : len(mdp.starts)] = mdp.start_probs
    return PlayTables(
        starts=mdp.starts,
        start_aliases=alias_tables(starts),
        outcome_ends=cumulative(mdp.probs.reshape(shape)),
        next_state=mdp.next_state.reshape(shape),
        rewards=mdp.rewards.reshape(shape),
        ends=mdp.terminated.reshape(shape),
        horizon=mdp.horizon,
        discount=float(mdp.discount),
    )


def cumulative(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums along rows, 2 from the last possible entry on: rounding draws none beyond it."""
    entries = np.arange(probs.shape[1])
    last = np.max(np.where(probs > 0, entries, 0), axis=1, keepdims=True)
    return np.where(entries < last, np.cumsum(probs, axis=1), 2.0)


@njit(inline="always")
def step(tables, action_ends, state, stream, time):
    """Draw an action and its outcome; return s·A + a and the number of the outcome.

    Args:
        tables: with `outcome_ends`.
        action_ends: cumulative π, shape (S, A).
        state: s.
        stream: the episode's stream.
        time: t; the step takes positions 2t and 2t + 1 of the stream.
    """
    num_actions = action_ends.shape[1]
    pair = state * num_actions
    uniform = np.float64(np.int64(word_at(stream, 2 * time) >> uint64(11))) * _UNIT
    for a in range(num_actions - 1):
        pair += np.int64(uniform >= action_ends[state, a])
    uniform = np.float64(np.int64(word_at(stream, 2 * time + 1) >> uint64(11))) * _UNIT
    outcome = 0
    for k in range(tables.outcome_ends.shape[1] - 1):
        outcome += np.int64(uniform >= tables.outcome_ends[pair, k])
    return pair, outcome


@njit(inline="always")
def play(tables, action_ends, first_state, key, passed):
    """Play an episode; fill what it passed, and return its length and its return.

    Args:
        tables: with `outcome_ends`, `next_state`, `rewards`, `ends`, `horizon` and `discount`.
        action_ends: cumulative π, shape (S, A).
        first_state: where it starts.
        key: of its random stream.
        passed: output, s·A + a of every step, shape (T,).
    """
    stream = stream_of(key)
    state, length, going = first_state, 0, True
    total, weight = 0.0, 1.0
    while going:
        pair, outcome = step(tables, action_ends, state, stream, length)
        passed[length] = pair
        total += weight * tables.rewards[pair, outcome]
        weight *= tables.discount
        state = tables.next_state[pair, outcome]
        length += 1
        going = not tables.ends[pair, outcome] and length < tables.horizon
    return length, total


@compiled
def play_groups(tables, action_ends, key, all_once, first, played):
    """Play replicates first, first + 1, … until `played` is full.

    Args:
        tables: the problem.
        action_ends: cumulative π, shape (S, A).
        key: of the random streams.
        all_once: whether every start is taken once, or the minibatch drawn i.i.d.
        first: number of the first replicate.
        played: output.
    """
    for index in range(played.returns.shape[0]):
        replicate_key = substream(key, first + index)
        if all_once:
            for slot in range(played.returns.shape[1]):
                played.prompts[index, slot] = slot
        else:
            stream = stream_of(substream(replicate_key, _PROMPT_STREAM))
            draw_prompts(stream, tables.start_aliases, played.prompts[index])
        output_key = substream(replicate_key, _OUTPUT_STREAM)
        for slot in range(played.returns.shape[1]):
            group_key = substream(output_key, slot)
            first_state = tables.starts[played.prompts[index, slot]]
            for member in range(played.returns.shape[2]):
                length, total = play(
                    tables, action_ends, first_state, substream(group_key, member),
                    played.passed[index, slot, member],
                )  # fmt: skip
                played.lengths[index, slot, member] = length
                played.returns[index, slot, member] = total


@compiled
def add_up(played, advantages, first_column, sums):
    """Add the advantages of every episode to the pairs that it passed.

    Args:
        played: the episodes.
        advantages: in C ways, shape (R, B, G, C).
        first_column: of each member, shape (G,); in the columns before it, it is in no group.
        sums: output, shape (R, S·A, C); must hold zeros.
    """
    for index in range(played.returns.shape[0]):
        for slot in range(played.returns.shape[1]):
            for member in range(played.returns.shape[2]):
                own = advantages[index, slot, member]
                for time in range(played.lengths[index, slot, member]):
                    row = sums[index, np.uint64(played.passed[index, slot, member, time])]
                    for column in range(first_column[member], len(own)):
                        row[column] += own[column]
