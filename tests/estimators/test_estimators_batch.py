"""Estimators that look at a batch: exact means over every minibatch, and their options."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.minibatches import minibatches
from support.problems import random_snapshot
from ustat_grpo import (
    BatchStdNormalised,
    DropEqualGroups,
    GroupMean,
    Grpo,
    JamesStein,
    KeepSingletons,
    SideInformation,
    StdNormalised,
    Vanilla,
    Whitened,
    groups_per_kept_group,
)

NAN = np.nan


class OwnGroupToo:
    """A mutant of James–Stein whose target is the mean of the whole batch."""

    def advantages(self, rewards, side):
        return rewards - rewards.mean(axis=(-2, -1), keepdims=True)


@pytest.mark.parametrize(("batch_size", "group_size"), [(1, 2), (2, 2), (3, 2), (None, 3)])
def test_james_stein_is_unbiased_over_every_minibatch(batch_size, group_size, rng):
    """E ĝ = ∇J to 1e-12: nothing in the target or its weight comes from the own group."""
    snapshot = random_snapshot(rng, 2, 2, reward_levels=(-0.5, 2.0), dimension=2)
    every = minibatches(snapshot, batch_size, group_size)
    for estimator in (JamesStein(), JamesStein(eps=0.5), JamesStein(eps=0.0)):
        np.testing.assert_allclose(every.mean(estimator), snapshot.gradient, rtol=0, atol=1e-12)
    if batch_size != 1:
        assert np.abs(every.mean(OwnGroupToo()) - snapshot.gradient).max() > 1e-3


def test_james_stein_by_hand():
    """Means 1, 3, 6; variances 2, 2, 8 (ddof 1), so that group 0 has v = 5/2 and s² = 9/4.

    Its λ is 10/19 and its target 4.5. Would catch: ddof 1 between groups (λ = 5/14), the own group
    among the others, the other groups' mean variance not divided by G.
    """
    rewards = np.array([[0.0, 2.0], [2.0, 4.0], [4.0, 8.0]])
    ours = JamesStein(eps=0.0).advantages(rewards)[0]
    baseline = [9 / 19 * 2 + 10 / 19 * 4.5, 10 / 19 * 4.5]
    np.testing.assert_allclose(ours, [0 - baseline[0], 2 - baseline[1]], rtol=1e-14)


def test_james_stein_loses_no_digits_to_an_offset(rng):
    """Would catch: the variance of the means as a difference of squares, at 1e6."""
    rewards = rng.normal(size=(5, 4))
    ours = JamesStein().advantages(rewards + 1e6)
    np.testing.assert_allclose(ours, JamesStein().advantages(rewards), rtol=0, atol=1e-8)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_mean_of_dynamic_sampling(batch_size, rng):
    """One prompt, dead with probability D: E ĝ = (1 − D^B)/(1 − D)·g.

    Given that a group is kept its mean is g/(1 − D). Would catch: B/B′ left out.
    """
    snapshot = random_snapshot(rng, 1, 2)
    success, every = float(snapshot.value[0]), minibatches(snapshot, batch_size, 2)
    dead = success**2 + (1 - success) ** 2
    expected = (1 - dead**batch_size) / (1 - dead) * snapshot.gradient
    ours = every.mean(DropEqualGroups(Grpo()))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
    assert batch_size == 1 or np.abs(every.mean(Grpo()) - expected).max() > 1e-3


def test_dynamic_sampling_by_hand():
    rewards = np.array([[0.0, 1.0], [0.1, 0.1], [2.0, 0.0], [NAN, NAN], [NAN, 3.0]])
    expected = 2.5 * np.array([[0.0, 1.0], [0, 0], [2.0, 0.0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(DropEqualGroups(Vanilla()).advantages(rewards), expected)
    kept = DropEqualGroups(Vanilla(), keep_singletons=True).advantages(rewards)
    expected = 5 / 3 * np.array([[0.0, 1.0], [0, 0], [2.0, 0.0], [0, 0], [0, 3.0]])
    np.testing.assert_allclose(kept, expected, rtol=1e-15)
    none = DropEqualGroups(Vanilla()).advantages(np.ones((2, 3)))
    np.testing.assert_array_equal(none, np.zeros((2, 3)))


def test_price_of_dynamic_sampling(rng):
    """1/(1 − E D) groups: the mean number of draws, Σ_n n·D^(n−1)(1 − D), at prompts drawn anew."""
    dead, probs = np.array([0.9, 0.1, 0.5]), np.array([0.5, 0.3, 0.2])
    average = probs @ dead
    draws = np.arange(1, 2000)
    expected = float(np.sum(draws * average ** (draws - 1) * (1 - average)))
    assert groups_per_kept_group(dead, probs) == pytest.approx(expected, rel=1e-12)
    assert groups_per_kept_group(dead) == pytest.approx(2.0)
    assert groups_per_kept_group([1.0, 1.0]) == np.inf
    with pytest.raises(ValueError, match=r"^dead_probability must lie in \[0, 1\], got 1.5$"):
        groups_per_kept_group([0.5, 1.5])
    with pytest.raises(ValueError, match=r"^arrays must agree on the number of prompts, got"):
        groups_per_kept_group([0.5, 0.5], [1.0])


LENGTHS = np.array([[1.0, 2.0, 3.0], [4.0, 1.0, 1.0]])


def test_whitening_by_lengths_is_whitening_of_the_tokens(rng):
    """Each output repeated as often as it is long. Would catch: n outputs for n tokens in ddof."""
    rewards = rng.normal(size=(2, 3))
    tokens = np.repeat(rewards.ravel(), LENGTHS.ravel().astype(int))
    expected = (rewards - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 0.1)
    side = SideInformation(lengths=LENGTHS)
    ours = Whitened(Vanilla(), 0.1).advantages(rewards, side)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    plain = (rewards - rewards.mean()) / np.sqrt(rewards.var(ddof=1) + 0.1)
    for estimator, known in (
        (Whitened(Vanilla(), 0.1), SideInformation()),
        (Whitened(Vanilla(), 0.1, per_token=False), side),
    ):
        np.testing.assert_allclose(estimator.advantages(rewards, known), plain, rtol=1e-12)


@pytest.mark.parametrize(
    ("place", "scale"),
    [("variance", np.sqrt(2.5)), ("std", np.sqrt(2) + 0.5), ("floor", np.sqrt(2))],
)
def test_places_of_eps(place, scale):
    """0, 0, 2 and −2 have the variance 2 (ddof 0)."""
    rewards = np.array([[0.0, 0.0], [2.0, -2.0]])
    ours = Whitened(Vanilla(), 0.5, 0, place).advantages(rewards)
    np.testing.assert_allclose(ours, rewards / scale, rtol=1e-14)
    if place == "floor":
        ours = Whitened(Vanilla(), 8.0, 0, place).advantages(rewards)
        np.testing.assert_allclose(ours, rewards / np.sqrt(8), rtol=1e-14)


def test_batch_deviation_is_that_of_the_rewards():
    """(0, 2) and (10, 12): deviation √(104/3), not √(4/3) of what is left without the means."""
    ours = BatchStdNormalised(0.0).advantages(np.array([[0.0, 2.0], [10.0, 12.0]]))
    np.testing.assert_allclose(np.abs(ours), 1 / np.sqrt(104 / 3), rtol=1e-14)


def test_a_group_that_is_equal_in_a_batch_that_is_not():
    """It has no advantage where its mean is taken, and one where only the batch's is."""
    rewards = np.array([[0.1, 0.1, 0.1], [0.0, 1.0, 0.5]])
    for inner in (GroupMean(), Grpo(), StdNormalised(0.0)):
        np.testing.assert_allclose(Whitened(inner).advantages(rewards)[0], 0, atol=1e-14)
    assert (Whitened(Vanilla()).advantages(rewards)[0] < -0.5).all()


