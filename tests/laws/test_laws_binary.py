"""Laws for 0/1 rewards against sums over every group, and mutants rejected."""

import numpy as np
import pytest

from support.binary_cases import CASES, PROBLEMS, ByHand, moments_of, second_moments
from theory.enumeration import group_errors, group_means, outcomes, unordered_groups
from theory.problems import two_actions
from ustat_grpo import Oracle
from ustat_grpo.laws import binary
from ustat_grpo.laws import mse as mse_laws
from ustat_grpo.laws.binary.binomial import binomial_weights

RELATIVE = 1e-12


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=list(PROBLEMS))
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("name", CASES)
class TestOneGroup:
    """Would catch k for k−1, G for G−1, a lost cross term: see the mutants."""

    def test_mean(self, name, size, problem):
        function, advantages = CASES[name]
        means, gradients = group_means(ByHand(function), problem, group_size=size)
        gain = binary.gain(advantages(size), problem.value)
        np.testing.assert_allclose(means, gain[:, None] * gradients, rtol=RELATIVE, atol=1e-15)

    def test_second_moment_and_error(self, name, size, problem):
        function, advantages = CASES[name]
        law = binary.second_moment(advantages(size), *moments_of(problem))
        summed = second_moments(ByHand(function), problem, size)
        np.testing.assert_allclose(summed, law, rtol=RELATIVE)
        errors = group_errors(ByHand(function), problem, group_size=size, groups=unordered_groups)
        law = binary.mse(advantages(size), *moments_of(problem))
        np.testing.assert_allclose(errors, law, rtol=RELATIVE)

    def test_variance(self, name, size, problem):
        _, advantages = CASES[name]
        law = binary.variance(advantages(size), *moments_of(problem))
        bias = binary.gain(advantages(size), problem.value) - 1
        error = law + bias**2 * problem.moments.gradient_norm_squared
        np.testing.assert_allclose(
            error, binary.mse(advantages(size), *moments_of(problem)), rtol=RELATIVE
        )


class TestAgainstOtherLaws:
    @pytest.mark.parametrize("size", [2, 7, 300])
    def test_those_for_all_rewards(self, size):
        """The laws of `laws.mse` come from other moments, and no binomial enters them."""
        moments = PROBLEMS["features"].moments
        pairs = [
            (binary.vanilla(size), mse_laws.vanilla(moments, group_size=size)),
            (binary.baseline(size, moments.value), mse_laws.oracle(moments, group_size=size)),
            (binary.grpo(size), mse_laws.grpo(moments, group_size=size)),
            (binary.group_mean(size), mse_laws.group_mean(moments, group_size=size)),
            (
                binary.shrinkage(size, weight=0.6, target=moments.value / 2),
                mse_laws.shrinkage(moments, group_size=size, weight=0.6, target=moments.value / 2),
            ),
        ]
        for advantages, law in pairs:
            obtained = binary.mse(advantages, moments.outcome, moments.gradient_norm_squared)
            np.testing.assert_allclose(obtained, law, rtol=RELATIVE)

    def test_one_output(self):
        problem = PROBLEMS["tabular"]
        law = binary.mse(binary.vanilla(1), *moments_of(problem))
        np.testing.assert_allclose(
            law, mse_laws.vanilla(problem.moments, group_size=1), rtol=RELATIVE
        )


