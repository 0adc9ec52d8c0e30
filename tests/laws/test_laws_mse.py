"""Laws of the error against sums over every group and every minibatch, and mutants rejected."""

import re

import numpy as np
import pytest

from theory.enumeration import group_errors, minibatch_error
from theory.group_error import CASES
from theory.problems import random_problem, tiny_problems
from ustat_grpo import (
    ConstantBaseline,
    GroupMean,
    Grpo,
    OptimalBaseline,
    Oracle,
    Shrinkage,
    SoftmaxBandit,
    TugOfWar,
    Vanilla,
    random_bandit,
)
from ustat_grpo.laws import mse

RELATIVE = 1e-12
PROBLEMS = {
    "features": random_problem(21, num_prompts=3, dimension=2),
    "four actions": random_problem(22, num_actions=4, dimension=5),
    "tabular": random_problem(23, num_prompts=3),
    "two levels": random_problem(24, num_prompts=4, num_levels=2),
    "tug of war": TugOfWar().at(TugOfWar().theta(0.3)),
    "random bandit": random_bandit(4, 3, rng=np.random.default_rng(5)).at(np.zeros(12)),
}
UNBIASED = {
    "vanilla": Vanilla(),
    "oracle": Oracle(),
    "GRPO": Grpo(),
    "constant": ConstantBaseline(-0.4),
    "optimal": OptimalBaseline(),
    "shrinkage": Shrinkage(0.7, 0.2),
}


@pytest.fixture(params=PROBLEMS.values(), ids=list(PROBLEMS))
def problem(request):
    return request.param


def certain_policy():
    """Return a problem whose policy knows what to do: every score is zero."""
    reward_probs = np.array([[[0.3, 0.7], [0.6, 0.4]]])
    offsets = np.array([[0.0, -1e4]])
    return SoftmaxBandit.tabular([0.0, 1.0], reward_probs, offsets=offsets).at(np.zeros(2))


class TestOnePrompt:
    @pytest.mark.parametrize("name", CASES)
    @pytest.mark.parametrize("group_size", [2, 3])
    def test_against_enumeration(self, problem, name, group_size):
        """Would catch G for G−1, a lost ‖g‖², a cross term without its 2: see the mutants."""
        estimator, law = CASES[name]
        expected = law(problem.moments, group_size)
        obtained = group_errors(estimator, problem, group_size=group_size)
        np.testing.assert_allclose(obtained, expected, rtol=RELATIVE)

    @pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
    def test_shrinkage_at_every_weight(self, weight):
        problem = PROBLEMS["features"]
        law = mse.shrinkage(problem.moments, group_size=3, weight=weight, target=0.9)
        summed = group_errors(Shrinkage(weight, 0.9), problem, group_size=3)
        np.testing.assert_allclose(summed, law, rtol=RELATIVE)

    def test_shrinkage_joins_group_mean_and_constant(self, problem):
        moments = problem.moments
        none = mse.shrinkage(moments, group_size=5, weight=0.0, target=0.9)
        full = mse.shrinkage(moments, group_size=5, weight=1.0, target=0.9)
        constant = mse.constant_baseline(moments, group_size=5, baseline=0.9)
        np.testing.assert_allclose(none, mse.grpo(moments, group_size=5), rtol=RELATIVE)
        np.testing.assert_allclose(full, constant, rtol=RELATIVE)

    def test_best_shrinkage_without_m(self):
        """λ* = κ/(κ + (V−c)²s) with κ = (sσ² + ‖g‖²)/(G−1), at a problem with m = 0."""
        moments = TugOfWar().at([0.0, 0.0]).moments
        prompt, size, target = 0, 4, 0.1
        kappa = moments.residual_norm_squared[prompt] / (size - 1)
        distance = (moments.value[prompt] - target) ** 2 * moments.score_norm_squared[prompt]
        best = kappa / (kappa + distance)

        def error(weight):
            law = mse.shrinkage(moments, group_size=size, weight=weight, target=target)
            return law[prompt]

        step = 0.01
        assert moments.score_norm_reward_covariance[prompt] == pytest.approx(0, abs=1e-15)
        assert error(best) < min(error(best - step), error(best + step), error(0.0), error(1.0))
        assert error(best + step) == pytest.approx(error(best - step), rel=1e-12)  # a parabola

    def test_optimal_baseline_is_no_worse_than_any_constant(self, problem):
        moments = problem.moments
        best = mse.optimal_baseline(moments, group_size=2)
        for baseline in np.linspace(-2, 2, 41):
            constant = mse.constant_baseline(moments, group_size=2, baseline=baseline)
            assert (constant >= best * (1 - 1e-12)).all()

    def test_certain_policy_has_no_error(self):
        problem = certain_policy()
        assert problem.moments.score_norm_squared[0] == 0
        for estimator, law in CASES.values():
            np.testing.assert_array_equal(law(problem.moments, 2), 0)
            np.testing.assert_array_equal(group_errors(estimator, problem, group_size=2), 0)

    def test_one_output_suffices_without_leave_one_out(self, problem):
        summed = group_errors(Vanilla(), problem, group_size=1)
        law = mse.vanilla(problem.moments, group_size=1)
        np.testing.assert_allclose(summed, law, rtol=RELATIVE)