def test_a_lone_output_and_a_batch_without_any():
    for estimator in (Whitened(Vanilla(), 0.0), BatchStdNormalised(0.0), JamesStein(0.0)):
        for rewards in ([[NAN, 3.0], [NAN, NAN]], [[NAN, NAN], [NAN, NAN]]):
            ours = estimator.advantages(np.array(rewards))
            np.testing.assert_array_equal(ours, np.zeros((2, 2)))


def test_leading_axes_are_batches(rng):
    rewards = torch.as_tensor(rng.normal(size=(2, 3, 4, 5)))
    inner = KeepSingletons(StdNormalised(), 1e-4)
    for estimator in (DropEqualGroups(inner), Whitened(inner), BatchStdNormalised(), JamesStein()):
        ours = estimator.advantages(rewards)
        for i, j in np.ndindex(2, 3):
            alone = estimator.advantages(rewards[i, j])
            np.testing.assert_allclose(ours[i, j], alone, rtol=0, atol=1e-14)


def test_constants_out_of_range():
    with pytest.raises(ValueError, match=r"^place must be one of variance, std, floor, got 'var'$"):
        Whitened(Grpo(), place="var")
    for make in (
        lambda eps: Whitened(Grpo(), eps),
        JamesStein,
        lambda e: KeepSingletons(Grpo(), e),
    ):
        with pytest.raises(ValueError, match=r"^eps must not be negative, got -1\.0$"):
            make(-1.0)
