"""The compiled loop under Algorithm 1: many runs of stochastic gradient ascent on a bandit.

A run keeps θ, and for each prompt that its minibatch holds the policy, its value and the cumulative
cell probabilities, all worked out once an iteration however often the prompt was drawn. An output
is one look-up in these: its cell is (action, reward level). The advantages of a group add up by
action, and θ moves along the features of the prompts that were drawn, no others:

    θ ← θ + η/(BG) Σ_x Σ_y (a_xy − π(y∣x)·Σ a_x) φ(x, y).

Every (run, iteration, slot of the minibatch) has a random stream of its own, and outputs are drawn
by inverting the distribution function. So runs depend on neither threads nor each other, and runs
of another estimator, group size or rate are coupled: the same uniform numbers, the same prompts.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

from ustat_grpo.compiled.cache import compiled
from ustat_grpo.compiled.draws import draw_prompts
from ustat_grpo.compiled.rng import stream_of, substream, word_at
from ustat_grpo.estimators.probing import AdvantageRule
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.optimization.policy_rows import (
    BanditTables,
    objective_of,
    set_cells,
    set_known,
    set_policy,
)

IID, WITHOUT_REPLACEMENT, EPOCHS = 0, 1, 2

_PROMPT_STREAM = 0
_OUTPUT_STREAM = 1
_UNIT = 2.0**-53

_SPENT, _EPOCH = 0, 1
"""Slots of `RunState.position`: prompts of the epoch that are spent, and the epoch's number."""


class Bounds(NamedTuple):
    """A box in coordinates t = Rθ; no rows of R for those of θ itself, no bounds for none."""

    axes: NDArray[np.float64]  # (r, d) or (0, d)
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class AscentProblem(NamedTuple):
    """What θ climbs, by which rule, and where it may go."""

    tables: BanditTables
    rule: AdvantageRule
    bounds: Bounds


class Ascent(NamedTuple):
    """How all runs climb."""

    theta0: NDArray[np.float64]  # (d,)
    rates: NDArray[np.float64]  # (n,)
    checkpoints: NDArray[np.int64]  # (C,), increasing
    group_size: int
    prompt_sampling: int


class Checkpoints(NamedTuple):
    """What the runs leave behind."""

    objective: NDArray[np.float64]  # (runs, C)
    theta: NDArray[np.float64]  # (runs, C, d), or (0, 0, 0) to keep none


class ThreadRuns(NamedTuple):
    """The runs that one thread makes: as many as `left` has rows."""

    key: np.uint64  # of the random streams of all runs, on whatever thread
    first: int  # number of the first run
    left: Checkpoints


def require_finite(left: Checkpoints, points: NDArray[np.int64], rates: Array) -> None:
    """Raise if θ or the objective of a run has overflowed.

    Raises:
        FloatingPointError: if so: a mean over the other runs would be of another algorithm.
    """
    finite = np.isfinite(left.objective)
    if left.theta.size:
        finite &= np.isfinite(left.theta).all(axis=2)
    if not finite.all():
        place = int((~finite).any(axis=0).argmax())
        raise FloatingPointError(
            f"training diverged in {(~finite).any(axis=1).sum()} of {len(finite)} runs, up to "
            f"iteration {points[place]}, where theta is not finite: the learning rate must be "
            f"smaller, got up to {rates.max():g}"
        )


@compiled
def ascend(problem, ascent, state, runs):
    """Run Algorithm 1.

    Args:
        problem: an `AscentProblem`.
        ascent: an `Ascent`.
        state: the memory of the thread, a `RunState`.
        runs: the `ThreadRuns`, whose `left` is filled.
    """
    tables, rule = problem.tables, problem.rule
    for index in range(runs.left.objective.shape[0]):
        run_key = substream(runs.key, runs.first + index)
        begin(ascent.theta0, state)
        recorded = 0
        for iteration in range(ascent.checkpoints[-1]):
            iteration_key = substream(run_key, iteration)
            choose_prompts(tables, state, ascent.prompt_sampling, run_key, iteration_key)
            num_drawn = set_rows(tables, rule, state, iteration)
            draw_outputs(state, ascent.group_size, iteration_key)
            for slot in range(len(state.prompts)):
                first = slot * ascent.group_size
                group = state.cell[first : first + ascent.group_size]
                _weigh_group(tables, rule, state, state.prompts[slot], group)
            move(tables, state, num_drawn, ascent.rates[iteration] / len(state.cell))
            project(problem.bounds, state.theta)
            if iteration + 1 == ascent.checkpoints[recorded]:
                record(tables, state, runs.left, index, recorded)
                recorded += 1


@njit(inline="always")
def begin(theta0, state):
    """Forget the run before."""
    copy(theta0, state.theta)
    for prompt in range(len(state.seen)):
        state.seen[prompt] = -1
    state.position[_SPENT], state.position[_EPOCH] = len(state.order), 0


@njit(inline="always")
def record(tables, state, left, index, checkpoint):
    """Leave behind what a run has reached."""
    left.objective[index, checkpoint] = objective_of(tables, state)
    if left.theta.shape[0] > 0:
        copy(state.theta, left.theta[index, checkpoint])


@njit(inline="always")
def copy(source, destination):
    """Copy a vector."""
    for j in range(len(source)):
        destination[j] = source[j]