class TestMinibatch:
    @pytest.mark.parametrize("batch_size", [1, 2, None])
    @pytest.mark.parametrize("name", CASES)
    @pytest.mark.parametrize("tiny", tiny_problems())
    def test_against_enumeration(self, tiny, name, batch_size):
        """Would catch c₁ divided by BG, a lost squared bias, f in place of f² in a full pass."""
        estimator, law = CASES[name]
        gain = mse.group_mean_gain(2) if isinstance(estimator, GroupMean) else 1.0
        errors = law(tiny.moments, 2)
        expected = mse.minibatch(errors, tiny.moments, batch_size=batch_size, gain=gain)
        obtained = minibatch_error(estimator, tiny, batch_size=batch_size, group_size=2)
        assert obtained == pytest.approx(expected, rel=RELATIVE)

    def test_three_prompts_of_three(self):
        problem = random_problem(25, num_prompts=3, num_actions=2, num_levels=2)
        for batch_size in (2, None):
            errors = mse.group_mean(problem.moments, group_size=2)
            law = mse.minibatch(errors, problem.moments, batch_size=batch_size, gain=0.5)
            summed = minibatch_error(GroupMean(), problem, batch_size=batch_size, group_size=2)
            assert summed == pytest.approx(law, rel=RELATIVE)

    def test_the_noise_components_are_its_three_terms(self, problem):
        moments, noise = problem.moments, problem.noise
        batch_size, size = 5, 7
        law = mse.minibatch(mse.grpo(moments, group_size=size), moments, batch_size=batch_size)
        terms = (
            noise.prompt / batch_size
            + noise.oracle / (batch_size * size)
            + noise.residual / (batch_size * size * (size - 1))
        )
        assert law == pytest.approx(terms, rel=RELATIVE)

    def test_squared_bias_stays_in_large_minibatches(self, problem):
        moments = problem.moments
        errors = mse.group_mean(moments, group_size=4)
        limit = moments.objective_gradient_norm_squared / 16
        huge = mse.minibatch(errors, moments, batch_size=10**12, gain=0.75)
        assert huge == pytest.approx(limit, rel=1e-6, abs=1e-12)


def _terms(moments):
    norm = moments.gradient_norm_squared
    leading = moments.oracle_norm_squared - norm
    return leading, moments.residual_norm_squared, norm


MUTANTS = {
    "G² for G(G−1)": lambda lead, rest, norm, g: lead / g + rest / g**2,
    "(G−1)² for G(G−1)": lambda lead, rest, norm, g: lead / g + rest / (g - 1) ** 2,
    "G−1 for G": lambda lead, rest, norm, g: lead / (g - 1) + rest / (g * (g - 1)),
    "½ kept": lambda lead, rest, norm, g: lead / g + rest / (2 * g * (g - 1)),
    "second term lost": lambda lead, rest, norm, g: lead / g,
    "‖g‖² lost": lambda lead, rest, norm, g: lead / g + (rest - norm) / (g * (g - 1)),
    "−‖g‖² lost": lambda lead, rest, norm, g: (lead + norm) / g + rest / (g * (g - 1)),
}


