"""Which group size: closed forms against minimisers, brute force and the laws of the error."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import fminbound

from support.problems import moments_of
from theory.enumeration import group_errors, unordered_groups
from theory.problems import random_problem, two_actions
from ustat_grpo import Grpo, NoiseComponents, TugOfWar, Vanilla, random_bandit
from ustat_grpo.laws import group_size, mse

positive = st.floats(min_value=1e-4, max_value=1e4)
components = st.builds(NoiseComponents, prompt=positive, oracle=positive, residual=positive)
PROBLEMS = [random_problem(seed, num_prompts=3, dimension=3) for seed in range(6)]


def numerator(noise, size):
    """The error at N = 1, written out once more."""
    return noise.prompt * size + noise.oracle + noise.residual / (size - 1)


def minimise(function):
    """Return the G > 1 of least `function`, searching over log(G − 1)."""
    found = fminbound(lambda u: function(1 + np.exp(u)), -14.0, 14.0, xtol=1e-10, maxfun=2000)
    return 1 + float(np.exp(np.asarray(found)))


class TestOptimal:
    @given(components)
    def test_against_a_numerical_minimiser(self, noise):
        """Would catch the paper's √(c₃/c₁), which is lower by one."""
        best = group_size.optimal(noise)
        found = minimise(lambda size: numerator(noise, size))
        assert numerator(noise, best) <= numerator(noise, found) * (1 + 1e-12)
        assert found - 1 == pytest.approx(best - 1, rel=1e-3)

    @given(components, st.floats(min_value=1.01, max_value=1000))
    def test_excess(self, noise, size):
        best = group_size.optimal(noise)
        excess = noise.prompt * (size - best) ** 2 / (size - 1)
        least = numerator(noise, best)
        error = group_size.error_at_budget(noise, group_size=size, budget=1)
        assert error == pytest.approx(least + excess, rel=1e-9)

    @pytest.mark.parametrize("problem", PROBLEMS)
    def test_never_below_one_plus_root_two(self, problem):
        noise = problem.noise
        assert noise.residual >= 2 * noise.prompt
        assert group_size.optimal(noise) >= 1 + np.sqrt(2)
        assert numerator(noise, 3) <= numerator(noise, 2)

    def test_the_least_is_attained(self):
        noise = TugOfWar(signal=1.0, separation=0.0).at([0.0, 0.0]).noise
        assert group_size.optimal(noise) == pytest.approx(1 + np.sqrt(2), rel=1e-14)
        assert numerator(noise, 2) == pytest.approx(numerator(noise, 3), rel=1e-14)

    @pytest.mark.parametrize("target", [3.0, 8.0, 64.0])
    def test_recovers_the_dial_of_a_random_bandit(self, target, rng):
        bandit = random_bandit(6, 4, group_size_target=target, rng=rng)
        noise = bandit.at(np.zeros(24)).noise
        assert group_size.optimal(noise) == pytest.approx(target, rel=1e-9)

    def test_no_prompt_noise(self):
        assert group_size.optimal(NoiseComponents(0.0, 1.0, 1.0)) == np.inf

    def test_error_at_budget_is_the_minibatch_law(self):
        moments = PROBLEMS[0].moments
        errors = mse.grpo(moments, group_size=6)
        law = mse.minibatch(errors, moments, batch_size=8)
        found = group_size.error_at_budget(moments.noise, group_size=6, budget=48)
        assert found == pytest.approx(law, rel=1e-13)


