"""Small groups of one-hot features, every prompt once: scored without a pass over all actions.

A prompt that is taken once has a block of ĝ to itself. Its part of ‖ĝ − g‖² is then a quadratic
form in an estimator's slope and shift, whose coefficients are sums over the few outputs that were
drawn, and are the same for all estimators. Groups are worked on side by side, a tile of slots at a
time, so that the innermost loops run over slots and use the processor's lanes.
"""

import numpy as np
from numba import njit

from ustat_grpo.compiled.cache import compiled
from ustat_grpo.compiled.draws import AliasRow, cell_of, column_shift
from ustat_grpo.compiled.rng import Stream, stream_of, substream, word_at
from ustat_grpo.monte_carlo.layout import (
    COUNT_REWARD,
    COUNT_SQUARED,
    LARGEST_SCATTERED_GROUP,
    PROB,
    PROB_REWARD,
    REWARD,
    REWARD_SQUARED,
    SLOTS_PER_TILE,
    TARGET,
    TARGET_REWARD,
    BlockSums,
    Form,
    TiledSlots,
)


@njit(inline="always")
def num_tiled_sizes(tables, forms, all_once):
    """Count the group sizes whose error is taken group by group: small, every prompt once."""
    number = 0
    if all_once and tables.scores.shape[0] == 0:
        while number < len(forms.group_sizes):
            if forms.group_sizes[number] > LARGEST_SCATTERED_GROUP:
                break
            number += 1
    return number


@compiled
def score_tiles(tables, forms, tile, totals, replicate, num_tiled):
    """Draw the groups of the `num_tiled` smallest sizes of a replicate; add up errors and ĝ.

    A prompt that is taken once has a block of ĝ to itself, so its part of ‖ĝ − g‖² is a quadratic
    form in an estimator's slope and shift, whose coefficients all estimators share.
    """
    num_prompts = len(tables.prompt_weights)
    index, block = replicate.index, replicate.block
    for first in range(0, num_prompts, SLOTS_PER_TILE):
        slots = TiledSlots(first, min(SLOTS_PER_TILE, num_prompts - first))
        _fill_words(tile, replicate.output_key, forms.group_sizes[num_tiled - 1], slots)
        for s in range(num_tiled):
            size = forms.group_sizes[s]
            _fill_tile(tables, tile, size, slots)
            _count_pairs(tile, size, slots.number)
            for e in range(forms.slope.shape[1]):
                if first == 0:
                    totals.errors[index, s, e] = tables.target_norm
                form = Form(size, forms.slope[s, e], forms.other[s, e], forms.shift[s, e])
                sums = BlockSums(totals.estimate[block, s, e], totals.mass[block, s, e])
                totals.errors[index, s, e] += _add_tile(tables, form, tile, sums, slots)


@njit(inline="always")
def _fill_words(tile, output_key, group_size, slots):
    """Draw the random words of the largest group of each slot, with which the smaller begin."""
    for j in range(slots.number):
        tile.start[j], tile.stride[j] = stream_of(substream(output_key, slots.first + j))
    for i in range(group_size):
        for j in range(slots.number):
            tile.words[i, j] = word_at(Stream(tile.start[j], tile.stride[j]), i)


@njit(inline="always")
def _fill_tile(tables, tile, group_size, slots):
    """Turn words into outputs, and sum what is linear in them."""
    num_actions = np.uint64(tables.action_probs.shape[1])
    shift_bits = column_shift(tables.aliases.shape[1])
    for j in range(slots.number):
        prompt = np.uint64(slots.first + j)
        aliases = AliasRow(tables.aliases, prompt, shift_bits)
        scale = tables.prompt_weights[prompt] / group_size
        total, prob_sum, prob_reward, target_sum, target_reward = 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(group_size):
            cell = cell_of(tile.words[i, j], aliases)
            action = tables.cell_actions[cell]
            entry = prompt * num_actions + action
            reward = scale * tables.cell_rewards[cell]
            prob, target = tables.action_probs[prompt, action], tables.target[entry]
            tile.entries[i, j] = entry
            tile.rewards[i, j] = reward
            total += reward
            prob_sum += prob
            prob_reward += prob * reward
            target_sum += target
            target_reward += target * reward
        tile.sums[REWARD, j] = total
        tile.sums[PROB, j] = prob_sum
        tile.sums[PROB_REWARD, j] = prob_reward
        tile.sums[TARGET, j] = target_sum
        tile.sums[TARGET_REWARD, j] = target_reward


@njit(inline="always")
def _count_pairs(tile, group_size, number):
    """Sum n², nz and z² over actions, pair by pair of outputs: an action's sum, squared."""
    counts, mixed = tile.sums[COUNT_SQUARED], tile.sums[COUNT_REWARD]
    squares = tile.sums[REWARD_SQUARED]
    for j in range(number):
        counts[j] = group_size
        mixed[j] = tile.sums[REWARD, j]
        squares[j] = 0.0
    for i in range(group_size):
        for j in range(number):
            squares[j] += tile.rewards[i, j] * tile.rewards[i, j]
        for h in range(i):
            for j in range(number):
                same = 1.0 if tile.entries[h, j] == tile.entries[i, j] else 0.0
                one, two = tile.rewards[h, j], tile.rewards[i, j]
                counts[j] += 2.0 * same
                mixed[j] += same * (one + two)
                squares[j] += 2.0 * same * one * two


@njit(inline="always")
def _add_tile(tables, form, tile, sums, slots):
    """Add ĝ of one estimator to its block's sums; return its part of ‖ĝ − g‖² − ‖g‖²."""
    group_size, slope, of = form.group_size, form.slope, tile.sums
    error = 0.0
    for j in range(slots.number):
        prompt = np.uint64(slots.first + j)
        scale = tables.prompt_weights[prompt] / group_size
        shift = form.other * of[REWARD, j] + scale * form.shift[prompt]
        mass = slope * of[REWARD, j] + shift * group_size
        overlap = slope * of[PROB_REWARD, j] + shift * of[PROB, j]
        tile.shift[j] = shift
        sums.mass[prompt] += mass
        mixed = shift * of[COUNT_REWARD, j] - of[TARGET_REWARD, j]
        error += slope * (slope * of[REWARD_SQUARED, j] + 2.0 * mixed)
        error += shift * (shift * of[COUNT_SQUARED, j] - 2.0 * of[TARGET, j])
        centring = mass * tables.probs_norm[prompt] + 2.0 * tables.probs_target[prompt]
        error += mass * (centring - 2.0 * overlap)
    for i in range(group_size):
        for j in range(slots.number):
            sums.estimate[tile.entries[i, j]] += slope * tile.rewards[i, j] + tile.shift[j]
    return error
