"""First batches are what the estimators think they are: measured right, and drawn as runs draw."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.tasks.first_batches import bandit_sample
from experiments.tasks.language import Arithmetic
from experiments.tasks.language_subject import language_sample
from experiments.tasks.policies import SmallPolicies
from experiments.tasks.sequential import FrozenLake, Gym
from experiments.tasks.sequential_subject import episodes
from experiments.tasks.subject import FirstBatch
from theory.problems import random_problem
from ustat_grpo import SoftmaxBandit
from ustat_grpo.environments import snapshot
from ustat_grpo.noise import OutputSample, estimate_noise


def dense():
    """Three actions, three reward levels, four features; prompts are not equally likely."""
    return random_problem(5, num_actions=3, num_levels=3, dimension=4)


def one_hot():
    """The same problem without features, away from the uniform policy."""
    there = dense()
    bandit = SoftmaxBandit(None, there.reward_levels, there.reward_probs, there.prompt_probs)
    theta = np.random.default_rng(1).normal(size=bandit.dimension)
    return bandit.at(theta)


PROBLEMS = [dense, one_hot]


def from_scores(problem, sample, num_prompts):
    """Measure a sample anew from its scores: an output is known by the norm of its score."""
    scores, norms = problem.dense_scores(), problem.score_norm_squared
    place = np.abs(sample.score_norms[:, None] - norms.ravel()).argmin(axis=1)
    drawn = scores.reshape(-1, scores.shape[-1])[place].reshape(num_prompts, -1, scores.shape[-1])
    return OutputSample.from_scores(list(drawn), list(sample.rewards.reshape(num_prompts, -1)))


@pytest.mark.parametrize("problem", PROBLEMS)
class TestBandits:
    def test_measured_as_from_scores(self, problem):
        """Prompts are few, so most are drawn more than once and share a block of the gradient."""
        problem = problem()
        assert len(np.unique(problem.score_norm_squared.round(9))) == problem.action_probs.size
        sample = bandit_sample(problem, FirstBatch(20, 6), np.random.default_rng(2))
        again = from_scores(problem, sample, 20)
        for name in ("rewards", "score_norms", "gradient_norms", "gradient_products"):
            np.testing.assert_allclose(
                getattr(sample, name), getattr(again, name), rtol=1e-12, atol=1e-14
            )
        np.testing.assert_array_equal(sample.prompts, np.repeat(np.arange(20), 6))

    def test_the_noise_is_that_of_the_problem(self, problem):
        """|z| ≤ 4 in 300 batches of 16 × 5: would catch prompts drawn evenly (c₂ off by 5 % with
        one-hot features, by 78 % without), or actions of another policy (c₃ by 7 % and more)."""
        problem = problem()
        streams = np.random.default_rng(3).spawn(300)
        found = np.array(
            [
                (each.prompt, each.oracle, each.residual)
                for each in (
                    estimate_noise(bandit_sample(problem, FirstBatch(16, 5), rng))
                    for rng in streams
                )
            ]
        )
        noise = problem.noise
        exact = np.array([noise.prompt, noise.oracle, noise.residual])
        z = (found.mean(axis=0) - exact) / (found.std(axis=0, ddof=1) / len(found) ** 0.5)
        assert np.abs(z).max() <= 4

    def test_every_action_and_level_is_drawn(self, problem):
        """|z| ≤ 4 for the mean reward of 4000 × 3 outputs: would catch an index that is one off."""
        problem = problem()
        sample = bandit_sample(problem, FirstBatch(4000, 3), np.random.default_rng(4))
        assert set(sample.rewards) == set(problem.reward_levels)
        means = sample.rewards.reshape(4000, 3).mean(axis=1)
        z = (means.mean() - problem.objective) / (means.std(ddof=1) / 4000**0.5)
        assert abs(z) <= 4


def test_one_seed_one_batch():
    first, again = (
        bandit_sample(dense(), FirstBatch(8, 3), np.random.default_rng(7)).rewards for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)


class TestEpisodes:
    def test_frozen_lake_has_its_exact_noise(self):
        """|z| ≤ 4 for J, c₂ and c₃ of 12 batches of 64 × 8: would catch starts in the first cell
        only, where episodes succeed in 8 % instead of 25 %, and scores off by 10 %."""
        task = FrozenLake(objectives=[0.25])
        with episodes(task) as draw:
            batches = [draw(FirstBatch(64, 8), rng) for rng in np.random.default_rng(0).spawn(12)]
        noise = snapshot(*task.snapshots["frozenlake: J = 0.25"]).moments.noise
        exact = np.array([0.25, noise.oracle, noise.residual])
        estimates = [estimate_noise(each) for each in batches]
        found = np.array(
            [
                (batch.rewards.mean(), each.oracle, each.residual)
                for batch, each in zip(batches, estimates, strict=True)
            ]
        )
        z = (found.mean(axis=0) - exact) / (found.std(axis=0, ddof=1) / len(found) ** 0.5)
        assert np.abs(z).max() <= 4

    def test_other_environments_are_played_from_their_own_starts(self):
        task = Gym(
            name="cartpole", env_id="CartPole-v1", features="affine", num_prompts=2, num_copies=8
        )
        with episodes(task) as draw:
            sample = draw(FirstBatch(16, 3), np.random.default_rng(0))
            again = draw(FirstBatch(16, 3), np.random.default_rng(0))
        assert len(sample.rewards) == 48 and len(sample.gradient_norms) == 16
        np.testing.assert_array_equal(sample.rewards, again.rewards)
        np.testing.assert_allclose(sample.gradient_products, again.gradient_products, rtol=1e-12)


@pytest.fixture(scope="module")
def panel():
    """A policy and ten questions."""
    task = Arithmetic(num_questions=5, num_train=10)
    return SmallPolicies(skills=["intermediate"]).training_sets(task).train


class TestLanguage:
    def test_rewards_are_those_of_the_questions_asked(self, panel):
        """|z| ≤ 4 for the mean reward of 300 prompts: would catch the reward of other questions,
        whose solutions are hardly ever hit."""
        from ustat_grpo.lm.exact import expected_accuracy

        sample = language_sample(panel, FirstBatch(300, 3), np.random.default_rng(0))
        means = sample.rewards.reshape(300, 3).mean(axis=1)
        exact = expected_accuracy(panel.model, panel.reward.solutions)
        assert abs(means.mean() - exact) <= 4 * means.std(ddof=1) / 300**0.5

    def test_shape_and_seed(self, panel):
        sample, again, other = (
            language_sample(panel, FirstBatch(8, 4), np.random.default_rng(seed))
            for seed in (1, 1, 2)
        )
        assert sample.score_norms.shape == (32,) and sample.gradient_products.shape == (8,)
        np.testing.assert_array_equal(sample.score_norms, again.score_norms)
        assert (sample.score_norms != other.score_norms).any()
