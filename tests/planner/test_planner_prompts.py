"""What a plan knows of prompts: dead groups unbiased by enumeration, beta laws, seeds."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from support.noise_cases import every_group_of_every_prompt
from support.planner_cases import binary_sample
from theory.problems import random_problem
from ustat_grpo import laws
from ustat_grpo.planner import PromptValues, prompt_values, seeds_needed, seeds_to_see
from ustat_grpo.planner.prompt_values import BetaLaw, equal_group_share

CHANCES = np.array([0.05, 0.3, 0.5, 0.85])


class TestDeadGroups:
    @pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
    def test_are_unbiased_over_every_count(self, size):
        """Of six outputs, at four success probabilities; plug-in k/M is refuted below."""
        counts = np.arange(7)
        share = equal_group_share(counts, np.full(7, 6), size)
        for chance in CHANCES:
            mean = stats.binom(6, chance).pmf(counts) @ share
            expected = laws.binary.dead_group_probability(chance, size)
            assert mean == pytest.approx(expected, rel=1e-12)

    def test_mutant_plug_in_is_biased(self):
        counts = np.arange(7)
        plug_in = laws.binary.dead_group_probability(counts / 6, 4)
        mean = stats.binom(6, 0.3).pmf(counts) @ plug_in
        assert mean != pytest.approx(laws.binary.dead_group_probability(0.3, 4), rel=0.1)

    def test_are_the_share_of_equal_subsets(self):
        """All 4-subsets of 7 outputs, 5 of them successes."""
        rewards = np.array([1, 1, 1, 1, 1, 0, 0])
        masks = [np.array(mask, bool) for mask in product((0, 1), repeat=7) if sum(mask) == 4]
        equal = np.mean([len(set(rewards[mask])) == 1 for mask in masks])
        assert equal_group_share([5], [7], 4)[0] == pytest.approx(equal, rel=1e-12)

    def test_are_a_mean_over_prompts_up_to_the_smallest_group(self, rng):
        sample = binary_sample(rng)
        values = PromptValues.of(sample)
        smallest = values.outputs.min()
        shares = equal_group_share(values.successes, values.outputs, smallest)
        assert values.dead_group_probability(smallest) == shares.mean()
        assert not values.is_extrapolated(smallest)
        assert values.is_extrapolated(smallest + 1)
        guess = values.beta_law.dead_group_probability(smallest + 1)
        assert values.dead_group_probability(smallest + 1) == guess

    def test_are_unknown_unless_rewards_are_zero_and_one(self, rng):
        sample = binary_sample(rng)
        values = prompt_values(2 * sample.rewards, sample.prompts)
        assert values.successes is None
        assert values.dead_group_probability(2) is None
        assert values.beta_law is None


class TestBetaLaw:
    def test_agrees_with_the_sample_on_pairs(self):
        """E V² is the sample's, so groups of two are as often dead by either."""
        successes, outputs = np.array([0, 3, 7, 2, 5, 1, 0, 8]), np.full(8, 8)
        fitted = BetaLaw.of_counts(successes, outputs)
        share = equal_group_share(successes, outputs, 2).mean()
        assert fitted.dead_group_probability(2) == pytest.approx(share, rel=1e-12)

    def test_means_are_integrals(self):
        fitted = BetaLaw(0.3, 0.2)
        beta = stats.beta(0.3 * 4, 0.7 * 4)
        for size in (2, 8, 40):
            dead = beta.expect(lambda v, size=size: laws.binary.dead_group_probability(v, size))
            assert fitted.dead_group_probability(size) == pytest.approx(dead, rel=1e-7)
            advantages = laws.binary.std_normalised(size)
            gain = beta.expect(lambda v, a=advantages: float(laws.binary.gain(a, v)))
            assert fitted.mean_gain(advantages) == pytest.approx(gain, rel=1e-7)
        quantiles = [fitted.quantile(share) for share in (0.1, 0.5, 0.9)]
        assert quantiles == pytest.approx(beta.ppf([0.1, 0.5, 0.9]), rel=1e-10)

    def test_tends_to_prompts_that_are_alike(self):
        alike, nearly = BetaLaw(0.3, 0.0), BetaLaw(0.3, 2e-6)
        advantages = laws.binary.std_normalised(8)
        assert alike.quantile(0.9) == 0.3
        for of in (lambda b: b.dead_group_probability(8), lambda b: b.mean_gain(advantages)):
            assert of(nearly) == pytest.approx(of(alike), rel=1e-3)

    def test_never_has_less_spread_than_none(self):
        assert BetaLaw.of_counts(np.full(8, 4), np.full(8, 8)).correlation == 0.0


@pytest.mark.parametrize("size", [3, 4])
def test_vanilla_excess_is_unbiased_over_every_group(size):
    """E of mean ‖W‖²Z² − τ̂ is V²s + 2Vm; a plug-in V̂²ŝ + 2V̂m̂ is not."""
    snapshot = random_problem(23, num_actions=2, num_levels=2, dimension=2)
    moments = snapshot.moments
    square = moments.value**2 * moments.score_norm_squared
    expected = square + 2 * moments.value * moments.score_norm_reward_covariance
    for x, every in enumerate(every_group_of_every_prompt(snapshot, size)):
        norms, rewards = every.score_norms, every.groups.rewards
        found = prompt_values(rewards, every.groups.group, norms)
        assert every.probs @ found.vanilla_excess == pytest.approx(expected[x], rel=1e-11)
        norm = every.probs @ found.score_norm_squared
        assert norm == pytest.approx(moments.score_norm_squared[x], rel=1e-12)
        value = every.groups.totals(rewards) / size
        spread = every.groups.totals(norms * rewards) / size - value * found.score_norm_squared
        plug_in = value**2 * found.score_norm_squared + 2 * value * spread
        assert every.probs @ plug_in != pytest.approx(expected[x], rel=1e-3)


