"""Moments of episodes against every episode, against bandits, and the values of policies."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest

from support.problems import random_problem
from theory.episode_enumeration import every_episode
from theory.episode_moments import random_mdp
from ustat_grpo import Moments
from ustat_grpo.environments.mdp import TabularMdp, frozen_lake
from ustat_grpo.environments.mdp_moments import (
    best_objective,
    episode_moments,
    objective,
    snapshot,
    train_to,
)
from ustat_grpo.environments.policies import (
    LinearSoftmax,
    action_probs,
    tabular_softmax,
)

ROUNDING = 1e-12
PROBLEMS = {
    "lake": frozen_lake(["SF", "FG"], horizon=4),
    "discounted lake": frozen_lake(["SF", "FG"], horizon=4, discount=0.9),
    "rewards on the way": random_mdp(1, horizon=4),
    "costs, no discount": replace(random_mdp(2, horizon=4), discount=1.0),
}


class Rows:
    """A feature map: the rows of a table."""

    num_features = 2

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return np.random.default_rng(11).normal(size=(4, 2))[observations]


def policies(mdp: TabularMdp):
    return {
        "tabular": tabular_softmax(mdp.num_states, mdp.num_actions),
        "linear": LinearSoftmax(Rows(), mdp.num_actions),
    }


def theta_of(policy) -> np.ndarray:
    return np.random.default_rng(7).normal(size=policy.dimension)


@pytest.mark.parametrize("kind", ["tabular", "linear"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_moment_is_the_sum_over_every_episode(name, kind):
    """A linear policy's score is Σ_s φ(s) ⊗ (visits − expected visits of the actions at s)."""
    mdp = PROBLEMS[name]
    policy, states = policies(mdp)[kind], np.arange(mdp.num_states)
    found = episode_moments(mdp, policy, theta_of(policy))
    probs = action_probs(policy, theta_of(policy), states)
    features = np.eye(mdp.num_states) if kind == "tabular" else Rows()(states)
    for start in mdp.starts:
        listed = every_episode(mdp, probs, int(start))
        blocks = listed.scores.reshape(-1, *probs.shape)
        scores = np.einsum("csa,sf->cfa", blocks, features).reshape(len(blocks), -1)
        value = listed.probs @ listed.returns
        weights = listed.probs * (listed.returns - value) ** np.arange(3)[:, None]
        norms = np.sum(scores**2, axis=1)
        assert weights[0].sum() == pytest.approx(1, abs=ROUNDING)
        np.testing.assert_allclose(weights[0] @ scores, 0, atol=ROUNDING)
        assert found.value[start] == pytest.approx(value, abs=ROUNDING)
        assert found.variance[start] == pytest.approx(weights[2].sum(), abs=ROUNDING)
        np.testing.assert_allclose(found.scores[:, start], weights[1:] @ scores, atol=ROUNDING)
        np.testing.assert_allclose(found.norms[:, start], weights @ norms, atol=ROUNDING)


@pytest.mark.parametrize("offset", [1e4, -1e8])
@pytest.mark.parametrize("kind", ["tabular", "linear"])
def test_an_offset_of_every_return_moves_the_value_alone(kind, offset):
    """Four rewards add up with an error of 16 roundings; squares of theirs lose 10⁸ times that."""
    mdp = random_mdp(2, horizon=4)
    rewards = np.round(mdp.rewards, 0) / 4  # exact beside the offset, too
    plain = replace(mdp, rewards=rewards, terminated=np.zeros_like(mdp.terminated), discount=1.0)
    moved = replace(plain, rewards=rewards + offset)
    policy = policies(mdp)[kind]
    expected, found = (snapshot(each, policy, theta_of(policy)) for each in (plain, moved))
    rounding = 16 * 4 * abs(offset) * np.finfo(float).eps
    np.testing.assert_allclose(found.value, expected.value + 4 * offset, rtol=0, atol=rounding)
    np.testing.assert_allclose(found.gradients, expected.gradients, rtol=0, atol=rounding)
    same_moments(replace(found.moments, value=expected.value), expected.moments, rounding)
    baseline = expected.optimal_baseline + 4 * offset
    np.testing.assert_allclose(found.optimal_baseline, baseline, rtol=0, atol=rounding)


