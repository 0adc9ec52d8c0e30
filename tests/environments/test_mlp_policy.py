"""The network as a policy: against plain back-propagation, one episode at a time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from ustat_grpo.environments.copies import EnvironmentCopies
from ustat_grpo.environments.features import Affine, OneHot
from ustat_grpo.environments.mlp import MlpPolicy
from ustat_grpo.environments.policies import action_probs, scores
from ustat_grpo.environments.rollouts import episode_scores, group_rollouts

POLICIES = {
    "one layer": MlpPolicy(Affine((1.0, 2.0)), (5,), 3),
    "two layers": MlpPolicy(Affine((1.0, 2.0)), (4, 3), 2),
    "states": MlpPolicy(OneHot(6), (4,), 3),
}
EPISODE = np.array([1, 1, 1, 2, 4, 4])
"""Steps of five episodes, of which the first and the fourth have none."""


@pytest.fixture(params=POLICIES)
def policy(request) -> MlpPolicy:
    return POLICIES[request.param]


def observed(policy: MlpPolicy, count: int, rng: np.random.Generator) -> np.ndarray:
    if isinstance(policy.features, OneHot):
        return rng.integers(6, size=count)
    return rng.normal(size=(count, 2)).astype(np.float32)


def plain_logits(policy: MlpPolicy, theta: torch.Tensor, observations: np.ndarray) -> torch.Tensor:
    """As `torch.nn` computes them, with θ cut by hand."""
    wide = [policy.features.num_features, *policy.hidden, policy.num_actions]
    values, place = torch.tensor(policy.features(observations)), 0
    for layer, (inputs, outputs) in enumerate(pairwise(wide)):
        columns = inputs + (layer > 0)
        matrix = theta[place : place + outputs * columns].reshape(outputs, columns)
        place += outputs * columns
        bias = matrix[:, 0] if layer else None
        entering = values.tanh() if layer else values
        values = torch.nn.functional.linear(entering, matrix[:, int(layer > 0) :], bias)
    assert place == len(theta)
    return values


def test_logits_are_those_of_linear_layers(policy, rng):
    theta, seen = rng.normal(size=policy.dimension), observed(policy, 7, rng)
    expected = plain_logits(policy, torch.tensor(theta), seen).numpy()
    np.testing.assert_allclose(policy.logits(theta, seen), expected, rtol=1e-12, atol=1e-14)
    assert policy.logits(theta, seen).shape == (7, policy.num_actions)


def test_scores_are_those_of_autograd_an_episode_at_a_time(policy, rng):
    """To 1e-12, zero without steps; catches a step of a neighbour, or a matrix in other order."""
    theta, seen = rng.normal(size=policy.dimension), observed(policy, len(EPISODE), rng)
    actions = rng.integers(policy.num_actions, size=len(EPISODE))
    found = scores(policy, theta, seen, actions, EPISODE, 5)
    assert not found[[0, 3]].any()
    for episode in (1, 2, 4):
        steps = episode == EPISODE
        parameter = torch.tensor(theta, requires_grad=True)
        table = plain_logits(policy, parameter, seen[steps]).log_softmax(dim=1)
        log_prob = table[torch.arange(int(steps.sum())), torch.tensor(actions[steps])].sum()
        (expected,) = torch.autograd.grad(log_prob, parameter)
        np.testing.assert_allclose(found[episode], expected.numpy(), rtol=1e-12, atol=1e-13)


def test_pull_back_is_linear_in_the_weights(policy, rng):
    theta, seen = rng.normal(size=policy.dimension), observed(policy, len(EPISODE), rng)
    one, other = rng.normal(size=(2, len(EPISODE), policy.num_actions))
    found, first, second = (
        policy.pull_back(theta, seen, weights, EPISODE, 5)
        for weights in (2 * one - 3 * other, one, other)
    )
    np.testing.assert_allclose(found, 2 * first - 3 * second, rtol=1e-12, atol=1e-12)


def test_pull_back_of_no_step_is_zero(rng):
    policy, none = POLICIES["states"], np.zeros(0, dtype=int)
    found = policy.pull_back(policy.initial(rng), none, np.zeros((0, 3)), none, 2)
    np.testing.assert_array_equal(found, np.zeros((2, policy.dimension)))


def test_all_actions_are_equally_likely_at_first_and_hidden_units_differ(policy, rng):
    """The score moves the last matrix, and units that were alike would stay alike."""
    theta, seen = policy.initial(rng), observed(policy, 4, rng)
    np.testing.assert_allclose(action_probs(policy, theta, seen), 1 / policy.num_actions)
    score = scores(policy, theta, seen, np.zeros(4, dtype=int), np.zeros(4, dtype=int), 1)[0]
    size = policy.num_actions * (1 + policy.hidden[-1])
    assert not score[:-size].any()
    assert np.unique(score[-size:]).size > policy.hidden[-1]
    assert theta.shape == (policy.dimension,)


def test_initial_weights_have_variance_one_over_inputs():
    """Relative to 1, the variance of 25 600 numbers is known to 0.009: catches 4 %."""
    policy = MlpPolicy(Affine((1.0,) * 127), (200,), 2)
    first = policy.initial(np.random.default_rng(0))[: 128 * 200]
    assert abs(128 * first.var() - 1) <= 4 * (2 / len(first)) ** 0.5


def test_arrays_are_left_as_they_are(policy, rng):
    """Also such as cannot be written to, of which torch would warn."""
    theta, seen = rng.normal(size=policy.dimension), observed(policy, len(EPISODE), rng)
    weights = rng.normal(size=(len(EPISODE), policy.num_actions))
    before = [each.copy() for each in (theta, seen, weights)]
    for each in (theta, seen, weights):
        each.flags.writeable = False
    policy.pull_back(theta, seen, weights, EPISODE, 5)[:] = 0.0
    policy.logits(theta, seen)[:] = 0.0
    for each, copy in zip((theta, seen, weights), before, strict=True):
        np.testing.assert_array_equal(each, copy)


def test_plays_cartpole(rng):
    """float32 observations of a Box, in groups of episodes of unequal lengths."""
    policy = MlpPolicy(Affine((2.4, 3.0, 0.2, 3.0)), (8,), 2)
    theta = 0.5 * rng.normal(size=policy.dimension)
    with EnvironmentCopies("CartPole-v1", 8) as copies:
        episodes = group_rollouts(copies, policy, theta, [0, 1], 4, rng=rng)
    found = episode_scores(policy, theta, episodes)
    assert found.shape == (2, 4, policy.dimension)
    assert (np.abs(found).max(axis=2) > 0).all()


@pytest.mark.parametrize(
    ("hidden", "num_actions", "message"),
    [
        ((), 2, r"hidden must hold the units of at least one layer, got \(\)"),
        ((4, 0), 2, "hidden must be an integer of at least 1, got 0"),
        ((4,), 1, "num_actions must be an integer of at least 2, got 1"),
    ],
)
def test_sizes_out_of_range_are_refused(hidden, num_actions, message):
    with pytest.raises(ValueError, match=message):
        MlpPolicy(OneHot(3), hidden, num_actions)


def test_a_seed_is_no_generator():
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator, got 0"):
        POLICIES["states"].initial(0)