class TestMutants:
    """Each wrong law must be told apart by the comparison that the right ones pass."""

    @pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
    def test_grpo(self, mutant):
        problem = PROBLEMS["features"]
        obtained = group_errors(Grpo(), problem, group_size=3)
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(obtained, mutant(*_terms(problem.moments), 3), rtol=1e-6)

    @pytest.mark.parametrize("factor", [0, 1, -2])
    def test_cross_term(self, factor):
        problem = PROBLEMS["features"]
        moments = problem.moments
        offset = moments.value + 0.4
        cross = (factor - 2) * offset * moments.score_norm_reward_covariance
        law = mse.constant_baseline(moments, group_size=2, baseline=-0.4)
        obtained = group_errors(ConstantBaseline(-0.4), problem, group_size=2)
        np.testing.assert_allclose(obtained, law, rtol=RELATIVE)
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(obtained, law + cross / 2, rtol=1e-6)

    @pytest.mark.parametrize("gain", [1.0, 1 / 3])
    @pytest.mark.parametrize("batch_size", [2, None])
    def test_bias_of_the_group_mean(self, gain, batch_size):
        problem = tiny_problems()[1]  # tabular gradients are orthogonal: a full pass sees no bias
        errors = mse.group_mean(problem.moments, group_size=2)
        wrong = mse.minibatch(errors, problem.moments, batch_size=batch_size, gain=gain)
        obtained = minibatch_error(GroupMean(), problem, batch_size=batch_size, group_size=2)
        assert obtained != pytest.approx(wrong, rel=1e-6)


class TestErrors:
    @pytest.mark.parametrize("law", [mse.grpo, mse.group_mean])
    def test_leave_one_out_needs_two(self, law):
        message = "group_size must be at least 2 for a leave-one-out baseline, got 1"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            law(PROBLEMS["tabular"].moments, group_size=1)

    def test_shrinkage_needs_two(self):
        message = "group_size must be at least 2 for a leave-one-out baseline, got 0"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            mse.shrinkage(PROBLEMS["tabular"].moments, group_size=0, weight=0.5)

    @pytest.mark.parametrize("size", [2.5, True, "8"])
    def test_group_size_is_an_integer(self, size):
        message = f"group_size must be an integer, got {size!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            mse.grpo(PROBLEMS["tabular"].moments, group_size=size)

    def test_prompt_only_needs_one(self):
        message = "group_size must be an integer of at least 1, got 0"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            mse.vanilla(PROBLEMS["tabular"].moments, group_size=0)

    def test_batch_size_is_positive(self):
        moments = PROBLEMS["tabular"].moments
        message = "batch_size must be an integer of at least 1, got 0"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            mse.minibatch(mse.oracle(moments, group_size=2), moments, batch_size=0)


def test_problems_are_what_the_laws_need():
    """Unequal prompts, negative rewards and m ≠ 0 somewhere, or less would be tested than said."""
    problem = PROBLEMS["features"]
    assert problem.reward_levels.min() < 0 and len(problem.reward_levels) == 3
    assert np.ptp(PROBLEMS["tabular"].prompt_probs) > 0.1
    assert np.abs(problem.moments.score_norm_reward_covariance).min() > 1e-3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("baseline", lambda m, bad: mse.constant_baseline(m, group_size=4, baseline=bad)),
        ("weight", lambda m, bad: mse.shrinkage(m, group_size=4, weight=bad)),
        ("target", lambda m, bad: mse.shrinkage(m, group_size=4, weight=0.5, target=bad)),
        (
            "mean_error",
            lambda m, bad: mse.critic(m, group_size=4, mean_error=bad, mean_square_error=1.0),
        ),
        (
            "mean_square_error",
            lambda m, bad: mse.critic(m, group_size=4, mean_error=0.0, mean_square_error=bad),
        ),
        ("mean", lambda m, bad: mse.greedy_baseline(m, group_size=4, mean=bad, variance=0.0)),
        ("variance", lambda m, bad: mse.greedy_baseline(m, group_size=4, mean=0.5, variance=bad)),
        ("gain", lambda m, bad: mse.minibatch(m.value, m, batch_size=2, gain=bad)),
        ("errors", lambda m, bad: mse.minibatch(m.value + bad, m, batch_size=None)),
    ],
)
def test_numbers_that_are_not_finite_are_refused_by_name(name, law, bad):
    """Would catch: a NaN that becomes the error of every prompt without a word."""
    with pytest.raises(ValueError, match=rf"^{name} must be .*finite"):
        law(PROBLEMS["tabular"].moments, bad)
