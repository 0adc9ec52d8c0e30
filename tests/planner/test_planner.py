"""Plans against the laws: choices, curves, intervals, the table, errors."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import optimize

from support.noise_cases import draw_batch
from support.planner_cases import KNOWN, binary_sample, estimate
from ustat_grpo import laws, random_bandit
from ustat_grpo.moments import NoiseComponents
from ustat_grpo.noise import GroupSizeEstimate, OutputSample, estimate_noise
from ustat_grpo.noise.interval import mean_interval
from ustat_grpo.planner import Cost, PromptValues, plan
from ustat_grpo.planner.answer import size_in_words
from ustat_grpo.planner.curve import Curve, band, choose


def lines(made) -> list[str]:
    return str(made).splitlines()


def words(made) -> str:
    return " ".join(str(made).split())


class TestChoice:
    @pytest.mark.parametrize("budget", [2, 6, 64, 96, 512, 1000, 4096, 10**6])
    def test_of_known_noise_is_the_best_divisor(self, budget):
        made = plan(KNOWN, budget=budget)
        expected = laws.group_size.best_divisor(KNOWN, budget=budget)
        assert made.recommended == (budget // expected, expected) == made.at_estimate

    def test_leaves_outputs_over_where_every_divisor_is_poor(self):
        """1009 is prime: its one divisor is a single group of 1009."""
        made = plan(KNOWN, budget=1009)
        batch, size = made.recommended
        assert laws.group_size.best_divisor(KNOWN, budget=1009) == 1009
        assert made.near_optimal.low <= size <= made.near_optimal.high
        assert batch == 1009 // size

    @pytest.mark.parametrize("fixed", [0.0, 3.0, 40.0])
    def test_is_the_best_of_all_by_brute_force(self, fixed):
        """Of every (B, G) within the budget no error is smaller by more than the tolerance."""
        budget, cost = 700, Cost(fixed, 2.0)
        batch, size = plan(KNOWN, budget=budget, cost=cost).recommended
        assert batch * (fixed + 2 * size) <= budget

        def error(b, g):
            return KNOWN.prompt / b + KNOWN.oracle / (b * g) + KNOWN.residual / (b * g * (g - 1))

        possible = [
            error(b, g)
            for g in range(2, budget // 2)
            for b in range(1, budget)
            if b * (fixed + 2 * g) <= budget
        ]
        assert min(possible) <= error(batch, size) <= 1.05 * min(possible)

    def test_cost_of_prompts_moves_group_size_up(self):
        sizes = [
            plan(KNOWN, budget=4096, cost=Cost(fixed)).recommended.group_size
            for fixed in (0, 2, 8, 32, 128)
        ]
        assert all(first < second for first, second in pairwise(sizes))

    @pytest.mark.parametrize(("least", "expected"), [(1, (32, 16)), (64, (64, 8)), (256, (256, 2))])
    def test_has_at_least_so_many_prompts(self, least, expected):
        """The best G there is room for, and the error of others relative to it."""
        made = plan(KNOWN, budget=512, min_batch_size=least)
        assert made.recommended == expected
        assert max(row.group_size for row in made.predictions) <= 512 / least
        assert min(row.error.value for row in made.predictions) >= 1
        assert (f"at least {least} prompts" in words(made)) == (least > 1)

    def test_has_the_least_worst_excess_over_the_interval(self):
        made = plan(estimate(), budget=512)

        def worst(size):
            ends = (Curve(noise, made.cost, 512) for noise in made.noise_range)
            return max(curve.relative(size) for curve in ends)

        divisors = [size for size in range(2, 513) if 512 % size == 0]
        assert made.recommended.group_size == min(divisors, key=worst)

    def test_is_no_single_group_where_prompt_noise_seems_zero(self):
        """Mutant: the best choice at the point estimate, one group of all outputs."""
        made = plan(estimate(prompt_error=0.02, prompt=-0.01), budget=512)
        assert np.isinf(made.optimal.value)
        assert made.at_estimate == (1, 512)
        assert 8 <= made.recommended.group_size <= 128


class TestCurve:
    @pytest.mark.parametrize("size", [2, 8, 64])
    def test_is_the_error_at_a_budget(self, size):
        curve = Curve(KNOWN, Cost(), 10**6)
        best = laws.group_size.optimal(KNOWN)
        errors = [
            laws.group_size.error_at_budget(KNOWN, group_size=g, budget=512) for g in (size, best)
        ]
        assert curve.relative(size) == pytest.approx(errors[0] / errors[1], rel=1e-12)

    def test_near_optimal_set_is_that_of_the_law(self):
        low, high = laws.group_size.near_optimal(KNOWN)
        found = plan(KNOWN, budget=10**6).near_optimal
        assert found == (np.ceil(low), np.floor(high))

    @pytest.mark.parametrize("fixed", [0.0, 20.0])
    def test_near_optimal_set_is_all_of_it(self, fixed):
        curve = Curve(KNOWN, Cost(fixed), 400)
        within = [g for g in range(2, 401) if curve.relative(g) <= 1.05]
        assert curve.near_optimal() == (within[0], within[-1])
        assert len(within) == within[-1] - within[0] + 1

    def test_best_at_a_cost_is_the_minimum(self):
        curve = Curve(KNOWN, Cost(20.0, 2.0), 1000)
        found = optimize.minimize_scalar(curve.relative, bounds=(2, 1000), method="bounded")
        assert curve.best == pytest.approx(found.x, rel=1e-4)

    @pytest.mark.parametrize("fixed", [0.0, 20.0])
    def test_band_holds_for_every_prompt_noise_between(self, fixed):
        """On a grid of 2001 values of c₁; the grid misses the exact least by less than 1e-4."""
        most, least, sizes = 0.06, 0.002, [2, 5, 16, 60, 400]
        point, *ends = (
            Curve(replace(KNOWN, prompt=c1), Cost(fixed), 400) for c1 in (0.02, least, most)
        )
        grid = [
            Curve(replace(KNOWN, prompt=c1), Cost(fixed), 400).relative(sizes)
            for c1 in np.linspace(least, most, 2001)
        ]
        for size, relative in zip(sizes, np.transpose(grid), strict=True):
            found = band(point, ends, size)
            assert found.high == pytest.approx(relative.max(), rel=1e-12)
            assert found.low <= relative.min() * (1 + 1e-12)
            assert found.low == pytest.approx(relative.min(), abs=1e-4)
            assert found.low <= found.value <= found.high


class TestNearOptimal:
    """Which G are within 5 % of the best: for certain, perhaps."""

    @pytest.mark.parametrize("fixed", [0.0, 3.0])
    @pytest.mark.parametrize("error", [0.001, 0.004])
    def test_are_means_of_contributions(self, error, fixed):
        """f(G) − 1.05 f(g), prompt by prompt, by loops over every G and rivals g.

        And what the interval of G* says, too: would catch a G that is perhaps not near-optimal
        though its error over the interval reaches 1.05, or is so for certain though it exceeds it.
        """
        noise, cost = estimate(prompt_error=error), Cost(fixed)
        made = plan(noise, budget=512, cost=cost)

        def excess(size, rival):
            of = [
                [1 * cost.of_prompt(g), cost.of_prompt(g) / g, cost.of_prompt(g) / (g * (g - 1))]
                for g in (size, rival)
            ]
            return mean_interval(noise.contributions @ (np.array(of[0]) - 1.05 * np.array(of[1])),
                                 noise.level)  # fmt: skip

        ends = np.clip([made.best.low, made.best.high], 2, 512)
        rivals = [*np.geomspace(*ends, 17), made.best.value]
        sizes = range(2, 200)
        point, *curves = (Curve(each, cost, 512) for each in (made.noise, *made.noise_range))
        bands = {g: band(point, curves, g) for g in sizes}
        surely = [
            g
            for g in sizes
            if max(excess(g, rival).high for rival in rivals) <= 0 and bands[g].high <= 1.05
        ]
        possibly = [g for g in sizes if excess(g, made.best.value).low <= 0 or bands[g].low <= 1.05]
        assert made.surely_near_optimal == (surely[0], surely[-1])
        assert made.possibly_near_optimal == (possibly[0], possibly[-1])
        near = made.near_optimal
        assert possibly[0] <= near.low <= surely[0] <= surely[-1] <= near.high <= possibly[-1]

    def test_of_known_noise_there_is_no_doubt(self):
        made = plan(KNOWN, budget=512)
        assert made.surely_near_optimal == made.near_optimal == made.possibly_near_optimal

    def test_of_a_lower_bound_nothing_is_certain_and_no_end_is_seen(self):
        made = plan(estimate(prompt_error=0.02, prompt=0.002), budget=512)
        assert made.optimal.is_lower_bound
        assert made.surely_near_optimal is None
        assert made.possibly_near_optimal.high == 512


class TestPromptNumbers:
    def test_crossover_and_critic_are_those_of_the_laws(self):
        """With the exact moments of every prompt in place of their estimates."""
        snapshot = random_bandit(6, 4, rng=np.random.default_rng(4)).at(np.zeros(24))
        moments = snapshot.moments
        square = moments.value**2 * moments.score_norm_squared
        excess = square + 2 * moments.value * moments.score_norm_reward_covariance
        share = len(moments.value) * moments.prompt_probs
        prompts = PromptValues(
            np.full(6, 8), None, share * moments.score_norm_squared, share * excess
        )
        made = plan(moments.noise, budget=64, prompts=prompts)
        crossover = laws.group_size.vanilla_crossover_minibatch(moments)
        assert made.vanilla_crossover == pytest.approx(crossover, rel=1e-12)
        added = made.critic_break_even**2 * (moments.prompt_probs @ moments.score_norm_squared)
        others = made.recommended.group_size - 1
        assert added == pytest.approx(moments.noise.residual / others, rel=1e-12)

    def test_std_normalisation_weighs_by_its_gain(self, rng):
        values = PromptValues.of(binary_sample(rng))
        made = plan(KNOWN, budget=64, prompts=values)
        change = made.std_normalisation
        advantages = laws.binary.std_normalised(made.recommended.group_size)
        expected = laws.binary.gain(advantages, change.values) / change.gain
        assert change.weights == pytest.approx(expected, rel=1e-12)

    def test_from_a_batch_is_near_the_truth(self):
        """4096 prompts: within 3 % of G* = 8, crossover within 5 %; a factor of 2 would show."""
        rng = np.random.default_rng(0)
        bandit = random_bandit(16, 4, group_size_target=8.0, rng=rng)
        snapshot = bandit.at(np.zeros(bandit.dimension))
        sample = OutputSample.from_scores(*draw_batch(snapshot, 4096, 8, rng))
        made = plan(estimate_noise(sample), budget=256, prompts=PromptValues.of(sample))
        crossover = laws.group_size.vanilla_crossover_minibatch(snapshot.moments)
        assert made.vanilla_crossover == pytest.approx(crossover, rel=0.05)
        assert made.optimal.low < 8 < made.optimal.high
        assert made.recommended == (32, 8)
        chance = laws.binary.dead_group_probability(snapshot.moments.value, 4)
        dead = {row.group_size: row.dead_groups for row in made.predictions}
        assert dead[4] == pytest.approx(snapshot.prompt_probs @ chance, rel=0.05)


class TestTable:
    @pytest.mark.parametrize("noise", [KNOWN, estimate(), estimate(0.02), estimate(0.02, -0.01)])
    @pytest.mark.parametrize("cost", [Cost(), Cost(123.456, 1.2345)])
    @pytest.mark.parametrize("known", [False, True])
    def test_fits_80_columns(self, noise, cost, known, rng):
        prompts = PromptValues.of(binary_sample(rng)) if known else None
        for budget in (130, 512, 10**9):
            made = plan(noise, budget=budget, cost=cost, prompts=prompts)
            assert max(len(line) for line in lines(made)) <= 80

    def test_shows_2_to_128_and_the_recommended_one_marked(self):
        made = plan(KNOWN, budget=96)
        rows = [line.split() for line in lines(made) if "%" not in line and "." in line]
        assert [row.group_size for row in made.predictions] == [2, 4, 8, 16, 32, 64]
        assert [row[1] for row in rows if row[0] == "*"] == ["16"]

    def test_says_an_interval(self):
        made = plan(estimate(), budget=512)
        low, high = made.optimal.low, made.optimal.high
        assert f"16.8, 95 % interval {low:.3g} to {high:.3g}" in words(made)

    def test_says_a_lower_bound(self):
        made = plan(estimate(prompt_error=0.02), budget=512)
        assert made.optimal.is_lower_bound
        assert f"at least {made.optimal.low:.3g} (95 %)" in words(made)
        assert "cannot be told from zero" in words(made)
        assert (
            "interval" not in words(made).split("best group size")[1].split("recommended")[0][:200]
        )

    def test_says_what_is_not_known_and_why(self):
        assert words(plan(KNOWN, budget=64)).count("- (no prompt values given)") == 4

    def test_marks_dead_groups_beyond_the_sample(self, rng):
        text = str(plan(KNOWN, budget=64, prompts=PromptValues.of(binary_sample(rng))))
        marked = [line.split()[-3] for line in text.splitlines() if " %" in line and "~" in line]
        assert marked
        assert "beta law" in text


class TestErrors:
    @pytest.mark.parametrize("budget", [1, 0, -4, 2.5, True])
    def test_budget_must_be_two_outputs(self, budget):
        with pytest.raises(ValueError, match="budget must be an integer of at least 2, got"):
            plan(KNOWN, budget=budget)

    def test_budget_must_have_room_for_a_prompt(self):
        with pytest.raises(
            ValueError, match="room for 1 prompt with 2 outputs, which cost 12, got"
        ):
            plan(KNOWN, budget=11, cost=Cost(10))
        assert plan(KNOWN, budget=12, cost=Cost(10)).recommended == (1, 2)
        with pytest.raises(
            ValueError, match="room for 6 prompts with 2 outputs, which cost 12, got 11"
        ):
            plan(KNOWN, budget=11, min_batch_size=6)
        assert plan(KNOWN, budget=12, min_batch_size=6).recommended == (6, 2)
        with pytest.raises(ValueError, match=r"min_batch_size must be .* at least 1, got 0"):
            plan(KNOWN, budget=11, min_batch_size=0)

    def test_residual_noise_must_be_positive(self):
        with pytest.raises(ValueError, match=r"noise.residual must be .* above 0"):
            plan(NoiseComponents(1.0, 1.0, 0.0), budget=8)

    def test_costs_must_have_the_right_sign(self):
        with pytest.raises(ValueError, match="per_prompt must not be negative, got -1"):
            Cost(-1.0)
        for wrong in (0.0, -1.0, np.nan, np.inf):
            with pytest.raises(ValueError, match="per_output must be a finite number and above 0"):
                Cost(1.0, wrong)


def test_choices_that_spend_the_budget_are_preferred_within_the_tolerance():
    """Without a tolerance the least error decides, 21 × 24 = 504 of 512."""
    curve = Curve(replace(KNOWN, prompt=0.0125), Cost(), 512)
    free, spent = choose([curve], 512, 0.0), choose([curve], 512)
    assert spent.batch_size * spent.group_size == 512
    assert curve.relative(free.group_size) <= curve.relative(spent.group_size)


def test_a_level_below_one_never_looks_like_100_percent():
    """Would catch: an interval that is said to be certain."""
    best = GroupSizeEstimate(value=4.0, low=3.0, high=5.0)
    for level, shown in (
        (0.95, "95 %"),
        (0.999999999, "99.9999999 %"),
        (float(np.nextafter(1.0, 0.0)), "99.99999999999999 %"),
        (1e-9, "1e-07 %"),
    ):
        assert size_in_words(best, level).split(", ")[1].startswith(f"{shown} interval")
