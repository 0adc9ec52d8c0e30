"""Which group sizes may be the best: coverage, power and the cases without variance."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import stats

from experiments.group_size.confidence import compare, confidence_set, paired_excess

SIZES = [2, 4, 8, 16, 32]


def skewed_gaps(rng, runs, excess, shared=1.0):
    """Gaps of runs that have a part in common: χ², hence skewed, of unequal variances."""
    scale = 1 + np.arange(len(excess)) / 4
    own = rng.chisquare(2, size=(runs, len(excess))) - 2
    return excess + scale * own + shared * rng.chisquare(2, size=(runs, 1))


def misses(rng, level, replications=1000):
    """How often the set lacks the first size, where all are equally good."""
    samples = (rng.normal(size=(50, len(SIZES))) for _ in range(replications))
    return sum(SIZES[0] not in confidence_set(gaps, SIZES, level) for gaps in samples)


class TestPairedExcess:
    def test_is_the_mean_difference_with_its_standard_error(self, rng):
        gaps = skewed_gaps(rng, 30, np.array([0.0, 1.0, 2.0]))
        excess = paired_excess(gaps, 1)
        for column in range(3):
            difference = gaps[:, column] - gaps[:, 1]
            assert excess.mean[column] == pytest.approx(difference.mean(), abs=1e-14)
            assert excess.std_error[column] == pytest.approx(stats.sem(difference), abs=1e-14)
        assert excess.mean[1] == excess.std_error[1] == 0

    def test_what_runs_have_in_common_cancels(self, rng):
        """Would catch: error bars of independent samples."""
        own = rng.normal(size=(100, 3))
        common = 1e6 * rng.normal(size=(100, 1))
        np.testing.assert_allclose(
            paired_excess(own + common, 0).std_error, paired_excess(own, 0).std_error, rtol=1e-6
        )

    def test_bad_arguments(self):
        gaps = np.zeros((3, 2))
        for bad, message in {
            "column": ((gaps, 2), "reference_column must be below 2, got 2"),
            "one run": ((gaps[:1], 0), "gaps must hold at least 2 runs, got 1"),
            "no table": ((gaps[0], 0), "gaps must be 2-dimensional and not empty, got shape (2,)"),
            "NaN": ((gaps * np.nan, 0), "gaps must be finite, got 6 NaN or infinity"),
        }.values():
            with pytest.raises(ValueError, match=re.escape(message)):
                paired_excess(*bad)


class TestConfidenceSet:
    def test_holds_the_best_with_the_promised_probability(self, rng):
        """The least favourable case: all sizes are best. Without Bonferroni it fails."""
        allowed = stats.binom(1000, 0.05).isf(3e-5)  # four standard errors
        assert misses(rng, level=0.95) <= allowed
        assert misses(rng, level=1 - 0.05 * (len(SIZES) - 1)) > allowed

    def test_holds_the_best_of_skewed_correlated_gaps(self, rng):
        """As gaps are: weighted χ² of the size's own variance. Runs are as many as at smoke."""
        excess = np.array([0.0, 0.0, 0.2, 0.5, 1.0])
        found = [confidence_set(skewed_gaps(rng, 200, excess), SIZES) for _ in range(1000)]
        missed = sum(SIZES[0] not in each for each in found)
        assert missed <= stats.binom(1000, 0.05).isf(3e-5)

    def test_of_two_equal_sizes_each_is_left_out_at_the_level(self, rng):
        """Would catch: two-sided tests (2.5 %), unpaired ones (0 %), the wrong tail (95 %)."""
        runs, replications = 20, 3000
        missed = 0
        for _ in range(replications):
            gaps = rng.normal(size=(runs, 2)) * [1, 2] + 3 * rng.normal(size=(runs, 1))
            missed += 2 not in confidence_set(gaps, [2, 4])
        assert abs(missed / replications - 0.05) <= 4 * np.sqrt(0.05 * 0.95 / replications)

    def test_leaves_out_what_is_clearly_worse(self, rng):
        """Power: 6 standard errors of a difference, 200 runs; noise in common does not matter."""
        step = 6 / np.sqrt(200)
        gaps = rng.normal(size=(200, 3)) / np.sqrt(2) + 50 * rng.normal(size=(200, 1))
        assert confidence_set(gaps + step * np.array([1, 0, 2]), [2, 4, 8]) == [4]

    def test_more_runs_leave_fewer_sizes(self, rng):
        gaps = skewed_gaps(rng, 5000, np.array([0.0, 0.1, 0.2, 0.4, 0.8]))
        few, many = (confidence_set(gaps[:runs], SIZES) for runs in (50, 5000))
        assert set(many) < set(few) and SIZES[0] in many

    def test_always_holds_the_least_mean(self, rng):
        for _ in range(50):
            gaps = rng.standard_cauchy(size=(3, 5))
            assert SIZES[gaps.mean(axis=0).argmin()] in confidence_set(gaps, SIZES, 0.51)

    def test_differences_without_variance(self, rng):
        """Would catch: 0/0, and equal sizes that leave each other out."""
        one = rng.normal(size=(10, 1))
        assert confidence_set(np.hstack([one, one, one + 1]), [2, 4, 8]) == [2, 4]
        assert confidence_set(np.zeros((10, 3)), [2, 4, 8]) == [2, 4, 8]

    def test_a_single_size_is_best(self):
        assert confidence_set(np.zeros((2, 1)), [7]) == [7]

    @pytest.mark.parametrize("level", [0.5, 1.0, np.nan])
    def test_level_out_of_range(self, level):
        with pytest.raises(ValueError, match=r"^level must be a finite number and above 0\.5 and"):
            confidence_set(np.zeros((2, 2)), [2, 4], level)

    def test_sizes_of_another_number(self):
        with pytest.raises(ValueError, match=r"^sizes must name each of the 3 columns, got \[2\]$"):
            confidence_set(np.zeros((2, 3)), [2])


class TestCompare:
    def test_one_row_a_size(self, rng):
        gaps = skewed_gaps(rng, 100, np.array([0.5, 0.0, 3.0]))
        table = compare(gaps, [2, 4, 8])
        assert list(table.index) == [2, 4, 8]
        np.testing.assert_allclose(table["gap"], gaps.mean(axis=0))
        np.testing.assert_allclose(table["std_error"], stats.sem(gaps, axis=0))
        best = int(table["gap"].argmin())
        np.testing.assert_array_equal(table["excess"], paired_excess(gaps, best).mean)
        np.testing.assert_array_equal(table["excess_std_error"], paired_excess(gaps, best)[1])
        chosen = confidence_set(gaps, [2, 4, 8])
        assert list(table.index[table["in_confidence_set"]]) == chosen
        assert (table["excess"] >= 0).all()
