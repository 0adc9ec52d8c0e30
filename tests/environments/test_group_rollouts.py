"""Groups of episodes on any environment: starts, noise, returns and scores."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from support.toy_environments import SUCCESS, Counting, OneStep, Walk, seeds_of_states
from ustat_grpo import Grpo, gradient
from ustat_grpo.environments import playing, rollouts
from ustat_grpo.environments.copies import EnvironmentCopies
from ustat_grpo.environments.features import Affine
from ustat_grpo.environments.policies import LinearSoftmax, action_probs, tabular_softmax
from ustat_grpo.environments.rollouts import Episodes, episode_scores, group_rollouts

CART_POLE = LinearSoftmax(Affine((2.4, 2.0, 0.2, 2.0)), 2)
LAKE = tabular_softmax(16, 4)
LAKE_BEST = [0, 3, 3, 3, 0, 0, 0, 0, 3, 1, 0, 0, 0, 2, 1, 0]


def nearly_deterministic() -> np.ndarray:
    """θ of the best policy on the slippery 4×4 lake, all but certain of its actions."""
    theta = np.zeros((16, 4))
    theta[np.arange(16), LAKE_BEST] = 50.0
    return theta.ravel()


def first_steps(episodes: Episodes) -> np.ndarray:
    """Where in the steps each episode begins, shape (B, G)."""
    ends = np.cumsum(episodes.lengths).reshape(episodes.lengths.shape)
    return ends - episodes.lengths


def assert_same(one: Episodes, other: Episodes) -> None:
    for name in ("observations", "actions", "lengths", "returns"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def largest_z(samples: np.ndarray, expected: np.ndarray) -> float:
    """Largest |mean − expected| in standard errors, over the coordinates that vary."""
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    off = np.abs(samples.mean(axis=0) - expected)
    assert (off[error == 0] < 1e-12).all()
    return (off[error > 0] / error[error > 0]).max()


def test_a_group_with_one_seed_has_noise_within_it(rng):
    """Wrong would be one common noise: 32 of 32 episodes alike. By chance: below 0.8³² = 8e-4."""
    with EnvironmentCopies("FrozenLake-v1", 8) as copies:
        episodes = group_rollouts(copies, LAKE, nearly_deterministic(), [3, 4], 32, rng=rng)
    assert (episodes.returns.var(axis=1) > 0.05).all()
    assert (episodes.lengths.var(axis=1) > 0).all()
    assert len(np.unique(episodes.observations[first_steps(episodes)])) == 1


def test_without_noise_of_its_own_a_group_has_no_variance(rng, monkeypatch):
    """The mutant: np_random is left as the reset has seeded it."""
    monkeypatch.setattr(playing, "start_episode", lambda env, seed, noise: env.reset(seed=seed)[0])
    with EnvironmentCopies("FrozenLake-v1", 8) as copies:
        episodes = group_rollouts(copies, LAKE, nearly_deterministic(), [3, 4], 32, rng=rng)
    assert (episodes.returns.var(axis=1) == 0).all()
    assert (episodes.lengths.var(axis=1) == 0).all()


def test_a_group_has_one_start_and_seeds_have_several(rng):
    with EnvironmentCopies("CartPole-v1", 5) as copies:
        episodes = group_rollouts(copies, CART_POLE, np.zeros(10), [3, 4, 3], 6, rng=rng)
    starts = episodes.observations[first_steps(episodes)]
    assert (starts == starts[:, :1]).all()
    assert (starts[0] == starts[2]).all() and (starts[0] != starts[1]).any()
    environment = gym.make("CartPole-v1")
    np.testing.assert_array_equal(starts[1, 0], environment.reset(seed=4)[0])


@pytest.mark.parametrize("make", [Walk, "CartPole-v1"])
@pytest.mark.parametrize("num_copies", [1, 3, 40])
def test_episodes_do_not_depend_on_the_number_of_copies(make, num_copies):
    policy = tabular_softmax(3, 2) if make is Walk else CART_POLE
    theta = np.random.default_rng(1).normal(size=policy.dimension)
    played = []
    for count in (8, num_copies):
        with EnvironmentCopies(make, count, discount=0.9) as copies:
            args = copies, policy, theta, [5, 6, 7], 5
            played.append(group_rollouts(*args, rng=np.random.default_rng(2)))
    assert_same(*played)


@pytest.mark.parametrize("make", [Walk, "FrozenLake-v1"])
def test_smaller_groups_and_batches_begin_larger_ones(make):
    policy = tabular_softmax(3, 2) if make is Walk else LAKE
    theta = np.zeros(policy.dimension)
    with EnvironmentCopies(make, 8) as copies:
        large, few, short = (
            group_rollouts(copies, policy, theta, seeds, size, rng=np.random.default_rng(2))
            for seeds, size in (([5, 6, 7], 5), ([5, 6, 7], 3), ([5, 6], 5))
        )
    np.testing.assert_array_equal(large.returns[:, :3], few.returns)
    np.testing.assert_array_equal(large.lengths[:, :3], few.lengths)
    np.testing.assert_array_equal(large.returns[:2], short.returns)
    steps = short.lengths.sum()
    np.testing.assert_array_equal(large.actions[:steps], short.actions)
    np.testing.assert_array_equal(large.observations[:steps], short.observations)


def test_another_state_of_the_generator_gives_other_episodes():
    rng = np.random.default_rng(2)
    with EnvironmentCopies(Walk, 8) as copies:
        args = copies, tabular_softmax(3, 2), np.zeros(6), [5, 6], 5
        one, other = (group_rollouts(*args, rng=rng) for _ in range(2))
    assert (one.returns != other.returns).all()


def test_discounting_by_hand(rng):
    """Rewards 1, 2, 3: the return is 1 + 2γ + 3γ²."""
    for discount, by_hand in ((1.0, 6.0), (0.5, 2.75), (0.1, 1.23)):
        with EnvironmentCopies(Counting, 2, discount=discount) as copies:
            episodes = group_rollouts(
                copies, tabular_softmax(1, 2), np.zeros(2), [0, 1], 2, rng=rng
            )
        np.testing.assert_allclose(episodes.returns, by_hand, rtol=1e-14)
        assert (episodes.lengths == 3).all()


def test_lengths_are_unequal_and_geometric(rng):
    """Walk ends with probability 0.3 a step: a mean of 10/3, or |z| > 4 at 6 % off."""
    with EnvironmentCopies(Walk, 16) as copies:
        args = copies, tabular_softmax(3, 2), np.zeros(6), np.arange(40), 100
        episodes = group_rollouts(*args, rng=rng)
    assert largest_z(episodes.lengths.ravel(), np.array(10 / 3)) <= 4
    assert len(episodes.actions) == len(episodes.observations) == episodes.lengths.sum()
    assert set(episodes.observations) == {0, 1, 2} and set(episodes.actions) == {0, 1}


def test_a_plain_loop_over_the_same_actions_gives_the_same_returns_and_scores(rng):
    """CartPole has no noise after its start: its actions are all that can differ."""
    theta = rng.normal(size=10)
    seeds = [11, 12, 13]
    with EnvironmentCopies("CartPole-v1", 4, discount=0.9) as copies:
        episodes = group_rollouts(copies, CART_POLE, theta, seeds, 3, rng=rng)
    scores = episode_scores(CART_POLE, theta, episodes)
    environment = gym.make("CartPole-v1")
    step = 0
    for b, i in np.ndindex(3, 3):
        observation, _ = environment.reset(seed=seeds[b])
        score, total, length, ended = np.zeros((5, 2)), 0.0, 0, False
        while not ended:
            np.testing.assert_array_equal(episodes.observations[step], observation)
            action = int(episodes.actions[step])
            features = np.array([1.0, *(observation / np.array([2.4, 2.0, 0.2, 2.0]))])
            logits = features @ theta.reshape(5, 2)
            probs = np.exp(logits) / np.exp(logits).sum()
            score += np.outer(features, np.eye(2)[action] - probs)
            observation, reward, terminated, truncated, _ = environment.step(action)
            total += 0.9**length * reward
            ended, length, step = terminated or truncated, length + 1, step + 1
        assert length == episodes.lengths[b, i]
        np.testing.assert_allclose(episodes.returns[b, i], total, rtol=1e-12)
        np.testing.assert_allclose(scores[b, i], score.ravel(), rtol=1e-9, atol=1e-12)
    assert step == len(episodes.actions)


@pytest.mark.parametrize("steps_per_pass", [1, 7, 10**6])
def test_scores_do_not_depend_on_the_passes(rng, monkeypatch, steps_per_pass):
    theta = rng.normal(size=6)
    policy = tabular_softmax(3, 2)
    with EnvironmentCopies(Walk, 4) as copies:
        episodes = group_rollouts(copies, policy, theta, [1, 2], 6, rng=rng)
    expected = episode_scores(policy, theta, episodes)
    monkeypatch.setattr(rollouts, "_STEPS_PER_PASS", steps_per_pass)
    np.testing.assert_array_equal(episode_scores(policy, theta, episodes), expected)
    assert expected.shape == (2, 6, 6)


def test_scores_have_mean_zero(rng):
    """The mutant: scores at a θ′ whose coordinates are off by 0.1 or so: |z| > 4."""
    theta = rng.normal(size=64)
    with EnvironmentCopies("FrozenLake-v1", 64) as copies:
        episodes = group_rollouts(copies, LAKE, theta, [0], 3000, rng=rng)
    assert largest_z(episode_scores(LAKE, theta, episodes)[0], np.zeros(64)) <= 4
    other = theta + 0.1 * rng.normal(size=64)
    assert largest_z(episode_scores(LAKE, other, episodes)[0], np.zeros(64)) > 4


def test_choices_go_on_after_a_block_of_uniform_numbers(rng):
    """A block that is used again repeats 32 choices of 1/2; by chance, once in 2³² blocks."""
    with EnvironmentCopies(lambda: TimeLimit(Walk("endless"), 100), 2) as copies:
        args = copies, tabular_softmax(3, 2), np.zeros(6), [0], 3
        episodes = group_rollouts(*args, rng=rng)
    blocks = episodes.actions.reshape(3, 100)[:, :96].reshape(9, 32)
    assert len(np.unique(blocks, axis=0)) == 9


def test_the_gradient_of_one_step_is_unbiased(rng):
    """∇V(x) by summing over the actions of `OneStep`; |z| > 4 at 25 % off.

    The mutant: the group mean that includes the episode itself, whose gradient at G = 2 is half.
    """
    theta, policy = rng.normal(size=6), tabular_softmax(2, 3)
    seeds = seeds_of_states(2000)
    with EnvironmentCopies(OneStep, 64) as copies:
        episodes = group_rollouts(copies, policy, theta, seeds, 2, rng=rng)
    estimates = gradient(Grpo(), episode_scores(policy, theta, episodes), episodes.returns)
    probs = action_probs(policy, theta, np.arange(2))
    for state in range(2):
        exact = np.zeros((2, 3))
        for action in range(3):
            exact[state] += (
                probs[state, action] * SUCCESS[state, action] * (np.eye(3)[action] - probs[state])
            )
        of_state = estimates.reshape(2, 2000, 6)[state]
        assert largest_z(of_state, exact.ravel()) <= 4
        assert largest_z(0.5 * of_state, exact.ravel()) > 4


def test_an_endless_episode_is_reported_with_the_cap(rng):
    args = tabular_softmax(3, 2), np.zeros(6), [0], 2
    with (
        EnvironmentCopies(lambda: Walk("endless"), 2, max_steps=50) as copies,
        pytest.raises(
            ValueError, match=r"must end within max_steps = 50 steps, .* raise max_steps"
        ),
    ):
        group_rollouts(copies, *args, rng=rng)
    with EnvironmentCopies(lambda: Walk("endless"), 2) as copies:
        assert copies.max_steps == 10_000


def test_a_time_limit_ends_an_episode(rng):
    args = tabular_softmax(3, 2), np.zeros(6), [0], 5
    for max_steps in (None, 7, 100):
        with EnvironmentCopies("TimedWalk-v0", 2, max_steps) as copies:
            assert (group_rollouts(copies, *args, rng=rng).lengths == 7).all()
    with (
        EnvironmentCopies("TimedWalk-v0", 2, 6) as copies,
        pytest.raises(ValueError, match="max_steps = 6 steps"),
    ):
        group_rollouts(copies, *args, rng=rng)


@pytest.mark.parametrize(
    ("make", "policy", "message"),
    [
        ("CartPole-v1", tabular_softmax(4, 2), "Box observations need a feature map, such as Aff"),
        (Walk, tabular_softmax(3, 4), "must have the 2 actions of the environment, got 4"),
        (Walk, tabular_softmax(4, 2), "must be that of the observation space, 3, got 4"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(make, policy, message, rng):
    with EnvironmentCopies(make, 2) as copies, pytest.raises(ValueError, match=message):
        group_rollouts(copies, policy, np.zeros(policy.dimension), [0], 2, rng=rng)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": np.zeros(5)}, "theta must have the policy's dimension, 6, got 5"),
        ({"theta": np.full(6, np.nan)}, "theta must be finite, got 6 NaN"),
        ({"seeds": [[1, 2]]}, r"seeds must be one or more integers of at least 0, got \[\[1, 2\]"),
        ({"seeds": []}, r"seeds must be one or more integers of at least 0, got \[\]"),
        ({"seeds": [-1]}, r"integers of at least 0, got \[-1\]"),
        ({"seeds": [1.5]}, r"integers of at least 0, got \[1.5\]"),
        ({"group_size": 0}, "group_size must be an integer of at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(change, message, rng):
    arguments = {"theta": np.zeros(6), "seeds": [0], "group_size": 2} | change
    with EnvironmentCopies(Walk, 2) as copies, pytest.raises(ValueError, match=message):
        group_rollouts(copies, tabular_softmax(3, 2), **arguments, rng=rng)


def test_logits_that_are_not_finite_are_refused(rng):
    class Broken:
        num_actions, dimension = 2, 1

        def logits(self, theta, observations):
            return np.full((len(observations), 2), np.nan)

    with (
        EnvironmentCopies(Walk, 2) as copies,
        pytest.raises(ValueError, match="logits of the policy must be finite, got"),
    ):
        group_rollouts(copies, Broken(), np.zeros(1), [0], 2, rng=rng)
