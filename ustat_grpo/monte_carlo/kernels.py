"""The compiled loop under the Monte Carlo harness: draw groups, score every estimator at once.

The gradient of a group depends on its cell counts only (see `draws`): with n_y outputs of action
y, z_y their rewards and S = Σ z_y, an estimator whose advantages are affine in the rewards,
A_i = own·Z_i + other·(S − Z_i) + shift(x), gives action y the weight

    a_y = (own − other)·z_y + (other·S + shift(x))·n_y,        ĝ(x) = (1/G) Σ_y a_y W(x, y).

So outputs are never stored, and every estimator and group size is scored on the same draws. For
one-hot features ĝ_xy = a_y − π(y∣x)·Σ a; the loop adds up the uncentred a_y, which touches only
the actions that were drawn, and takes the squared error apart:

    ‖a − Mπ − g‖² = ‖g‖² + Σ a(a − 2g) + M(M·Σπ² − 2·Σ aπ + 2·Σ gπ),    M = Σ a,

block by block. For general features the scores are centred beforehand, and M = 0.

Groups of up to `LARGEST_SCATTERED_GROUP` are weighed output by output (by `tiles`, where every
prompt is taken once), up to `LARGEST_DRAWN_GROUP` action by action; larger ones are drawn as one
vector of counts, whose cost hardly depends on G. Every (replicate, slot of the minibatch) has a
random stream of its own, which group sizes share: the group of 8 begins with the outputs of the
group of 4. Results depend on neither threads nor chunks.
"""

import numpy as np
from numba import njit

from ustat_grpo.compiled.cache import compiled
from ustat_grpo.compiled.draws import alias_row, draw_cell, draw_cells, draw_counts, draw_prompts
from ustat_grpo.compiled.rng import stream_of, substream
from ustat_grpo.monte_carlo.layout import LARGEST_SCATTERED_GROUP, Replicate, Slot
from ustat_grpo.monte_carlo.tiles import num_tiled_sizes, score_tiles

LARGEST_DRAWN_GROUP = 256
"""Groups above this size are drawn as counts; below, outputs are cheaper one by one."""

REPLICATES_PER_BLOCK = 1024
"""Replicates whose gradients are summed together; fixes the order of all later sums."""

_PROMPT_STREAM = 0
_OUTPUT_STREAM = 1