class TestNearOptimal:
    @given(components, st.floats(min_value=1e-3, max_value=3))
    def test_both_ends_cost_the_tolerance(self, noise, tolerance):
        interval = group_size.near_optimal(noise, tolerance=tolerance)
        best = group_size.optimal(noise)
        least = numerator(noise, best)
        assert interval.low < best < interval.high
        # An end near G = 1 is itself rounded, and c₃/(G−1) magnifies that.
        slack = 1e-9 + 1e-14 / (interval.low - 1)
        for end in interval:
            assert numerator(noise, end) / least == pytest.approx(1 + tolerance, rel=slack)
        product = (interval.low - 1) * (interval.high - 1)
        assert product == pytest.approx((best - 1) ** 2, rel=slack)

    def test_no_prompt_noise(self):
        noise = NoiseComponents(0.0, 2.0, 1.0)
        low, high = group_size.near_optimal(noise, tolerance=0.1)
        assert high == np.inf
        assert numerator(noise, low) == pytest.approx(1.1 * noise.oracle)
        nothing_but_residual = NoiseComponents(0.0, 0.0, 1.0)
        assert group_size.near_optimal(nothing_but_residual) == (np.inf, np.inf)

    @pytest.mark.parametrize("tolerance", [0.0, -0.1, np.inf])
    def test_tolerance_is_positive(self, tolerance):
        message = f"tolerance must be a finite number and above 0, got {tolerance!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            group_size.near_optimal(NoiseComponents(1.0, 1.0, 1.0), tolerance=tolerance)


class TestBestDivisor:
    @given(components, st.integers(min_value=2, max_value=5000))
    def test_against_brute_force(self, noise, budget):
        divisors = [size for size in range(2, budget + 1) if budget % size == 0]
        best = min(divisors, key=lambda size: numerator(noise, size))
        assert group_size.best_divisor(noise, budget=budget) == best

    @pytest.mark.parametrize("budget", [2, 7, 97])
    def test_a_prime_budget_is_one_group(self, budget):
        assert group_size.best_divisor(NoiseComponents(1.0, 1.0, 4.0), budget=budget) == budget

    def test_without_prompt_noise_one_large_group(self):
        assert group_size.best_divisor(NoiseComponents(0.0, 1.0, 1.0), budget=1024) == 1024

    def test_ties_go_to_the_smaller_group(self):
        assert group_size.best_divisor(NoiseComponents(1.0, 0.0, 2.0), budget=6) == 2

    @pytest.mark.parametrize("budget", [1, 0, 8.0])
    def test_budget_has_a_divisor(self, budget):
        message = f"budget must be an integer of at least 2, got {budget!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            group_size.best_divisor(NoiseComponents(1.0, 1.0, 1.0), budget=budget)


class TestCostAware:
    @staticmethod
    def cost(noise, size, per_prompt, per_output):
        single = noise.prompt + noise.oracle / size + noise.residual / (size * (size - 1))
        return single * (per_prompt + per_output * size)

    @given(components, st.floats(min_value=0, max_value=1e3), st.floats(1e-2, 1e2))
    def test_against_a_numerical_minimiser(self, noise, per_prompt, per_output):
        costs = {"cost_per_prompt": per_prompt, "cost_per_output": per_output}
        best = group_size.cost_aware(noise, **costs)
        least = self.cost(noise, best, per_prompt, per_output)
        grid = 1 + np.logspace(-5, 7, 400)
        assert (least <= self.cost(noise, grid, per_prompt, per_output) * (1 + 1e-9)).all()
        step = 1e-3 * (best - 1)
        for size in (best - step, best + step):
            assert least <= self.cost(noise, size, per_prompt, per_output) * (1 + 1e-12)

    @pytest.mark.parametrize("per_prompt", [0.1, 1.0, 30.0])
    def test_minimiser(self, per_prompt):
        noise = PROBLEMS[1].noise
        best = group_size.cost_aware(noise, cost_per_prompt=per_prompt, cost_per_output=1.0)
        found = minimise(lambda size: self.cost(noise, size, per_prompt, 1.0))
        assert best == pytest.approx(found, rel=1e-6)

    @given(components)
    def test_free_prompts_give_the_plain_optimum(self, noise):
        best = group_size.cost_aware(noise, cost_per_prompt=0.0, cost_per_output=3.0)
        assert best - 1 == pytest.approx(group_size.optimal(noise) - 1, rel=1e-5)

    def test_dear_prompts_push_it_up(self):
        sizes = [
            group_size.cost_aware(PROBLEMS[2].noise, cost_per_prompt=cost, cost_per_output=1.0)
            for cost in (0.0, 1.0, 10.0, 100.0)
        ]
        assert sizes == sorted(sizes) and sizes[0] < sizes[-1]

    def test_no_prompt_noise(self):
        noise = NoiseComponents(0.0, 1.0, 1.0)
        assert group_size.cost_aware(noise, cost_per_prompt=1.0, cost_per_output=1.0) == np.inf

    @pytest.mark.parametrize(
        ("noise", "costs", "message"),
        [
            ((1, 1, 1), (-1.0, 1.0), "cost_per_prompt must not be negative, got -1.0"),
            ((1, 1, 1), (1.0, 0.0), "cost_per_output must be a finite number and above 0, got 0.0"),
            ((1, 1, 0), (1.0, 1.0), "noise.residual must be a finite number and above 0, got 0"),
        ],
    )
    def test_errors(self, noise, costs, message):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            group_size.cost_aware(
                NoiseComponents(*noise), cost_per_prompt=costs[0], cost_per_output=costs[1]
            )


