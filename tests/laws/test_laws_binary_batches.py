"""Minibatches and dynamic sampling for 0/1 rewards against sums over everything that can happen."""

import numpy as np
import pytest

from support.binary_cases import CASES, ByHand
from support.problems import random_snapshot
from theory.enumeration import gradient_distribution, minibatch_error, outcomes, unordered_groups
from ustat_grpo.laws import binary

RELATIVE = 1e-12


def gram_of(problem):
    gradients = problem.prompt_gradients
    if problem.features is None:
        return np.diag(problem.moments.gradient_norm_squared)
    return gradients @ gradients.T


TINY = {
    "features": random_snapshot(np.random.default_rng(43), 2, 2, dimension=2),
    "tabular": random_snapshot(np.random.default_rng(44), 2, 2),
}


@pytest.mark.parametrize("problem", TINY.values(), ids=list(TINY))
class TestMinibatch:
    @pytest.mark.parametrize("num_groups", [1, 2])
    @pytest.mark.parametrize("name", ["grpo", "mean of the others over deviation", "pass@2"])
    def test_error_against_enumeration(self, problem, name, num_groups):
        """E‖ĝ − ∇J‖² by summing over every minibatch holds all three numbers of the law."""
        function, advantages = CASES[name]
        law = binary.minibatch_law(
            advantages(2), problem.moments, gram_of(problem), num_groups=num_groups
        )
        objective = problem.moments.objective_gradient_norm_squared
        variance = law.scale_free_error * law.mean_norm_squared
        inner = law.cosine * np.sqrt(law.mean_norm_squared * objective)
        expected = variance + law.mean_norm_squared - 2 * inner + objective
        obtained = minibatch_error(ByHand(function), problem, batch_size=num_groups, group_size=2)
        assert obtained == pytest.approx(expected, rel=RELATIVE)

    def test_unbiased_points_uphill(self, problem):
        law = binary.minibatch_law(binary.grpo(4), problem.moments, gram_of(problem), num_groups=8)
        objective = problem.moments.objective_gradient_norm_squared
        assert law.cosine == pytest.approx(1, abs=1e-14)
        assert law.mean_norm_squared == pytest.approx(objective, rel=1e-11)

    @pytest.mark.parametrize("name", ["vanilla", "own mean over deviation", "sign"])
    def test_dynamic_sampling_against_enumeration(self, problem, name):
        """Sum over the groups that are kept, and over none that is not.

        Would catch q² for q, and the cost of dropped groups left out (a factor 1/q).
        """
        function, advantages = CASES[name]
        size, num_groups = 3, 10
        gradients, probs = [], []
        for prompt, prob in enumerate(problem.prompt_probs):
            possible = outcomes(problem, prompt)
            groups = unordered_groups(possible.probs, size)
            every = gradient_distribution(
                ByHand(function), possible, group_size=size, groups=unordered_groups
            )
            alive = np.ptp(possible.rewards[groups.members], axis=-1) > 0
            gradients.append(every.gradients[alive])
            probs.append(prob * every.probs[alive])
        gradients, probs = np.concatenate(gradients), np.concatenate(probs)
        kept = num_groups * probs.sum()
        probs /= probs.sum()
        mean = probs @ gradients
        spread = probs @ np.sum((gradients - mean) ** 2, axis=-1) / kept
        law = binary.dynamic_sampling(
            advantages(size), problem.moments, gram_of(problem), num_groups=num_groups
        )
        assert law.mean_norm_squared == pytest.approx(mean @ mean, rel=RELATIVE)
        assert law.scale_free_error == pytest.approx(spread / (mean @ mean), rel=1e-11)
        cosine = mean @ problem.gradient / np.linalg.norm(mean) / np.linalg.norm(problem.gradient)
        assert law.cosine == pytest.approx(cosine, rel=1e-12)

    def test_dynamic_sampling_saves_little(self, problem):
        """(1/q − 1)/n at equal cost, and the direction is the same."""
        advantages, gram = binary.sign(3), gram_of(problem)
        plain = binary.minibatch_law(advantages, problem.moments, gram, num_groups=5)
        kept = binary.dynamic_sampling(advantages, problem.moments, gram, num_groups=5)
        dead = problem.prompt_probs @ binary.dead_group_probability(problem.value, 3)
        saved = plain.scale_free_error - kept.scale_free_error
        assert saved == pytest.approx((1 / (1 - dead) - 1) / 5, rel=1e-11)
        assert kept.cosine == pytest.approx(plain.cosine, rel=1e-14)