@compiled
def simulate(tables, forms, work, draws, totals):
    """Run the replicates of `draws` until `totals`, handed in as zeros, is full.

    Args:
        tables: the problem.
        forms: the estimators.
        work: scratch memory; its `prompts` has the length of the minibatch.
        draws: the first of them has a number that is a multiple of the block length.
        totals: output.
    """
    batch_size = len(work.prompts)
    weight = 1.0 / batch_size
    num_tiled = num_tiled_sizes(tables, forms, draws.all_once)
    for index in range(totals.errors.shape[0]):
        replicate_key = substream(draws.key, draws.first + index)
        output_key = substream(replicate_key, _OUTPUT_STREAM)
        replicate = Replicate(index, index // REPLICATES_PER_BLOCK, output_key)
        _choose_prompts(tables, replicate_key, draws.all_once, work.prompts)
        if num_tiled > 0:
            score_tiles(tables, forms, work.tile, totals, replicate, num_tiled)
        if num_tiled < len(forms.group_sizes):
            for number in range(batch_size):
                prompt = work.prompts[number]
                if draws.all_once:
                    weight = tables.prompt_weights[prompt]
                slot = Slot(prompt, weight, substream(output_key, number))
                _add_group(tables, forms, work, slot, num_tiled)
            _score(tables, work, totals, replicate, num_tiled)


@compiled
def count_cells(tables, group_sizes, draws, prompts, counts):
    """Fill the prompts and cell counts of the very groups that `simulate` draws.

    Args:
        tables: the problem.
        group_sizes: S sizes, in ascending order.
        draws: as for `simulate`.
        prompts: output, shape (replicates, B).
        counts: output, shape (S, replicates, B, C); must hold zeros.
    """
    for index in range(prompts.shape[0]):
        replicate_key = substream(draws.key, draws.first + index)
        _choose_prompts(tables, replicate_key, draws.all_once, prompts[index])
        output_key = substream(replicate_key, _OUTPUT_STREAM)
        for slot in range(prompts.shape[1]):
            prompt = prompts[index, slot]
            slot_key = substream(output_key, slot)
            aliases = alias_row(tables.aliases, prompt)
            counted_row = prompt
            for s in range(len(group_sizes)):
                size, group = group_sizes[s], counts[s, index, slot]
                if size <= LARGEST_DRAWN_GROUP:
                    draw_cells(stream_of(slot_key), 0, size, aliases, group)
                else:
                    stream = stream_of(substream(slot_key, size))
                    draw_counts(stream, size, tables.counts, counted_row, aliases, group)
                    counted_row += len(tables.action_probs)


@njit(inline="always")
def _choose_prompts(tables, replicate_key, all_once, prompts):
    """Fill the prompts of a minibatch: each once, or i.i.d. draws."""
    if all_once:
        for slot in range(len(prompts)):
            prompts[slot] = slot
    else:
        stream = stream_of(substream(replicate_key, _PROMPT_STREAM))
        draw_prompts(stream, tables.prompt_aliases, prompts)


@njit(inline="always")
def _add_group(tables, forms, work, slot, first_size):
    """Draw one group at every further group size and add its gradient, for each estimator, to ĝ."""
    stream, aliases = stream_of(slot.key), alias_row(tables.aliases, slot.prompt)
    one_hot = tables.scores.shape[0] == 0
    num_drawn = 0
    counted_row = slot.prompt
    for s in range(first_size, len(forms.group_sizes)):
        group_size = forms.group_sizes[s]
        if one_hot and group_size <= LARGEST_SCATTERED_GROUP:
            _scatter_outputs(tables, forms, work, slot, stream, s)
            continue
        if group_size <= LARGEST_DRAWN_GROUP:
            if num_drawn == 0:
                for cell in range(len(work.drawn)):
                    work.drawn[cell] = 0
            draw_cells(stream, num_drawn, group_size, aliases, work.drawn)
            num_drawn = group_size
            total = _summarise(work.drawn, tables.levels, work.outputs, work.rewards)
        else:
            alone = stream_of(substream(slot.key, group_size))
            draw_counts(alone, group_size, tables.counts, counted_row, aliases, work.counted)
            counted_row += len(tables.action_probs)
            total = _summarise(work.counted, tables.levels, work.outputs, work.rewards)
        _add_actions(tables, forms, work, slot, total, s)


@njit(inline="always")
def _scatter_outputs(tables, forms, work, slot, stream, s):
    """One-hot features, small group: draw it and add each output's advantage to its action."""
    group_size, prompt = forms.group_sizes[s], slot.prompt
    offset = np.uint64(prompt * tables.action_probs.shape[1])
    aliases = alias_row(tables.aliases, prompt)
    total = 0.0
    for i in range(group_size):
        work.cells[i] = draw_cell(stream, i, aliases)
        total += tables.cell_rewards[work.cells[i]]
    scale = slot.weight / group_size
    for e in range(forms.slope.shape[1]):
        slope = scale * forms.slope[s, e]
        shift = scale * (forms.other[s, e] * total + forms.shift[s, e, prompt])
        overlap = 0.0
        for i in range(group_size):
            cell = work.cells[i]
            action = tables.cell_actions[cell]
            advantage = slope * tables.cell_rewards[cell] + shift
            overlap += advantage * tables.action_probs[prompt, action]
            work.estimate[s, e, offset + action] += advantage
        work.mass[s, e, prompt] += slope * total + shift * group_size
        work.overlap[s, e, prompt] += overlap


@njit(inline="always")
def _summarise(counts, levels, outputs, rewards):
    """Fill outputs and total reward by action from the cell counts; return the group's total."""
    num_actions = len(outputs)
    for y in range(num_actions):
        outputs[y] = 0.0
        rewards[y] = 0.0
    total = 0.0
    for index in range(len(levels)):
        number = 0
        first = np.uint64(index * num_actions)
        for y in range(num_actions):
            count = counts[first + np.uint64(y)]
            number += count
            outputs[y] += float(count)
            rewards[y] += levels[index] * float(count)
        total += levels[index] * float(number)
    return total


@njit(inline="always")
def _add_actions(tables, forms, work, slot, total, s):
    """Add the gradient of a group, summed by action, to ĝ of each estimator."""
    group_size, prompt = forms.group_sizes[s], slot.prompt
    num_actions = len(work.outputs)
    offset = np.uint64(prompt * num_actions)
    scale = slot.weight / group_size
    for e in range(forms.slope.shape[1]):
        slope = scale * forms.slope[s, e]
        shift = scale * (forms.other[s, e] * total + forms.shift[s, e, prompt])
        if tables.scores.shape[0] == 0:
            overlap = 0.0
            for y in range(num_actions):
                weighted = slope * work.rewards[y] + shift * work.outputs[y]
                overlap += weighted * tables.action_probs[prompt, y]
                work.estimate[s, e, offset + np.uint64(y)] += weighted
            work.mass[s, e, prompt] += slope * total + shift * group_size
            work.overlap[s, e, prompt] += overlap
        else:
            for y in range(num_actions):
                weighted = slope * work.rewards[y] + shift * work.outputs[y]
                if weighted != 0.0:
                    for j in range(work.estimate.shape[2]):
                        work.estimate[s, e, j] += weighted * tables.scores[prompt, y, j]


@compiled
def _score(tables, work, totals, replicate, first_size):
    """Take ‖ĝ − g‖² of one replicate, add ĝ to the sums of its block, and clear it."""
    for s in range(first_size, work.estimate.shape[0]):
        for e in range(work.estimate.shape[1]):
            error = tables.target_norm
            for j in range(work.estimate.shape[2]):
                value = work.estimate[s, e, j]
                totals.estimate[replicate.block, s, e, j] += value
                error += value * (value - 2.0 * tables.target[j])
                work.estimate[s, e, j] = 0.0
            for x in range(work.mass.shape[2]):
                mass = work.mass[s, e, x]
                totals.mass[replicate.block, s, e, x] += mass
                centring = mass * tables.probs_norm[x] + 2.0 * tables.probs_target[x]
                error += mass * (centring - 2.0 * work.overlap[s, e, x])
                work.mass[s, e, x] = 0.0
                work.overlap[s, e, x] = 0.0
            totals.errors[replicate.index, s, e] = error
