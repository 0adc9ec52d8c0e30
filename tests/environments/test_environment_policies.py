"""Linear policies and their features: scores by finite differences and by enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ustat_grpo.environments.features import Affine, OneHot, Quadratic
from ustat_grpo.environments.policies import (
    LinearSoftmax,
    action_probs,
    scores,
    tabular_softmax,
)

SCALE = (2.0, 0.5, 3.0)
POLICIES = {
    "tabular": tabular_softmax(4, 3),
    "affine": LinearSoftmax(Affine(SCALE), 3),
    "quadratic": LinearSoftmax(Quadratic(SCALE), 2),
}
EPISODE = np.array([1, 1, 1, 2, 4, 4])
"""Steps of five episodes, of which the first and the fourth have none."""


@pytest.fixture(params=POLICIES)
def policy(request) -> LinearSoftmax:
    return POLICIES[request.param]


def observed(policy: LinearSoftmax, count: int, rng: np.random.Generator) -> np.ndarray:
    if isinstance(policy.features, OneHot):
        return rng.integers(policy.features.num_states, size=count)
    return rng.normal(size=(count, len(SCALE)))


def log_probs(policy, theta, observations, actions) -> np.ndarray:
    """log π(a_t∣o_t), from logits by the definition."""
    logits = policy.logits(theta, observations)
    return logits[np.arange(len(actions)), actions] - np.log(np.exp(logits).sum(axis=1))


class TestScores:
    def test_against_finite_differences(self, policy, rng):
        """Richardson's differences of Σ_t log π(a_t∣o_t), to 1e-9; catches a wrong sign or step."""
        theta = rng.normal(size=policy.dimension)
        seen = observed(policy, len(EPISODE), rng)
        actions = rng.integers(policy.num_actions, size=len(EPISODE))
        found = scores(policy, theta, seen, actions, EPISODE, 5)

        def totals(parameter: np.ndarray) -> np.ndarray:
            return np.bincount(EPISODE, log_probs(policy, parameter, seen, actions), minlength=5)

        step = 1e-3
        for place, unit in enumerate(np.eye(policy.dimension)):
            wide, narrow = (
                (totals(theta + h * unit) - totals(theta - h * unit)) / (2 * h)
                for h in (step, step / 2)
            )
            expected = (4 * narrow - wide) / 3
            np.testing.assert_allclose(found[:, place], expected, rtol=0, atol=1e-9)

    def test_have_mean_zero_by_enumeration(self, policy, rng):
        """E W = 0 over every sequence of three actions, to 1e-12; not so with other actions' π."""
        theta = rng.normal(size=policy.dimension)
        seen = observed(policy, 3, rng)
        probs = action_probs(policy, theta, seen)
        mean, wrong = np.zeros(policy.dimension), np.zeros(policy.dimension)
        for actions in product(range(policy.num_actions), repeat=3):
            taken = np.array(actions)
            score = scores(policy, theta, seen, taken, np.zeros(3, dtype=int), 1)[0]
            mean += probs[np.arange(3), taken].prod() * score
            wrong += probs[np.arange(3), taken[::-1]].prod() * score
        np.testing.assert_allclose(mean, 0, atol=1e-12)
        assert np.abs(wrong).max() > 1e-3


