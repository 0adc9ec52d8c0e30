"""Laws of baselines that are known before the group is drawn, against sums over everything."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest

from theory.enumeration import gradient_distribution, outcomes
from theory.problems import random_problem
from ustat_grpo import Estimator, Snapshot
from ustat_grpo.estimators import NOTHING, Critic, GreedyBaseline
from ustat_grpo.laws import mse

RELATIVE = 1e-12
PROBLEM = random_problem(21, num_prompts=3, dimension=2)
ERRORS = np.array([-0.9, 0.1, 0.5])
CHANCES = np.array([0.2, 0.5, 0.3])


@dataclass(frozen=True)
class Told:
    """An estimator with one piece of side information."""

    inner: Estimator
    name: str
    known: float

    def advantages(self, rewards, side=NOTHING):
        known = np.full(rewards.shape[:-1], self.known)
        return self.inner.advantages(rewards, replace(side, **{self.name: known}))


def summed(estimator: Estimator, name: str, prompt: int, known, chances) -> float:
    """E‖ĝ − g‖² at G = 2 over every group and every value of the side information."""
    possible = outcomes(PROBLEM, prompt)
    return sum(
        chance
        * gradient_distribution(Told(estimator, name, value), possible, group_size=2).error(
            possible.gradient
        )
        for value, chance in zip(known, chances, strict=True)
    )


def greedy_rewards(problem: Snapshot) -> np.ndarray:
    """P(r = level∣x) of the most likely output, shape (P, L)."""
    best = problem.action_probs.argmax(axis=-1)
    return problem.reward_probs[np.arange(len(best)), best]


def test_greedy_baseline():
    """Would catch: the variance of the greedy reward left out, as for an argmax in hindsight."""
    chances, levels = greedy_rewards(PROBLEM), PROBLEM.reward_levels
    mean = chances @ levels
    variance = chances @ levels**2 - mean**2
    law = mse.greedy_baseline(PROBLEM.moments, group_size=2, mean=mean, variance=variance)
    obtained = [
        summed(GreedyBaseline(), "greedy_reward", prompt, levels, chances[prompt])
        for prompt in range(3)
    ]
    np.testing.assert_allclose(obtained, law, rtol=RELATIVE)
    certain = mse.greedy_baseline(PROBLEM.moments, group_size=2, mean=mean, variance=0.0)
    assert (np.abs(certain / law - 1) > 1e-3).all()


def test_critic():
    """Would catch: the cross term 2m·E[V̂ − V] lost, halved or of the wrong sign."""
    moments = PROBLEM.moments
    bias, square = CHANCES @ ERRORS, CHANCES @ ERRORS**2
    law = mse.critic(moments, group_size=2, mean_error=bias, mean_square_error=square)
    obtained = [
        summed(Critic(), "prediction", prompt, value + ERRORS, CHANCES)
        for prompt, value in enumerate(moments.value)
    ]
    np.testing.assert_allclose(obtained, law, rtol=RELATIVE)
    cross = bias * moments.score_norm_reward_covariance / 2
    for factor in (1, 2, 4):  # halved, lost, of the wrong sign
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(obtained, law + factor * cross, rtol=1e-6)


def test_a_certain_prediction_is_a_baseline():
    moments = PROBLEM.moments
    constant = mse.constant_baseline(moments, group_size=5, baseline=0.3)
    errors = 0.3 - moments.value
    law = mse.critic(moments, group_size=5, mean_error=errors, mean_square_error=errors**2)
    np.testing.assert_allclose(law, constant, rtol=RELATIVE)
    law = mse.greedy_baseline(moments, group_size=5, mean=0.3, variance=0.0)
    np.testing.assert_allclose(law, constant, rtol=RELATIVE)


def test_break_even_with_the_group_mean():
    """An unbiased critic is as good as GRPO at e²s = (sσ² + ‖g‖²)/(G−1)."""
    moments, size = PROBLEM.moments, 6
    square = moments.residual_norm_squared / moments.score_norm_squared / (size - 1)
    law = mse.critic(moments, group_size=size, mean_error=0.0, mean_square_error=square)
    np.testing.assert_allclose(law, mse.grpo(moments, group_size=size), rtol=RELATIVE)


BAD_INPUT = {
    "mean_square_error must not be less than the square of mean_error, got a difference of -0.24": (
        lambda: mse.critic(
            PROBLEM.moments, group_size=2, mean_error=0.5, mean_square_error=[0.3, 0.01, 0.3]
        )
    ),
    "variance must not be negative, got -0.1": lambda: mse.greedy_baseline(
        PROBLEM.moments, group_size=2, mean=0.5, variance=-0.1
    ),
    "group_size must be an integer of at least 1, got 0": lambda: mse.greedy_baseline(
        PROBLEM.moments, group_size=0, mean=0.5, variance=0.1
    ),
}


@pytest.mark.parametrize("message", BAD_INPUT)
def test_errors(message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BAD_INPUT[message]()
