"""Estimators for 0/1 rewards from plain functions of a group, beside their closed forms."""

from itertools import combinations

import numpy as np

from support.problems import random_snapshot
from theory.enumeration import gradient_distribution, outcomes, unordered_groups
from theory.problems import two_actions
from ustat_grpo.estimators import NOTHING
from ustat_grpo.laws import binary

PROBLEMS = {
    "features": random_snapshot(np.random.default_rng(41), 3, 3, dimension=2),
    "tabular": random_snapshot(np.random.default_rng(42), 2, 3),
    "one parameter": two_actions(0.3, [0.2, 1.0]),
}


class ByHand:
    """An estimator from a plain function of one group's rewards."""

    def __init__(self, function):
        self.function = function

    def advantages(self, rewards, side=NOTHING):
        return np.apply_along_axis(self.function, -1, np.asarray(rewards, dtype=float))


def others(z):
    return np.array([np.delete(z, i).mean() for i in range(len(z))])


def over_deviation(centred, z, eps, ddof):
    return centred / (z.std(ddof=ddof) + eps) if np.ptp(z) else np.zeros(len(z))


def pass_at_k(z, k):
    """k times the share of sets of k − 1 others that all fail, times what GRPO gives."""
    alone = []
    for i in range(len(z)):
        sets = list(combinations(np.delete(z, i), k - 1))
        alone.append(sum(not any(chosen) for chosen in sets) / len(sets))
    return k * np.array(alone) * (z - others(z))


def best(z):
    top = np.argmax(z)
    return np.where(np.arange(len(z)) == top, z[top] - np.delete(z, top).max(), 0.0)


CASES = {
    "vanilla": (lambda z: z, binary.vanilla),
    "constant": (lambda z: z - 0.4, lambda size: binary.baseline(size, 0.4)),
    "grpo": (lambda z: z - others(z), binary.grpo),
    "group mean": (lambda z: z - z.mean(), binary.group_mean),
    "shrinkage": (
        lambda z: z - 0.7 * others(z) + 0.3 * 0.2,
        lambda size: binary.shrinkage(size, weight=0.3, target=-0.2),
    ),
    "own mean over deviation": (
        lambda z: over_deviation(z - z.mean(), z, 1e-4, 1),
        lambda size: binary.std_normalised(size, eps=1e-4),
    ),
    "own mean over deviation, ddof 0": (
        lambda z: over_deviation(z - z.mean(), z, 0.1, 0),
        lambda size: binary.std_normalised(size, eps=0.1, ddof=0),
    ),
    "mean of the others over deviation": (
        lambda z: over_deviation(z - others(z), z, 0.0, 1),
        binary.leave_one_out_normalised,
    ),
    "sign": (lambda z: np.sign(z - z.mean()), binary.sign),
    "pass@2": (lambda z: pass_at_k(z, 2), lambda size: binary.pass_at_k(size, 2)),
    "best": (best, lambda size: binary.best_of_group(size, eps=None)),
    "best over deviation": (
        lambda z: over_deviation(best(z), z, 1e-6, 1),
        binary.best_of_group,
    ),
    "vanilla without equal groups": (
        lambda z: z if np.ptp(z) else 0 * z,
        lambda size: binary.drop_equal_groups(binary.vanilla(size)),
    ),
}


def moments_of(problem):
    return problem.moments.outcome, problem.moments.gradient_norm_squared


def second_moments(estimator, problem, size):
    """E‖ĝ‖² at every prompt, by summing over every group."""
    found = []
    for prompt in range(len(problem.prompt_probs)):
        possible = outcomes(problem, prompt)
        every = gradient_distribution(estimator, possible, group_size=size, groups=unordered_groups)
        found.append(every.error(np.zeros_like(possible.gradient)))
    return np.array(found)
