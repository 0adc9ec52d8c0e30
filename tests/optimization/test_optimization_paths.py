"""Whole runs of Algorithm 1 against NumPy, gradient ascent and Theorem 8, in standard errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import expit, softmax

from support.problems import one_hot, random_problem
from support.training_options import optimized
from ustat_grpo import (
    Box,
    Constant,
    Decay,
    Grpo,
    OptimalBaseline,
    Oracle,
    TugOfWar,
    Vanilla,
    gradient,
)
from ustat_grpo.estimators import NOTHING, SideInformation


@dataclass(frozen=True)
class Standardised:
    """(Z − Z̄)/(std + ε): not affine, hence tabulated by the number of successes."""

    epsilon: float = 0.1

    def advantages(self, rewards, side=NOTHING):
        centred = rewards - rewards.mean(axis=-1, keepdims=True)
        return centred / (rewards.std(axis=-1, keepdims=True) + self.epsilon)


def simulate(bandit, estimator, theta0, rates, projection, num_runs=4000):
    """θ_i of whole runs in plain NumPy, on random numbers of another kind, shape (R, n, d)."""
    rng, (num_prompts, num_actions, _) = np.random.default_rng(99), bandit.reward_probs.shape
    features = bandit.features
    features = one_hot(num_prompts, num_actions) if features is None else features
    theta, path = np.tile(theta0, (num_runs, 1)), []
    for rate in rates:
        x = rng.choice(num_prompts, (num_runs, 2), p=bandit.prompt_probs)
        logits = np.einsum("rbkd,rd->rbk", features[x], theta) + bandit.offsets[x]
        policy, noise = softmax(logits, axis=-1), rng.gumbel(size=(num_runs, 2, 4, num_actions))
        scores = features[x] - np.einsum("rbk,rbkd->rbd", policy, features[x])[:, :, None]
        reward, norm = (bandit.reward_probs @ bandit.reward_levels)[x], (scores**2).sum(axis=-1)
        y = (logits[:, :, None] + noise).argmax(axis=-1)
        chances = bandit.reward_probs[x[..., None], y].cumsum(axis=-1)[..., :-1]
        levels = (rng.random((num_runs, 2, 4, 1)) >= chances).sum(axis=-1)
        estimate = gradient(
            estimator,
            np.take_along_axis(scores, y[..., None], axis=2),
            bandit.reward_levels[levels],
            SideInformation(
                (policy * reward).sum(axis=-1),
                (policy * norm * reward).sum(axis=-1) / (policy * norm).sum(axis=-1),
            ),
        )
        theta = theta + rate * estimate.mean(axis=1)
        theta = theta if projection is None else projection.project(theta)
        path.append(theta)
    return np.stack(path, axis=1)


def objectives(bandit, theta):
    """J(θ), shape (...), for θ of shape (..., d)."""
    features = one_hot(*bandit.offsets.shape) if bandit.features is None else bandit.features
    policy = softmax(np.einsum("pkd,...d->...pk", features, theta) + bandit.offsets, axis=-1)
    mean_reward = bandit.reward_probs @ bandit.reward_levels
    return np.einsum("p,...pk,pk->...", bandit.prompt_probs, policy, mean_reward)


TUG = TugOfWar(num_axes=2, num_flat=1, separation=(1.5, 3.0))
TABULAR = random_problem(np.random.default_rng(42))
FEATURES = random_problem(np.random.default_rng(42), 4, 3, dimension=5)
GRADED = {"reward_levels": (-1.0, 0.5, 2.0)}
GRADED_TABULAR = random_problem(np.random.default_rng(42), 3, 5, **GRADED)
GRADED_FEATURES = random_problem(np.random.default_rng(42), dimension=2, **GRADED)
WHOLE_RUNS = {  # bandit and θ₀, estimator, (schedule, Θ), and the nearest wrong (schedule, Θ)
    "constant": (GRADED_FEATURES, Grpo(), (Constant(0.6), None), (Constant(0.5), None)),
    "decay": (TABULAR, Oracle(), (Decay(6, 1), None), (Decay(6, 0), None)),
    "best": (GRADED_TABULAR, OptimalBaseline(), (Constant(1), None), (Constant(0.8), None)),
    "box": ((FEATURES[0], np.zeros(5)), Vanilla(),
            (Constant(1.5), Box(-0.4, 0.6)), (Constant(1.5), Box(-0.6, 0.4))),
    "axes": ((TUG.bandit, TUG.optimum), Standardised(),
             (Decay(20, 4), Box(0, 2, TUG.axes)), (Decay(20, 4), Box(0, 2, TUG.axes[:1]))),
}  # fmt: skip


def z_between(ours, theirs):
    """Largest difference of means over runs, in its standard errors."""
    spread = ours.var(axis=0) / len(ours) + theirs.var(axis=0) / len(theirs)
    difference = ours.mean(axis=0) - theirs.mean(axis=0)
    return abs(difference / np.sqrt(np.maximum(spread, 1e-26))).max()


@pytest.mark.parametrize("case", WHOLE_RUNS.values(), ids=WHOLE_RUNS)
def test_whole_runs_against_an_independent_simulation(case):
    """Means of the gap, θ and θ² after 1, 5 and 20 iterations, B = 2, G = 4.

    The mutants: rates a fifth off, i₀ = 0 for 1, a box shifted by 0.2, one axis left unbounded.
    """
    (bandit, theta0), estimator, right, wrong = case
    points = np.array([1, 5, 20])
    theta = simulate(bandit, estimator, theta0, right[0].rates(20), right[1])[:, points - 1]
    gap = bandit.best_objective - objectives(bandit, theta)

    def largest_z(schedule, projection):
        runs = optimized(
            bandit, estimator, batch_size=2, group_size=4, num_iterations=20, num_runs=20_000,
            schedule=schedule, theta0=theta0, checkpoints=points, projection=projection,
            rng=np.random.default_rng(5),
        )  # fmt: skip
        pairs = (runs.gap, gap), (runs.theta, theta), (runs.theta**2, theta**2)
        return max(z_between(ours, theirs) for ours, theirs in pairs)

    assert largest_z(*right) <= 4
    assert largest_z(*wrong) > 4


def test_large_minibatches_follow_exact_gradient_ascent():
    """E‖θ_n − m_n‖² falls as 1/B, to 4 standard errors of its logarithm; 1/√B is rejected.

    Would catch: a drift of a tenth of the noise, which would stay as B grows from 16 to 256.
    """
    (bandit, theta0), schedule = FEATURES, Constant(0.3)
    path = np.array(theta0)
    for rate in schedule.rates(30):
        path = path + rate * bandit.at(path).gradient

    def distances(batch_size):
        runs = optimized(
            bandit, Grpo(), batch_size=batch_size, group_size=8, num_iterations=30, num_runs=400,
            schedule=schedule, theta0=theta0, rng=np.random.default_rng(2),
        )  # fmt: skip
        return ((runs.theta[:, 0] - path) ** 2).sum(axis=1)

    few, many = distances(16), distances(256)
    spread = np.hypot(*[each.std() / each.mean() / 20 for each in (few, many)])
    fall = np.log(few.mean() / many.mean())
    assert abs(fall - np.log(16)) <= 4 * spread
    assert abs(fall - np.log(16) / 2) > 4 * spread
    drifting = many + 0.1 * few.mean()  # a square that both would have in common
    assert abs(np.log((1.1 * few.mean()) / drifting.mean()) - np.log(16)) > 4 * spread
    assert many.mean() < 0.01 * ((path - theta0) ** 2).sum()


def test_scaled_gap_of_theorem_8():
    """n·gap of GRPO on the tug-of-war, B = G = 4, after 1000 steps of β/(i + 20), β = 1.5/λ.

    At n = 1000 the limit ½λβ²Ω/(2βλ − 1) = 0.0803 is 2 % off. The law is the linear recursion that
    ends in it, v ← (1 − ηλ)²v + η²Ω from the optimum on, n·½λv; what it leaves out is of order 1/n.
    Would catch: the oracle's Ω, 13 % less; no β², 0.00075 in the limit; 1/G for 1/(G(G−1)) in c₃.
    """
    tug, steps, sigmoid = TugOfWar(), 1000, expit(1.0)
    curvature = 1.6 * sigmoid * (1 - sigmoid) * (2 * sigmoid - 1)
    noise, schedule = tug.at(tug.optimum).noise, Decay(1.5 / curvature, 20)
    runs = optimized(
        tug.bandit, Grpo(), batch_size=4, group_size=4, num_iterations=steps, num_runs=4000,
        schedule=schedule, theta0=tug.optimum, keep_theta=False,
        projection=Box(-1, 3, tug.axes), rng=np.random.default_rng(0),
    )  # fmt: skip

    def z_score(residual_weight, factor=1.0):
        variance = 0.0
        omega = noise.prompt / 4 + noise.oracle / 16 + noise.residual * residual_weight
        for rate in schedule.rates(steps):
            variance = (1 - rate * curvature) ** 2 * variance + factor * rate**2 * omega
        scaled = steps * runs.gap[:, 0]
        expected = steps * curvature / 2 * variance
        return (scaled.mean() - expected) / (scaled.std() / np.sqrt(len(scaled)))

    assert abs(z_score(1 / 48)) <= 4
    assert abs(z_score(0.0)) > 4
    assert abs(z_score(1 / 16)) > 4
    assert abs(z_score(1 / 48, factor=(curvature / 1.5) ** 2)) > 4


@pytest.mark.parametrize(
    ("one", "other"), [((Grpo(), 8), (Grpo(), 16)), ((Vanilla(), 8), (Oracle(), 8))], ids=str
)
def test_calls_with_the_same_rng_are_paired(one, other):
    """Correlated gaps, by Fisher's z; those of another seed are not. Would catch: G in the key."""
    bandit, theta0 = TABULAR

    def gaps(case, seed):
        return optimized(
            bandit, case[0], batch_size=2, group_size=case[1], num_iterations=10, num_runs=2000,
            schedule=Constant(0.3), theta0=theta0, rng=np.random.default_rng(seed),
        ).gap[:, 0]  # fmt: skip

    def fisher_z(seed):
        return np.arctanh(np.corrcoef(gaps(one, 0), gaps(other, seed))[0, 1]) * np.sqrt(1997)

    assert fisher_z(0) > 4
    assert abs(fisher_z(1)) <= 4
