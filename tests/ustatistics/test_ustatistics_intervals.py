"""Intervals and standard errors against simulation, judged in standard errors."""

from __future__ import annotations

import numpy as np
import pytest

from ustat_grpo.noise.interval import mean_interval
from ustat_grpo.ustatistics import (
    confidence_interval,
    covariance_kernel,
    gini_kernel,
    hoeffding,
    incomplete_u_statistic,
    jackknife_variance,
    u_statistic,
    variance_components,
    variance_estimate,
    variance_kernel,
)

RNG_SEED = 20260301
# E|X − X′| of standard normals, and their variance.
NORMAL_MEANS = np.array([2 / np.sqrt(np.pi), 1.0])


def gini_and_variance(a, b):
    distance = np.abs(a - b)
    return np.stack([distance, distance**2 / 2], axis=-1)


def normal_sample(count=30):
    return np.random.default_rng(RNG_SEED).normal(size=count)


class TestConfidenceInterval:
    def test_is_estimate_plus_minus_quantile_times_error(self):
        from scipy.stats import norm, t

        x = normal_sample()
        jackknife = confidence_interval(x, gini_kernel, level=0.9)
        assert jackknife.estimate == pytest.approx(u_statistic(x, gini_kernel), rel=1e-12)
        error = np.sqrt(jackknife_variance(x, gini_kernel))
        assert jackknife.std_error == pytest.approx(error, rel=1e-12)
        assert jackknife.high - jackknife.estimate == pytest.approx(t.ppf(0.95, 29) * error)
        normal = confidence_interval(x, gini_kernel, level=0.9, method="normal")
        error = np.sqrt(variance_estimate(x, gini_kernel))
        assert normal.estimate - normal.low == pytest.approx(norm.ppf(0.95) * error)

    @pytest.mark.slow  # test_ustatistics_coverage measures it of a closed form of the same
    @pytest.mark.parametrize("method", ["jackknife", "normal"])
    def test_coverage(self, method):
        """2000 samples of n = 200: |z| ≤ 4 spans coverage 0.930 to 0.970.

        Smallest wrong answer caught: standard errors 8 % too small or 11 % too large.
        The mutant 2 Var h₁ for 4 Var h₁ covers 0.834. The true coverage here is a
        little low, 0.942 to 0.948 in 8000 runs of another seed; at n = 30 it is 0.90 to
        0.94, the variance being the harder target of the two.
        """
        rng = np.random.default_rng(RNG_SEED)
        runs = 2000
        hits, mutant_hits = np.zeros(2), np.zeros(2)
        for _ in range(runs):
            interval = confidence_interval(rng.normal(size=200), gini_and_variance, method=method)
            error = np.abs(interval.estimate - NORMAL_MEANS)
            half_width = interval.high - interval.estimate
            hits += error <= half_width
            mutant_hits += error <= half_width / np.sqrt(2)
        standard_error = np.sqrt(0.95 * 0.05 / runs)
        assert (np.abs(hits / runs - 0.95) <= 4 * standard_error).all()
        assert (np.abs(mutant_hits / runs - 0.95) > 4 * standard_error).all()

    def test_error_is_real_when_the_unbiased_variance_is_negative(self):
        coin = np.tile([0.0, 1.0], 5)  # balanced: the variance kernel looks degenerate

        def kernel(a, b):
            return (a - b) ** 2 / 2

        assert variance_estimate(coin, kernel) < 0
        interval = confidence_interval(coin, kernel, method="normal")
        bound = variance_components(coin, kernel).kernel_variance / 45
        assert interval.std_error == pytest.approx(np.sqrt(bound), rel=1e-12)
        assert confidence_interval(coin, kernel).std_error >= 0

    @pytest.mark.parametrize(
        ("count", "options", "message"),
        [
            (9, {"level": 1.0}, r"level must be inside \(0, 1\), got 1.0"),
            (9, {"method": "bayes"}, "must be 'jackknife', 'normal' or 'skewness', got 'bayes'"),
            (3, {"method": "normal"}, "at least 4 observations for a normal interval, got 3"),
            (2, {}, "at least 3 observations for a jackknife interval, got 2"),
            (2, {"method": "skewness"}, "at least 3 observations for a skewness interval, got 2"),
        ],
    )
    def test_errors(self, count, options, message):
        with pytest.raises(ValueError, match=message):
            confidence_interval(normal_sample(count), gini_kernel, **options)


