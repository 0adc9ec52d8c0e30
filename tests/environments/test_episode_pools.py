"""Pools of episodes: against a problem that is known exactly, and against their definition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module

import gymnasium as gym
import numpy as np
import pytest

from ustat_grpo import Moments, SoftmaxBandit
from ustat_grpo.environments.copies import EnvironmentCopies
from ustat_grpo.environments.episode_pools import episode_pool
from ustat_grpo.environments.features import Affine
from ustat_grpo.environments.policies import LinearSoftmax
from ustat_grpo.environments.rollouts import episode_scores, group_rollouts
from ustat_grpo.estimators import Grpo
from ustat_grpo.laws import mse
from ustat_grpo.pools.errors import pool_errors
from ustat_grpo.pools.measured_moments import MeasuredMoments, pool_moments
from ustat_grpo.pools.prompt_pools import NUM_BLOCKS, Pool

SEEDS = [0, 1, 2, 3]
LEVELS = np.array([0.0, 1.0, 2.5])
REWARDS = np.array(
    [
        [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.7, 0.0]],
        [[0.2, 0.3, 0.5], [0.5, 0.5, 0.0], [0.8, 0.1, 0.1]],
    ]
)
"""P(Z = level∣context, action): two contexts, three actions."""


class TwoContexts(gym.Env):
    """One step: the reset draws the context, the action the reward."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.context = int(self.np_random.integers(2))
        return self.context, {}

    def step(self, action):
        reward = self.np_random.choice(LEVELS, p=REWARDS[self.context, action])
        return self.context, float(reward), True, False, {}


@dataclass(frozen=True)
class Overlapping:
    """Features that contexts share, so that their gradients are neither equal nor orthogonal."""

    num_features: int = 2

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return np.array([[1.0, 0.5], [0.4, -1.0]])[observations]


POLICY = LinearSoftmax(Overlapping(), 3)
THETA = np.array([0.3, -0.2, 0.5, 0.8, 0.1, -0.6])


def drawn(
    num_episodes: int, seeds=SEEDS, *, num_copies: int = 64, discount: float = 1.0, **given
) -> Pool:
    given = {"rng": np.random.default_rng(5), **given}
    with EnvironmentCopies(TwoContexts, num_copies, discount=discount) as copies:
        return episode_pool(copies, POLICY, THETA, seeds, num_episodes, **given)


@cache
def large() -> Pool:
    return drawn(1024)


@cache
def measured() -> MeasuredMoments:
    return pool_moments(large())


@cache
def truth() -> Moments:
    """By sums over actions and rewards at the contexts of the seeds."""
    environment = TwoContexts()
    contexts = [environment.reset(seed=seed)[0] for seed in SEEDS]
    assert set(contexts) == {0, 1}
    phi = POLICY.features(np.array(contexts))
    features = np.array([[np.kron(each, unit) for unit in np.eye(3)] for each in phi])
    return SoftmaxBandit(features, LEVELS, REWARDS[contexts]).at(THETA).moments


STATISTICS = {
    "V": lambda moments: moments.value.mean(),
    "variance": lambda moments: moments.reward_variance.mean(),
    "s": lambda moments: moments.score_norm_squared.mean(),
    "tau": lambda moments: moments.oracle_norm_squared.mean(),
    "m": lambda moments: moments.score_norm_reward_covariance.mean(),
    "g": lambda moments: moments.gradient_norm_squared.mean(),
    "c1": lambda moments: moments.prompt_noise,
    "c2": lambda moments: moments.noise.oracle,
    "c3": lambda moments: moments.noise.residual,
    "best size": lambda moments: 1 + (moments.noise.residual / moments.noise.prompt) ** 0.5,
}


class TestAgainstEnumeration:
    @pytest.mark.parametrize("name", STATISTICS)
    def test_moments_in_standard_errors(self, name):
        """|z| ≤ 4 with 1024 episodes of each seed; catches what is wrong by half of itself."""
        estimate, std_error = measured().estimate(STATISTICS[name])
        exact = STATISTICS[name](truth())
        assert abs(estimate - exact) <= 4 * std_error < 0.5 * abs(exact)

    def test_scores_of_another_policy_are_rejected(self, monkeypatch):
        """Mutant: scores at −θ, not where the episodes were played; their s gives it away."""
        module = import_module("ustat_grpo.environments.episode_pools")
        monkeypatch.setattr(
            module,
            "episode_scores",
            lambda policy, theta, episodes: episode_scores(policy, -theta, episodes),
        )
        estimate, std_error = pool_moments(drawn(256)).estimate(STATISTICS["s"])
        assert abs(estimate - STATISTICS["s"](truth())) > 4 * std_error

    def test_errors_against_the_law(self):
        """GRPO at G = 4, the mean over seeds: |z| ≤ 4; the oracle's law is rejected."""
        found = pool_errors(large(), {"grpo": Grpo()}, 4, rng=np.random.default_rng(0))["grpo"]
        std_error = (found.std_error**2).sum() ** 0.5 / len(SEEDS)
        law = mse.grpo(truth(), group_size=4).mean()
        assert abs(found.mean.mean() - law) <= 4 * std_error
        wrong = mse.oracle(truth(), group_size=4).mean()
        assert abs(found.mean.mean() - wrong) > 4 * std_error