@njit(inline="always")
def choose_prompts(tables, state, sampling, run_key, iteration_key):
    """Fill the minibatch: i.i.d., or without replacement within it, or within an epoch."""
    if sampling == IID:
        stream = stream_of(substream(iteration_key, _PROMPT_STREAM))
        draw_prompts(stream, tables.prompt_aliases, state.prompts)
        return
    if sampling == WITHOUT_REPLACEMENT:
        _shuffle(state.order, substream(iteration_key, _PROMPT_STREAM))
        state.position[_SPENT] = 0
    for slot in range(len(state.prompts)):
        if state.position[_SPENT] == len(state.order):
            state.position[_EPOCH] -= 1  # iterations number from 0 upward, epochs downward
            _shuffle(state.order, substream(run_key, state.position[_EPOCH]))
            state.position[_SPENT] = 0
        state.prompts[slot] = state.order[state.position[_SPENT]]
        state.position[_SPENT] += 1


@njit(inline="always")
def _shuffle(order, key):
    """Put the prompts in random order, which does not depend on the order before."""
    stream = stream_of(key)
    for i in range(len(order)):
        j = np.int64((word_at(stream, i) >> uint64(11)) * _UNIT * (i + 1))
        order[i] = order[j]
        order[j] = i


@njit(inline="always")
def set_rows(tables, rule, state, stamp):
    """Work out policy, cells and value of each prompt of the batch; return how many differ.

    What was worked out at another `stamp` is out of date.
    """
    num_drawn = 0
    for slot in range(len(state.prompts)):
        prompt = state.prompts[slot]
        if state.seen[prompt] != stamp:
            state.seen[prompt] = stamp
            state.drawn[num_drawn] = prompt
            num_drawn += 1
            set_policy(tables, state.theta, state.probs[prompt], prompt)
            set_cells(tables, state.probs[prompt], state.cells[prompt], prompt)
            set_known(tables, rule, state, prompt)
    return num_drawn


@njit(inline="always")
def draw_outputs(state, group_size, iteration_key):
    """Find the cell of every output, by bisection, all outputs a step at a time: lanes again."""
    output_key = substream(iteration_key, _OUTPUT_STREAM)
    num_cells = state.cells.shape[1]
    for slot in range(len(state.prompts)):
        stream = stream_of(substream(output_key, slot))
        first, row = slot * group_size, state.prompts[slot] * num_cells
        for i in range(group_size):
            word = word_at(stream, i)
            state.uniform[first + i] = np.float64(np.int64(word >> uint64(11))) * _UNIT
            state.row[first + i] = row
            state.cell[first + i] = 0
    ends = state.cells.reshape(state.cells.size)
    step = num_cells // 2
    while step > 0:
        for i in range(len(state.cell)):
            end = ends[np.uint64(state.row[i] + state.cell[i] + step - 1)]
            state.cell[i] += step * np.int64(state.uniform[i] >= end)
        step //= 2


@njit(inline="always")
def _weigh_group(tables, rule, state, prompt, cells):
    """Add the advantages of a group to the weights of its actions."""
    set_advantages(tables, rule, state, prompt, cells)
    weights = state.weights[prompt]
    for i in range(len(cells)):
        action = tables.cell_actions[np.uint64(cells[i])]
        level = tables.cell_levels[np.uint64(cells[i])]
        weights[np.uint64(action)] += state.advantages[np.uint64(level)]


@njit(inline="always")
def set_advantages(tables, rule, state, prompt, cells):
    """Work out the advantage of each reward level in a group."""
    levels = tables.levels
    total, number = 0.0, 0
    for i in range(len(cells)):
        level = tables.cell_levels[np.uint64(cells[i])]
        total += levels[np.uint64(level)]
        number += level
    for level in range(len(levels)):
        if rule.tabulated.shape[0] > 0:
            advantage = rule.tabulated[number, level]
        else:
            advantage = (rule.own - rule.other) * levels[level] + rule.other * total + rule.constant
        state.advantages[level] = advantage + state.known[prompt]


@njit(inline="always")
def move(tables, state, num_drawn, step):
    """Move θ along the minibatch gradient, and clear the weights."""
    num_actions = state.weights.shape[1]
    for index in range(num_drawn):
        prompt = state.drawn[index]
        weights, probs = state.weights[prompt], state.probs[prompt]
        mass = 0.0
        for y in range(num_actions):
            mass += weights[y]
        for y in range(num_actions):
            change = step * (weights[y] - probs[y] * mass)
            weights[y] = 0.0
            if tables.features.shape[0] == 0:
                state.theta[prompt * num_actions + y] += change
            else:
                for j in range(len(state.theta)):
                    state.theta[j] += change * tables.features[prompt, y, j]


@njit(inline="always")
def project(bounds, theta):
    """Move θ to the nearest point of the box; the rows of R are orthogonal."""
    if bounds.axes.shape[0] == 0:
        for j in range(len(bounds.low)):
            theta[j] = min(max(theta[j], bounds.low[j]), bounds.high[j])
        return
    for row in range(bounds.axes.shape[0]):
        coordinate, norm = 0.0, 0.0
        for j in range(len(theta)):
            coordinate += bounds.axes[row, j] * theta[j]
            norm += bounds.axes[row, j] * bounds.axes[row, j]
        excess = coordinate - min(max(coordinate, bounds.low[row]), bounds.high[row])
        if excess != 0.0:
            for j in range(len(theta)):
                theta[j] -= excess / norm * bounds.axes[row, j]
