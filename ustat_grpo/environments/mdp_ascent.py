"""The compiled loop under Algorithm 1 on a finite MDP: many runs, an output is a whole episode.

A state is to θ what a prompt is in `ustat_grpo.optimization.ascent`, so policies and the move of θ
are the same: every episode adds its advantage to the weights of the (state, action) pairs that it
passed, c = Σ_i A_i n_i(s, a), and no score of an episode is ever formed:

    θ ← θ + η/(BG) Σ_s Σ_a (c_sa − π(a∣s)·Σ c_s) ∂logit(s, a)/∂θ.

Every (run, iteration, slot of the minibatch, member of the group) has a random stream of its own:
a larger group begins with the episodes of a smaller one, whatever their lengths.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ustat_grpo.compiled.cache import compiled
from ustat_grpo.compiled.draws import draw_prompts
from ustat_grpo.compiled.rng import stream_of, substream
from ustat_grpo.environments.mdp_kernels import PlayTables, play
from ustat_grpo.optimization.ascent import copy, move
from ustat_grpo.optimization.policy_rows import set_policy

_PROMPT_STREAM = 0
_OUTPUT_STREAM = 1


class MdpTables(NamedTuple):
    """An MDP and its policies laid out for the loop: S states, A actions, P starts, d = F·A."""

    play: PlayTables
    start_probs: NDArray[np.float64]  # (P,)
    mean_reward: NDArray[np.float64]  # (S, A)
    kept: NDArray[np.float64]  # (S·A, K): γ·P(outcome, and the episode goes on)
    features: NDArray[np.float64]  # (S, A, d): ∂logits/∂θ; (0, 0, 0) for one-hot features
    offsets: NDArray[np.float64]  # (S, A): zeros, of which `set_policy` asks


class MdpState(NamedTuple):
    """Memory of one thread, for one run at a time."""

    theta: NDArray[np.float64]  # (d,)
    prompts: NDArray[np.int64]  # (B,)
    drawn: NDArray[np.int64]  # (S,): all states, for `move`
    probs: NDArray[np.float64]  # (S, A): π
    action_ends: NDArray[np.float64]  # (S, A): cumulative, then 2
    value: NDArray[np.float64]  # (S,): V, all of the time to go; of no use unless the rule asks
    later: NDArray[np.float64]  # (S,): value with a step less to go
    weights: NDArray[np.float64]  # (S, A): Σ of advantages; zeros between iterations
    passed: NDArray[np.int32]  # (G, T): s·A + a of every step
    lengths: NDArray[np.int64]  # (G,)
    returns: NDArray[np.float64]  # (G,)


@compiled
def ascend(tables, rule, ascent, state, runs):
    """Run Algorithm 1.

    Args:
        tables: the `MdpTables`.
        rule: an `AdvantageRule`.
        ascent: an `Ascent`.
        state: the memory of the thread, an `MdpState`.
        runs: the `ThreadRuns`, whose `left` is filled.
    """
    scale = 1.0 / (len(state.prompts) * ascent.group_size)
    for index in range(runs.left.objective.shape[0]):
        run_key = substream(runs.key, runs.first + index)
        copy(ascent.theta0, state.theta)
        recorded = 0
        for iteration in range(ascent.checkpoints[-1]):
            iteration_key = substream(run_key, iteration)
            stream = stream_of(substream(iteration_key, _PROMPT_STREAM))
            draw_prompts(stream, tables.play.start_aliases, state.prompts)
            _set_policies(tables, state)
            if rule.value != 0.0:
                _set_value(tables, state)
            output_key = substream(iteration_key, _OUTPUT_STREAM)
            for slot in range(len(state.prompts)):
                first_state = tables.play.starts[state.prompts[slot]]
                _play_group(tables, state, first_state, substream(output_key, slot))
                _weigh_group(rule, state, first_state)
            move(tables, state, len(state.drawn), ascent.rates[iteration] * scale)
            if iteration + 1 == ascent.checkpoints[recorded]:
                _record(tables, state, runs.left, index, recorded)
                recorded += 1


@njit(inline="always")
def _set_policies(tables, state):
    """Work out π and its cumulative probabilities in all states."""
    num_actions = state.probs.shape[1]
    for s in range(len(state.drawn)):
        set_policy(tables, state.theta, state.probs[s], s)
        reached = 0.0
        for a in range(num_actions):
            reached += state.probs[s, a]
            state.action_ends[s, a] = reached
        state.action_ends[s, num_actions - 1] = 2.0  # no rounding leaves the last end below 1


@njit(inline="always")
def _set_value(tables, state):
    """Work out V of all states, backward from the time limit."""
    for s in range(len(state.value)):
        state.value[s] = 0.0
    for _ in range(tables.play.horizon):
        copy(state.value, state.later)
        for s in range(len(state.value)):
            value = 0.0
            for a in range(state.probs.shape[1]):
                pair = s * state.probs.shape[1] + a
                worth = tables.mean_reward[s, a]
                for k in range(tables.kept.shape[1]):
                    worth += tables.kept[pair, k] * state.later[tables.play.next_state[pair, k]]
                value += state.probs[s, a] * worth
            state.value[s] = value


@njit(inline="always")
def _play_group(tables, state, first_state, group_key):
    """Play the episodes of a group, and keep what they passed."""
    for member in range(len(state.returns)):
        key, passed = substream(group_key, member), state.passed[member]
        length, total = play(tables.play, state.action_ends, first_state, key, passed)
        state.lengths[member], state.returns[member] = length, total


@njit(inline="always")
def _weigh_group(rule, state, first_state):
    """Add the advantage of each episode to the weights of the pairs that it passed."""
    weights = state.weights.reshape(state.weights.size)
    total = 0.0
    for member in range(len(state.returns)):
        total += state.returns[member]
    known = rule.value * state.value[first_state]
    for member in range(len(state.returns)):
        own = state.returns[member]
        if rule.tabulated.shape[0] > 0:  # returns are 0 or 1
            advantage = rule.tabulated[np.int64(total), np.int64(own)] + known
        else:
            advantage = (rule.own - rule.other) * own + rule.other * total + rule.constant + known
        if advantage != 0.0:
            for time in range(state.lengths[member]):
                weights[np.uint64(state.passed[member, time])] += advantage


@njit(inline="always")
def _record(tables, state, left, index, checkpoint):
    """Leave behind what a run has reached; works out π and V anew, as the next iteration does."""
    _set_policies(tables, state)
    _set_value(tables, state)
    objective = 0.0
    for x in range(len(tables.play.starts)):
        objective += tables.start_probs[x] * state.value[tables.play.starts[x]]
    left.objective[index, checkpoint] = objective
    if left.theta.shape[0] > 0:
        copy(state.theta, left.theta[index, checkpoint])
