"""One contract for every public estimator; the membership is read from the package."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.estimator_contracts import (
    CONTRACTS,
    DTYPES,
    PUBLIC,
    advantages,
    by_formula,
    grouped_gradient,
    rewards_with_gaps,
    suited,
    weights_of,
)
from support.problems import random_snapshot

NAN = float("nan")
LEAST_SIZE = "^group_size must be at least 2 for a leave-one-out baseline, got {}$"
every_estimator = pytest.mark.parametrize("name", PUBLIC)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def units(name: str) -> np.ndindex:
    """What two by three groups fall into for an estimator: groups, or batches of three."""
    return np.ndindex(2) if CONTRACTS[name].batch else np.ndindex(2, 3)


def test_every_public_estimator_has_a_contract():
    assert PUBLIC
    assert sorted(CONTRACTS) == sorted(PUBLIC)


@every_estimator
def test_advantages_against_loops(name, rng):
    """Would catch: a mean over G instead of G - 1, a NaN that counts as a 0, groups mixed up."""
    rewards, side = rewards_with_gaps(name, rng), rng.normal(size=(2, 3))
    expected = by_formula(name, rewards, side)
    np.testing.assert_allclose(advantages(name, rewards, side), expected, rtol=0, atol=1e-12)


@every_estimator
def test_gradient_against_loops(name, rng):
    """Would catch: dividing by G when outputs are unscorable, scores of a neighbour."""
    rewards, side = rewards_with_gaps(name, rng), rng.normal(size=(2, 3))
    scores = rng.normal(size=(2, 3, 5, 4))
    expected = np.zeros((2, 3, 4))
    known = by_formula(name, rewards, side)
    for group in np.ndindex(2, 3):
        scorable = max(1, int(np.sum(~np.isnan(rewards[group]))))
        for i in range(5):
            expected[group] += known[group][i] * scores[group][i] / scorable
    ours = grouped_gradient(name, scores, rewards, side)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


@every_estimator
@every_dtype
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 1, 3, 4), (0, 4)])
def test_shape_and_dtype_are_kept(name, dtype, shape, rng):
    if CONTRACTS[name].batch and len(shape) < 2:
        pytest.skip("a batch has two axes")
    rewards = suited(name, rng.normal(size=shape)).astype(dtype)
    side = rng.normal(size=shape[:-1])  # of type float64: must not widen the result
    scores = np.ones((*shape, 2), dtype)
    for convert in (np.asarray, torch.as_tensor):
        arrays = convert(rewards), convert(scores)
        ours = advantages(name, arrays[0], convert(side))
        assert type(ours) is type(arrays[0])
        assert (tuple(ours.shape), ours.dtype) == (shape, arrays[0].dtype)
        estimate = grouped_gradient(name, arrays[1], arrays[0], convert(side))
        assert (tuple(estimate.shape), estimate.dtype) == ((*shape[:-1], 2), arrays[1].dtype)


@every_estimator
def test_result_lives_on_the_device_of_the_rewards(name):
    """`meta` is a second device that every machine has; side information may come from another."""
    if CONTRACTS[name].rewards == "binary":
        pytest.skip("rewards on `meta` have no values, so that none can be refused")
    rewards = torch.empty((3, 4), device="meta")
    ours = advantages(name, rewards, torch.ones(3), weights=np.ones((3, 4)))
    assert ours.device.type == "meta"
    assert tuple(ours.shape) == (3, 4)


@every_estimator
@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int64])
def test_counts_and_booleans_become_floating(name, dtype, rng):
    """Would catch: integer division, an unsigned difference that wraps to 255."""
    rewards, side = rng.integers(0, 2, size=(3, 4)).astype(dtype), rng.normal(size=3)
    expected = advantages(name, rewards.astype(float), side)
    ours = advantages(name, rewards, side)
    assert ours.dtype == np.float64
    np.testing.assert_array_equal(ours, expected)
    tensor = advantages(name, torch.as_tensor(rewards), torch.as_tensor(side))
    assert tensor.dtype == torch.get_default_dtype()
    np.testing.assert_allclose(tensor, expected, rtol=0, atol=1e-6)


@every_estimator
def test_numpy_and_torch_agree(name, rng):
    rewards, side = rewards_with_gaps(name, rng), rng.normal(size=(2, 3))
    scores = rng.normal(size=(2, 3, 5, 4))
    tensors = [torch.as_tensor(array) for array in (scores, rewards, side)]
    for ours, theirs in [
        (advantages(name, rewards, side), advantages(name, *tensors[1:])),
        (grouped_gradient(name, scores, rewards, side), grouped_gradient(name, *tensors)),
    ]:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@every_estimator
def test_a_batch_is_a_loop_over_groups(name, rng):
    """Would catch: a mean over the batch, side information of the wrong prompt.

    An estimator that looks at batches is compared batch by batch, down to a leading axis.
    """
    rewards, side = rewards_with_gaps(name, rng), rng.normal(size=(2, 3))
    scores = rng.normal(size=(2, 3, 5, 4))
    batch = advantages(name, rewards, side)
    gradients = grouped_gradient(name, scores, rewards, side)
    for unit in units(name):
        alone = advantages(name, rewards[unit], side[unit])
        np.testing.assert_allclose(batch[unit], alone, rtol=0, atol=1e-14)
        alone = grouped_gradient(name, scores[unit], rewards[unit], side[unit])
        np.testing.assert_allclose(gradients[unit], alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in PUBLIC if CONTRACTS[name].batch])
def test_a_batch_has_two_axes(name):
    message = (
        rf"^rewards must have the shape \(\.\.\., B, G\) for the {name} estimator, got \(4,\)$"
    )
    with pytest.raises(ValueError, match=message):
        CONTRACTS[name].make(1, 0).advantages(np.ones(4))


@pytest.mark.parametrize("name", [name for name in PUBLIC if CONTRACTS[name].batch])
def test_groups_of_a_batch_are_exchangeable(name, rng):
    """Would catch: a statistic of the groups before, or of the first."""
    rewards, order = rewards_with_gaps(name, rng)[1], np.array([2, 0, 1])
    ours, moved = advantages(name, rewards), advantages(name, rewards[order])
    np.testing.assert_allclose(moved, ours[order], rtol=0, atol=1e-14)


GROUPS = st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=7).map(np.array)


@every_estimator
@given(group=GROUPS, random=st.randoms(use_true_random=False))
def test_outputs_of_a_group_are_exchangeable(name, group, random):
    """Would catch: a baseline from the previous output, or from the first of the group."""
    group, order = suited(name, group), list(range(len(group)))
    random.shuffle(order)
    ours, moved = advantages(name, group), advantages(name, group[order])
    np.testing.assert_allclose(moved, ours[order], rtol=0, atol=1e-12)


@every_estimator
@given(group=GROUPS, c=st.floats(0.1, 10))
def test_advantages_scale_with_the_unit_of_reward(name, group, c):
    """Would catch: a constant in other units than rewards, such as an epsilon that stays."""
    if CONTRACTS[name].rewards == "binary":
        pytest.skip("0 and 1 have no unit")
    group = suited(name, group)
    scaled = advantages(name, c * group, c * 0.7, c=c, weights=weights_of(group))
    expected = c ** CONTRACTS[name].degree * advantages(name, group)
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=1e-11)


@every_estimator
@given(group=GROUPS, a=st.floats(-10, 10))
def test_shift_of_the_rewards(name, group, a):
    """A baseline takes the shift away; without one it stays, and both must be so."""
    if CONTRACTS[name].rewards == "binary" or CONTRACTS[name].shift_invariant is None:
        pytest.skip("0 means something")
    group, left = suited(name, group), 0.0 if CONTRACTS[name].shift_invariant else a
    shifted = advantages(name, group + a, 0.7 + a, a=a, weights=weights_of(group))
    np.testing.assert_allclose(shifted, advantages(name, group) + left, rtol=0, atol=1e-11)


@every_estimator
def test_unscorable_outputs_are_left_out(name, rng):
    """Would catch: a NaN in the mean, an advantage for it, an average over G instead of 3."""
    rewards = suited(name, np.array([1.0, NAN, 0.25, NAN, -2.0]))
    scores = rng.normal(size=(5, 3))
    scored = ~np.isnan(rewards)
    ours = advantages(name, rewards)
    np.testing.assert_allclose(ours[scored], advantages(name, rewards[scored]), rtol=0, atol=1e-14)
    np.testing.assert_array_equal(ours[~scored], 0)
    np.testing.assert_allclose(
        grouped_gradient(name, scores, rewards),
        grouped_gradient(name, scores[scored], rewards[scored]),
        rtol=0,
        atol=1e-14,
    )


@every_estimator
def test_group_without_scorable_output_gives_zero(name):
    rewards = np.full((2, 3), NAN)
    np.testing.assert_array_equal(advantages(name, rewards), np.zeros((2, 3)))
    ours = grouped_gradient(name, np.ones((2, 3, 4)), rewards)
    np.testing.assert_array_equal(ours, np.zeros((2, 4)))


@every_estimator
@pytest.mark.parametrize("group_size", [2, 3])
def test_mean_gradient_over_every_group(name, group_size, rng):
    """Sums over all 6^G groups: E ĝ = g(x), times 1 - 1/G for the mean that includes the output.

    Would catch: the factor G/(G - 1) of the two group means confused, any dependent baseline.
    """
    factor = CONTRACTS[name].mean_factor
    if factor is None:
        pytest.skip("biased by more than a factor")
    problem = random_snapshot(rng, 1, 3, reward_levels=(-0.5, 2.0), dimension=2)
    cells = list(itertools.product(range(3), range(2)))
    mean = np.zeros(2)
    for group in itertools.product(cells, repeat=group_size):
        prob = np.prod(
            [problem.action_probs[0, y] * problem.reward_probs[0, y, z] for y, z in group]
        )
        scores = np.array([problem.dense_scores()[0, y] for y, _ in group])
        rewards = problem.reward_levels[[z for _, z in group]]
        mean += prob * grouped_gradient(name, scores, rewards)
    expected = factor(group_size) * problem.gradient
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-12)
