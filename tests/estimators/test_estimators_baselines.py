"""Baselines made with side information or history, and pass@k: exact means over every group."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from support.minibatches import minibatches
from support.problems import random_snapshot
from ustat_grpo import (
    BestOfGroup,
    EmpiricalBayes,
    GreedyBaseline,
    GroupMean,
    Grpo,
    LengthWeightedMean,
    PassAtK,
    RunningRewards,
    ScoreWeightedMean,
    Shrinkage,
    SideInformation,
    gradient,
)

NAN = np.nan


class OwnScoreToo:
    """A mutant: the weighted mean with the own output in it."""

    def advantages(self, rewards, side):
        weights = side.norms()
        mean = (weights * rewards).sum(axis=-1, keepdims=True) / weights.sum(axis=-1, keepdims=True)
        return rewards - mean


@pytest.mark.parametrize("group_size", [2, 3])
def test_score_weighted_mean_is_unbiased(group_size, rng):
    """Over every group, with the true ‖W‖²; with the own output in the mean it is not."""
    snapshot = random_snapshot(rng, 1, 3, reward_levels=(-0.5, 2.0), dimension=2)
    every = minibatches(snapshot, 1, group_size)
    ours = every.mean(ScoreWeightedMean())
    np.testing.assert_allclose(ours, snapshot.gradient, rtol=0, atol=1e-12)
    assert np.abs(every.mean(OwnScoreToo()) - snapshot.gradient).max() > 1e-2


def test_score_weighted_mean_tends_to_the_best_baseline(rng):
    """From scores alone, at G = 200 000: within 4 standard errors of b*, and V is 40 away."""
    snapshot = random_snapshot(np.random.default_rng(3), 1, 3, dimension=2)
    size, probs = 200_000, (snapshot.action_probs[0][:, None] * snapshot.reward_probs[0]).ravel()
    actions, levels = np.divmod(rng.choice(6, size, p=probs / probs.sum()), 2)
    rewards, scores = snapshot.reward_levels[levels], snapshot.dense_scores()[0, actions]
    baseline = rewards - ScoreWeightedMean().advantages(rewards, SideInformation(scores=scores))
    best, weights = snapshot.optimal_baseline[0], (scores**2).sum(axis=-1)
    std_error = np.std(weights * (rewards - best)) / weights.mean() / np.sqrt(size)
    assert abs(baseline[0] - best) <= 4 * std_error
    assert abs(best - snapshot.value[0]) > 40 * std_error


def test_no_digit_is_lost_beside_a_large_score():
    """Weights 1e20, 1, 3: the mean of the two others is 0.75. Would catch: total less own."""
    rewards, weights = np.array([5.0, 0.0, 1.0]), np.array([1e20, 1.0, 3.0])
    side = SideInformation(score_norm_squared=weights)
    assert ScoreWeightedMean().advantages(rewards, side)[0] == 4.25


def test_others_without_any_score_are_averaged():
    rewards, side = np.array([1.0, 0.0, 4.0]), SideInformation(score_norm_squared=np.eye(3)[0])
    np.testing.assert_array_equal(ScoreWeightedMean().advantages(rewards, side), [-1, -1, 3])
    side = SideInformation(lengths=np.zeros(3))
    ours = LengthWeightedMean().advantages(rewards, side)
    np.testing.assert_allclose(ours, GroupMean().advantages(rewards), rtol=1e-14)


def test_equal_weights_give_the_plain_means(rng):
    rewards, side = rng.normal(size=(3, 5)), np.full((3, 5), 7.0)
    ours = ScoreWeightedMean().advantages(rewards, SideInformation(score_norm_squared=side))
    np.testing.assert_allclose(ours, Grpo().advantages(rewards), rtol=0, atol=1e-14)
    ours = LengthWeightedMean().advantages(rewards, SideInformation(lengths=side))
    np.testing.assert_allclose(ours, GroupMean().advantages(rewards), rtol=0, atol=1e-14)


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_a_random_greedy_reward_leaves_no_bias(batch_size, rng):
    """Over every minibatch and every reward that the greedy output may get."""
    snapshot = random_snapshot(rng, 2, 2, reward_levels=(-0.5, 2.0), dimension=2)
    every = minibatches(snapshot, batch_size, 2, greedy=True)
    assert len(set(every.side.greedy_reward.ravel())) == 2
    ours = every.mean(GreedyBaseline())
    np.testing.assert_allclose(ours, snapshot.gradient, rtol=0, atol=1e-12)


BATCHES = np.array([[[0.0, 1.0, 1.0], [NAN, 4.0, NAN]], [[2.0, 0.5, NAN], [NAN, NAN, NAN]]])


def test_running_rewards_are_the_statistics_of_all_groups():
    """Groups (0, 1, 1), (4), (2, ½) in two batches; a group without output does not count."""
    history = RunningRewards()
    for batch in BATCHES:
        history = history.updated(batch)
    means = np.array([2 / 3, 4, 1.25])
    assert history.groups == 3
    assert history.mean == pytest.approx(means.mean(), rel=1e-14)
    assert history.mean_variance == pytest.approx(means.var(ddof=1), rel=1e-14)
    within = (2 / 3 + 1.125) / 3
    assert history.within_variance == pytest.approx(within, rel=1e-14)
    noise = within * (1 / 3 + 1 + 1 / 2) / 3
    assert history.between_variance == pytest.approx(means.var(ddof=1) - noise, rel=1e-14)
    assert history == RunningRewards().updated(torch.as_tensor(BATCHES[0])).updated(BATCHES[1])
    assert history.updated(np.full((2, 3), NAN)) == history


def test_old_batches_fade():
    """Means 2/3 and 4 weigh a half, 1¼ a whole: their mean is (7/3 + 5/4)/2."""
    history = RunningRewards(memory=0.5).updated(BATCHES[0]).updated(BATCHES[1])
    weights, means = np.array([0.5, 0.5, 1.0]), np.array([2 / 3, 4, 1.25])
    average = np.average(means, weights=weights)
    assert history.groups == 2
    assert history.mean == pytest.approx(average, rel=1e-14)
    assert history.spread == pytest.approx(weights @ (means - average) ** 2, rel=1e-14)
    assert history.within == pytest.approx(0.5 * 2 / 3 + 1.125, rel=1e-14)
    with pytest.raises(ValueError, match=r"^memory must lie in \(0, 1\], got 0$"):
        RunningRewards(memory=0)


def test_empirical_bayes_is_a_shrinkage_whose_weight_is_the_history_s(rng):
    """The contract finds it unbiased; here λ = v/(v + s + D/m) by hand at three group sizes."""
    history = RunningRewards().updated(rng.normal(size=(40, 4)) + rng.normal(size=(40, 1)))
    error = history.between_variance + history.mean_variance / 40
    for size in (2, 5, 16):
        rewards = rng.normal(size=(3, size))
        noise = history.within_variance / (size - 1)
        expected = Shrinkage(noise / (noise + error), history.mean).advantages(rewards)
        ours = EmpiricalBayes(history).advantages(rewards)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-14)
    for short in (RunningRewards(), RunningRewards().updated(np.ones((1, 4)))):
        ours = EmpiricalBayes(short).advantages(rewards)
        np.testing.assert_array_equal(ours, Grpo().advantages(rewards))
    same = RunningRewards().updated(np.ones((5, 4)))  # neither within nor between
    ours = EmpiricalBayes(same).advantages(rewards)
    np.testing.assert_array_equal(ours, Grpo().advantages(rewards))


def test_a_single_output_is_compared_with_the_history():
    history = RunningRewards().updated(np.array([[0.0, 1.0], [2.0, 4.0]]))
    ours = EmpiricalBayes(history).advantages(np.array([NAN, 5.0]))
    np.testing.assert_array_equal(ours, [0.0, 5.0 - 1.75])


def rho(n: int, c: int, k: int) -> float:
    """The chance that k of n outputs, c of them right, hold a right one."""
    return 1 - math.comb(n - c, k) / math.comb(n, k)


@pytest.mark.parametrize("group_size", [2, 3, 4, 5])
def test_pass_at_k_is_unbiased(group_size, rng):
    """E ĝ = d/dp[1 − (1−p)^k]·g over every group, to 1e-12, for every k up to G.

    Would catch: pass@(k−1), whose derivative is another; ρ without the own output left out.
    """
    snapshot = random_snapshot(rng, 1, 2, dimension=2)
    p, every = float(snapshot.value[0]), minibatches(snapshot, 1, group_size)
    for k in range(1, group_size + 1):
        ours = every.mean(PassAtK(k))
        expected = k * (1 - p) ** (k - 1) * snapshot.gradient
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("group_size", "k"), [(2, 2), (5, 1), (5, 3), (5, 5), (8, 4)])
def test_pass_at_k_against_the_published_rewards(group_size, k):
    """k for a success, k·ρ(G−1, c, k−1) for a failure, less the mean of these over the others."""
    for group in itertools.product((0, 1), repeat=group_size):
        ours = PassAtK(k).advantages(np.array(group))
        for i, own in enumerate(group):
            j, others = sum(group) - own, group_size - 1
            baseline = j / others * k + (1 - j / others) * k * rho(others, j, k - 1)
            reward = k if own else k * rho(others, sum(group), k - 1)
            assert ours[i] == pytest.approx(reward - baseline, abs=1e-12)


def test_pass_at_1_is_grpo(rng):
    rewards = rng.integers(0, 2, size=(6, 7)).astype(float)
    rewards[2, 3:] = NAN
    np.testing.assert_allclose(PassAtK(1).advantages(rewards), Grpo().advantages(rewards), rtol=0)


def test_pass_at_k_says_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"^k must be at most group_size = 3, got 4$"):
        PassAtK(4).advantages(np.ones(3))
    message = "^rewards must be 0 or 1 for the PassAtK estimator, got another value$"
    for rewards in ([0.0, 0.5, 1.0], [-1.0, 1.0, 1.0], [0.0, 1.0, np.inf]):
        for convert in (np.array, torch.tensor):
            with pytest.raises(ValueError, match=message):
                PassAtK(2).advantages(convert(rewards))
    for k in (0, 1.5, True):
        with pytest.raises(ValueError, match=rf"^k must be an integer of at least 1, got {k!r}$"):
            PassAtK(k)
    ours = PassAtK(3).advantages(np.array([[0.0, 1.0, NAN], [0.0, 0.0, 1.0]]))
    np.testing.assert_array_equal(ours[0], np.zeros(3))
    assert ours[1].any()


def test_best_of_group_by_hand():
    rewards = np.array([[0.5, 2.0, 1.5], [2.0, 2.0, 0.0], [NAN, 1.0, -1.0], [NAN, NAN, 4.0]])
    expected = np.array([[0, 0.5, 0], [0, 0, 0], [0, 2.0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(BestOfGroup(eps=None).advantages(rewards), expected)
    scale = np.std(rewards[0], ddof=1) + 0.25, np.sqrt(2) + 0.25
    ours = BestOfGroup(eps=0.25).advantages(rewards)
    np.testing.assert_allclose(ours[[0, 2], 1], [0.5 / scale[0], 2 / scale[1]], rtol=1e-14)


def test_scores_stand_in_for_their_norms(rng):
    scores, rewards = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 4))
    norms = SideInformation(score_norm_squared=(scores**2).sum(axis=-1))
    ours = gradient(ScoreWeightedMean(), scores, rewards)
    expected = gradient(ScoreWeightedMean(), scores, rewards, norms)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-15)
