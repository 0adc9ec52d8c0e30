"""Algorithm 1 on environments: its steps, its random streams, and whether it learns."""

from __future__ import annotations

import numpy as np
import pytest

from support.toy_environments import SUCCESS, Counting, OneStep, Walk, seeds_of_states
from support.training_options import configured
from ustat_grpo import (
    Box,
    Constant,
    Decay,
    Grpo,
    LengthWeightedMean,
    Oracle,
    Practice,
    Vanilla,
    gradient,
)
from ustat_grpo.environments import training
from ustat_grpo.environments.copies import EnvironmentCopies
from ustat_grpo.environments.features import Affine
from ustat_grpo.environments.policies import LinearSoftmax, action_probs, tabular_softmax
from ustat_grpo.environments.rollouts import episode_scores, group_rollouts
from ustat_grpo.environments.training import train

POLICY = tabular_softmax(2, 3)
STANDARD = {
    "seeds": np.arange(20),
    "batch_size": 4,
    "group_size": 3,
    "num_iterations": 6,
    "theta0": np.zeros(6),
}


def trained(estimator=None, *, make=OneStep, seed=0, discount=1.0, **changes):
    with EnvironmentCopies(make, 16, discount=discount) as copies:
        return trained_in(copies, estimator, seed=seed, **changes)


def trained_in(copies, estimator=None, *, policy=POLICY, seed=0, learning_rate=0.5, **changes):
    """For several runs: copies that are made once, which takes longer than a short run."""
    own = {"estimator": estimator or Grpo(), "schedule": Constant(learning_rate)}
    config, rest = configured(STANDARD | own | changes)
    return train(copies, policy, config, **rest, rng=np.random.default_rng(seed))


@pytest.fixture
def batches(monkeypatch):
    """What `train` has played: (seeds, θ, episodes) of each iteration."""
    seen = []

    def recorded(copies, policy, theta, seeds, group_size, **rest):
        episodes = group_rollouts(copies, policy, theta, seeds, group_size, **rest)
        seen.append((seeds, theta, episodes))
        return episodes

    monkeypatch.setattr(training, "group_rollouts", recorded)
    return seen


def test_each_step_is_that_of_algorithm_1(batches):
    """Group means of the others, and steps of the mean over all episodes, in plain loops."""
    policy, points = tabular_softmax(3, 2), range(1, 7)
    run = trained(make=Walk, policy=policy, checkpoints=points, discount=0.9, learning_rate=0.01)
    theta = np.zeros(6)
    for iteration, (_, before, episodes) in enumerate(batches):
        np.testing.assert_array_equal(before, theta)
        scores, rewards = episode_scores(policy, theta, episodes), episodes.returns
        move = np.zeros(6)
        for b in range(4):
            for i in range(3):
                others = [rewards[b, j] for j in range(3) if j != i]
                move += scores[b, i] * (rewards[b, i] - np.mean(others)) / 12
        np.testing.assert_allclose(run.theta[iteration], theta + 0.01 * move, rtol=1e-12)
        assert run.mean_return[iteration] == rewards.mean()
        assert run.num_steps[iteration] == episodes.lengths.sum()
        theta = run.theta[iteration]
    assert len(batches) == 6


def test_returns_are_discounted():
    """Rewards 1, 2, 3, half of it with each step: 2.75."""
    run = trained(make=Counting, policy=tabular_softmax(1, 2), theta0=np.zeros(2), discount=0.5)
    np.testing.assert_allclose(run.mean_return, 2.75, rtol=1e-14)


def test_estimators_know_the_lengths_of_episodes():
    arguments = {"make": Walk, "policy": tabular_softmax(3, 2), "learning_rate": 0.01}
    weighted, plain = (trained(each, **arguments) for each in (LengthWeightedMean(), Grpo()))
    assert (weighted.theta != plain.theta).all()


def test_prompts_are_those_of_any_other_run(batches):
    """Whatever the estimator, group size and rate; larger batches begin with smaller ones."""
    trained()
    trained(Vanilla(), group_size=5, learning_rate=0.1)
    trained(batch_size=7)
    prompts = [seeds for seeds, _, _ in batches]
    for iteration in range(6):
        first, other, larger = prompts[iteration], prompts[6 + iteration], prompts[12 + iteration]
        np.testing.assert_array_equal(first, other)
        np.testing.assert_array_equal(first, larger[:4])
    assert len(np.unique(prompts[:6], axis=0)) == 6
    np.testing.assert_array_equal(batches[0][2].returns, batches[6][2].returns[:, :3])


def test_prompts_are_drawn_uniformly_with_replacement(batches):
    """3600 draws of 6 seeds: |z| > 4 at a share 15 % off."""
    trained(seeds=[3, 5, 7, 9, 11, 13], batch_size=600, group_size=2)
    drawn = np.concatenate([seeds for seeds, _, _ in batches])
    counts = np.array([np.sum(drawn == seed) for seed in (3, 5, 7, 9, 11, 13)])
    assert counts.sum() == 3600
    assert (np.abs(counts - 600) <= 4 * np.sqrt(3600 / 6 * 5 / 6)).all()


def test_checkpoints_are_the_ends_of_shorter_runs():
    run = trained(checkpoints=[2, 5])
    np.testing.assert_array_equal(run.checkpoints, [2, 5])
    assert run.mean_return.shape == run.num_steps.shape == (6,)
    for place, length in enumerate((2, 5)):
        shorter = trained(num_iterations=length, checkpoints=[length])
        np.testing.assert_array_equal(run.theta[place], shorter.theta[0])
        np.testing.assert_array_equal(run.mean_return[:length], shorter.mean_return)
    assert (trained(seed=1).theta != trained(seed=2).theta).any()


