"""The law of the mean gap against Algorithm 1 in standard errors, and mutants rejected."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from test_laws_path import ESTIMATORS, WithoutDrift, laws_of

from support.problems import random_problem
from support.training_options import optimized
from ustat_grpo import Constant, Decay, GroupMean, TugOfWar
from ustat_grpo.bandits.expansion import Expansion
from ustat_grpo.laws.path import without_replacement

TUG = TugOfWar()
PROBLEMS = {
    "tabular": (*random_problem(np.random.default_rng(42), 2, 3), Constant(2.0)),
    "features": (*random_problem(np.random.default_rng(42), 4, 3, dimension=3), Constant(2.0)),
    "decaying": (*random_problem(np.random.default_rng(42), 4, 3, dimension=3), Decay(6.0, 5.0)),
    "tug of war": (TUG.bandit, TUG.theta(-1.0), Constant(4.0)),
}
BATCH, SIZE, POINTS, RUNS = 32, 4, (4, 12), 8000


@functools.cache
def measured(name, known, batch_size=BATCH, group_size=SIZE, sampling="iid"):
    """The mean gap of Algorithm 1 and its standard error, each at both checkpoints."""
    bandit, theta0, schedule = PROBLEMS[name]
    if sampling != "iid":
        bandit = dataclasses.replace(bandit, prompt_probs=None)
    estimator = GroupMean() if known == "group_mean" else ESTIMATORS[known][0]
    runs = optimized(
        bandit, estimator, batch_size=batch_size, group_size=group_size, num_iterations=POINTS[-1],
        schedule=schedule, num_runs=RUNS, theta0=theta0, checkpoints=POINTS, keep_theta=False,
        prompt_sampling=sampling, rng=np.random.default_rng(0),
    )  # fmt: skip
    return runs.gap.mean(axis=0), runs.gap.std(axis=0, ddof=1) / np.sqrt(RUNS)


@functools.cache
def predicted(name, known, kind=Expansion, gain=1.0, equal_prompts=False):
    bandit, theta0, schedule = PROBLEMS[name]
    if equal_prompts:
        bandit = dataclasses.replace(bandit, prompt_probs=None)
    rates = gain * schedule.rates(POINTS[-1])
    return laws_of(bandit, ESTIMATORS[known][1], theta0, rates, POINTS, kind)


def z_scores(measurement, gaps):
    mean, std_error = measurement
    return (mean - np.array(gaps)) / std_error


def as_told(law, size=SIZE):
    return law.gap(batch_size=BATCH, group_size=size)


def wrong_gap(change):
    """A law of GRPO that is off by `change(law, G)` over B."""
    return lambda law, size: as_told(law, size) + change(law, size) / BATCH


MUTANTS = {
    "no drift": ("features", 4, WithoutDrift, as_told),
    "no drift in blocks": ("tabular", 4, WithoutDrift, as_told),
    "η for η², η = 4": (
        "tug of war", 4, Expansion, lambda law, g: law.path_gap / 4 * 3 + as_told(law, g) / 4
    ),
    "no prompt noise": ("features", 4, Expansion, wrong_gap(lambda law, g: -law.prompt)),
    "prompt noise over BG": (
        "tug of war", 4, Expansion, wrong_gap(lambda law, g: law.prompt * (1 / g - 1))
    ),
    "G − 1 for G": (
        "tug of war", 4, Expansion, wrong_gap(lambda law, g: law.output * (1 / (g - 1) - 1 / g))
    ),
    "G² for G(G−1)": (
        "tug of war", 2, Expansion,
        wrong_gap(lambda law, g: law.pair * (1 / g**2 - 1 / (g * (g - 1)))),
    ),
    "the oracle's law": (
        "tug of war", 2, Expansion, wrong_gap(lambda law, g: -law.pair / (g * (g - 1)))
    ),
}  # fmt: skip


class TestAgainstAlgorithmOne:
    @pytest.mark.parametrize("known", ESTIMATORS)
    @pytest.mark.parametrize("name", PROBLEMS)
    def test_mean_gap(self, name, known):
        """N = 128, where the second order is below a standard error; see the mutants below."""
        gaps = [as_told(law) for law in predicted(name, known)]
        assert abs(z_scores(measured(name, known), gaps)).max() <= 4

    @pytest.mark.parametrize("name", PROBLEMS)
    def test_noise_is_seen(self, name):
        gaps = [law.path_gap for law in predicted(name, "vanilla")]
        assert abs(z_scores(measured(name, "vanilla"), gaps)).max() > 8

    @pytest.mark.parametrize("mutant", MUTANTS)
    def test_wrong_laws_are_rejected(self, mutant):
        name, size, kind, gap = MUTANTS[mutant]
        known = "vanilla" if kind is WithoutDrift else "grpo"
        measurement = measured(name, known, group_size=size)
        right = [as_told(law, size) for law in predicted(name, known)]
        assert abs(z_scores(measurement, right)).max() <= 4
        wrong = [gap(law, size) for law in predicted(name, known, kind)]
        assert abs(z_scores(measurement, wrong)).max() > 4

    def test_the_group_mean_is_grpo_at_a_smaller_rate(self):
        measurement = measured("features", "group_mean")
        right, wrong = (
            [as_told(law) for law in predicted("features", "grpo", gain=gain)]
            for gain in ((SIZE - 1) / SIZE, 1.0)
        )
        assert abs(z_scores(measurement, right)).max() <= 4
        assert abs(z_scores(measurement, wrong)).max() > 4

    @pytest.mark.parametrize("batch_size", [3, 4])
    def test_without_replacement(self, batch_size):
        """Prompt noise times (4−B)/3. Would catch: that of i.i.d. prompts."""
        sizes = {"batch_size": batch_size, "group_size": 64}
        measurement = measured("decaying", "grpo", **sizes, sampling="without_replacement")
        laws = predicted("decaying", "grpo", equal_prompts=True)
        factor = without_replacement(4, batch_size)
        right = [law.gap(**sizes, prompt_factor=factor) for law in laws]
        wrong = [law.gap(**sizes) for law in laws]
        assert abs(z_scores(measurement, right)).max() <= 4
        assert abs(z_scores(measurement, wrong)).max() > 4
