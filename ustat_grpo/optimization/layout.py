"""Lay out a bandit, a region and a way of practising for the loops of Algorithms 1 and 2."""

import numpy as np

from ustat_grpo.bandits.softmax import SoftmaxBandit
from ustat_grpo.compiled.draws import alias_tables, padded_size
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.optimization import ascent, policy_rows, practical_ascent
from ustat_grpo.optimization.practice import Practice
from ustat_grpo.optimization.regions import Box
from ustat_grpo.optimization.training_config import TrainingConfig

_PENALTIES = {"k1": practical_ascent.K1, "k2": practical_ascent.K2, "k3": practical_ascent.K3}


def tables(bandit: SoftmaxBandit) -> policy_rows.BanditTables:
    """Return a bandit as the arrays that the loops read."""
    probs, offsets = bandit.prompt_probs, bandit.offsets
    assert probs is not None and offsets is not None
    padded = np.zeros((1, padded_size(len(probs))))
    padded[0, : len(probs)] = probs
    _, num_actions, num_levels = bandit.reward_probs.shape
    by_cell = np.arange(num_actions * num_levels)
    features = np.empty((0, 0, 0)) if bandit.features is None else bandit.features
    return policy_rows.BanditTables(
        probs,
        alias_tables(padded),
        np.ascontiguousarray(features),
        np.ascontiguousarray(offsets),
        bandit.reward_levels,
        np.ascontiguousarray(np.cumsum(bandit.reward_probs, axis=2)),
        by_cell // num_levels,
        by_cell % num_levels,
        bandit.reward_probs @ bandit.reward_levels,
    )


def bounds(projection: Box | None, dimension: int) -> ascent.Bounds:
    """Return Θ as bounds on coordinates; none of them if there is no Θ."""
    if projection is None:
        return ascent.Bounds(np.empty((0, dimension)), np.empty(0), np.empty(0))
    if projection.axes is not None:
        low, high = np.asarray(projection.low), np.asarray(projection.high)
        return ascent.Bounds(np.ascontiguousarray(projection.axes), low.copy(), high.copy())
    low = np.broadcast_to(projection.low, dimension).copy()
    high = np.broadcast_to(projection.high, dimension).copy()
    return ascent.Bounds(np.empty((0, dimension)), low, high)


def state(
    tables: policy_rows.BanditTables, batch_size: int, shared: ascent.Ascent
) -> policy_rows.RunState:
    """Return the memory of one thread."""
    num_prompts, num_actions, num_levels = tables.reward_cdf.shape
    num_outputs = batch_size * shared.group_size
    return policy_rows.RunState(
        theta=np.empty(len(shared.theta0)),
        prompts=np.empty(batch_size, dtype=np.int64),
        order=np.arange(num_prompts),
        position=np.zeros(2, dtype=np.int64),
        seen=np.empty(num_prompts, dtype=np.int64),
        drawn=np.empty(num_prompts, dtype=np.int64),
        probs=np.empty((num_prompts, num_actions)),
        cells=np.full((num_prompts, padded_size(num_actions * num_levels)), 2.0),
        known=np.empty(num_prompts),
        weights=np.zeros((num_prompts, num_actions)),
        uniform=np.empty(num_outputs),
        row=np.empty(num_outputs, dtype=np.int64),
        cell=np.empty(num_outputs, dtype=np.int64),
        advantages=np.empty(num_levels),
    )


def checkpoints(config: TrainingConfig, num_runs: int, dimension: int) -> ascent.Checkpoints:
    """Return room for what the runs leave behind."""
    shape = num_runs, len(config.checkpoints)
    kept = (*shape, dimension) if config.keep_theta else (0, 0, 0)
    return ascent.Checkpoints(np.empty(shape), np.empty(kept))


def update(practice: Practice, bandit: SoftmaxBandit, reference: Array) -> practical_ascent.Update:
    """Return how outputs are used, with π_ref at the parameter `reference`."""
    low, high = (1.0, np.inf) if practice.clip is None else practice.clip
    return practical_ascent.Update(
        practice.num_minibatches,
        practice.ratio != "none",  # an output is one token: both ratios are the same
        1.0 - low,
        1.0 + high,
        _PENALTIES[practice.penalty],
        practice.penalty_weight,
        # As small as the loop's own policies get: of actions that never occur ℓ stays finite.
        np.maximum(bandit.at(reference).action_probs, np.exp(-700.0)),
    )


def reuse(tables: policy_rows.BanditTables) -> practical_ascent.Reuse:
    """Return what one thread needs beside `state`."""
    shape = tables.mean_reward.shape
    return practical_ascent.Reuse(*(np.zeros(shape) for _ in range(4)))