def test_rates_follow_the_schedule(batches):
    """Would catch: the first rate throughout, or rates counted from 0."""
    run = trained(schedule=Decay(2.0, 1.0), checkpoints=range(1, 7))
    for iteration, (_, theta, episodes) in enumerate(batches):
        scores = episode_scores(POLICY, theta, episodes)
        move = gradient(Grpo(), scores, episodes.returns).mean(axis=0)
        moved = theta + 2.0 / (iteration + 2) * move
        np.testing.assert_allclose(run.theta[iteration], moved, rtol=1e-12, atol=1e-15)


def test_runs_stay_in_the_box():
    box = Box(-0.05, 0.05)
    run = trained(projection=box, checkpoints=range(1, 7))
    assert box.contains(run.theta)
    assert not box.contains(trained().theta)
    np.testing.assert_array_equal(run.theta[0], box.project(trained(num_iterations=1).theta[0]))


def test_theta_need_not_be_kept():
    kept, dropped = trained(), trained(keep_theta=False)
    assert dropped.theta.shape == (0, 6)
    np.testing.assert_array_equal(kept.mean_return, dropped.mean_return)


def exact(theta: np.ndarray) -> tuple[float, np.ndarray]:
    """J and ∇J of `OneStep` with equally likely states, action by action."""
    probs = action_probs(POLICY, theta, np.arange(2))
    slopes = np.zeros((2, 3))
    for state in range(2):
        for action in range(3):
            weight = 0.5 * probs[state, action] * SUCCESS[state, action]
            slopes[state] += weight * (np.eye(3)[action] - probs[state])
    return float(0.5 * (probs * SUCCESS).sum()), slopes.ravel()


def test_the_mean_step_is_the_gradient(rng):
    """E[θ₁ − θ₀] = η∇J in each coordinate; |z| > 4 at 25 % off, shown for half of it."""
    theta = rng.normal(size=6)
    seeds = seeds_of_states(10)
    with EnvironmentCopies(OneStep, 16) as copies:
        moves = np.array([
            trained_in(copies, seeds=seeds, theta0=theta, num_iterations=1, checkpoints=[1],
                       learning_rate=2.0, seed=seed).theta[0] - theta
            for seed in range(400)
        ])  # fmt: skip
    error = moves.std(axis=0, ddof=1) / np.sqrt(len(moves))
    slope = 2.0 * exact(theta)[1]
    assert (np.abs(moves.mean(axis=0) - slope) <= 4 * error).all()
    assert (np.abs(moves.mean(axis=0) - 0.5 * slope) > 4 * error).any()


def test_training_raises_the_exact_objective():
    """Mean gain of J over 8 runs, in standard errors; none would be 0, descent negative."""
    seeds = seeds_of_states(10)
    gains = np.array([
        exact(
            trained(seeds=seeds, num_iterations=40, checkpoints=[40], seed=seed).theta[0]
        )[0] - exact(np.zeros(6))[0]
        for seed in range(8)
    ])  # fmt: skip
    assert gains.mean() > 4 * gains.std(ddof=1) / np.sqrt(8)


@pytest.mark.slow  # that training learns is seen on the bandit above
def test_cart_pole_learns():
    """Mean return of the last ten iterations against the first ten, over 4 runs: |z| > 4."""
    policy = LinearSoftmax(Affine((2.4, 2.0, 0.2, 2.0)), 2)
    gains = []
    for seed in range(4):
        run = trained(
            make="CartPole-v1", policy=policy, theta0=np.zeros(10), group_size=8,
            num_iterations=30, checkpoints=[30], learning_rate=0.002, seed=seed,
        )  # fmt: skip
        gains.append(run.mean_return[-10:].mean() - run.mean_return[:10].mean())
    assert np.mean(gains) > 4 * np.std(gains, ddof=1) / np.sqrt(4)


def test_a_rate_that_is_too_large_is_reported():
    with pytest.raises(
        FloatingPointError,
        match=r"diverged at iteration 1, .* the learning rate must be smaller, got 1e\+300",
    ):
        trained(make=lambda: OneStep(1e100), learning_rate=1e300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"group_size": 0}, "group_size must be an integer of at least 1, got 0"),
        ({"group_size": 1}, "group_size must be at least 2 for a leave-one-out baseline, got 1"),
        ({"num_iterations": 0}, "num_iterations must be an integer of at least 1, got 0"),
        ({"learning_rate": 0.0}, "rate must be a finite number and above 0, got 0.0"),
        ({"checkpoints": [7]}, r"checkpoints must be increasing and at most 6, got \[7\]"),
        ({"seeds": []}, "seeds must be one or more integers of at least 0"),
        ({"theta0": np.zeros(4)}, "theta must have the policy's dimension, 6, got 4"),
        ({"discount": 2.0}, r"discount must lie in \(0, 1\], got 2.0"),
        ({"theta0": np.zeros(6), "projection": Box(1, 2)},
         "theta0 must lie inside the projection's set"),
        ({"projection": Box(np.zeros(4), 1)}, "projection must be for theta of length 6, got 4"),
        ({"prompt_sampling": "epochs"},
         "prompt_sampling must be 'iid' on environments, got 'epochs'"),
        ({"practice": Practice(2)}, "practice must have one minibatch and no penalty on "
         r"environments, got Practice\(num_minibatches=2,"),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        trained(**change)


def test_what_an_estimator_would_have_to_know_is_asked_for():
    with pytest.raises(ValueError, match="value must be given for the Oracle estimator"):
        trained(Oracle())


def test_a_policy_without_features_is_refused():
    with pytest.raises(ValueError, match="Box observations need a feature map"):
        trained(make="CartPole-v1", policy=tabular_softmax(3, 2))
