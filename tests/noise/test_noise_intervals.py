"""Intervals: Hall's for means, Fieller's at the boundary for the best group size, coverage."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from support.noise_cases import draw_batch, flat_sample
from ustat_grpo import random_bandit
from ustat_grpo.noise import NoiseEstimate, OutputSample, estimate_noise
from ustat_grpo.noise.interval import excluding_level, mean_interval, optimal_group_size

LEAST = 1 + np.sqrt(2)
COVARIANCE = np.array([[0.04, 0.01, 0.02], [0.01, 0.3, 0.1], [0.02, 0.1, 0.25]])
COUNT = 400
QUANTILE = stats.t(COUNT - 1).ppf(0.975)


def contributions(mean, covariance=COVARIANCE) -> np.ndarray:
    """Without skewness in any direction, with exactly this mean and covariance of the mean."""
    half = np.random.default_rng(0).normal(size=(COUNT // 2, 3))
    both = np.concatenate([half, -half])
    white = both @ np.linalg.inv(np.linalg.cholesky(np.cov(both.T))).T
    return np.asarray(mean) + white @ np.linalg.cholesky(COUNT * covariance).T


def found(mean, covariance=COVARIANCE):
    return optimal_group_size(contributions(mean, covariance), 0.95)


def students_t(size, mean, covariance=COVARIANCE) -> float:
    """T of c₁ − κc₃ at the κ of a group size."""
    contrast = np.array([1, 0, -((size - 1.0) ** -2)])
    return contrast @ mean / np.sqrt(contrast @ covariance @ contrast)


class TestMeans:
    def test_symmetric_contributions_have_students_interval(self):
        """Also of an estimate, in all its components."""
        values = contributions([1.0, 5.0, 8.0])
        expected = stats.t(COUNT - 1, [1.0, 5.0, 8.0], np.sqrt(COVARIANCE.diagonal()))
        estimate = NoiseEstimate(values, 0.9)
        for interval, low, high in zip(estimate.intervals, *expected.interval(0.9), strict=True):
            assert interval == pytest.approx((low, high), rel=1e-9)

    def test_skewed_ones_have_the_longer_of_students_and_halls(self, rng):
        """g(T) at the upper end is the lower quantile, T at the lower end the upper one."""
        values = rng.exponential(size=50)
        low, high = mean_interval(values, 0.95)
        quantile, error = stats.t(49).ppf(0.975), values.std(ddof=1) / np.sqrt(50)
        a = stats.skew(values) / np.sqrt(50)
        t = (values.mean() - high) / error
        assert t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6 == pytest.approx(-quantile, rel=1e-9)
        assert (values.mean() - low) / error == pytest.approx(quantile, rel=1e-9)
        mirrored = mean_interval(-values, 0.95)
        assert mirrored == pytest.approx((-high, -low), rel=1e-12)

    def test_cover_where_students_does_not(self, rng):
        """4000 means of 30 lognormals: |z| ≤ 4 from 94 % allows 1.5 %. Mutant: T alone, at 88 %."""
        draws = rng.lognormal(size=(4000, 30))
        target = np.exp(0.5)
        intervals = [mean_interval(each, 0.95) for each in draws]
        covered = np.mean([low <= target <= high for low, high in intervals])
        assert 0.925 < covered < 0.965
        statistic = (draws.mean(axis=1) - target) / stats.sem(draws, axis=1)
        assert np.mean(np.abs(statistic) <= stats.t(29).ppf(0.975)) < 0.9


class TestBestGroupSize:
    def test_ends_are_where_the_difference_is_just_significant(self):
        """Far from c₁ = 0: |T| of c₁ − κc₃ is the quantile at both ends, less between them."""
        mean = np.array([1.0, 5.0, 8.0])
        value, low, high = found(mean)
        assert value == pytest.approx(1 + np.sqrt(8), rel=1e-12)
        assert students_t(low, mean) == pytest.approx(-QUANTILE, rel=1e-9)
        assert students_t(high, mean) == pytest.approx(QUANTILE, rel=1e-9)
        assert abs(students_t(np.sqrt(low * high), mean)) < QUANTILE
        assert LEAST < low < value < high < np.inf
        assert not found(mean).is_lower_bound

    @pytest.mark.parametrize("side", [1, -1])
    def test_skewed_contributions_end_where_the_interval_of_the_difference_does(self, rng, side):
        """At either κ one end of the interval of the mean of c₁ − κc₃ is zero, to 1e-9 of c₁."""
        values = 1 + side * (rng.exponential(size=(200, 3)) - 1)
        values *= [1.0, 5.0, 8.0]
        _, low, high = optimal_group_size(values, 0.95)
        ends = [
            mean_interval(values[:, 0] - (size - 1) ** -2 * values[:, 2], 0.95)
            for size in (high, low)
        ]
        assert (ends[0].low, ends[1].high) == pytest.approx((0.0, 0.0), abs=1e-9)
        assert LEAST < low < high < np.inf

    def test_is_the_delta_method_when_errors_are_small(self):
        """Against log √(c₃/c₁) ± 1.97 standard errors, at errors of 10⁻³ of c₁: to 1 %."""
        mean, small = np.array([1.0, 5.0, 8.0]), COVARIANCE * 1e-4
        value, low, high = found(mean, small)
        slope = np.array([-0.5, 0, 0.5 / 8])
        margin = QUANTILE * np.sqrt(slope @ small @ slope)
        widths = np.log([high - 1, low - 1]) - np.log(value - 1)
        np.testing.assert_allclose(widths, [margin, -margin], rtol=0.01)

    def test_is_a_lower_bound_where_c1_may_be_zero(self):
        """From 1.65 standard errors on, one-sided, there is an upper end."""
        one_sided = stats.t(COUNT - 1).ppf(0.95) * 0.2
        below, above = found([one_sided * 0.999, 5.0, 8.0]), found([one_sided * 1.001, 5.0, 8.0])
        assert below.is_lower_bound and below.high == np.inf
        assert not above.is_lower_bound and np.isfinite(above.high)
        assert below.low == pytest.approx(above.low, rel=1e-3)
        assert LEAST < below.low < below.value < np.inf

    def test_a_very_negative_c1_leaves_a_finite_lower_bound(self):
        """At −15 standard errors plain Fieller leaves nothing; the bound rises, but slowly."""
        bounds = [found([prompt, 5.0, 8.0]) for prompt in (0.0, -0.2, -3.0)]
        assert all(bound.is_lower_bound and bound.value == np.inf for bound in bounds)
        lows = [bound.low for bound in bounds]
        assert lows == sorted(lows) and lows[-1] < 10 * lows[0]

    def test_no_end_lies_below_the_least_group_size(self):
        """Also where c₁ > c₃/2, which no problem has: the interval is not empty."""
        for prompt in (3.9, 4.0, 7.0):
            value, low, high = found([prompt, 5.0, 8.0])
            assert low == pytest.approx(LEAST, rel=1e-12)
            assert low <= value <= high < np.inf

    @pytest.mark.parametrize(("residual", "value"), [(0.6, LEAST), (-1.0, np.inf)])
    def test_without_a_known_c3_everything_is_possible(self, residual, value):
        estimate = found([1.0, 5.0, residual])
        assert estimate.low == pytest.approx(LEAST) and estimate.is_lower_bound
        assert estimate.value == pytest.approx(value)


class TestOrderByLikelihood:
    # Feldman & Cousins (1998), Table X: x₀ and the ends at 90 % and 95 %.
    TABLE = (
        (-3.0, 0.90, 0.00, 0.26),
        (-3.0, 0.95, 0.00, 0.42),
        (0.0, 0.95, 0.00, 1.96),
        (1.0, 0.90, 0.00, 2.64),
        (2.0, 0.90, 0.58, 3.64),
        (2.0, 0.95, 0.35, 3.96),
    )

    @pytest.mark.parametrize(("observed", "level", "low", "high"), TABLE)
    def test_agrees_with_the_published_table(self, observed, level, low, high):
        """A normal mean that is not negative; the table has two digits."""
        means = np.arange(0, 6, 0.001)
        accepted = [
            mean for mean in means if excluding_level(observed - mean, mean, 10**7) <= level
        ]
        assert (accepted[0], accepted[-1]) == pytest.approx((low, high), abs=0.006)
        assert len(accepted) == round((accepted[-1] - accepted[0]) / 0.001) + 1

    @pytest.mark.parametrize("room", [0.0, 0.3, 1.0, 1.7, 2.5, 6.0])
    def test_keeps_its_level_everywhere(self, room):
        """Over 20 000 quantiles of t with 9 degrees: 95 % to 10⁻³.

        Mutants: the two-sided level of x, and of max(x, 0), which keeps it only far from zero.
        """
        statistics = stats.t(9).ppf((np.arange(20_000) + 0.5) / 20_000)
        levels = np.array([excluding_level(each, room, 9) for each in statistics])
        assert np.mean(levels <= 0.95) == pytest.approx(0.95, abs=1e-3)
        cut = np.maximum(statistics, -room)
        covered = np.mean(np.abs(cut) <= stats.t(9).ppf(0.975))
        assert covered == pytest.approx(0.95 if room > 2.3 else 0.975, abs=1e-3)


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_refuses_a_level_outside(rng, level):
    with pytest.raises(ValueError, match="level must be a finite number and above 0 and below 1"):
        estimate_noise(flat_sample(rng, [3] * 8), level=level)


def test_a_higher_level_is_wider(rng):
    sample = flat_sample(rng, [4] * 20)
    narrow, wide = (estimate_noise(sample, level=level) for level in (0.5, 0.99))
    for inner, outer in zip(narrow.intervals, wide.intervals, strict=True):
        assert outer.low < inner.low < inner.high < outer.high
    assert wide.optimal.low <= narrow.optimal.low <= narrow.optimal.high <= wide.optimal.high


def hits(estimate: NoiseEstimate, truth: np.ndarray) -> list[bool]:
    """Whether each interval holds the truth: c₁, c₂, c₃."""
    return [
        interval.low <= value <= interval.high
        for interval, value in zip(estimate.intervals, truth, strict=True)
    ]


def test_intervals_cover_as_often_as_they_say(rng):
    """500 batches of 64 prompts of four outputs: 95 % intervals cover 91 to 99 % (|z| ≤ 4).

    Mutant: contributions with half their spread cover less than 80 % of c₂ and c₃.
    """
    snapshot = random_bandit(16, 4, group_size_target=5.0, rng=rng).at(np.zeros(64))
    noise = snapshot.noise
    truth = np.array([noise.prompt, noise.oracle, noise.residual])
    each, halved = [], []
    for _ in range(500):
        scores, rewards = draw_batch(snapshot, 64, 4, rng)
        estimate = estimate_noise(OutputSample.from_scores(scores, rewards))
        size, best = 1 + np.sqrt(truth[2] / truth[0]), estimate.optimal
        each.append([*hits(estimate, truth), best.low <= size <= best.high])
        mean = estimate.contributions.mean(axis=0)
        narrow = (estimate.contributions + mean) / 2
        halved.append(hits(replace(estimate, contributions=narrow), truth))
    coverage = np.mean(each, axis=0)
    assert (coverage > 0.91).all() and (coverage < 0.99).all(), coverage
    assert (np.mean(halved, axis=0)[1:] < 0.8).all()