def test_prompt_noise_is_unbiased():
    """Mean c₁ of 150 pools of 32 episodes, |z| ≤ 4: catches what is off by more than 4σ < c₁.

    Parts of two episodes each are the smallest there can be. Mutants: a part and itself counted
    among the pairs; and the mean of a part that includes the episode itself, which halves T_k.
    """
    rng = np.random.default_rng(8)
    with EnvironmentCopies(TwoContexts, 32) as copies:
        pools = [episode_pool(copies, POLICY, THETA, SEEDS, 32, rng=rng) for _ in range(150)]
    found = [pool_moments(pool).moments for pool in pools]
    unbiased = np.array([moments.prompt_noise for moments in found])
    gradient = np.array([moments.gradient_norm_squared.mean() for moments in found])
    with_itself = gradient - np.array([pool.gradient_products.mean() for pool in pools])
    own_mean = gradient - (gradient - unbiased) / 4
    assert abs(z_of(unbiased)) <= 4
    assert abs(z_of(with_itself)) > 4
    assert abs(z_of(own_mean)) > 4
    assert 4 * unbiased.std(ddof=1) / len(pools) ** 0.5 < truth().prompt_noise


def z_of(values: np.ndarray) -> float:
    return (values.mean() - truth().prompt_noise) / (values.std(ddof=1) / len(values) ** 0.5)


class TestAgainstItsDefinition:
    """CartPole: episodes of several steps and unequal lengths, discounted."""

    def test_products_and_gradients_of_parts(self, rng):
        """T_k is the mean over seeds of the covariance (ddof 1) of score and return; to 1e-12.

        Would catch: parts that are neighbours, ddof 0, scores of other episodes, no discount.
        """
        policy = LinearSoftmax(Affine((1.0,) * 4), 2)
        theta, seeds = 0.3 * rng.normal(size=policy.dimension), [11, 3]
        with EnvironmentCopies("CartPole-v1", 16, discount=0.9) as copies:
            pool = episode_pool(copies, policy, theta, seeds, 48, rng=np.random.default_rng(1))
            again = np.random.default_rng(1)
            played = [
                group_rollouts(copies, policy, theta, [seed], 48, rng=again) for seed in seeds
            ]
        parts = np.zeros((NUM_BLOCKS, policy.dimension))
        for prompt, episodes in zip(pool.prompts, played, strict=True):
            scores = episode_scores(policy, theta, episodes)[0]
            assert len(set(episodes.lengths[0].tolist())) > 5
            np.testing.assert_array_equal(prompt.rewards, episodes.returns[0])
            products = [[mine @ other for other in scores] for mine in scores]
            np.testing.assert_allclose(prompt.products, products, rtol=1e-12, atol=1e-12)
            assert prompt.value is None
            for part in range(NUM_BLOCKS):
                chosen = [part, part + 16, part + 32]
                table = np.cov(scores[chosen].T, episodes.returns[0, chosen])
                parts[part] += table[-1, :-1] / 2
        np.testing.assert_allclose(pool.gradient_products, parts @ parts.T, rtol=1e-11, atol=1e-12)
        assert not pool.exact


def test_small_pools_are_the_beginnings_of_larger_ones():
    """However many copies play: would catch streams that depend on the size of the pool."""
    whole = drawn(64)
    for part in (drawn(64, SEEDS[:2]), drawn(32, num_copies=7)):
        for ours, theirs in zip(part.prompts, whole.prompts, strict=False):
            np.testing.assert_array_equal(ours.rewards, theirs.rewards[: len(ours.rewards)])
    assert len({prompt.rewards.tobytes() for prompt in whole.prompts}) == len(SEEDS)


@pytest.mark.parametrize(
    ("num_episodes", "given", "message"),
    [
        (16, {}, "num_episodes must be an integer of at least 32, got 16"),
        (40, {}, "num_episodes must be a multiple of 16, got 40"),
        (
            32,
            {"seeds": [0, -1]},
            r"seeds must be one or more integers of at least 0, got \[0, -1\]",
        ),
        (32, {"discount": 0.0}, "discount must lie in"),
    ],
)
def test_arguments_out_of_range_are_refused(num_episodes, given, message):
    with pytest.raises(ValueError, match=message):
        drawn(num_episodes, **given)


def test_a_seed_is_no_generator():
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator, got 0"):
        drawn(32, rng=0)
