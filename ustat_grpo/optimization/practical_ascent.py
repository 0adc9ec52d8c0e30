"""The compiled loop under Algorithm 2: outputs of one policy, used for several updates.

A batch is drawn as in `ascent`, from the same streams. Its outputs are cut into minibatches, and
each is weighed at the θ that it meets. All outputs of an action at a prompt share their ratio, so
that of a minibatch three numbers are enough for each: the sum of its advantages above zero, of
those below, and how often it was drawn,

    a_xy = ρ_xy (Σ A⁺·1[ρ_xy ≤ 1 + high] + Σ A⁻·1[ρ_xy ≥ 1 − low]) − κ k′_xy · count_xy,

with which θ moves as in Algorithm 1.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ustat_grpo.compiled.cache import compiled
from ustat_grpo.compiled.rng import substream
from ustat_grpo.optimization.ascent import (
    begin,
    choose_prompts,
    copy,
    draw_outputs,
    move,
    project,
    record,
    set_advantages,
    set_rows,
)
from ustat_grpo.optimization.policy_rows import set_policy

K1, K2, K3 = 1, 2, 3


class Update(NamedTuple):
    """How outputs are used."""

    num_minibatches: int
    weighed: bool  # by the ratio of the new policy to the old
    lowest_ratio: float  # 1 − low, below which a negative advantage counts no more
    highest_ratio: float  # 1 + high
    penalty: int
    penalty_weight: float
    reference: NDArray[np.float64]  # (P, K): π_ref, all positive


class Minibatch(NamedTuple):
    """The slots first … first + size − 1 of a batch, for one update of θ."""

    first: int
    size: int
    stamp: int  # of the policies that it meets: see `ascent.set_rows`


class Reuse(NamedTuple):
    """Memory of one thread, beside `policy_rows.RunState`."""

    old: NDArray[np.float64]  # (P, K): π_old
    gains: NDArray[np.float64]  # (P, K): Σ of positive advantages; zeros between minibatches
    losses: NDArray[np.float64]  # (P, K): Σ of negative ones, likewise
    counts: NDArray[np.float64]  # (P, K): number of outputs, likewise


@compiled
def ascend_in_practice(problem, ascent, update, state, reuse, runs):
    """Run Algorithm 2.

    Args:
        problem: an `AscentProblem`.
        ascent: an `Ascent`.
        update: an `Update`.
        state: the memory of the thread, a `RunState`.
        reuse: the rest of its memory.
        runs: the `ThreadRuns`, whose `left` is filled.
    """
    tables, rule = problem.tables, problem.rule
    size = len(state.prompts) // update.num_minibatches
    for index in range(runs.left.objective.shape[0]):
        run_key = substream(runs.key, runs.first + index)
        begin(ascent.theta0, state)
        recorded = 0
        for iteration in range(ascent.checkpoints[-1]):
            iteration_key = substream(run_key, iteration)
            choose_prompts(tables, state, ascent.prompt_sampling, run_key, iteration_key)
            stamp = iteration * (update.num_minibatches + 1)
            for drawn in range(set_rows(tables, rule, state, stamp)):
                prompt = state.drawn[drawn]
                copy(state.probs[prompt], reuse.old[prompt])
            draw_outputs(state, ascent.group_size, iteration_key)
            step = ascent.rates[iteration] / (size * ascent.group_size)
            for part in range(update.num_minibatches):
                minibatch = Minibatch(part * size, size, stamp + 1 + part)
                num_drawn = _gather(tables, rule, state, reuse, minibatch)
                for drawn in range(num_drawn):
                    _weigh(update, state, reuse, state.drawn[drawn])
                move(tables, state, num_drawn, step)
                project(problem.bounds, state.theta)
            if iteration + 1 == ascent.checkpoints[recorded]:
                record(tables, state, runs.left, index, recorded)
                recorded += 1


@njit(inline="always")
def _gather(tables, rule, state, reuse, minibatch):
    """Add up a minibatch by action, and renew its policies; return how many prompts differ."""
    group_size = len(state.cell) // len(state.prompts)
    num_drawn = 0
    for slot in range(minibatch.first, minibatch.first + minibatch.size):
        prompt = state.prompts[slot]
        if state.seen[prompt] != minibatch.stamp:
            state.seen[prompt] = minibatch.stamp
            state.drawn[num_drawn] = prompt
            num_drawn += 1
            set_policy(tables, state.theta, state.probs[prompt], prompt)
        group = state.cell[slot * group_size : (slot + 1) * group_size]
        set_advantages(tables, rule, state, prompt, group)
        for i in range(len(group)):
            action = np.uint64(tables.cell_actions[np.uint64(group[i])])
            advantage = state.advantages[np.uint64(tables.cell_levels[np.uint64(group[i])])]
            reuse.gains[prompt, action] += max(advantage, 0.0)
            reuse.losses[prompt, action] += min(advantage, 0.0)
            reuse.counts[prompt, action] += 1.0
    return num_drawn


@njit(inline="always")
def _weigh(update, state, reuse, prompt):
    """Set the weight of each action at a prompt, and clear the sums that it is made of."""
    probs, old = state.probs[prompt], reuse.old[prompt]
    for y in range(len(probs)):
        weight, count = 0.0, reuse.counts[prompt, y]
        if count > 0.0:
            ratio = probs[y] / old[y] if update.weighed else 1.0
            if ratio <= update.highest_ratio:
                weight += ratio * reuse.gains[prompt, y]
            if ratio >= update.lowest_ratio:
                weight += ratio * reuse.losses[prompt, y]
            if update.penalty_weight > 0.0:
                drift = probs[y] / update.reference[prompt, y]
                weight -= update.penalty_weight * count * _penalty_slope(update.penalty, drift)
        state.weights[prompt, y] = weight
        reuse.gains[prompt, y] = 0.0
        reuse.losses[prompt, y] = 0.0
        reuse.counts[prompt, y] = 0.0


@njit(inline="always")
def _penalty_slope(penalty, drift):
    """k′ at π_θ/π_ref = drift: 1, ℓ or 1 − e^(−ℓ)."""
    if penalty == K1:
        return 1.0
    if penalty == K2:
        return np.log(drift)
    return 1.0 - 1.0 / drift
