"""Laws for 0/1 rewards against exact arithmetic and closed forms, their speed, and bad input."""

import re
from decimal import Decimal, localcontext
from fractions import Fraction
from math import comb, sqrt

import numpy as np
import pytest

from support.binary_cases import CASES, PROBLEMS, moments_of
from support.pace import loops
from theory.problems import random_problem, two_actions
from ustat_grpo.laws import binary
from ustat_grpo.laws.binary.binomial import binomial_weights

RELATIVE = 1e-12


def exact_mean(values, trials, prob):
    """Σ_k P(k)·values[k] in decimal arithmetic of 60 digits; values exact or decimal."""
    with localcontext() as context:
        context.prec = 60
        odds = Decimal(prob) / (1 - Decimal(prob))
        weight = (1 - Decimal(prob)) ** trials
        total = Decimal(0)
        for k, value in enumerate(values):
            total += weight * value
            weight *= odds * (trials - k) / (k + 1)
        return float(total)


EXTREMES = (1e-6, 0.003, 0.25, 0.5, 0.83, 1 - 1e-6)


class TestAccuracy:
    @pytest.mark.parametrize("prob", EXTREMES)
    @pytest.mark.parametrize("trials", [1, 2, 17, 4096])
    def test_binomial_weights_against_integers(self, trials, prob):
        """Would catch differences of logarithms of factorials, which are off by 1e-12 and more."""
        weights = binomial_weights(trials, np.array(prob))
        numerator, denominator = prob.as_integer_ratio()
        centre, width = trials * prob, int(8 * sqrt(trials * prob * (1 - prob))) + 3
        counts = {round(centre) + offset * width // 4 for offset in (-4, -1, 0, 2)}
        for k in counts & set(range(trials + 1)):
            top = comb(trials, k) * numerator**k * (denominator - numerator) ** (trials - k)
            exact = float(Fraction(top, denominator**trials))
            assert weights[k] == pytest.approx(exact, rel=RELATIVE, abs=1e-300)
        assert weights.sum() == pytest.approx(1, abs=1e-15)

    @pytest.mark.parametrize("prob", EXTREMES)
    def test_normalised_gain_and_objective_at_4096(self, prob):
        size = 4096
        advantages = binary.leave_one_out_normalised(size)
        with localcontext() as context:
            context.prec = 60
            mixed = [
                Decimal(size) / (k * (size - k) * (size - 1)) for k in range(1, size)
            ]  # (a/k)² of both advantages
            success = [Decimal(0), *((size - k) * x.sqrt() for k, x in enumerate(mixed, 1)), 0]
            failure = [Decimal(0), *(-k * x.sqrt() for k, x in enumerate(mixed, 1)), Decimal(0)]
            steps = [success[j + 1] - failure[j] for j in range(size)]
            sums = [Decimal(0)]
            for step in steps:
                sums.append(sums[-1] + step)
        gain = exact_mean(steps, size - 1, prob)
        objective = exact_mean(sums, size, prob) / size
        assert binary.gain(advantages, prob) == pytest.approx(gain, rel=RELATIVE)
        assert binary.implied_objective(advantages, prob) == pytest.approx(objective, rel=RELATIVE)

    @pytest.mark.parametrize("prob", [0.0, *EXTREMES, 1.0])
    @pytest.mark.parametrize("size", [2, 8, 4096])
    def test_closed_forms(self, size, prob):
        fail = 1 - prob
        gain = 2 - prob ** (size - 1) - fail ** (size - 1)
        assert binary.gain(binary.sign(size), prob) == pytest.approx(gain, rel=RELATIVE)
        for k in {1, 2, min(size, 64)}:
            best = binary.pass_at_k(size, k)
            gain = k * fail ** (k - 1)
            assert binary.gain(best, prob) == pytest.approx(gain, rel=RELATIVE, abs=1e-300)
            pass_rate = -np.expm1(k * np.log1p(-prob)) if prob < 1 else 1.0
            assert binary.implied_objective(best, prob) == pytest.approx(pass_rate, rel=RELATIVE)
        for unbiased in (binary.grpo(size), binary.vanilla(size), binary.baseline(size, 0.3)):
            assert binary.gain(unbiased, prob) == pytest.approx(1, abs=1e-13)
            assert binary.implied_objective(unbiased, prob) == pytest.approx(prob, rel=RELATIVE)

    @pytest.mark.parametrize("size", [2, 3, 8, 64])
    @pytest.mark.parametrize("name", CASES)
    def test_objective_is_the_integral_of_the_gain(self, name, size):
        """Gauss–Legendre with G nodes is exact for a polynomial of degree G − 1."""
        advantages = CASES[name][1](size)
        nodes, weights = np.polynomial.legendre.leggauss(size)
        for prob in (0.2, 0.7, 1.0):
            gain = binary.gain(advantages, prob * (nodes + 1) / 2)
            integral = prob / 2 * weights @ gain
            obtained = binary.implied_objective(advantages, prob)
            assert obtained == pytest.approx(integral, rel=1e-12, abs=1e-13)

    def test_a_millisecond_at_4096(self):
        """On a machine of ours; twice as long without vector extensions.

        Would catch: a loop over counts, which takes 0.4 if each turn takes a microsecond.
        """
        advantages = binary.leave_one_out_normalised(4096)
        outcome, norm = moments_of(two_actions(0.3, [0.2, 1.0]))
        calls = (
            lambda: binary.leave_one_out_normalised(4096),
            lambda: binary.gain(advantages, 0.3),
            lambda: binary.implied_objective(advantages, 0.3),
            lambda: binary.second_moment(advantages, outcome, norm),
            lambda: binary.scale_free_error(advantages, outcome, norm),
        )
        for call in calls:
            assert loops(call, repeats=50) <= 0.15


BAD_INPUT = {
    "success_probability must lie in [0, 1], got 1.2": lambda: binary.gain(
        binary.grpo(4), [0.3, 1.2]
    ),
    "success_probability must lie in [0, 1], got nan": lambda: binary.limiting_gain(np.nan),
    "success_probability must lie in [0, 1], got -0.1": lambda: binary.dead_group_probability(
        -0.1, 4
    ),
    "success_probability must have the shape of the prompts in advantages, (2,), got (3,)": (
        lambda: binary.gain(binary.baseline(4, [0.1, 0.2]), [0.1, 0.2, 0.3])
    ),
    "gradient_norm_squared must have the shape of success_probability, (1,), got (2,)": (
        lambda: binary.second_moment(
            binary.grpo(4), two_actions(0.5, [0.3, 0.5]).moments.outcome, [0.1, 0.2]
        )
    ),
    "group_size must be at least 2 for a leave-one-out baseline, got 1": lambda: (
        binary.std_normalised(1)
    ),
    "group_size must be an integer of at least 1, got 0": lambda: binary.vanilla(0),
    "group_size must be an integer of at least 1, got 2.5": lambda: binary.dead_group_probability(
        0.5, 2.5
    ),
    "k must be at most group_size = 4, got 5": lambda: binary.pass_at_k(4, 5),
    "eps must not be negative, got -1.0": lambda: binary.std_normalised(4, eps=-1.0),
    "ddof must be 0 or 1, got 2": lambda: binary.leave_one_out_normalised(4, ddof=2),
    "success and failure must have the same shape, got (3,) and (4,)": lambda: (
        binary.GroupAdvantages(np.zeros(3), np.zeros(4))
    ),
    "success must have G+1 entries along its last axis, at least 2, got shape (1,)": lambda: (
        binary.GroupAdvantages(np.zeros(1), np.zeros(1))
    ),
    "failure must be finite, got 1 NaN or infinity": lambda: binary.GroupAdvantages(
        np.zeros(3), np.array([0, np.inf, 0])
    ),
    "reward levels must be 0 and 1 for laws.binary, got moments without outcome": lambda: (
        binary.outcome_moments(random_problem(1).moments)
    ),
    "gram must have shape (2, 2), one row a prompt, got (3, 3)": lambda: binary.minibatch_law(
        binary.grpo(2), PROBLEMS["tabular"].moments, np.eye(3), num_groups=2
    ),
    "groups must have a chance of different rewards, or none is ever kept, "
    "got 0 at group_size 1": lambda: binary.dynamic_sampling(
        binary.vanilla(1), PROBLEMS["tabular"].moments, np.eye(2), num_groups=4
    ),
    "num_groups must be a finite number and above 0, got 0": lambda: binary.dynamic_sampling(
        binary.grpo(2), PROBLEMS["tabular"].moments, np.eye(2), num_groups=0
    ),
}


@pytest.mark.parametrize("message", BAD_INPUT)
def test_errors(message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BAD_INPUT[message]()


def test_equal_groups_are_defined_at_eps_0():
    """∣A∣ ≤ √G, reached by a success alone. Would catch 0/0, and ±1e6 from a deviation of ε."""
    for eps in (0.0, 1e-6):
        advantages = binary.leave_one_out_normalised(4, eps=eps)
        assert advantages.success[-1] == 0 and advantages.failure[0] == 0
        largest = max(np.abs(advantages.success).max(), np.abs(advantages.failure).max())
        assert largest == pytest.approx(2 / (1 + 2 * eps), rel=1e-14)