@pytest.mark.parametrize("levels", [(0.0, 1.0), (-1.0, 0.5, 2.0)], ids=["0/1", "three levels"])
def test_one_step_is_a_bandit(levels):
    """States are prompts, outcomes reward levels: every number is that of the bandit."""
    bandit, theta = random_problem(np.random.default_rng(3), reward_levels=levels)
    bandit = replace(bandit, offsets=None)
    expected = bandit.at(theta)
    shape = bandit.reward_probs.shape
    mdp = TabularMdp(
        next_state=np.zeros(shape, dtype=np.int64),
        probs=bandit.reward_probs,
        rewards=np.broadcast_to(bandit.reward_levels, shape),
        terminated=np.ones(shape, dtype=bool),
        starts=np.arange(shape[0]),
        start_probs=expected.prompt_probs,
        horizon=1,
    )
    found = snapshot(mdp, tabular_softmax(*shape[:2]), theta)
    assert found.objective == pytest.approx(expected.objective, abs=ROUNDING)
    np.testing.assert_allclose(found.gradient, expected.gradient, atol=ROUNDING)
    np.testing.assert_allclose(found.optimal_baseline, expected.optimal_baseline, atol=ROUNDING)
    same_moments(found.moments, expected.moments)


def same_moments(found: Moments, expected: Moments, rounding: float = ROUNDING) -> None:
    assert (found.outcome is None) == (expected.outcome is None)
    pairs = [(found, expected)]
    pairs += [(found.outcome, expected.outcome)] if expected.outcome else []
    for left, right in pairs:
        for field in fields(right):
            if field.name != "outcome":
                one, other = getattr(left, field.name), getattr(right, field.name)
                np.testing.assert_allclose(one, other, rtol=0, atol=rounding, err_msg=field.name)


def test_outcome_moments_need_binary_returns():
    assert policies_snapshot(PROBLEMS["lake"]).moments.outcome is not None
    assert policies_snapshot(PROBLEMS["discounted lake"]).moments.outcome is None


def policies_snapshot(mdp: TabularMdp):
    policy = tabular_softmax(mdp.num_states, mdp.num_actions)
    return snapshot(mdp, policy, theta_of(policy))


