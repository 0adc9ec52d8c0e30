"""The law of a weighted sum of χ²₁ against its closed forms, Imhof's integral and draws."""

import dataclasses
import re

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import ive

from ustat_grpo.laws import weighted_chi_squared
from ustat_grpo.laws.weighted_chi_squared import WeightedChiSquared

CLOSED_FORM = 1e-11
TINY = 10.0 ** -np.arange(10, 250, 20)
CASES = {
    "one": [0.7],
    "a small companion": [1.0, 1e-6],
    "three": [0.6, 0.3, 0.1],
    "decades": 10.0 ** -np.arange(7),
    "one above a crowd": [1.0] + [0.5] * 100,
    "hundred": np.random.default_rng(1).dirichlet(np.ones(100)),
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def law(request):
    return WeightedChiSquared(request.param)


def body(law):
    """Points from far below the mean to far above."""
    return np.concatenate(
        [law.mean * np.geomspace(1e-3, 1, 20), law.mean * np.linspace(1.01, 6, 20)]
    )


def imhof(weights, x):
    """P(Q > x) by Imhof's real integral, for enough weights that it converges quickly."""
    weights = np.asarray(weights)

    def integrand(u):
        angle = np.arctan(weights * u).sum() / 2 - x * u / 2
        return np.sin(angle) / (u * np.prod((1 + (weights * u) ** 2) ** 0.25))

    return 0.5 + quad(integrand, 0, np.inf, limit=1000, epsabs=1e-12, epsrel=1e-12)[0] / np.pi


class TestKnownCases:
    @pytest.mark.parametrize("rank", [1, 2, 3, 10, 100, 1000])
    def test_equal_weights_are_a_scaled_chi_squared(self, rank):
        """Would catch: a lost pole, a node too few; both tails to 1e-230, relative."""
        law, known = WeightedChiSquared(np.full(rank, 0.7)), stats.chi2(rank, scale=0.7)
        levels = np.concatenate([TINY, np.linspace(0.001, 0.999, 40)])
        x = np.concatenate([known.ppf(levels), known.isf(TINY)])
        x = x[x > 1e-290]
        np.testing.assert_allclose(law.cdf(x), known.cdf(x), rtol=CLOSED_FORM)
        np.testing.assert_allclose(law.sf(x), known.sf(x), rtol=CLOSED_FORM)
        np.testing.assert_allclose(law.pdf(x), known.pdf(x), rtol=CLOSED_FORM)
        levels = levels[levels > 1e-120]
        np.testing.assert_allclose(law.ppf(levels), known.ppf(levels), rtol=CLOSED_FORM)

    @pytest.mark.parametrize("small", [0.9, 0.3, 1e-3, 1e-6])
    def test_two_weights_each_twice_are_two_exponentials(self, small):
        law = WeightedChiSquared([small, 1.0, 1.0, small])
        x = body(law)
        terms = np.exp(-x / 2), np.exp(-x / (2 * small))
        sf = (terms[0] - small * terms[1]) / (1 - small)
        pdf = (terms[0] - terms[1]) / (2 * (1 - small))
        np.testing.assert_allclose(law.sf(x), sf, rtol=CLOSED_FORM)
        np.testing.assert_allclose(law.pdf(x), pdf, rtol=CLOSED_FORM)

    @pytest.mark.parametrize("small", [1.0, 0.5, 1e-3, 1e-6])
    def test_density_of_two_weights_is_a_bessel_function(self, small):
        law = WeightedChiSquared([1.0, small])
        x = np.concatenate([body(law), np.geomspace(1e-12, 1e-3, 20)])
        # exp(−x(1+w)/4w)·I₀(x(1−w)/4w)/(2√w), with the exponential growth of I₀ taken out.
        known = np.exp(-x / 2) * ive(0, x * (1 - small) / (4 * small)) / (2 * np.sqrt(small))
        np.testing.assert_allclose(law.pdf(x), known, rtol=CLOSED_FORM)

    @pytest.mark.parametrize(("x", "known"), [(0.1, 0.9458), (0.7, 0.5064), (2.0, 0.1240)])
    def test_against_the_table_of_imhof(self, x, known):
        """Biometrika 48 (1961), Table 1, Q₁."""
        assert WeightedChiSquared(CASES["three"]).sf(x) == pytest.approx(known, abs=5e-5)

    @pytest.mark.parametrize("name", ["one above a crowd", "hundred"])
    def test_many_weights_against_the_integral_of_imhof(self, name):
        law = WeightedChiSquared(CASES[name])
        for x in law.mean + np.linspace(-2, 4, 5) * np.sqrt(law.variance):
            assert law.sf(x) == pytest.approx(imhof(law.weights, x), abs=1e-10)

    def test_a_negligible_weight_changes_nothing(self):
        x = np.linspace(0.01, 20, 50)
        many = WeightedChiSquared([1.0, *[1e-15] * 5]).cdf(x)
        np.testing.assert_allclose(many, stats.chi2(1).cdf(x), atol=1e-12)


class TestConsistency:
    def test_twice_the_nodes_change_nothing(self, law, monkeypatch):
        x = body(law)
        before = law.cdf(x), law.sf(x), law.pdf(x)
        monkeypatch.setattr(weighted_chi_squared, "NODES", 2 * weighted_chi_squared.NODES)
        for coarse, fine in zip(before, (law.cdf(x), law.sf(x), law.pdf(x)), strict=True):
            np.testing.assert_allclose(coarse, fine, rtol=1e-12)

    def test_the_tails_sum_to_one_and_meet_at_the_mean(self, law):
        around = law.mean * (1 + np.array([-1e-9, 0.0, 1e-9]))
        np.testing.assert_allclose(law.cdf(around) + law.sf(around), 1, rtol=1e-15)
        np.testing.assert_allclose(
            np.diff(law.cdf(around)), law.pdf(law.mean) * law.mean * 1e-9, rtol=1e-4
        )

    def test_density_is_the_derivative_of_the_distribution(self, law):
        x = body(law)
        step = 1e-4 * x
        points = x + np.multiply.outer([-2, -1, 1, 2], step)
        slope = np.array([1, -8, 8, -1]) @ law.cdf(points) / (12 * step)
        np.testing.assert_allclose(slope, law.pdf(x), rtol=1e-6, atol=1e-9 / law.mean)

    def test_quantiles_invert_the_distribution(self, law):
        levels = np.concatenate([[1e-100, 1e-12], np.linspace(0.01, 0.99, 15), [1 - 1e-9]])
        np.testing.assert_allclose(law.cdf(law.ppf(levels)), levels, rtol=1e-12)
        np.testing.assert_allclose(law.sf(law.ppf(levels)), 1 - levels, rtol=1e-12)
        x = law.mean + np.sqrt(law.variance) * np.linspace(-0.6, 4, 8)
        np.testing.assert_allclose(law.ppf(law.cdf(x)), x, rtol=1e-8)

    def test_mean_by_quadrature(self):
        """E[Q] = ∫ P(Q > x) dx and Var Q from ∫ 2x P(Q > x) dx."""
        nodes, weights = np.polynomial.legendre.leggauss(200)
        for name in ("one", "a small companion", "three"):
            law = WeightedChiSquared(CASES[name])
            edge = law.ppf(1 - 1e-15) * 1.2
            # x = edge·t⁴ resolves the root and the small scales at zero.
            t = (nodes + 1) / 2
            x, dx = edge * t**4, weights / 2 * 4 * edge * t**3
            mean = dx @ law.sf(x)
            assert mean == pytest.approx(law.mean, rel=1e-8)
            assert dx @ (2 * x * law.sf(x)) - mean**2 == pytest.approx(law.variance, rel=1e-8)

    def test_scale(self, law):
        """c·Q has the weights c·w, at any scale that a float can hold."""
        for scale in (1e-100, 3.0, 1e100):
            scaled = WeightedChiSquared(law.weights * scale)
            assert scaled.cdf(0.7 * scale) == pytest.approx(law.cdf(0.7), rel=1e-12)
            assert scaled.pdf(0.7 * scale) * scale == pytest.approx(law.pdf(0.7), rel=1e-12)
            assert scaled.ppf(0.3) / scale == pytest.approx(law.ppf(0.3), rel=1e-12)

    @pytest.mark.parametrize("scale", [1e-200, 1e-300, 1e160, 1e300])
    def test_quantiles_at_any_scale(self, law, scale):
        """Would catch: squares of weights that under- or overflow, whose quantiles were NaN."""
        levels = np.array([0.01, 0.5, 0.99])
        scaled = WeightedChiSquared(law.weights * scale)
        np.testing.assert_allclose(scaled.ppf(levels), law.ppf(levels) * scale, rtol=1e-9)


class TestDraws:
    def test_shares_below_quantiles(self, law):
        """Would catch: a share off by 0.012."""
        assert np.abs(share_scores(law, law.weights, num_draws=30_000)).max() <= 4

    @pytest.mark.parametrize("factors", [(1.05, 1, 1), (1, 1.1, 1), (1, 1, 1.3)])
    def test_draws_of_other_weights_are_rejected(self, factors):
        """Would catch: the first weight off by 5 %."""
        law = WeightedChiSquared(CASES["three"])
        assert np.abs(share_scores(law, law.weights * factors)).max() > 4

    def test_shape_and_stream(self):
        law = WeightedChiSquared([0.5, 2.0])
        draws = law.rvs((3, 4), rng=np.random.default_rng(0))
        assert draws.shape == (3, 4) and law.rvs(5, rng=np.random.default_rng(0)).shape == (5,)
        np.testing.assert_array_equal(draws, law.rvs((3, 4), rng=np.random.default_rng(0)))


def share_scores(law, weights, num_draws=100_000):
    """z-scores of the share of draws below quantiles of the law."""
    levels = np.array([0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
    draws = WeightedChiSquared(weights).rvs(num_draws, rng=np.random.default_rng(7))
    shares = np.array([(draws <= x).mean() for x in law.ppf(levels)])
    return (shares - levels) / np.sqrt(levels * (1 - levels) / num_draws)


class TestEdges:
    def test_outside_the_support(self, law):
        x = np.array([-np.inf, -1.0, 0.0, np.inf])
        np.testing.assert_array_equal(law.cdf(x), [0, 0, 0, 1])
        np.testing.assert_array_equal(law.sf(x), [1, 1, 1, 0])
        np.testing.assert_array_equal(law.pdf(x), 0)
        np.testing.assert_array_equal(law.ppf([0.0, 1.0]), [0, np.inf])
        assert np.isnan(law.cdf(np.nan))

    def test_extreme_points_neither_warn_nor_leave_the_unit_interval(self, law):
        x = np.array([5e-324, 1e-308, 1e-300, 1e-200, 1e5, 1e200, 1.7e308])
        for values in (law.cdf(x), law.sf(x)):
            assert ((values >= 0) & (values <= 1)).all()
        assert law.ppf(5e-324) >= 0 and np.isfinite(law.ppf(1 - 1e-16))

    def test_numbers_in_numbers_out(self):
        law = WeightedChiSquared(CASES["three"])
        for value in (law.cdf(1), law.sf(1), law.pdf(1), law.ppf(0.5), law.mean, law.variance):
            assert isinstance(value, float)
        assert law.variance == pytest.approx(0.92) and law.mean == pytest.approx(1)

    def test_arrays_keep_their_shape(self):
        law = WeightedChiSquared(CASES["three"])
        x = np.linspace(-1, 3, 12).reshape(3, 4)
        for method in (law.cdf, law.sf, law.pdf):
            assert method(x).shape == (3, 4)
            assert method(np.empty((0, 2))).shape == (0, 2)
        assert law.ppf(np.full((2, 1), 0.3)).shape == (2, 1)

    def test_blocks_do_not_show(self, monkeypatch):
        law = WeightedChiSquared(CASES["three"])
        x = np.linspace(0.1, 3, 23)
        whole, quantiles = law.cdf(x), law.ppf(x / 4)
        monkeypatch.setattr(weighted_chi_squared, "BLOCK", 5)
        np.testing.assert_array_equal(law.cdf(x), whole)
        np.testing.assert_allclose(law.ppf(x / 4), quantiles, rtol=1e-12)

    def test_weights_are_kept_apart(self):
        given = np.array([1.0, 2.0])
        law = WeightedChiSquared(given)
        given[0] = 5.0
        assert law.mean == 3
        with pytest.raises(ValueError, match="read-only"):
            law.weights[0] = 2.0
        with pytest.raises(dataclasses.FrozenInstanceError):
            law.weights = given


class TestErrors:
    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ([1.0, 0.0], "weights must be positive, got a smallest weight of 0"),
            ([1.0, -0.5], "weights must be positive, got a smallest weight of -0.5"),
            ([1.0, np.nan], "weights must be finite, got 1 NaN or infinity"),
            ([], "weights must be 1-dimensional and not empty, got shape (0,)"),
            (2.0, "weights must be 1-dimensional and not empty, got shape ()"),
        ],
    )
    def test_weights(self, weights, message):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            WeightedChiSquared(weights)

    @pytest.mark.parametrize("q", [-0.1, 1.1, np.nan])
    def test_levels_are_probabilities(self, q):
        with pytest.raises(ValueError, match=f"^{re.escape(f'q must lie in [0, 1], got {q:g}')}$"):
            WeightedChiSquared([1.0]).ppf(q)

    @pytest.mark.parametrize("rng", [None, 3, np.random])
    def test_draws_need_a_generator(self, rng):
        with pytest.raises(TypeError, match=r"^rng must be a numpy\.random\.Generator, got "):
            WeightedChiSquared([1.0]).rvs(2, rng=rng)