class TestMadeUpAdvantages:
    """Random advantages have none of the symmetries of the estimators in use."""

    def test_against_enumeration(self):
        problem, size = PROBLEMS["features"], 4
        rng = np.random.default_rng(7)
        success, failure = rng.normal(size=(2, size + 1))
        advantages = binary.GroupAdvantages(success, failure)
        estimator = ByHand(lambda z: np.where(z == 1, success[int(z.sum())], failure[int(z.sum())]))
        summed = second_moments(estimator, problem, size)
        law = binary.second_moment(advantages, *moments_of(problem))
        np.testing.assert_allclose(summed, law, rtol=RELATIVE)
        means, gradients = group_means(estimator, problem, group_size=size)
        gain = binary.gain(advantages, problem.value)
        np.testing.assert_allclose(means, gain[:, None] * gradients, rtol=1e-11)

    def test_entries_that_cannot_occur_are_ignored(self):
        success, failure = np.arange(8.0).reshape(2, 4)
        plain = binary.GroupAdvantages(success, failure)
        success[0], failure[-1] = 100.0, -50.0
        changed = binary.GroupAdvantages(success, failure)
        for law in (binary.gain, binary.implied_objective):
            assert law(plain, 0.3) == law(changed, 0.3)
        problem = PROBLEMS["tabular"]
        for law in (binary.second_moment, binary.mse):
            np.testing.assert_array_equal(
                law(plain, *moments_of(problem)), law(changed, *moments_of(problem))
            )

    def test_rows_for_prompts(self):
        problem = PROBLEMS["features"]
        rows = binary.baseline(4, problem.value)
        for prompt, value in enumerate(problem.value):
            single = binary.baseline(4, value)
            assert binary.implied_objective(rows, problem.value)[prompt] == pytest.approx(
                binary.implied_objective(single, value), rel=1e-14
            )


class TestScaleFreeError:
    def test_does_not_see_the_scale(self):
        problem = PROBLEMS["features"]
        plain = binary.scale_free_error(binary.grpo(5), *moments_of(problem))
        scaled = binary.scale_free_error(binary.group_mean(5), *moments_of(problem))
        np.testing.assert_allclose(plain, scaled, rtol=RELATIVE)
        errors = binary.mse(binary.grpo(5), *moments_of(problem))
        norm = problem.moments.gradient_norm_squared
        np.testing.assert_allclose(plain, errors / norm, rtol=RELATIVE)

    def test_effective_sample_size_of_the_oracle_is_the_group(self):
        problem = PROBLEMS["features"]
        oracle = binary.baseline(6, problem.value)
        size = binary.effective_sample_size(oracle, *moments_of(problem))
        np.testing.assert_allclose(size, 6, rtol=RELATIVE)

    def test_effective_sample_size_against_enumerated_errors(self):
        """Would catch τ with p and 1 − p exchanged, or ‖g‖² not taken off."""
        problem = PROBLEMS["features"]
        single = group_errors(Oracle(), problem, group_size=1)
        advantages = binary.std_normalised(4, eps=0.0)
        estimator = ByHand(CASES["mean of the others over deviation"][0])
        summed = second_moments(estimator, problem, 4)
        means, gradients = group_means(estimator, problem, group_size=4)
        norm = np.sum(means**2, axis=-1)
        expected = single / np.sum(gradients**2, axis=-1) / ((summed - norm) / norm)
        obtained = binary.effective_sample_size(advantages, *moments_of(problem))
        np.testing.assert_allclose(obtained, expected, rtol=1e-11)

    def test_without_signal(self):
        """No signal, infinite error, but a finite ratio to the oracle's: both see noise only."""
        problem = two_actions(0.5, [0.3, 0.3])
        assert binary.scale_free_error(binary.grpo(4), *moments_of(problem))[0] == np.inf
        size = binary.effective_sample_size(binary.grpo(4), *moments_of(problem))[0]
        errors = [law(problem.moments, group_size=4)[0] for law in (mse_laws.oracle, mse_laws.grpo)]
        assert size == pytest.approx(4 * errors[0] / errors[1], rel=RELATIVE)


