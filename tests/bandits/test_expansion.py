"""Derivatives of J against differences, sums over cells, and one-hot features spelled out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from support.problems import cells, expectation, naive_moments, one_hot, random_problem
from ustat_grpo import SoftmaxBandit, TugOfWar
from ustat_grpo.bandits.expansion import Expansion, expand

GRADED = (-1.0, 0.5, 2.0)
PROBLEMS = {
    "tabular": {"reward_levels": GRADED},
    "features": {"reward_levels": GRADED, "num_prompts": 4, "dimension": 5},
    "two actions": {"num_actions": 2, "dimension": 3},
}
EXACT = {"rtol": 1e-12, "atol": 1e-14}
STEP = 0.02
STENCIL = ((1, 45 / 60), (2, -9 / 60), (3, 1 / 60))
DIFFERENCES = {"rtol": 1e-9, "atol": 1e-10}
"""The stencil is off by f⁽⁷⁾h⁶/140, about 1e-12, and by rounding, 1e-16/h."""

BANDIT, THETA = random_problem(np.random.default_rng(42), **PROBLEMS["tabular"])
SPELLED_OUT = dataclasses.replace(BANDIT, features=one_hot(*BANDIT.offsets.shape))


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return random_problem(np.random.default_rng(42), **PROBLEMS[request.param])


def derivative(function, theta):
    """Six-point central differences along every coordinate, on a last axis."""
    along = []
    for direction in STEP * np.eye(len(theta)):
        terms = [w * (function(theta + k * direction) - function(theta - k * direction))
                 for k, w in STENCIL]  # fmt: skip
        along.append(sum(terms) / STEP)
    return np.stack(along, axis=-1)


def symmetric(rng, *shape):
    """Symmetric matrices that are no covariances: the drift is linear in them."""
    matrices = rng.normal(size=(*shape, shape[-1]))
    return matrices + np.swapaxes(matrices, -1, -2)


def diagonal_blocks(matrix, num_blocks):
    size = matrix.shape[-1] // num_blocks
    blocks = [slice(m * size, (m + 1) * size) for m in range(num_blocks)]
    return np.stack([matrix[..., block, block] for block in blocks], axis=-3)


def assembled(blocks):
    """The full matrix that has these blocks and nothing else."""
    num_blocks, size, _ = blocks.shape
    full = np.zeros((num_blocks * size, num_blocks * size))
    for m, block in enumerate(blocks):
        full[m * size : (m + 1) * size, m * size : (m + 1) * size] = block
    return full


def naive_hessian(bandit, theta, x):
    """H(x) = E[AWWᵀ∣x] by a sum over cells."""
    value = expectation(cells(bandit, theta, x), lambda w, z: z)
    return expectation(cells(bandit, theta, x), lambda w, z: (z - value) * np.outer(w, w))


class TestAgainstDifferences:
    def test_objective_and_gradient(self, problem):
        bandit, theta = problem
        expansion = expand(bandit.at)(theta)
        differences = derivative(lambda at: np.asarray(expand(bandit.at)(at).objective), theta)
        np.testing.assert_allclose(expansion.gradient.ravel(), differences, **DIFFERENCES)
        value = bandit.prompt_probs @ naive_moments(bandit, theta)["value"]
        np.testing.assert_allclose(expansion.objective, value, **EXACT)

    def test_hessian(self, problem):
        """Would catch: E[ZWWᵀ] for E[AWWᵀ], a lost f(x)."""
        bandit, theta = problem
        expansion = expand(bandit.at)(theta)
        differences = derivative(lambda at: expand(bandit.at)(at).gradient.ravel(), theta)
        hessian = expansion.hessian
        full = hessian[0] if bandit.features is not None else assembled(hessian)
        np.testing.assert_allclose(full, differences, **DIFFERENCES)
        np.testing.assert_allclose(hessian, np.swapaxes(hessian, 1, 2), **EXACT)

    def test_drift(self, problem, rng):
        bandit, theta = problem
        shape = expand(bandit.at)(theta).hessian.shape
        covariance = symmetric(rng, *shape[:-1])
        drift = expand(bandit.at)(theta).drift(covariance)

        def half_trace(at):
            return np.sum(expand(bandit.at)(at).hessian * covariance) / 2

        assert drift.shape == shape[:-1]
        np.testing.assert_allclose(drift.ravel(), derivative(half_trace, theta), **DIFFERENCES)

    def test_tug_of_war_has_no_drift_along_flat_directions(self):
        bandit = TugOfWar(num_axes=2, num_flat=2, separation=(1.0, 3.0))
        expansion = expand(bandit.at)(bandit.theta((0.3, -0.5)))
        along = np.linalg.qr(bandit.axes.T)[0]
        drift = expansion.drift(np.eye(4)[None])[0]
        np.testing.assert_allclose(along @ (along.T @ drift), drift, **EXACT)
        assert np.abs(drift).max() > 1e-3


class TestCumulants:
    """∇³J[v, v, v] = E[Ac³] − 3E[Ac]E[c²] at each prompt, by sums over cells."""

    @pytest.fixture
    def direction(self, problem, rng):
        return rng.normal(size=problem[0].dimension)

    def cubed(self, problem, direction, factor):
        bandit, theta = problem
        total = 0.0
        for x, prob in enumerate(bandit.prompt_probs):
            of_prompt = cells(bandit, theta, x)
            value = expectation(of_prompt, lambda w, z: z)
            first, third = (
                expectation(of_prompt, lambda w, z, k=k, v=value: (z - v) * (w @ direction) ** k)
                for k in (1, 3)
            )
            square = expectation(of_prompt, lambda w, z: (w @ direction) ** 2)
            total += prob * (third - factor * first * square)
        return total

    def test_third_derivative_along_a_line(self, problem, direction):
        expansion = expand(problem[0].at)(problem[1])
        blocks = direction.reshape(expansion.gradient.shape)
        drift = expansion.drift(blocks[:, :, None] * blocks[:, None, :])
        third = 2 * np.sum(drift * blocks)
        np.testing.assert_allclose(third, self.cubed(problem, direction, 3), **EXACT)
        for factor in (0, 1, 2, 4):
            mutant = self.cubed(problem, direction, factor)
            assert abs(third - mutant) > 1e-3 * abs(third), factor


class TestBlocks:
    """One-hot features, implied and spelled out: P blocks of K, and one block of PK."""

    blocks, full = expand(BANDIT.at)(THETA), expand(SPELLED_OUT.at)(THETA)
    num_blocks = len(BANDIT.offsets)

    def test_shapes(self):
        assert self.blocks.hessian.shape == (3, 4, 4)
        assert self.full.hessian.shape == (1, 12, 12)

    def test_gradient_and_objective(self):
        np.testing.assert_allclose(self.blocks.objective, self.full.objective, **EXACT)
        np.testing.assert_allclose(
            self.blocks.gradient.ravel(), self.full.gradient.ravel(), **EXACT
        )

    def test_hessian_is_zero_between_blocks(self):
        np.testing.assert_allclose(assembled(self.blocks.hessian), self.full.hessian[0], **EXACT)

    def test_second_moments_are_zero_between_blocks(self, rng):
        weights = rng.normal(size=BANDIT.offsets.shape)
        ours, theirs = self.blocks.score_moments, self.full.score_moments
        np.testing.assert_allclose(
            assembled(ours.gradient_second_moment), theirs.gradient_second_moment[0], **EXACT
        )
        np.testing.assert_allclose(
            assembled(ours.weighted_score_covariance(weights)),
            theirs.weighted_score_covariance(weights)[0],
            **EXACT,
        )

    def test_drift_sees_nothing_between_blocks(self, rng):
        covariance = symmetric(rng, 12)
        ours = self.blocks.drift(diagonal_blocks(covariance, self.num_blocks))
        np.testing.assert_allclose(ours.ravel(), self.full.drift(covariance[None])[0], **EXACT)

    def test_the_rest_of_the_moments(self):
        ours, theirs = self.blocks.score_moments, self.full.score_moments
        for name in ("value", "optimal_baseline", "mean_reward", "centred_square_reward",
                     "reward_variance"):  # fmt: skip
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), **EXACT)


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3)], ids=str)
def test_drift_of_many_covariances_at_once(problem, leading, rng):
    """Would catch: an axis of covariances taken for that of prompts; 3 = P for the tabular one."""
    expansion = expand(problem[0].at)(problem[1])
    blocks = expansion.hessian.shape
    covariances = symmetric(rng, *leading, *blocks[:-1])
    together = expansion.drift(covariances)
    assert together.shape == (*leading, *blocks[:-1])
    for index in np.ndindex(leading):
        np.testing.assert_allclose(together[index], expansion.drift(covariances[index]), **EXACT)


class TestScoreMoments:
    def test_weighted_score_covariance_against_a_loop(self, problem, rng):
        bandit, theta = problem
        weights = rng.normal(size=bandit.offsets.shape)
        number = len(bandit.reward_levels)
        full = 0.0
        for x, prob in enumerate(bandit.prompt_probs):
            for cell, (chance, score, _) in enumerate(cells(bandit, theta, x)):
                full = full + prob * chance * weights[x, cell // number] * np.outer(score, score)
        moments = expand(bandit.at)(theta).score_moments
        num_blocks = len(moments.gradient)
        obtained = moments.weighted_score_covariance(weights)
        np.testing.assert_allclose(obtained, diagonal_blocks(full, num_blocks), **EXACT)

    def test_against_loops(self, problem):
        bandit, theta = problem
        moments, known = expand(bandit.at)(theta).score_moments, naive_moments(bandit, theta)
        second = sum(
            prob * np.outer(gradient, gradient)
            for prob, gradient in zip(bandit.prompt_probs, known["gradient"], strict=True)
        )
        obtained = moments.gradient_second_moment
        np.testing.assert_allclose(obtained, diagonal_blocks(second, len(obtained)), **EXACT)
        gradient = bandit.prompt_probs @ known["gradient"]
        np.testing.assert_allclose(moments.gradient.ravel(), gradient, **EXACT)
        for name in ("value", "reward_variance"):
            np.testing.assert_allclose(getattr(moments, name), known[name], **EXACT)
        mean = moments.gradient
        spread = diagonal_blocks(second, len(obtained)) - mean[:, :, None] * mean[:, None, :]
        np.testing.assert_allclose(moments.gradient_covariance, spread, **EXACT)
        deviations = bandit.reward_levels - known["value"][:, None]
        pairs = zip(bandit.reward_probs, deviations, strict=True)
        square = [[row @ np.square(deviation) for row in rows] for rows, deviation in pairs]
        np.testing.assert_allclose(moments.centred_square_reward, square, **EXACT)


class TestPrompts:
    """What the law of epochs asks of a bandit with features."""

    @pytest.fixture
    def problem(self):
        return random_problem(np.random.default_rng(42), **PROBLEMS["features"])

    def test_prompt_gradients_against_a_loop(self, problem):
        obtained = expand(problem[0].at)(problem[1]).prompt_gradients
        np.testing.assert_allclose(obtained, naive_moments(*problem)["gradient"], **EXACT)

    def test_mean_hessian_product_against_a_loop(self, problem, rng):
        bandit, theta = problem
        vectors = rng.normal(size=(len(bandit.prompt_probs), bandit.dimension))
        hessians = [naive_hessian(bandit, theta, x) for x in range(len(vectors))]
        expected = sum(
            prob * hessian @ vector
            for prob, hessian, vector in zip(bandit.prompt_probs, hessians, vectors, strict=True)
        )
        obtained = expand(bandit.at)(theta).mean_hessian_product(vectors)
        np.testing.assert_allclose(obtained, expected, **EXACT)
        mutant = np.einsum("p,pij,pj->i", np.full(4, 0.25), hessians, vectors)
        assert np.abs(obtained - mutant).max() > 1e-3

    def test_the_same_vector_at_every_prompt_meets_the_hessian(self, problem, rng):
        expansion = expand(problem[0].at)(problem[1])
        vector = rng.normal(size=problem[0].dimension)
        obtained = expansion.mean_hessian_product(np.tile(vector, (4, 1)))
        np.testing.assert_allclose(obtained, expansion.hessian[0] @ vector, **EXACT)


def test_a_certain_policy_has_no_derivatives():
    """Where π(y∣x) rounds to 1 nothing moves, and nothing is divided by zero."""
    bandit = SoftmaxBandit.tabular([0.0, 1.0], [[[0.3, 0.7], [0.6, 0.4]]], offsets=[[0.0, -1e4]])
    expansion = Expansion(bandit.at(np.zeros(2)))
    assert not expansion.gradient.any() and not expansion.hessian.any()
    assert not expansion.drift(np.eye(2)[None]).any()
    assert not expansion.score_moments.weighted_score_covariance(np.ones((1, 2))).any()
