"""Small groups of one-hot features, every prompt once: scored without a pass over all actions.

A prompt that is taken once has a block of ĝ to itself. Its part of ‖ĝ − g‖² is then a quadratic
form in an estimator's slope and shift, whose coefficients are sums over the few outputs that were
drawn, and are the same for all estimators. Groups are worked on side by side, a tile of slots at a
time, so that the innermost loops run over slots and use the processor's lanes.
"""

import numpy as np
from numba import njit

from ustat_grpo.compiled.cache import compiled
from ustat_grpo.compiled.draws import cell_of, column_shift
from ustat_grpo.compiled.rng import stream, substream, word_at
from ustat_grpo.monte_carlo.layout import LARGEST_SCATTERED_GROUP


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
def score_tile(tables, forms, tile, totals, output_key, index, block, num_tiled, first, number):
    """Draw small groups of the prompts first … first + number − 1 and add up errors and ĝ.

    A prompt that is taken once has a block of ĝ to itself, so its part of ‖ĝ − g‖² is a quadratic
    form in an estimator's slope and shift, whose coefficients all estimators share.
    """
    for j in range(number):
        tile.start[j], tile.stride[j] = stream(substream(output_key, first + j))
    for i in range(forms.group_sizes[num_tiled - 1]):
        for j in range(number):
            tile.words[i, j] = word_at(tile.start[j], tile.stride[j], i)
    for s in range(num_tiled):
        _fill_tile(tables, tile, forms.group_sizes[s], first, number)
        _count_pairs(tile, forms.group_sizes[s], number)
        for e in range(forms.slope.shape[1]):
            if first == 0:
                totals.errors[index, s, e] = tables.target_norm
            error = _add_tile(tables, forms, tile, totals, block, s, e, first, number)
            totals.errors[index, s, e] += error


@njit(inline="always")
def _fill_tile(tables, tile, group_size, first, number):
    """Turn words into outputs, and sum what is linear in them."""
    num_actions = np.uint64(tables.action_probs.shape[1])
    shift_bits = column_shift(tables.aliases.shape[1])
    for j in range(number):
        prompt = np.uint64(first + j)
        scale = tables.prompt_weights[prompt] / group_size
        total, prob_sum, prob_reward, target_sum, target_reward = 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(group_size):
            cell = cell_of(tile.words[i, j], tables.aliases, prompt, shift_bits)
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
        tile.sums[0, j] = total
        tile.sums[1, j] = prob_sum
        tile.sums[2, j] = prob_reward
        tile.sums[3, j] = target_sum
        tile.sums[4, j] = target_reward


@njit(inline="always")
def _count_pairs(tile, group_size, number):
    """Sum n², nz and z² over actions, pair by pair of outputs: an action's sum, squared."""
    counts, mixed, squares = tile.sums[5], tile.sums[6], tile.sums[7]
    for j in range(number):
        counts[j] = group_size
        mixed[j] = tile.sums[0, j]
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
def _add_tile(tables, forms, tile, totals, block, s, e, first, number):
    """Add ĝ of one estimator to its block's sums; return its part of ‖ĝ − g‖² − ‖g‖²."""
    group_size, slope, other = forms.group_sizes[s], forms.slope[s, e], forms.other[s, e]
    shifts, estimate = forms.shift[s, e], totals.estimate[block, s, e]
    masses, sums = totals.mass[block, s, e], tile.sums
    error = 0.0
    for j in range(number):
        prompt = np.uint64(first + j)
        scale = tables.prompt_weights[prompt] / group_size
        shift = other * sums[0, j] + scale * shifts[prompt]
        mass = slope * sums[0, j] + shift * group_size
        overlap = slope * sums[2, j] + shift * sums[1, j]
        tile.shift[j] = shift
        masses[prompt] += mass
        error += slope * (slope * sums[7, j] + 2.0 * (shift * sums[6, j] - sums[4, j]))
        error += shift * (shift * sums[5, j] - 2.0 * sums[3, j])
        centring = mass * tables.probs_norm[prompt] + 2.0 * tables.probs_target[prompt]
        error += mass * (centring - 2.0 * overlap)
    for i in range(group_size):
        for j in range(number):
            estimate[tile.entries[i, j]] += slope * tile.rewards[i, j] + tile.shift[j]
    return error