class TestPullBack:
    def test_is_linear_in_the_weights(self, policy, rng):
        theta, seen = np.zeros(policy.dimension), observed(policy, len(EPISODE), rng)
        one, other = rng.normal(size=(2, len(EPISODE), policy.num_actions))

        def pulled(weights: np.ndarray) -> np.ndarray:
            return policy.pull_back(theta, seen, weights, EPISODE, 5)

        expected = 2 * pulled(one) - 3 * pulled(other)
        np.testing.assert_allclose(pulled(2 * one - 3 * other), expected, rtol=1e-12, atol=1e-12)

    def test_adds_up_over_the_steps_of_an_episode(self, policy, rng):
        """Would catch: steps given to a neighbour, or an episode without steps that is left out."""
        theta, seen = np.zeros(policy.dimension), observed(policy, len(EPISODE), rng)
        weights = rng.normal(size=(len(EPISODE), policy.num_actions))
        found = policy.pull_back(theta, seen, weights, EPISODE, 5)
        alone = policy.pull_back(theta, seen, weights, np.arange(len(EPISODE)), len(EPISODE))
        expected = [alone[episode == EPISODE].sum(axis=0) for episode in range(5)]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        assert not found[[0, 3]].any()

    def test_of_no_step_is_zero(self):
        none = np.zeros(0, dtype=int)
        found = tabular_softmax(4, 3).pull_back(np.zeros(12), none, np.zeros((0, 3)), none, 2)
        np.testing.assert_array_equal(found, np.zeros((2, 12)))


def test_logits_are_products_of_features_and_columns(policy, rng):
    """θ is Θ row by row, features down and actions across: would catch its transpose."""
    theta, seen = rng.normal(size=policy.dimension), observed(policy, 2, rng)
    phi, logits = policy.features(seen), policy.logits(theta, seen)
    for step, action in product(range(2), range(policy.num_actions)):
        column = [theta[f * policy.num_actions + action] for f in range(phi.shape[1])]
        assert logits[step, action] == pytest.approx(phi[step] @ column, rel=1e-12)


def test_all_actions_are_equally_likely_at_first(policy, rng):
    probs = action_probs(policy, policy.initial(rng), observed(policy, 3, rng))
    np.testing.assert_allclose(probs, 1 / policy.num_actions, rtol=1e-14)


@pytest.mark.parametrize("num_actions", [1, 2.0])
def test_a_policy_must_have_a_choice(num_actions):
    with pytest.raises(ValueError, match="num_actions must be an integer of at least 2, got"):
        LinearSoftmax(OneHot(3), num_actions)


def test_a_seed_is_no_generator():
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator, got 0"):
        tabular_softmax(2, 2).initial(0)


class TestFeatures:
    def test_of_states(self):
        assert OneHot(3)(np.array([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
        assert OneHot(3).num_features == 3

    def test_of_numbers(self):
        found = Affine((2.0, 0.5))(np.array([[1.0, 1.0], [4.0, 3.0]]))
        assert found.tolist() == [[1, 0.5, 2], [1, 2, 6]]

    def test_of_products(self):
        """1, u₁, u₂, u₁², u₁u₂, u₂² with u = o/scale."""
        found = Quadratic((2.0, 0.5))(np.array([[6.0, 2.5]]))
        assert found.tolist() == [[1, 3, 5, 9, 15, 25]]

    @pytest.mark.parametrize("kind", [Affine, Quadratic])
    @pytest.mark.parametrize("size", [1, 2, 4])
    def test_are_as_many_as_they_say(self, kind, size):
        """Also those of arrays of other shapes than (n, k), and of float32 as Box gives it."""
        features = kind((1.0,) * size)
        assert features(np.ones((5, size), dtype=np.float32)).shape == (5, features.num_features)
        reshaped = features(np.ones((5, 1, size), dtype=np.float32))
        assert reshaped.shape == (5, features.num_features)
        assert reshaped.dtype == np.float64

    @pytest.mark.parametrize("kind", [Affine, Quadratic])
    def test_errors_say_what_is_wrong(self, kind):
        with pytest.raises(ValueError, match=r"scale must hold a number for each .*, got \(\)"):
            kind(())
        with pytest.raises(
            ValueError, match=r"scale must be a finite number and above 0, got 0\.0"
        ):
            kind((1.0, 0.0))
        with pytest.raises(ValueError, match=r"scale must hold a number for each .*, 3, got 2"):
            kind((1.0, 1.0))(np.ones((2, 3)))

    def test_there_must_be_a_state(self):
        with pytest.raises(ValueError, match="num_states must be an integer of at least 1, got 0"):
            OneHot(0)
