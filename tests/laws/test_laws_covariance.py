"""Covariance matrices against sums over every group and every minibatch, and mutants rejected."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from theory.enumeration import Distribution, gradient_distribution, outcomes
from theory.problems import random_problem, tiny_problems
from ustat_grpo import (
    ConstantBaseline,
    GroupMean,
    Grpo,
    OptimalBaseline,
    Oracle,
    Shrinkage,
    Snapshot,
    SoftmaxBandit,
    Vanilla,
)
from ustat_grpo.bandits.expansion import Expansion
from ustat_grpo.laws import covariance, mse

EXACT = {"rtol": 1e-12, "atol": 1e-14}
CASES = {
    "vanilla": (Vanilla(), covariance.vanilla, mse.vanilla),
    "oracle": (Oracle(), covariance.oracle, mse.oracle),
    "GRPO": (Grpo(), covariance.grpo, mse.grpo),
    "constant": (
        ConstantBaseline(-0.4),
        partial(covariance.constant_baseline, baseline=-0.4),
        partial(mse.constant_baseline, baseline=-0.4),
    ),
    "optimal": (OptimalBaseline(), covariance.optimal_baseline, mse.optimal_baseline),
    "shrinkage": (
        Shrinkage(0.4, -0.7),
        partial(covariance.shrinkage, weight=0.4, target=-0.7),
        partial(mse.shrinkage, weight=0.4, target=-0.7),
    ),
}
TINY = dict(zip(("tabular", "features"), tiny_problems(), strict=True))
PROBLEMS = {
    "features": random_problem(21, num_prompts=3, dimension=2),
    "four actions": random_problem(22, num_actions=4, dimension=5),
    "tabular": random_problem(23, num_prompts=3),
}
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(params=PROBLEMS.values(), ids=list(PROBLEMS))
def problem(request):
    return request.param


@pytest.fixture(params=TINY.values(), ids=list(TINY))
def tiny(request):
    return request.param


def score_moments(snapshot):
    return Expansion(snapshot).score_moments


def only(snapshot, prompt):
    """The problem with this prompt alone; one-hot features shrink with it."""
    at = slice(prompt, prompt + 1)
    features = None if snapshot.features is None else snapshot.features[at]
    return Snapshot(
        np.ones(1),
        snapshot.action_probs[at],
        snapshot.reward_levels,
        snapshot.reward_probs[at],
        features,
    )


def one_prompt(estimator, snapshot, group_size):
    """ĝ in every case, of a minibatch of one."""
    at_prompts = [
        gradient_distribution(estimator, outcomes(snapshot, prompt), group_size=group_size)
        for prompt in range(len(snapshot.prompt_probs))
    ]
    joint = zip(snapshot.prompt_probs, at_prompts, strict=True)
    return Distribution(
        np.concatenate([each.gradients for each in at_prompts]),
        np.concatenate([prob * each.probs for prob, each in joint]),
    )


def two_prompts(estimator, snapshot, group_size):
    """ĝ in every case, of a minibatch of two: every pair of prompts, every pair of groups."""
    values, probs = one_prompt(estimator, snapshot, group_size)
    means = (values[:, None] + values) / 2
    return Distribution(means.reshape(-1, values.shape[-1]), np.outer(probs, probs).ravel())


MINIBATCHES = {1: one_prompt, 2: two_prompts}


def enumerated(estimator, snapshot, *, batch_size=1, group_size):
    """Cov(ĝ), in blocks."""
    values, probs = MINIBATCHES[batch_size](estimator, snapshot, group_size)
    deviations = values - probs @ values
    full = (probs[:, None] * deviations).T @ deviations
    num_blocks = 1 if snapshot.features is not None else len(snapshot.prompt_probs)
    size = len(full) // num_blocks
    cuts = [slice(m * size, (m + 1) * size) for m in range(num_blocks)]
    return np.stack([full[cut, cut] for cut in cuts])


def positive_semidefinite(matrices):
    eigenvalues = np.linalg.eigvalsh(matrices)
    return bool((eigenvalues >= -1e-14 * np.abs(eigenvalues).max()).all())


class TestAgainstEnumeration:
    @every_case
    @pytest.mark.parametrize("group_size", [2, 3])
    def test_at_every_prompt(self, problem, name, group_size):
        """Would catch: whatever a trace forgives, as WWᵀ about another mean."""
        estimator, law, _ = CASES[name]
        for prompt in range(len(problem.prompt_probs)):
            alone = only(problem, prompt)
            noise = law(score_moments(alone))
            np.testing.assert_allclose(noise.prompt, 0.0, **EXACT)
            np.testing.assert_allclose(
                noise.minibatch(batch_size=1, group_size=group_size),
                enumerated(estimator, alone, group_size=group_size),
                **EXACT,
            )

    @every_case
    @pytest.mark.parametrize("batch_size", MINIBATCHES)
    @pytest.mark.parametrize("group_size", [2, 3])
    def test_over_minibatches(self, tiny, name, batch_size, group_size):
        """Would catch: prompt noise over BG, a block of E g E gᵀ lost."""
        estimator, law, _ = CASES[name]
        sizes = {"batch_size": batch_size, "group_size": group_size}
        np.testing.assert_allclose(
            law(score_moments(tiny)).minibatch(**sizes),
            enumerated(estimator, tiny, **sizes),
            **EXACT,
        )

    @pytest.mark.parametrize("name", ["vanilla", "oracle", "constant", "optimal"])
    def test_one_output(self, problem, name):
        estimator, law, _ = CASES[name]
        np.testing.assert_allclose(
            law(score_moments(problem)).minibatch(batch_size=1, group_size=1),
            enumerated(estimator, problem, group_size=1),
            **EXACT,
        )

    @pytest.mark.parametrize("group_size", [2, 3])
    def test_the_group_mean_is_grpo_times_its_gain(self, tiny, group_size):
        sizes = {"batch_size": 2, "group_size": group_size}
        law = covariance.grpo(score_moments(tiny)).minibatch(**sizes)
        obtained = enumerated(GroupMean(), tiny, **sizes)
        np.testing.assert_allclose(mse.group_mean_gain(group_size) ** 2 * law, obtained, **EXACT)


class TestAgainstOtherLaws:
    @every_case
    @pytest.mark.parametrize("batch_size", [1, 3])
    @pytest.mark.parametrize("group_size", [2, 7])
    def test_the_trace_is_the_error(self, problem, name, batch_size, group_size):
        _, law, error = CASES[name]
        matrices = law(score_moments(problem))
        obtained = matrices.minibatch(batch_size=batch_size, group_size=group_size)
        errors = error(problem.moments, group_size=group_size)
        expected = mse.minibatch(errors, problem.moments, batch_size=batch_size)
        np.testing.assert_allclose(np.trace(obtained, axis1=1, axis2=2).sum(), expected, **EXACT)

    def test_the_traces_of_grpo_are_the_noise_components(self, problem):
        traces = np.trace(covariance.grpo(score_moments(problem)), axis1=2, axis2=3).sum(axis=1)
        noise = problem.noise
        components = [noise.prompt, noise.oracle, noise.residual]
        np.testing.assert_allclose(traces, components, **EXACT)

    @pytest.mark.parametrize("target", [0.0, 0.9])
    def test_shrinkage_joins_grpo_and_constant(self, problem, target):
        moments = score_moments(problem)
        none = covariance.shrinkage(moments, weight=0.0, target=target)
        full = covariance.shrinkage(moments, weight=1.0, target=target)
        constant = covariance.constant_baseline(moments, baseline=target)
        np.testing.assert_allclose(none, covariance.grpo(moments), **EXACT)
        np.testing.assert_allclose(full, constant, **EXACT)

    def test_vanilla_is_the_constant_zero(self, problem):
        moments = score_moments(problem)
        zero = covariance.constant_baseline(moments, baseline=0.0)
        np.testing.assert_array_equal(covariance.vanilla(moments), zero)


class TestProperties:
    @every_case
    def test_every_part_is_positive_semidefinite(self, problem, name):
        noise = CASES[name][1](score_moments(problem))
        for part, matrices in zip(noise._fields, noise, strict=True):
            np.testing.assert_allclose(matrices, np.swapaxes(matrices, 1, 2), **EXACT)
            assert positive_semidefinite(matrices), part
        assert positive_semidefinite(noise.minibatch(batch_size=2, group_size=2))

    def test_prompt_noise_is_the_same_for_all(self, problem):
        moments = score_moments(problem)
        first, *others = [law(moments).prompt for _, law, _ in CASES.values()]
        for other in others:
            np.testing.assert_array_equal(first, other)

    def test_unlimited_groups_leave_prompt_noise(self, problem):
        noise = covariance.grpo(score_moments(problem))
        limit = noise.minibatch(batch_size=3, group_size=np.inf)
        np.testing.assert_allclose(limit, noise.prompt / 3, **EXACT)

    def test_weights(self):
        assert covariance.minibatch_weights(2, 4) == (1 / 2, 1 / 8, 1 / 24)
        assert covariance.minibatch_weights(2, 1) == (1 / 2, 1 / 2, 0.0)


SIZE = 3
MUTANTS = {
    "G² for G(G−1)": lambda prompt, output, pair, gg: prompt + output / SIZE + pair / SIZE**2,
    "(G−1)² for G(G−1)": lambda prompt, output, pair, gg: (
        prompt + output / SIZE + pair / (SIZE - 1) ** 2
    ),
    "G−1 for G": lambda prompt, output, pair, gg: prompt + output / (SIZE - 1) + pair / 6,
    "gg′ lost": lambda prompt, output, pair, gg: prompt + output / SIZE + (pair - gg) / 6,
    "−gg′ lost": lambda prompt, output, pair, gg: prompt + (output + gg) / SIZE + pair / 6,
    "half the pair": lambda prompt, output, pair, gg: prompt + output / SIZE + pair / 12,
    "no pair": lambda prompt, output, pair, gg: prompt + output / SIZE,
    "prompt noise over G": lambda prompt, output, pair, gg: (prompt + output) / SIZE + pair / 6,
    "prompt noise about zero": lambda prompt, output, pair, gg: gg + output / SIZE + pair / 6,
    "no mutant": lambda prompt, output, pair, gg: prompt + output / SIZE + pair / 6,
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_laws_of_grpo_are_rejected(tiny, mutant):
    moments = score_moments(tiny)
    wrong = MUTANTS[mutant](*covariance.grpo(moments), moments.gradient_second_moment)
    obtained = enumerated(Grpo(), tiny, group_size=SIZE)
    agree = np.abs(wrong - obtained).max() <= 1e-12 * np.abs(obtained).max()
    assert agree == (mutant == "no mutant")
    assert agree or np.abs(wrong - obtained).max() > 1e-3 * np.abs(obtained).max()


@pytest.mark.parametrize("factor", [0, 1, -2])
def test_cross_term_of_a_baseline(tiny, factor):
    """(Z − c)² = Z² − 2cZ + c²: the middle term with another factor, at c = −0.4."""
    moments = score_moments(tiny)
    cross = moments.weighted_score_covariance(0.4 * moments.mean_reward)
    law = covariance.constant_baseline(moments, baseline=-0.4)
    wrong = law._replace(output=law.output + (factor - 2) * cross)
    obtained = enumerated(ConstantBaseline(-0.4), tiny, group_size=2)
    distance = np.abs(wrong.minibatch(batch_size=1, group_size=2) - obtained).max()
    assert distance > 1e-3 * np.abs(obtained).max()


LAWS = {
    "oracle": covariance.oracle,
    "optimal": covariance.optimal_baseline,
    "grpo": covariance.grpo,
    "constant": lambda moments, at: covariance.constant_baseline(moments, baseline=at),
    "shrinkage": lambda moments, at: covariance.shrinkage(moments, weight=0.3, target=at),
}


@pytest.mark.parametrize("features", [None, 2])
def test_a_large_offset_of_the_rewards_changes_nothing(features):
    """Rewards {o, o+1}, o = 1e8. Would catch: E[Z²] − 2bE[Z] + b², which gave .2408 for .0829."""

    def parts(offset):
        levels = np.array([0.0, 1.0]) + offset
        rng = np.random.default_rng(5)
        problem = SoftmaxBandit(
            None if features is None else rng.normal(size=(3, 3, features)),
            levels,
            rng.dirichlet(np.ones(2), size=(3, 3)),
        )
        moments = score_moments(problem.at(rng.normal(size=problem.dimension)))
        at = {"constant": (offset + 0.4,), "shrinkage": (offset + 0.4,)}
        return {name: law(moments, *at.get(name, ())) for name, law in LAWS.items()}

    near, far = parts(0.0), parts(1e8)
    for name in LAWS:
        for expected, obtained in zip(near[name], far[name], strict=True):
            np.testing.assert_allclose(obtained, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("distance", [1e-5, 1e-9])
def test_prompts_that_nearly_agree_keep_their_noise(distance):
    """Cov g(X) falls with the square of the distance. Would catch: E gg′ − gg′, negative there."""
    rewards = np.array([[[0.1, 0.9], [0.6, 0.4]]])
    features = np.array([[[1.0, 0.5], [-0.3, 0.2]]])
    both = np.concatenate([features, features + distance * np.array([[[1.0, 0.0], [0.0, 1.0]]])])
    problem = SoftmaxBandit(both, np.array([0.0, 1.0]), np.repeat(rewards, 2, axis=0))
    snapshot = problem.at(np.zeros(2))
    prompt = covariance.grpo(score_moments(snapshot)).prompt[0]
    assert positive_semidefinite(prompt)
    half = np.diff(snapshot.prompt_gradients, axis=0)[0] / 2
    np.testing.assert_allclose(prompt, np.outer(half, half), rtol=1e-6, atol=1e-6 * half @ half)
    assert np.trace(prompt) == pytest.approx(snapshot.noise.prompt, rel=1e-6)
