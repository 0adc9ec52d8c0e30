"""Variance of U-statistics, by summing over every possible sample: exact to rounding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ustat_grpo.ustatistics import (
    VarianceComponents,
    covariance_kernel,
    covariance_variance_components,
    covariance_variance_estimate,
    gini_kernel,
    hoeffding,
    hoeffding_estimate,
    incomplete_u_statistic,
    jackknife_variance,
    second_projection,
    u_statistic,
    variance_components,
    variance_estimate,
    variance_kernel,
)

RNG_SEED = 20260301
SUPPORT, PROBS = np.array([-1.0, 0.5, 2.0]), np.array([0.2, 0.5, 0.3])


def moments(a, b):
    return np.stack([a * b, (a - b) ** 2, a + b], axis=-1)


def draw(shape):
    return np.random.default_rng(RNG_SEED).normal(size=shape)


def every_sample(count):
    """Every sample of the finite distribution with its probability."""
    for atoms in itertools.product(range(len(SUPPORT)), repeat=count):
        yield SUPPORT[list(atoms)], float(np.prod(PROBS[list(atoms)]))


def expectation(count, statistic):
    """Exact E statistic(X_1, ..., X_n)."""
    return np.sum([weight * statistic(sample) for sample, weight in every_sample(count)], axis=0)


def exact_variance(kernel, count):
    mean = hoeffding(kernel, SUPPORT, PROBS).mean

    def squared_error(sample):
        error = np.atleast_1d(u_statistic(sample, kernel) - mean)
        return np.outer(error, error)

    return expectation(count, squared_error)


def close(left, right):
    np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12)


class TestHoeffding:
    @pytest.mark.parametrize("kernel", [variance_kernel, gini_kernel, moments])
    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_variance_law_by_enumeration(self, kernel, count):
        split = hoeffding(kernel, SUPPORT, PROBS)
        close(expectation(count, lambda x: u_statistic(x, kernel)), split.mean)
        close(np.atleast_2d(split.variance(count)), exact_variance(kernel, count))
        close(split.total_variance(count), np.trace(exact_variance(kernel, count)))

    @pytest.mark.parametrize(
        "mutant",
        [
            lambda first, second, n: 2 * first / n + 2 * second / (n * (n - 1)),
            lambda first, second, n: 4 * first / n + 2 * second / n**2,
            lambda first, second, n: 4 * first / n + second / (n * (n - 1)),
        ],
    )
    def test_wrong_constants_fail_the_enumeration(self, mutant):
        split = hoeffding(gini_kernel, SUPPORT, PROBS)
        wrong = mutant(split.first_variance, split.second_variance, 4)
        assert abs(wrong - exact_variance(gini_kernel, 4).item()) > 1e-3

    def test_parts_are_centred_and_add_up(self):
        split = hoeffding(moments, SUPPORT, PROBS)
        close(PROBS @ split.first, 0)
        close(np.einsum("b,abq->aq", PROBS, split.second), 0)
        parts = split.mean + split.first[:, None] + split.first[None] + split.second
        close(parts, moments(SUPPORT[:, None], SUPPORT[None]))
        close(split.second_variance[2], 0)  # a + b has no second-order part

    def test_degenerate_kernel(self):
        split = hoeffding(lambda a, b: a * b, [-1, 1], [0.5, 0.5])
        assert split.mean == split.first_variance == 0
        assert split.second_variance == 1
        close(split.variance(7), 2 / (7 * 6))

    def test_grpo_components(self):
        """4 tr Var h₁ = τ − ‖g‖² and 2 tr Var ζ₂ = sσ² + ‖g‖² when scores are centred."""
        rng = np.random.default_rng(RNG_SEED)
        probs = rng.dirichlet(np.ones(5))
        scores, rewards = rng.normal(size=(5, 2)), rng.random(5)
        scores -= probs @ scores
        advantages = rewards - probs @ rewards
        gradient, norms = probs @ (scores * rewards[:, None]), np.sum(scores**2, axis=1)
        split = hoeffding(covariance_kernel, (scores, rewards), probs)
        close(split.mean, gradient)
        first = probs @ (norms * advantages**2) - gradient @ gradient
        second = (probs @ norms) * (probs @ advantages**2) + gradient @ gradient
        close(4 * np.trace(split.first_variance), first)
        close(2 * np.trace(split.second_variance), second)
        close(split.total_variance(8), first / 8 + second / (8 * 7))


class TestEstimates:
    @pytest.mark.parametrize("kernel", [gini_kernel, moments])
    def test_variance_estimates_are_unbiased(self, kernel):
        split = hoeffding(kernel, SUPPORT, PROBS)
        close(expectation(4, lambda x: variance_estimate(x, kernel)), split.variance(4))
        close(
            expectation(4, lambda x: hoeffding_estimate(x, kernel).first_variance),
            split.first_variance,
        )
        close(
            expectation(4, lambda x: hoeffding_estimate(x, kernel).second_variance),
            split.second_variance,
        )
        close(
            expectation(4, lambda x: variance_components(x, kernel).variance(9)),
            split.total_variance(9),
        )

    @pytest.mark.parametrize("kernel", [gini_kernel, moments])
    @pytest.mark.parametrize("count", [3, 4])
    def test_jackknife_bias_is_the_stated_one(self, kernel, count):
        split = hoeffding(kernel, SUPPORT, PROBS)
        bias = 2 * split.second_variance / ((count - 1) * (count - 2))
        close(
            expectation(count, lambda x: jackknife_variance(x, kernel)),
            split.variance(count) + bias,
        )

    def test_projections_are_unbiased_given_their_observations(self):
        split = hoeffding(moments, SUPPORT, PROBS)
        first, second = np.zeros_like(split.first), np.zeros_like(split.second)
        for sample, weight in every_sample(4):
            i, j = np.searchsorted(SUPPORT, sample[:2])
            first[i] += weight / PROBS[i] * hoeffding_estimate(sample, moments).first[0]
            pair = second_projection(sample, moments)[0, 1]
            second[i, j] += weight / (PROBS[i] * PROBS[j]) * pair
        close(first, split.first)
        close(second, split.second)

    @pytest.mark.parametrize("block_size", [2, 5, None])
    def test_equal_brute_force(self, block_size):
        x, count = draw(7), 7
        values = moments(x[:, None], x[None])
        estimate = u_statistic(x, moments)
        disjoint = np.mean(
            [np.outer(values[i, j], values[k, m]) for i, j, k, m in
             itertools.permutations(range(count), 4)], axis=0)  # fmt: skip
        close(
            variance_estimate(x, moments, block_size=block_size),
            np.outer(estimate, estimate) - (disjoint + disjoint.T) / 2,
        )
        left_out = np.stack([u_statistic(np.delete(x, i), moments) for i in range(count)])
        deviations = left_out - left_out.mean(axis=0)
        close(
            jackknife_variance(x, moments, block_size=block_size),
            (count - 1) / count * deviations.T @ deviations,
        )
        residual = second_projection(x, moments, block_size=block_size)
        close(residual.sum(axis=1), 0)
        close(residual, residual.swapaxes(0, 1))
        close(hoeffding_estimate(x, moments, block_size=block_size).first.sum(axis=0), 0)

    def test_trace_agrees_with_the_matrix(self):
        x = draw(12)
        trace = np.trace(variance_estimate(x, moments))
        close(variance_components(x, moments).variance(12), trace)
        close(hoeffding_estimate(x, moments).total_variance(12), trace)

    def test_large_mean_does_not_cancel(self):
        x = draw(30)
        shifted = variance_estimate(x, lambda a, b: abs(a - b) + 1e6)
        np.testing.assert_allclose(shifted, variance_estimate(x, gini_kernel), rtol=1e-7)

    def test_constant_kernel_has_no_variance(self):
        assert variance_estimate(draw(9), lambda a, b: np.full((a + b).shape, 0.1)) == 0


class TestCovarianceClosedForm:
    @pytest.mark.parametrize("count", [4, 5, 11])
    def test_equals_the_pairwise_estimate(self, count):
        scores, rewards = draw((2, 3, count, 4)), draw((2, 3, count))
        closed = covariance_variance_estimate(scores, rewards)
        noise = covariance_variance_components(scores, rewards)
        assert closed.shape == (2, 3, 4, 4)
        assert noise.first.shape == (2, 3)
        for index in np.ndindex(2, 3):
            sample = (scores[index], rewards[index])
            close(closed[index], variance_estimate(sample, covariance_kernel))
            generic = variance_components(sample, covariance_kernel)
            close([noise.first[index], noise.second[index]], [generic.first, generic.second])


class TestIncomplete:
    @pytest.mark.parametrize("design", ["without_replacement", "with_replacement"])
    @pytest.mark.parametrize("num_pairs", [5, 7, 9])
    def test_unbiased_given_any_draw_of_pairs(self, design, num_pairs):
        """Pairs depend on the generator alone, so enumerate the data under fixed pairs.

        The complete statistic's formula with drawn rows, (Σ r_i² − Σ h̃²)/N₀, fails here.
        """
        mean = hoeffding(gini_kernel, SUPPORT, PROBS).mean
        for seed in range(3):

            def statistics(sample, seed=seed):
                result = incomplete_u_statistic(
                    sample,
                    gini_kernel,
                    num_pairs=num_pairs,
                    rng=np.random.default_rng(seed),
                    design=design,
                )
                error = result.estimate - mean
                return np.array([error, result.variance - error**2])

            close(expectation(5, statistics), 0)

    def test_all_pairs_give_the_complete_statistic(self):
        x = draw(9)
        result = incomplete_u_statistic(
            x, moments, num_pairs=36, rng=np.random.default_rng(0), block_size=3
        )
        close(result.estimate, u_statistic(x, moments))
        close(result.variance, np.diag(variance_estimate(x, moments)))

    def test_every_pair_is_reached_and_none_with_itself(self):
        index = np.arange(60.0)
        seen = []

        def record(a, b):
            seen.append(np.stack(np.broadcast_arrays(a, b)).reshape(2, -1))
            return abs(a - b)

        incomplete_u_statistic(index, record, num_pairs=1770, rng=np.random.default_rng(0))
        drawn = np.concatenate(seen[3:], axis=1)  # the first three calls probe the kernel
        assert len({tuple(sorted(pair)) for pair in drawn.T}) == 1770
        assert (drawn[0] != drawn[1]).all()

    def test_error_is_unknown_when_no_two_pairs_are_disjoint(self):
        result = incomplete_u_statistic(
            draw(3), gini_kernel, num_pairs=2, rng=np.random.default_rng(0)
        )
        assert np.isfinite(result.estimate)
        assert np.isnan(result.std_error)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: variance_estimate(draw(3), gini_kernel), "at least 4 .* unbiased .*, got 3"),
        (lambda: jackknife_variance(draw(2), gini_kernel), "at least 3 .* jackknife, got 2"),
        (lambda: hoeffding(gini_kernel, SUPPORT, [0.5, 0.5]), r"probs must have shape \(3,\)"),
        (lambda: hoeffding(gini_kernel, SUPPORT, [0.5, 0.6, -0.1]), "probs must be non-neg"),
        (lambda: hoeffding(gini_kernel, SUPPORT, [0.5, 0.5, 0.5]), "add to 1, got"),
        (lambda: hoeffding(lambda a, b: a - b, SUPPORT, PROBS), "kernel must be symmetric"),
        (lambda: VarianceComponents(1.0, 1.0).variance(1), "sample_size must be .* got 1"),
        (lambda: covariance_variance_estimate(draw((5, 2)), draw((5, 2))), "one number an obs"),
        (lambda: covariance_variance_components(draw((3, 2)), draw(3)), "at least 4 .*, got 3"),
    ],
)
def test_errors_quote_parameter_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("num_pairs", "design", "message"),
    [
        (1, "without_replacement", "num_pairs must be at least 2, got 1"),
        (11, "without_replacement", "num_pairs must be at most 10, .* got 11"),
        (5, "systematic", "design must be .* got 'systematic'"),
    ],
)
def test_incomplete_errors(num_pairs, design, message):
    with pytest.raises(ValueError, match=message):
        incomplete_u_statistic(
            draw(5),
            gini_kernel,
            num_pairs=num_pairs,
            rng=np.random.default_rng(0),
            design=design,
        )
