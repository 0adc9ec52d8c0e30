"""The law of epochs against all orders of the prompts, against Algorithm 1, and mutants."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re

import numpy as np
import pytest
from test_laws_path import falls_like, laws_of

from support.problems import random_problem
from support.training_options import optimized
from ustat_grpo import Constant, Grpo
from ustat_grpo.bandits.expansion import Expansion
from ustat_grpo.laws import covariance
from ustat_grpo.laws.epochs import prompt_effect
from ustat_grpo.laws.path import without_replacement


class WithoutPull(Expansion):
    """A mutant: the prompts to come curve J like all prompts; no drift −E[H(x) u_x]/(P−1)."""

    def mean_hessian_product(self, vectors):
        return np.zeros(vectors.shape[1])


class WithoutDrift(Expansion):
    """A mutant: the spread of θ does not move the mean gradient."""

    def drift(self, covariance):
        return np.zeros(covariance.shape[:-1])


def effects_of(bandit, theta0, rates, checkpoints, batch_size, kind=Expansion):
    return prompt_effect(
        lambda theta: kind(bandit.at(theta)),
        theta0=theta0,
        rates=rates,
        checkpoints=checkpoints,
        batch_size=batch_size,
    )


def iid(bandit, theta0, rates, checkpoints):
    """The law of i.i.d. prompts, and the gap of the noiseless path."""
    return laws_of(bandit, covariance.grpo, theta0, rates, checkpoints)


def equal_prompts(seed, *shape, **options):
    bandit, theta0 = random_problem(np.random.default_rng(seed), *shape, **options)
    return dataclasses.replace(bandit, prompt_probs=None), theta0


def orders(num_prompts, num_slots):
    """Every way in which epochs can fill the slots, equally likely; shape (·, slots)."""
    shuffles = np.array(list(itertools.permutations(range(num_prompts))))
    filled = np.empty((1, 0), dtype=int)
    while filled.shape[1] < num_slots:
        filled = np.concatenate(
            [np.repeat(filled, len(shuffles), axis=0), np.tile(shuffles, (len(filled), 1))], axis=1
        )
    return filled[:, :num_slots]


def policies(bandit, theta):
    """π_θ of many θ at once; (R, d) to (R, P, K)."""
    weights = np.exp(np.einsum("pkd,rd->rpk", bandit.features, theta) + bandit.offsets)
    return weights / weights.sum(axis=-1, keepdims=True)


def exact_gap(bandit, theta0, rates, batch_size):
    """E Δ_n of ascent along exact gradients of minibatches, over every order of the prompts."""
    mean_reward = bandit.reward_probs @ bandit.reward_levels
    slots = orders(len(mean_reward), len(rates) * batch_size)
    theta = np.tile(theta0, (len(slots), 1))
    for step, rate in enumerate(rates):
        probs = policies(bandit, theta)
        centred = mean_reward - (probs * mean_reward).sum(axis=-1, keepdims=True)
        gradients = np.einsum("rpk,pkd->rpd", probs * centred, bandit.features)
        taken = slots[:, step * batch_size : (step + 1) * batch_size]
        theta = theta + rate * np.take_along_axis(gradients, taken[:, :, None], axis=1).mean(axis=1)
    objectives = (policies(bandit, theta) * mean_reward).sum(axis=-1).mean(axis=-1)
    return bandit.best_objective - objectives.mean()


SHRINKINGS = 2.0 ** np.arange(6, 9)
UNEVEN = (1.5, 1.0, 2.0, 0.7, 1.2, 1.0, 0.8)


def family(size):
    """The same prompt thrice, but for ε times what tells them apart."""
    bandit, theta0 = equal_prompts(11, 3, 3, dimension=2, reward_levels=(-1.0, 0.5, 2.0))
    arrays = {name: getattr(bandit, name) for name in ("features", "offsets", "reward_probs")}
    blended = {name: each[:1] + size * (each - each[:1]) for name, each in arrays.items()}
    return dataclasses.replace(bandit, **blended), theta0


@functools.cache
def exact_effects(batch_size, steps):
    """Problem, i.i.d. law and exact E Δ_n − Δ(m_n), at every ε."""
    effects = []
    for shrinking in SHRINKINGS:
        bandit, theta0 = family(1 / shrinking)
        (law,) = iid(bandit, theta0, UNEVEN[:steps], [steps])
        exact = exact_gap(bandit, theta0, UNEVEN[:steps], batch_size)
        effects.append((bandit, theta0, law, exact - law.path_gap))
    return effects


def told(batch_size, steps, kind=Expansion):
    return [
        effects_of(bandit, theta0, UNEVEN[:steps], [steps], batch_size, kind)[0]
        for bandit, theta0, *_ in exact_effects(batch_size, steps)
    ]


class TestAllOrders:
    """Three prompts that differ by ε: the effect is of order ε², what the law leaves out of ε³.

    Epochs cut anywhere, minibatches that end one and begin the next, or hold a whole one.
    """

    RUNS = ((1, 2), (1, 3), (1, 4), (1, 7), (2, 2), (2, 3), (2, 4), (4, 2), (4, 3), (5, 2))
    every_run = pytest.mark.parametrize(("batch_size", "steps"), RUNS)

    def left_out(self, batch_size, steps, effects):
        pairs = zip(exact_effects(batch_size, steps), effects, strict=True)
        return [abs(exact - effect) for (*_, exact), effect in pairs]

    @every_run
    def test_only_the_third_order_is_left_out(self, batch_size, steps):
        """At any rate: would catch whatever is wrong by any factor of η."""
        left_out = self.left_out(batch_size, steps, told(batch_size, steps))
        assert falls_like(-3, SHRINKINGS, left_out)

    @every_run
    def test_mutants_miss_the_second(self, batch_size, steps):
        laws = [law for _, _, law, _ in exact_effects(batch_size, steps)]
        between = without_replacement(3, batch_size) if batch_size <= 3 else 0.0
        mutants = {
            "no effect": [0.0] * len(laws),
            "independent prompts": [law.prompt / batch_size for law in laws],
            "independent minibatches": [between * law.prompt / batch_size for law in laws],
            "no drift": told(batch_size, steps, WithoutDrift),
        }
        for name, effects in mutants.items():
            left_out = self.left_out(batch_size, steps, effects)
            assert falls_like(-2, SHRINKINGS, left_out), name

    @pytest.mark.parametrize(("batch_size", "steps"), [*RUNS[:5], (4, 2), (5, 2)])
    def test_the_pull_of_prompts_to_come_is_of_second_order(self, batch_size, steps):
        """Elsewhere its coefficient is near zero."""
        effects = told(batch_size, steps, WithoutPull)
        assert falls_like(-2, SHRINKINGS, self.left_out(batch_size, steps, effects))


BANDIT, THETA = equal_prompts(3, 6, 3, dimension=3)
RATE, POINTS = 0.5, (8, 14)
RATES = np.full(POINTS[-1], RATE)


class TestSpecialCases:
    @pytest.mark.parametrize("batch_size", range(1, 7))
    def test_one_step_is_sampling_without_replacement(self, batch_size):
        """a₁/B·(P−B)/(P−1). Would catch: (P−B)/P."""
        (law,) = iid(BANDIT, THETA, RATES, [1])
        (effect,) = effects_of(BANDIT, THETA, RATES, [1], batch_size)
        expected = law.prompt / batch_size * (6 - batch_size) / 5
        np.testing.assert_allclose(effect, expected, rtol=1e-12, atol=1e-16)

    @pytest.mark.parametrize("batch_size", [7, 9, 11, 20])
    def test_one_step_beyond_an_epoch(self, batch_size):
        """Whole epochs cancel: a₁r/B²·(P−r)/(P−1) for the r prompts that are left over."""
        (law,) = iid(BANDIT, THETA, RATES, [1])
        (effect,) = effects_of(BANDIT, THETA, RATES, [1], batch_size)
        left_over = batch_size % 6
        expected = law.prompt * left_over / batch_size**2 * (6 - left_over) / 5
        np.testing.assert_allclose(effect, expected, rtol=1e-12)

    @pytest.mark.parametrize("batch_size", [6, 12, 18])
    def test_whole_epochs_have_no_prompt_noise(self, batch_size):
        effects = effects_of(BANDIT, THETA, RATES, [1, 2, 14], batch_size)
        np.testing.assert_allclose(effects, 0.0, atol=1e-16)

    @pytest.mark.parametrize("batch_size", [1, 4, 9])
    def test_equal_prompts_have_no_prompt_noise(self, batch_size):
        alike = dataclasses.replace(
            BANDIT,
            features=np.tile(BANDIT.features[:1], (6, 1, 1)),
            reward_probs=np.tile(BANDIT.reward_probs[:1], (6, 1, 1)),
            offsets=np.tile(BANDIT.offsets[:1], (6, 1)),
        )
        effects = effects_of(alike, THETA, RATES, POINTS, batch_size)
        np.testing.assert_allclose(effects, 0.0, atol=1e-16)

    def test_every_checkpoint_is_that_of_a_shorter_run(self):
        points = [1, 3, 4, 14]
        together = effects_of(BANDIT, THETA, RATES, points, 4)
        alone = [effects_of(BANDIT, THETA, RATES, [point], 4)[0] for point in points]
        assert together == alone

    @pytest.mark.parametrize("size", [0, 2.5, True])
    def test_batch_size_is_a_positive_integer(self, size):
        message = re.escape("batch_size must be an integer") + ".*" + re.escape(f"got {size!r}")
        with pytest.raises(ValueError, match=f"^{message}$"):
            effects_of(BANDIT, THETA, RATES, [1], size)


RUNS = 2000
CELLS = {"divides P": (2, 64), "does not": (4, 32), "exceeds P": (9, 16)}


@functools.cache
def measured(batch_size, group_size):
    """The mean gap of Algorithm 1 with epochs, and its standard error, at both checkpoints."""
    runs = optimized(
        BANDIT, Grpo(), batch_size=batch_size, group_size=group_size, num_iterations=POINTS[-1],
        schedule=Constant(RATE), num_runs=RUNS, theta0=THETA, checkpoints=POINTS, keep_theta=False,
        prompt_sampling="epochs", rng=np.random.default_rng(1),
    )  # fmt: skip
    return runs.gap.mean(axis=0), runs.gap.std(axis=0, ddof=1) / np.sqrt(RUNS)


class TestAgainstAlgorithmOne:
    """Six prompts, fourteen iterations."""

    def z_scores(self, cell, effects):
        batch_size, group_size = CELLS[cell]
        gaps = [
            law.gap(batch_size=batch_size, group_size=group_size, prompt_factor=0.0) + effect
            for law, effect in zip(iid(BANDIT, THETA, RATES, POINTS), effects, strict=True)
        ]
        mean, std_error = measured(batch_size, group_size)
        return abs((mean - np.array(gaps)) / std_error)

    @pytest.mark.parametrize("cell", CELLS)
    def test_mean_gap(self, cell):
        effects = effects_of(BANDIT, THETA, RATES, POINTS, CELLS[cell][0])
        assert self.z_scores(cell, effects).max() <= 4

    @pytest.mark.parametrize("cell", CELLS)
    def test_independent_prompts_are_rejected(self, cell):
        effects = [law.prompt / CELLS[cell][0] for law in iid(BANDIT, THETA, RATES, POINTS)]
        assert self.z_scores(cell, effects).max() > 10

    @pytest.mark.parametrize("cell", ["divides P", "does not"])
    def test_independent_minibatches_are_rejected(self, cell):
        """No correlation between the minibatches of an epoch."""
        size = CELLS[cell][0]
        factor = without_replacement(6, size) / size
        effects = [factor * law.prompt for law in iid(BANDIT, THETA, RATES, POINTS)]
        assert self.z_scores(cell, effects).max() > 4

    @pytest.mark.parametrize("cell", ["divides P", "does not"])
    def test_no_prompt_noise_is_rejected(self, cell):
        assert self.z_scores(cell, [0.0, 0.0]).max() > 4

    def test_no_pull_of_the_prompts_to_come_is_rejected(self):
        size = CELLS["divides P"][0]
        effects = effects_of(BANDIT, THETA, RATES, POINTS, size, WithoutPull)
        assert self.z_scores("divides P", effects).max() > 4