@pytest.mark.parametrize("kind", ["tabular", "linear"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_gradient_is_that_of_the_objective(name, kind):
    """Central differences of step 10⁻⁵ are off by 10⁻¹⁰; a wrong entry by its size, over 10⁻³."""
    mdp = PROBLEMS[name]
    policy, states = policies(mdp)[kind], np.arange(mdp.num_states)
    theta = theta_of(policy)
    found = snapshot(mdp, policy, theta)
    probs = action_probs(policy, theta, states)
    assert found.objective == pytest.approx(objective(mdp, probs), abs=ROUNDING)
    assert found.objective == pytest.approx(mdp.start_probs @ found.value, abs=ROUNDING)
    np.testing.assert_allclose(found.gradient, mdp.start_probs @ found.gradients, atol=ROUNDING)
    step = 1e-5
    for j, direction in enumerate(np.eye(policy.dimension)):
        ahead, behind = (
            objective(mdp, action_probs(policy, theta + sign * step * direction, states))
            for sign in (1, -1)
        )
        assert found.gradient[j] == pytest.approx((ahead - behind) / (2 * step), abs=1e-8)


def test_a_certain_policy_has_no_noise():
    mdp = frozen_lake(["SF", "FG"], is_slippery=False, horizon=4)
    theta = np.zeros((4, 4))
    theta[:, 2] = theta[1, 1] = 1e3  # right, and down in the corner
    theta[1, 2] = 0.0
    found = snapshot(mdp, tabular_softmax(4, 4), theta.ravel())
    np.testing.assert_array_equal(found.value, [1, 1, 1])
    np.testing.assert_array_equal(found.optimal_baseline, found.value)
    for name in ("reward_variance", "score_norm_squared", "gradient_norm_squared"):
        np.testing.assert_array_equal(getattr(found.moments, name), 0)


def test_the_best_objective_is_that_of_the_best_policy_with_a_clock():
    """All 512 deterministic policies of three states, three steps and two actions."""
    mdp = random_mdp(4, horizon=3)
    best = -np.inf
    for choice in product(range(2), repeat=9):
        value = np.zeros(3)
        for time in range(3):
            actions = np.array(choice[3 * time : 3 * time + 3])
            row = np.arange(3), actions
            ahead = np.where(mdp.terminated[row], 0.0, value[mdp.next_state[row]])
            value = np.sum(mdp.probs[row] * (mdp.rewards[row] + mdp.discount * ahead), axis=1)
        best = max(best, float(mdp.start_probs @ value[mdp.starts]))
    assert best_objective(mdp) == pytest.approx(best, abs=ROUNDING)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("kind", ["tabular", "linear"])
def test_training_ends_where_asked(share, kind):
    """A share of the way from where it starts to the best."""
    mdp = frozen_lake(["SF", "FG"], horizon=5, discount=0.8)
    policy = policies(mdp)[kind]
    first = snapshot(mdp, policy, theta_of(policy)).objective
    aim = first + share * (best_objective(mdp) - first)
    theta = train_to(mdp, policy, aim, theta0=theta_of(policy))
    assert snapshot(mdp, policy, theta).objective == pytest.approx(aim, abs=ROUNDING)


@pytest.mark.parametrize("kind", ["tabular", "linear"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_training_follows_the_gradient(name, kind):
    """Its own gradient needs no second moments: a short way is along that of the snapshot."""
    mdp = PROBLEMS[name]
    policy = policies(mdp)[kind]
    theta0 = theta_of(policy)
    first = snapshot(mdp, policy, theta0)
    moved = train_to(mdp, policy, first.objective + 1e-3, theta0=theta0) - theta0
    direction = first.gradient / np.linalg.norm(first.gradient)
    np.testing.assert_allclose(moved / np.linalg.norm(moved), direction, atol=1e-10)


def test_training_starts_where_the_policy_does():
    mdp, policy = frozen_lake(), tabular_softmax(16, 4)
    theta = train_to(mdp, policy, 0.5)
    assert snapshot(mdp, policy, theta).objective == pytest.approx(0.5, abs=ROUNDING)
    blocks = theta.reshape(16, 4)
    np.testing.assert_allclose(blocks.sum(axis=1), 0, atol=1e-9)  # as every gradient, and θ₀
    np.testing.assert_array_equal(blocks[[5, 7, 11, 12, 15]], 0)  # holes and goal


@pytest.mark.parametrize(
    ("aim", "message"),
    [
        (0.05, "objective must be at least J(θ₀) = 0.09038, got 0.05"),
        (0.9, "objective must be within reach of gradient ascent, got 0.9 with the best found at "),
        (np.nan, "objective must be a finite number, got nan"),
    ],
)
def test_aims_out_of_reach(aim, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        train_to(frozen_lake(), tabular_softmax(16, 4), aim)


def test_wrong_arguments():
    mdp = PROBLEMS["lake"]
    with pytest.raises(ValueError, match=r"^theta must have 16 entries, got 3$"):
        snapshot(mdp, tabular_softmax(4, 4), np.zeros(3))
    with pytest.raises(ValueError, match=r"^policy must have the 4 actions of the problem, got 2"):
        snapshot(mdp, tabular_softmax(4, 2), np.zeros(8))
    with pytest.raises(
        ValueError, match=r"^probs must have the shape \(S, A\) = \(4, 4\), got \(4"
    ):
        objective(mdp, np.full((4, 2), 0.5))
    with pytest.raises(ValueError, match=r"^probs must sum to 1 along the last axis"):
        objective(mdp, np.ones((4, 4)))
