"""The simulated part of the zoo: gradients, draws, and means against laws and enumeration."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.zoo import entries as zoo
from experiments.zoo.entries import ZOO, PromptProblem, tell
from experiments.zoo.moments import Score, draw, jackknife, simulate
from support.problems import random_snapshot
from ustat_grpo import SideInformation, gradient

SNAPSHOTS = {
    "features": random_snapshot(np.random.default_rng(5), 3, 3, dimension=2),
    "one-hot": random_snapshot(np.random.default_rng(6), 3, 3),
}
every_snapshot = pytest.mark.parametrize("kind", SNAPSHOTS)


def every_minibatch(snapshot):
    """List prompts (M, 2), actions and rewards (M, 2, 2) and probabilities (M,) for B = G = 2."""
    joint = snapshot.action_probs[..., None] * snapshot.reward_probs
    cells = joint[0].size
    shape = (2, cells, cells)  # a prompt and its two outputs
    group = np.array(list(np.ndindex(*shape, *shape))).reshape(-1, 2, 3)
    actions, levels = np.divmod(group[..., 1:], joint.shape[-1])
    prompts = group[..., 0]
    probs = snapshot.prompt_probs[prompts] * joint[prompts[..., None], actions, levels].prod(
        axis=-1
    )
    return prompts, actions, snapshot.reward_levels[levels], probs.prod(axis=-1)


@every_snapshot
def test_gradients_are_those_of_the_library(kind):
    snapshot = SNAPSHOTS[kind]
    batch = draw(snapshot, (5, 4, 3), tell, np.random.default_rng(2))
    scores = snapshot.dense_scores()[batch.prompts[..., None], batch.actions]
    for name in ("rloo", "score_weighted", "reinforce_pp", "opo", "remax"):
        estimator = ZOO[name].estimator
        found = Score.of(snapshot).gradients(batch, estimator.advantages(batch.rewards, batch.side))
        wanted = gradient(estimator, scores, batch.rewards, batch.side).mean(axis=1)
        np.testing.assert_allclose(found, wanted, atol=1e-14)


@every_snapshot
@pytest.mark.parametrize("size", [2, 5])
def test_agrees_with_laws(kind, size):
    """|z| ≤ 4 for estimators that have both; 10 % of E‖ĝ‖² more would be noticed."""
    snapshot = SNAPSHOTS[kind]
    names = ("vanilla", "oracle", "critic", "remax", "grpo_trl", "sign", "optimal_baseline")
    estimators = {name: ZOO[name].estimator for name in names}
    found = simulate(snapshot, estimators, (600, 4, size), tell, np.random.default_rng(3))
    problem, target = PromptProblem(snapshot), zoo.norm_squared(snapshot)
    for name in names:
        law = ZOO[name].law(problem, size)
        norm = law.mean_norm_squared
        exact = [
            law.cosine * np.sqrt(norm * target), norm, norm * (1 + law.scale_free_error / 4)
        ]  # fmt: skip
        for samples, wanted in zip(found[name], exact, strict=True):
            value, noise = jackknife(samples)
            assert abs(value - wanted) <= 4 * noise + 1e-12 * abs(wanted), name
        value, noise = jackknife(found[name].second)
        assert abs(value - 1.1 * exact[2]) > 4 * noise, name


def test_batch_level_estimators_agree_with_every_minibatch():
    """B = G = 2 on two prompts, |z| ≤ 4; 10 % of E‖ĝ‖² more would be noticed."""
    snapshot = random_snapshot(np.random.default_rng(9), 2, 2, dimension=2)
    estimators = {n: e.estimator for n, e in ZOO.items() if not (e.law or e.least > 2)}
    found = simulate(snapshot, estimators, (10_000, 2, 2), tell, np.random.default_rng(10))
    prompts, actions, rewards, probs = every_minibatch(snapshot)
    norms = snapshot.score_norm_squared[prompts[..., None], actions]
    scores = snapshot.dense_scores()[prompts[..., None], actions]
    side = SideInformation(score_norm_squared=norms)
    for name, estimator in estimators.items():
        each = gradient(estimator, scores, rewards, side).mean(axis=1)
        mean, second = probs @ each, probs @ np.sum(each**2, axis=1)
        for samples, wanted in zip(
            found[name], (mean @ snapshot.gradient, mean @ mean, second), strict=True
        ):
            value, noise = jackknife(samples)
            assert abs(value - wanted) <= 4 * noise + 1e-12 * abs(wanted), name
        assert abs(value - 1.1 * second) > 4 * noise, name


def test_companions_take_the_noise_out():
    """The group mean is a multiple of its companion: nothing is left to chance."""
    snapshot = SNAPSHOTS["features"]
    estimators = {"dr_grpo": ZOO["dr_grpo"].estimator}
    found = simulate(snapshot, estimators, (3, 4, 4), tell, np.random.default_rng(4))
    law = ZOO["dr_grpo"].law(PromptProblem(snapshot), 4)
    np.testing.assert_allclose(found["dr_grpo"].mean_norm_squared, law.mean_norm_squared)


def test_draws_follow_the_problem():
    """Frequencies of (prompt, action, reward), |z| ≤ 4.5 over 18 cells; 2 % would be seen."""
    snapshot = SNAPSHOTS["features"]
    batch = draw(snapshot, (20_000, 2, 3), tell, np.random.default_rng(7))
    joint = snapshot.prompt_probs[:, None, None] * (
        snapshot.action_probs[..., None] * snapshot.reward_probs
    )
    levels = np.searchsorted(snapshot.reward_levels, batch.rewards)
    counts = np.zeros(joint.shape)
    np.add.at(counts, (batch.prompts[..., None], batch.actions, levels), 1.0)
    frequency = counts / counts.sum()
    noise = np.sqrt(3 * joint * (1 - joint) / counts.sum())  # outputs share their prompt
    assert np.max(np.abs(frequency - joint) / noise) < 4.5


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(8).normal(size=16)
    samples = np.array([values.mean(), *((values.sum() - each) / 15 for each in values)])
    assert jackknife(samples)[1] == pytest.approx(values.std(ddof=1) / 4, rel=1e-12)