def exponential_sample(count=30):
    return np.random.default_rng(RNG_SEED).exponential(size=count)


def skewness_interval(sample, kernel, **options):
    return confidence_interval(sample, kernel, method="skewness", **options)


def ends(interval):
    return np.array([interval.low, interval.high])


class TestSkewness:
    def test_of_a_mean_is_that_of_the_noise_estimates(self):
        x = exponential_sample()
        found = skewness_interval(x, lambda a, b: (a + b) / 2, level=0.9)
        assert ends(found) == pytest.approx(mean_interval(x, 0.9), rel=1e-12)

    @pytest.mark.parametrize("kernel", [gini_kernel, variance_kernel])
    def test_is_that_of_the_pseudo_values(self, kernel):
        """n U_n − (n−1) U_{−i}, by leaving out each observation."""
        x = exponential_sample(12)
        left_out = np.array([u_statistic(np.delete(x, i), kernel) for i in range(12)])
        pseudo_values = 12 * u_statistic(x, kernel) - 11 * left_out
        found = skewness_interval(x, kernel)
        assert ends(found) == pytest.approx(mean_interval(pseudo_values, 0.95), rel=1e-11)

    def test_contains_the_jackknifes_and_is_longer_on_one_side_only(self):
        x = exponential_sample()
        jackknife, found = confidence_interval(x, gini_kernel), skewness_interval(x, gini_kernel)
        assert (found.estimate, found.std_error) == (jackknife.estimate, jackknife.std_error)
        assert found.low == jackknife.low
        assert found.high - jackknife.high > 0.2 * found.std_error
        assert found.method == "skewness"

    def test_without_skewness_is_the_jackknifes(self):
        half = normal_sample(10)
        mirrored = np.concatenate([half, -half])
        found = skewness_interval(mirrored, lambda a, b: a + b)
        jackknife = confidence_interval(mirrored, lambda a, b: a + b)
        assert ends(found) == pytest.approx(ends(jackknife), rel=1e-12)

    @pytest.mark.parametrize("factor", [3.0, -0.5])
    def test_follows_location_and_scale(self, factor):
        """The variance scales with the square, Gini's difference with |factor|; neither moves."""
        x = exponential_sample()
        for kernel, power in ((variance_kernel, 2), (gini_kernel, 1)):
            expected = abs(factor) ** power * ends(skewness_interval(x, kernel))
            found = ends(skewness_interval(factor * x + 7, kernel))
            assert found == pytest.approx(expected, rel=1e-11)

    def test_of_a_reflected_kernel_is_reflected(self):
        """Would catch: an interval that is longer on the same side whatever the skewness."""
        x, z = np.random.default_rng(RNG_SEED).exponential(size=(2, 30))
        found = skewness_interval((x[:, None], z), covariance_kernel)
        reflected = skewness_interval((x[:, None], -z), covariance_kernel)
        assert (reflected.low, reflected.high) == (-found.high, -found.low)
        assert found.high - found.estimate != pytest.approx(found.estimate - found.low, rel=0.01)

    def test_coordinates_have_intervals_of_their_own(self):
        x = exponential_sample()
        both = skewness_interval(x, gini_and_variance)
        alone = [skewness_interval(x, kernel) for kernel in (gini_kernel, variance_kernel)]
        assert both.low == pytest.approx([each.low for each in alone], rel=1e-12)
        assert both.high == pytest.approx([each.high for each in alone], rel=1e-12)

    def test_of_constant_data_is_a_point(self):
        found = skewness_interval(np.full(5, 0.1), variance_kernel)
        assert (found.low, found.high, found.std_error) == (0, 0, 0)

    def test_nan_propagates_in_its_coordinate_alone(self):
        x = np.stack([exponential_sample(), exponential_sample()], axis=1)
        x[3, 1] = np.nan
        found = skewness_interval(x, gini_kernel)
        assert np.isnan(ends(found)).tolist() == [[False, True], [False, True]]


