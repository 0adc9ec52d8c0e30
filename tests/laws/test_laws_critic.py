"""Laws of what a critic costs a gradient, against sums over every group and against each other."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest

from support.lm_problems import OUTPUTS, PROMPTS, RIGHT, matches, problem
from support.problems import moments_of
from theory.problems import random_problem
from ustat_grpo.laws import critic as law
from ustat_grpo.laws import mse

PROBLEMS = [random_problem(seed, num_prompts=3, dimension=3) for seed in range(6)]


def enumerated_error(baselines, chances, group_size=2):
    """E‖ĝ(x) − g(x)‖² over every group of two, for a baseline that is drawn beside it.

    Args:
        baselines: V̂, one row a value that it can take, one column a prompt.
        chances: of the rows. None in place of both takes the other output's reward: GRPO.
        group_size: 2.
    """
    _, known = problem()
    rewards, gradients = matches(), known.gradients(matches())
    errors = np.zeros(len(PROMPTS))
    for prompt, (i, j) in product(range(len(PROMPTS)), product(range(len(OUTPUTS)), repeat=2)):
        weight = known.probs[prompt, i] * known.probs[prompt, j]
        pair, z = known.scores[prompt, [i, j]], rewards[prompt, [i, j]]
        for row, chance in enumerate(chances):
            baseline = z[::-1] if baselines is None else baselines[row, prompt]
            error = (z - baseline) @ pair / group_size - gradients[prompt]
            errors[prompt] += weight * chance * (error @ error)
    return errors


class TestLaws:
    @pytest.fixture
    def moments(self):
        _, known = problem()
        return known.moments(matches())

    def test_unbiased_critic_breaks_even(self, moments):
        """V̂ = V ± e* with even chances, free of the outputs, has GRPO's error: sums over all.

        Would catch: σ/√G, or ‖g‖² left out.
        """
        others = enumerated_error(None, [1.0])
        np.testing.assert_allclose(others, mse.grpo(moments, group_size=2), rtol=1e-12)
        limit = law.break_even_error(moments, group_size=2)

        def error(size):
            return enumerated_error(moments.value + np.outer([-1, 1], size), [0.5, 0.5])

        np.testing.assert_allclose(error(limit), others, rtol=1e-12)
        for mutant in (limit / 2**0.5, np.sqrt(moments.reward_variance)):
            assert (error(mutant) < others * 0.999).all()
        assert (error(1.01 * limit) > others).all()

    def test_excess_of_a_given_critic(self, moments):
        """Its bias matters where ‖W‖² and Z are correlated. Would catch: e²s alone, or −2(V−V̂)m."""
        given = moments.value + np.array([0.3, -0.2, 0.1])
        added = law.excess(moments, given)
        found = enumerated_error(given[None], [1.0])
        expected = mse.oracle(moments, group_size=2) + added / 2
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        alone = (given - moments.value) ** 2 * moments.score_norm_squared
        assert (np.abs(added / alone - 1) > 0.01).all()

    def test_some_critics_do_better_than_the_oracle(self, moments):
        best = moments.value + moments.score_norm_reward_covariance / moments.score_norm_squared
        assert (law.excess(moments, best) < 0).all()
        assert law.break_even_group_size(moments, best) == np.inf
        assert law.break_even_group_size(moments, moments.value) == np.inf

    def test_group_size_of_break_even(self, moments):
        """There the errors of a minibatch agree. Would catch: 1 left out."""
        given = moments.value + 0.2
        size = law.break_even_group_size(moments, given)
        added = law.excess(moments, given).mean()
        assert added == pytest.approx(moments.noise.residual / (size - 1), rel=1e-12)
        assert size > 1

    @pytest.mark.parametrize("group_size", [2, 4, 16])
    def test_one_output_a_prompt_at_the_same_budget(self, moments, group_size):
        """Errors of N = 64 prompts with a critic, and of N/G with groups, are the same there."""
        noise = moments.noise
        added = law.tolerable_excess(noise, group_size=group_size)
        single = mse.oracle(moments, group_size=1) + added
        ours = mse.minibatch(single, moments, batch_size=64)
        groups = mse.grpo(moments, group_size=group_size)
        theirs = mse.minibatch(groups, moments, batch_size=64 // group_size)
        assert ours == pytest.approx(theirs, rel=1e-12)
        assert added >= 2 * (noise.prompt * noise.residual) ** 0.5
        same_group = noise.residual / (group_size - 1)
        assert added > same_group * 1.001

    def test_groups_of_one_are_refused(self, moments):
        with pytest.raises(ValueError, match="group_size must be at least 2"):
            law.tolerable_excess(moments.noise, group_size=1)


class TestBreakEven:
    @pytest.mark.parametrize("size", [2, 5, 32])
    @pytest.mark.parametrize("problem", PROBLEMS)
    def test_the_two_errors_are_equal_there(self, problem, size):
        """A critic b = V + e, e = ±RMSE with a fair coin: averaging over e leaves e²s/G."""
        moments = problem.moments
        rmse = law.break_even_error(moments, group_size=size)
        for prompt, off in enumerate(rmse):
            above, below = (
                mse.constant_baseline(
                    moments, group_size=size, baseline=moments.value[prompt] + sign * off
                )[prompt]
                for sign in (1, -1)
            )
            critic = (above + below) / 2
            assert critic == pytest.approx(mse.grpo(moments, group_size=size)[prompt], rel=1e-12)

    def test_is_near_the_spread_of_a_mean_for_a_small_signal(self):
        """σ/√(G−1) where ‖g‖² is negligible; σ/√G would be lower by 13 % at G = 4."""
        moments = moments_of(gradient_norm_squared=0.0)
        rmse = law.break_even_error(moments, group_size=4)
        assert rmse[0] == pytest.approx(0.5 / np.sqrt(3), rel=1e-14)

    def test_any_critic_does_when_the_policy_is_certain(self):
        moments = moments_of(
            score_norm_squared=0.0, oracle_norm_squared=0.0, gradient_norm_squared=0.0
        )
        assert law.break_even_error(moments, group_size=2)[0] == np.inf

    def test_group_size_is_at_least_two(self):
        message = "group_size must be at least 2 for a leave-one-out baseline, got 1"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            law.break_even_error(moments_of(), group_size=1)


def test_every_right_output_is_one_of_all():
    """The enumeration above holds every output. Would catch: a sum that is not whole."""
    _, known = problem()
    np.testing.assert_allclose(known.probs.sum(axis=1), 1, rtol=1e-12)
    assert set(RIGHT) <= set(OUTPUTS)
