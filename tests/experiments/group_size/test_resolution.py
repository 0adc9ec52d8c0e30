"""Can runs tell two group sizes apart? Tests by scipy, seeds by simulation, noise by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.group_size import resolution
from experiments.group_size.confidence import confidence_set
from experiments.group_size.resolution import (
    best_and_rival,
    best_sizes,
    by_seed,
    compare_two,
    components,
    noise_floor,
    optimal,
    predicted_interval,
    seeds_needed,
    summary,
)
from ustat_grpo import NoiseComponents
from ustat_grpo.laws import group_size as law

SIZES = (2, 4, 8)


@pytest.fixture
def accuracies(rng):
    """Ten seeds that share luck at every group size; 4 is the best."""
    luck = rng.normal(0, 0.05, size=(10, 1))
    own = rng.normal(0, 0.004, size=(10, 3))
    table = 0.5 + luck + own + np.array([0.0, 0.02, 0.015])
    return pd.DataFrame(table, columns=list(SIZES)).rename_axis("seed")


def sweep(accuracies, optimizer="sgd", budget=64):
    """Return a table as the app writes it, of two checkpoints and one seed with components."""
    rows = [
        {
            "task": "arithmetic: beginner", "estimator": "grpo", "optimizer": optimizer,
            "budget": budget, "group_size": size, "batch_size": budget // size,
            "iteration": iteration, "seed": seed,
            "accuracy": 0.4 if iteration == 0 else accuracies.loc[seed, size] + iteration / 1000,
            "prompt": 2.0 + iteration if seed == 0 else np.nan,
            "oracle": 30.0 if seed == 0 else np.nan,
            "residual": 50.0 if seed == 0 else np.nan,
        }
        for size in accuracies.columns
        for seed in accuracies.index
        for iteration in (0, 10, 20)
    ]  # fmt: skip
    return pd.DataFrame(rows)


class TestBySeed:
    def test_one_row_a_seed_in_any_order(self, accuracies):
        rows = sweep(accuracies).query("iteration == 10").sample(frac=1, random_state=0)
        found = by_seed(rows)
        assert list(found.columns) == list(SIZES) and list(found.index) == list(range(10))
        np.testing.assert_allclose(found, accuracies + 0.01)


class TestCompareTwo:
    def test_is_scipys_paired_test(self, accuracies):
        found = compare_two(accuracies, 2, 4)
        expected = stats.ttest_rel(accuracies[4], accuracies[2])
        assert (found.better, found.worse) == (4, 2)
        assert found.p_value == pytest.approx(expected.pvalue, rel=1e-10)
        assert found.difference / found.std_error == pytest.approx(expected.statistic, rel=1e-10)
        assert found.difference == pytest.approx((accuracies[4] - accuracies[2]).mean())

    def test_order_does_not_matter(self, accuracies):
        assert compare_two(accuracies, 2, 4) == compare_two(accuracies, 4, 2)

    def test_what_seeds_share_does_not_count(self, accuracies):
        """Would catch: an unpaired test, which sees the luck of the seeds only."""
        found = compare_two(accuracies, 2, 4)
        assert stats.ttest_ind(accuracies[4], accuracies[2]).pvalue > 0.2 > 1e3 * found.p_value

    @pytest.mark.parametrize(
        ("shift", "p_value", "needed"), [(0.0, 1.0, math.inf), (0.25, 0.0, 2.0)]
    )
    def test_differences_without_spread(self, shift, p_value, needed):
        """Would catch: a warning and no number, where two sizes went the same way."""
        table = pd.DataFrame({2: [0.25, 0.5, 0.5], 4: [0.25, 0.5, 0.5]})
        found = compare_two(table + np.array([0.0, shift]), 2, 4)
        assert (found.p_value, found.seeds_needed) == (p_value, needed)
        assert (found.difference, found.std_error) == (shift, 0.0)


class TestSeedsNeeded:
    @pytest.mark.parametrize("effect", [0.5, 0.8, 1.5, 3.0])
    def test_power_by_simulation(self, effect, rng):
        """80 % with as many seeds, and not with fewer. Would catch the normal law's two less."""
        needed = int(seeds_needed(effect * 0.01, 0.01))
        runs, found = 20_000, {}
        for seeds in (needed, needed - 1):
            draws = rng.normal(effect, 1, size=(runs, seeds))
            with np.errstate(divide="ignore"):
                means = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / seeds**0.5)
            found[seeds] = (means > stats.t.isf(0.025, seeds - 1)).mean()
        tolerance = 4 * (0.8 * 0.2 / runs) ** 0.5
        assert found[needed] > 0.8 - tolerance and found[needed - 1] < 0.8 + tolerance
        normal = math.ceil((1.959964 + 0.841621) ** 2 / effect**2)
        assert needed >= normal + 1

    def test_by_the_books(self):
        """Cohen's tables for the paired t-test: d = 0.5 takes 34 pairs, d = 0.2 takes 199."""
        assert seeds_needed(0.5, 1.0) == 34
        assert seeds_needed(0.2, 1.0) == 199

    def test_extremes(self):
        assert seeds_needed(0.0, 1.0) == math.inf
        assert seeds_needed(1.0, 0.0) == seeds_needed(1e9, 1.0) == 2
        assert seeds_needed(1e-4, 1.0) == pytest.approx(7.849e8, rel=1e-3)

    def test_falls_with_the_effect(self):
        needed = [seeds_needed(effect, 1.0) for effect in np.geomspace(0.03, 30, 60)]
        assert needed == sorted(needed, reverse=True)