class TestUnits:
    """Squares of the kernel's values are no doubles here; values, errors and ends are."""

    @pytest.mark.parametrize("exponent", [-330, 330])  # about 1e±100, values 1e±200
    @pytest.mark.parametrize("method", ["jackknife", "normal", "skewness"])
    def test_of_an_interval_change_no_digit(self, exponent, method):
        x = exponential_sample()
        found = confidence_interval(np.ldexp(x, exponent), variance_kernel, method=method)
        expected = confidence_interval(x, variance_kernel, method=method)
        for name in ("std_error", "low", "high"):
            in_units = np.ldexp(getattr(expected, name), 2 * exponent)
            assert getattr(found, name) == pytest.approx(in_units, rel=1e-13, abs=0)

    @pytest.mark.parametrize(("exponent", "variance"), [(-330, 0.0), (330, np.inf)])
    def test_of_an_incomplete_statistics_error_change_no_digit(self, exponent, variance):
        x = exponential_sample()
        found, expected = (
            incomplete_u_statistic(
                sample, variance_kernel, num_pairs=60, rng=np.random.default_rng(RNG_SEED)
            )
            for sample in (np.ldexp(x, exponent), x)
        )
        in_units = np.ldexp(expected.std_error, 2 * exponent)
        assert found.std_error == pytest.approx(in_units, rel=1e-13, abs=0)
        assert found.variance == variance


class TestIncomplete:
    @pytest.mark.parametrize("design", ["without_replacement", "with_replacement"])
    def test_variance_law_and_its_estimate(self, design):
        """Var Ũ over draws of data and pairs, n = 12, M = 20, 2500 runs.

        The standard error of the simulated variance is about 3 %, so |z| ≤ 4 catches an
        error of 12 %. Without the sampling of pairs (Var U_n alone) the law is a third short.
        """
        support, probs = np.array([0.0, 1.0, 3.0]), np.array([0.5, 0.3, 0.2])
        split = hoeffding(gini_kernel, support, probs)
        rng = np.random.default_rng(RNG_SEED)
        runs, count, draws, total = 2500, 12, 20, 66
        results = np.empty((runs, 2))
        for run in range(runs):
            sample = rng.choice(support, size=count, p=probs)
            drawn = incomplete_u_statistic(
                sample, gini_kernel, num_pairs=draws, rng=rng, design=design
            )
            results[run] = drawn.estimate - split.mean, drawn.variance
        rest = (total - draws) / (total - 1) if design == "without_replacement" else 1.0
        kernel_variance = 2 * split.first_variance + split.second_variance
        complete = split.variance(count)
        law = complete + (kernel_variance - complete) * rest / draws

        squared = results[:, 0] ** 2
        for measured, expected in [
            (results[:, 0], 0.0),
            (squared, law),
            (results[:, 1], law),
        ]:
            z = (measured.mean() - expected) / (measured.std() / np.sqrt(runs))
            assert abs(z) <= 4
        assert (squared.mean() - complete) / (squared.std() / np.sqrt(runs)) > 4

    def test_standard_error_covers(self):
        """1500 runs, n = 300, M = 900: |z| ≤ 4 spans coverage 0.927 to 0.973 of ±1.96 errors.

        The pairs-only standard error, which forgets the data, covers about 0.7.
        """
        rng = np.random.default_rng(RNG_SEED)
        runs, hits = 1500, np.zeros(2)
        for _ in range(runs):
            x = rng.normal(size=300)
            result = incomplete_u_statistic(x, gini_and_variance, num_pairs=900, rng=rng)
            hits += np.abs(result.estimate - NORMAL_MEANS) <= 1.959964 * result.std_error
        assert (np.abs(hits / runs - 0.95) <= 4 * np.sqrt(0.95 * 0.05 / runs)).all()