class TestVanillaCrossover:
    @pytest.mark.parametrize("problem", PROBLEMS)
    def test_is_where_the_laws_cross(self, problem):
        """Would catch V²s alone: the cross term 2Vm moves every one of these crossovers."""
        moments = problem.moments
        crossover = group_size.vanilla_crossover(moments)
        for size in range(2, 200):
            vanilla = mse.vanilla(moments, group_size=size)
            grpo = mse.grpo(moments, group_size=size)
            np.testing.assert_array_equal(grpo < vanilla, size > crossover)

    @pytest.mark.parametrize("problem", PROBLEMS)
    def test_minibatch_is_where_the_minibatch_laws_cross(self, problem):
        moments = problem.moments
        crossover = group_size.vanilla_crossover_minibatch(moments)
        for size in range(2, 200):
            vanilla = mse.minibatch(mse.vanilla(moments, group_size=size), moments, batch_size=4)
            grpo = mse.minibatch(mse.grpo(moments, group_size=size), moments, batch_size=4)
            assert (grpo < vanilla) == (size > crossover)

    def test_against_enumeration(self):
        problem = two_actions(0.4, [0.1, 0.3])
        crossover = group_size.vanilla_crossover(problem.moments)[0]
        assert 2 < crossover < 12
        for size in (int(crossover), int(crossover) + 1):
            vanilla, grpo = (
                group_errors(estimator, problem, group_size=size, groups=unordered_groups)[0]
                for estimator in (Vanilla(), Grpo())
            )
            assert (grpo < vanilla) == (size > crossover)

    def test_one_over_value_without_signal(self):
        for value in (0.01, 0.1, 0.5):
            problem = two_actions(0.5, [value, value])
            crossover = group_size.vanilla_crossover(problem.moments)
            assert crossover[0] == pytest.approx(1 / value, rel=1e-12)

    def test_never_where_vanilla_beats_the_oracle(self):
        problem = TugOfWar().at(TugOfWar().theta(1.0))
        np.testing.assert_array_equal(group_size.vanilla_crossover(problem.moments), np.inf)
        assert group_size.vanilla_crossover_minibatch(problem.moments) == np.inf

    def test_never_when_rewards_are_centred_already(self):
        moments = moments_of(value=0.0)
        np.testing.assert_array_equal(group_size.vanilla_crossover(moments), np.inf)


class TestErrors:
    @pytest.mark.parametrize("size", [1.0, 0.5, np.nan, np.inf])
    def test_group_size_exceeds_one(self, size):
        message = f"group_size must be a finite number and above 1, got {size!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            noise = NoiseComponents(1.0, 1.0, 1.0)
            group_size.error_at_budget(noise, group_size=size, budget=8)

    def test_budget_is_positive(self):
        noise = NoiseComponents(1.0, 1.0, 1.0)
        with pytest.raises(ValueError, match=r"^budget must be a finite number .*, got 0$"):
            group_size.error_at_budget(noise, group_size=2, budget=0)

    @pytest.mark.parametrize("name", ["prompt", "oracle", "residual"])
    @pytest.mark.parametrize("number", [-1.0, np.nan, np.inf])
    def test_components_are_finite_and_not_negative(self, name, number):
        message = f"{name} noise must be finite and not negative, got {number}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            NoiseComponents(**({"prompt": 1.0, "oracle": 1.0, "residual": 1.0} | {name: number}))