class TestErrors:
    def test_lengths_must_agree(self, rng):
        sample = binary_sample(rng)
        with pytest.raises(ValueError, match="arrays must agree on the number of outputs"):
            prompt_values(sample.rewards, sample.prompts, sample.score_norms[1:])

    def test_norms_must_not_be_negative_or_nan(self, rng):
        sample = binary_sample(rng)
        with pytest.raises(ValueError, match="score_norms must not be negative, got"):
            prompt_values(sample.rewards, sample.prompts, -sample.score_norms)
        with pytest.raises(ValueError, match="score_norms must be finite"):
            prompt_values(sample.rewards, sample.prompts, np.nan * sample.score_norms)

    def test_rewards_must_differ(self, rng):
        sample = binary_sample(rng)
        with pytest.raises(ValueError, match="no signal, no plan"):
            prompt_values(np.ones_like(sample.rewards), sample.prompts)


class TestSeeds:
    def test_reach_the_power_and_one_less_does_not(self):
        """The power by the noncentral t of n − 1 degrees of freedom."""
        seeds = seeds_needed(1.0, 2.0)

        def power(n):
            return stats.nct.sf(stats.t.isf(0.025, n - 1), n - 1, np.sqrt(n) / 2)

        assert power(seeds) >= 0.8 > power(seeds - 1)
        assert seeds_needed(-1.0, 2.0) == seeds

    @pytest.mark.parametrize("exponent", [1, 4, 5, 6, 9, 9.6, 10, 15, 20, 100, 160, 300])
    def test_of_plain_differences_are_two(self, exponent):
        """Would catch: 1000, as SciPy has no noncentral t beyond λ = 3e9, where power is one."""
        assert seeds_needed(10.0 ** (exponent - 1) * 40, 1.0) == 2
        assert seeds_needed(1.0, 10.0**-exponent / 4) == 2

    @pytest.mark.parametrize("level", [1e-10, 1e-15])
    def test_of_plain_differences_at_a_strict_level(self, level):
        """λ is large and so is t: T > t where χ²₁ < (λ/t)². Would catch: two, as λ is large."""
        critical = -stats.t.ppf(level / 2, 1)
        for power, seeds in ((0.68, 2), (0.69, 3)):  # χ²₁ < 1 has the chance 0.6827
            found = seeds_needed(critical / np.sqrt(2), 1.0, level=level, power=power)
            assert found == seeds

    def test_of_hidden_differences_are_as_many_as_there_are_numbers(self):
        """Would catch: an OverflowError, and a level so strict that 1 − α/2 is one."""
        assert seeds_needed(1e-200, 1.0) == np.inf
        assert 75 < seeds_needed(1.0, 1.0, level=1e-17) < 200

    def test_find_the_difference_as_often_as_they_say(self):
        """4000 tests at power 80 %: |z| ≤ 4 allows 2.5 %. Mutant: known spread, at 77 %."""
        rng, seeds = np.random.default_rng(1), int(seeds_needed(1.0, 1.0))
        found = stats.ttest_1samp(rng.normal(1.0, 1.0, size=(4000, seeds)), 0.0, axis=1)
        assert abs(np.mean(found.pvalue < 0.05) - stats.nct.sf(
            stats.t.isf(0.025, seeds - 1), seeds - 1, np.sqrt(seeds)
        )) <= 4 * np.sqrt(0.16 / 4000)  # fmt: skip

    def test_are_at_least_two_and_infinite_without_a_difference(self):
        assert seeds_needed(1.0, 0.0) == 2
        assert seeds_needed(0.0, 1.0) == np.inf

    def test_are_those_of_squared_normal_errors(self):
        """A squared error of d equal directions is e·χ²/d; an estimate of d times fewer is not."""
        spread = np.sqrt(stats.chi2(3, scale=1 / 3).var() + stats.chi2(3, scale=2 / 3).var())
        seeds = seeds_to_see(1.0, 2.0, directions=3)
        assert seeds == seeds_needed(1.0, spread) != seeds_to_see(1.0, 2.0)

    def test_tell_squared_errors_apart_at_least_as_often_as_they_say(self):
        """2000 tests: |z| ≤ 4 allows 3.6 % below 80 %. Mutant: half as many seeds, near 50 %.

        Squares are skewed, so that fewer seeds than for normal numbers would do: it is a bound.
        """
        rng, seeds = np.random.default_rng(2), int(seeds_to_see(1.0, 1.5))
        first, second = rng.normal(size=(2, 2000, seeds)) ** 2

        def power(count):
            tests = stats.ttest_rel(first[:, :count], 1.5 * second[:, :count], axis=1)
            return np.mean(tests.pvalue < 0.05)

        least = 0.8 - 4 * np.sqrt(0.16 / 2000)
        assert power(seeds) >= least > power(seeds // 2)

    def test_fall_with_the_number_of_directions(self):
        many = seeds_to_see(1.0, 1.01, directions=10)
        assert many == pytest.approx(seeds_to_see(1.0, 1.01) / 10, rel=1e-3)

    @pytest.mark.parametrize("wrong", [{"spread": -1.0}, {"level": 0.0}, {"power": 1.0}])
    def test_arguments_are_checked(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            seeds_needed(**{"difference": 1.0, "spread": 1.0, **wrong})