class TestImpossibleOutcomes:
    @pytest.mark.parametrize("success", [[0.0, 0.0], [1.0, 1.0]])
    @pytest.mark.parametrize("name", CASES)
    def test_certain_reward(self, name, success):
        function, advantages = CASES[name]
        problem = two_actions(0.3, success)
        law = binary.mse(advantages(4), *moments_of(problem))
        summed = group_errors(ByHand(function), problem, group_size=4)
        np.testing.assert_allclose(summed, law, rtol=RELATIVE, atol=1e-30)

    @pytest.mark.parametrize("advantages", [case[1](3) for case in CASES.values()])
    def test_ends(self, advantages):
        """At p = 0 the one success is alone, at p = 1 the one failure is."""
        first = advantages.success[1] - advantages.failure[0]
        last = advantages.success[-1] - advantages.failure[-2]
        np.testing.assert_allclose(binary.gain(advantages, [0.0, 1.0]), [first, last], atol=1e-15)
        assert binary.implied_objective(advantages, 0.0) == 0
        total = np.mean(advantages.success[1:] - advantages.failure[:-1])
        assert binary.implied_objective(advantages, 1.0) == pytest.approx(total, abs=1e-15)

    def test_limits(self):
        np.testing.assert_array_equal(binary.limiting_gain([0.0, 0.5, 1.0]), [np.inf, 2, np.inf])
        objective = binary.limiting_objective([0.0, 0.5, 1.0])
        np.testing.assert_allclose(objective, [0, np.pi / 2, np.pi], atol=1e-15)

    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_dead_groups(self, size):
        possible = outcomes(PROBLEMS["features"], 0)
        groups = unordered_groups(possible.probs, size)
        dead = groups.probs[np.ptp(possible.rewards[groups.members], axis=-1) == 0].sum()
        law = binary.dead_group_probability(possible.value, size)
        assert law == pytest.approx(dead, rel=RELATIVE)


def _mutants(advantages, outcome, norm):
    """E‖ĝ‖² with one slip each."""
    success, failure, size = advantages.success, advantages.failure, advantages.group_size
    prob = outcome.success_probability
    scores = outcome.success_score_norm_squared, outcome.failure_score_norm_squared

    def mean(values, trials):
        return binomial_weights(trials, prob) @ values

    def total(own, pair, *, pairs=size - 1):
        return (own + pairs * norm * pair) / size

    own = prob * scores[0] * mean(success[1:] ** 2, size - 1)
    own = own + (1 - prob) * scores[1] * mean(failure[:-1] ** 2, size - 1)
    late = prob * scores[0] * mean(success[:-1] ** 2, size - 1)
    late = late + (1 - prob) * scores[1] * mean(failure[:-1] ** 2, size - 1)
    alike = mean(success[2:] ** 2 + failure[:-2] ** 2, size - 2)
    unlike = mean(success[1:-1] * failure[1:-1], size - 2)
    return {
        "right": total(own, alike - 2 * unlike),
        "k for k−1": total(late, alike - 2 * unlike),
        "cross term lost": total(own, alike),
        "cross term without its 2": total(own, alike - unlike),
        "cross term with + sign": total(own, alike + 2 * unlike),
        "G pairs for G−1": total(own, alike - 2 * unlike, pairs=size),
        "pairs lost": total(own, 0.0),
    }


class TestMutants:
    """Each wrong law must be told apart by the comparison that the right one passes."""

    @pytest.mark.parametrize("name", ["grpo", "own mean over deviation", "shrinkage"])
    def test_second_moment(self, name):
        problem = PROBLEMS["features"]
        function, advantages = CASES[name]
        obtained = second_moments(ByHand(function), problem, 4)
        laws = _mutants(advantages(4), *moments_of(problem))
        np.testing.assert_allclose(obtained, laws.pop("right"), rtol=RELATIVE)
        for law in laws.values():
            with pytest.raises(AssertionError):
                np.testing.assert_allclose(obtained, law, rtol=1e-6)

    def test_gain_over_p(self):
        """E_k[a₁k/p] with k of G − 1 in place of G outputs."""
        problem, size = PROBLEMS["features"], 4
        function, advantages = CASES["own mean over deviation"]
        means, gradients = group_means(ByHand(function), problem, group_size=size)
        weights = binomial_weights(size - 1, problem.value)
        difference = advantages(size).success[:-1] - advantages(size).failure[:-1]
        wrong = weights @ difference
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(means, wrong[:, None] * gradients, rtol=1e-6)