class TestBest:
    def test_two_of_largest_mean(self, accuracies):
        found = best_and_rival(accuracies)
        assert (found.better, found.worse) == (4, 8)
        assert found == compare_two(accuracies, 4, 8)

    def test_confidence_set_is_that_of_the_errors(self, accuracies):
        """Would catch: the least accuracy taken for the best."""
        assert best_sizes(accuracies) == confidence_set(1 - accuracies.to_numpy(), SIZES) == [4]
        assert best_sizes(accuracies[[2, 8]]) == [8]

    def test_sizes_that_cannot_be_told_apart(self, accuracies, rng):
        same = accuracies[[4]].to_numpy() + rng.normal(0, 0.01, size=(10, 2))
        assert best_sizes(pd.DataFrame(same, columns=[4, 8])) == [4, 8]


class TestNoiseFloor:
    def test_by_hand(self):
        table = pd.DataFrame({2: [0.1, 0.3, 0.2, 0.2], 4: [0.5, 0.5, 0.6, 0.8]})
        found = noise_floor(table)
        # Halves: (0.2, 0.5) and (0.2, 0.7).
        assert found.floor == pytest.approx(math.sqrt((0 + 0.2**2) / 2))
        assert found.spread == pytest.approx(0.3 / math.sqrt(2))
        assert found.seeds == 2

    def test_an_odd_seed_is_left_out(self):
        table = pd.DataFrame({2: [0.1, 0.2, 9.0], 4: [0.1, 0.3, 9.0]})
        found = noise_floor(table)
        assert found.seeds == 1
        assert found.floor == pytest.approx(math.sqrt((0.01 + 0.04) / 2))

    def test_expectation(self, rng):
        """E floor² = 2σ²/m for m independent seeds a half. Would catch: √2 or m forgotten."""
        spread, seeds = 0.02, 6
        squares = [
            noise_floor(pd.DataFrame(rng.normal(0.5, spread, (2 * seeds, 4)))).floor ** 2
            for _ in range(500)
        ]
        error = np.std(squares, ddof=1) / len(squares) ** 0.5
        assert abs(np.mean(squares) - 2 * spread**2 / seeds) <= 4 * error


class TestPrediction:
    def test_components_are_means_over_what_was_measured(self, accuracies):
        rows = sweep(accuracies)
        rows.loc[(rows["seed"] == 0) & (rows["group_size"] == 2), "prompt"] = 8.0
        start = rows[rows["iteration"] == 0]
        assert components(start) == NoiseComponents((8 + 2 + 2) / 3, 30.0, 50.0)

    def test_interval_is_the_laws_at_the_start(self, accuracies):
        found = predicted_interval(sweep(accuracies))
        assert found == law.near_optimal(NoiseComponents(2.0, 30.0, 50.0))
        assert found.low < 6 < found.high  # 1 + √(50/2)

    def test_optimal_of_every_measured_row(self, accuracies):
        rows = sweep(accuracies)
        np.testing.assert_allclose(optimal(rows[rows["iteration"] == 0]), [6.0] * 3)
        np.testing.assert_allclose(optimal(rows[rows["iteration"] == 20]), 1 + np.sqrt(50 / 22))


class TestSummary:
    def test_one_verdict_a_job_and_checkpoint(self, accuracies):
        jobs = [("sgd", 64), ("sgd", 256), ("adamw", 64)]
        data = pd.concat([sweep(accuracies, *job) for job in jobs], ignore_index=True)
        found = summary(data)
        keys = [(row.optimizer, row.budget, row.iteration) for row in found]
        assert keys == [(*job, iteration) for job in jobs for iteration in (10, 20)]
        assert {row.seeds for row in found} == {10}

    def test_verdicts(self, accuracies):
        first, last = summary(sweep(accuracies))
        assert first.may_be_best == best_sizes(accuracies)
        assert first.rivals.difference == pytest.approx(best_and_rival(accuracies).difference)
        assert first.noise.floor == pytest.approx(noise_floor(accuracies).floor)
        np.testing.assert_allclose(last.accuracy, accuracies.mean() + 0.02)
        assert (first.optimal, last.optimal) == pytest.approx(
            (1 + np.sqrt(50 / 12), 1 + np.sqrt(50 / 22))
        )
        assert first.predicted == last.predicted == predicted_interval(sweep(accuracies))

    def test_level_and_power_are_the_stated_ones(self):
        assert (resolution.LEVEL, resolution.POWER) == (0.05, 0.8)
