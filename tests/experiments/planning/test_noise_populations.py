"""Populations whose noise is known: their truth by other means, their samples by definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experiments.planning.populations import Population, population_of_bandit, population_of_policy
from experiments.tasks.language import Panel
from support.lm_problems import OUTPUTS, PROMPTS, generator, graded, grades, moments_of, problem
from support.problems import random_snapshot
from ustat_grpo.lm.sampling import sample_groups
from ustat_grpo.noise import OutputSample, estimate_noise

COMPONENTS = ("prompt", "oracle", "residual")


def streams(count):
    return np.random.default_rng(0).spawn(count)


def uniform_snapshot(rng, dimension=None):
    """Prompts that are equally likely, three reward levels."""
    snapshot = random_snapshot(rng, 4, 3, reward_levels=(0.0, 1.0, 3.0), dimension=dimension)
    return replace(snapshot, prompt_probs=np.full(4, 0.25))


def features_known(rng) -> tuple[Population, np.ndarray]:
    """Prompts with 3, 1 and 4 outputs, no two rewards alike, and one output that never comes."""
    sizes = np.array([3, 1, 4])
    prompts = np.repeat(np.arange(3), sizes)
    probs = np.concatenate([rng.dirichlet(np.ones(size)) for size in sizes])
    probs[1], probs[0] = 0.0, probs[0] + probs[1]
    features = rng.normal(1.0, 2.0, size=(len(prompts), 2))
    return Population(prompts, probs, rng.normal(size=len(probs)), features @ features.T), features


class TestPopulation:
    @pytest.mark.parametrize("dimension", [None, 3])
    def test_noise_of_a_bandit_is_the_snapshots(self, rng, dimension):
        snapshot = uniform_snapshot(rng, dimension)
        found, expected = population_of_bandit(snapshot).noise, snapshot.noise
        for name in COMPONENTS:
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)

    def test_features_may_be_shifted_at_every_prompt(self, rng):
        """Scores have mean 0: what all outputs to a prompt share is no part of them."""
        population, features = features_known(rng)
        moved = features + rng.normal(size=(3, 2))[population.prompts]
        shifted = replace(population, products=moved @ moved.T)
        assert shifted.score_norms == pytest.approx(population.score_norms, rel=1e-10, abs=1e-12)
        for name in COMPONENTS:
            assert getattr(shifted.noise, name) == pytest.approx(getattr(population.noise, name))

    def test_samples_are_measured_as_from_their_scores(self, rng):
        """Rewards say which output it is. Also beyond the samples that are taken at once."""
        population, features = features_known(rng)
        means = np.array([
            population.probs[own] @ features[own]
            for own in (population.prompts == x for x in range(3))
        ])  # fmt: skip
        scores = features - means[population.prompts]
        order = np.argsort(population.rewards)
        for sample in population.samples(9, 4, streams(70)):
            places = order[np.searchsorted(population.rewards[order], sample.rewards)]
            groups = places.reshape(9, 4)
            assert (population.prompts[groups] == population.prompts[groups[:, :1]]).all()
            rewards = population.rewards[groups]
            expected = OutputSample.from_scores(list(scores[groups]), list(rewards))
            for name in ("score_norms", "gradient_norms", "gradient_products"):
                np.testing.assert_allclose(
                    getattr(sample, name), getattr(expected, name), rtol=1e-12, atol=1e-12
                )

    def test_outputs_are_drawn_with_their_probabilities(self, rng):
        """72000 outputs to 18000 prompts, |z| ≤ 4: would catch a probability off by 0.015."""
        population, _ = features_known(rng)
        rewards = np.concatenate([s.rewards for s in population.samples(9, 4, streams(2000))])
        counts = (rewards[:, None] == population.rewards).sum(axis=0)
        assert counts.sum() == len(rewards) and counts[1] == 0
        shares = population.probs / 3
        # Four outputs to one prompt are correlated: a group counts once.
        errors = np.sqrt(shares * (1 - shares) / 18000)
        drawn = shares > 0
        assert np.abs((counts / len(rewards) - shares)[drawn] / errors[drawn]).max() <= 4

    def test_more_samples_leave_the_first_as_they_were(self, rng):
        population, _ = features_known(rng)
        few, many = (list(population.samples(9, 4, streams(n))) for n in (3, 70))
        for a, b in zip(few, many, strict=False):
            assert (a.rewards == b.rewards).all()
            np.testing.assert_allclose(a.gradient_products, b.gradient_products, rtol=1e-12)

    def test_estimates_are_unbiased(self, rng):
        """1000 samples, |z| ≤ 4. Would catch: products within a sample that miss own groups."""
        population = population_of_bandit(uniform_snapshot(rng))
        noise = population.noise
        found = np.array([
            [getattr(estimate, name) for name in COMPONENTS]
            for estimate in map(estimate_noise, population.samples(16, 4, streams(1000)))
        ])  # fmt: skip
        truth = [getattr(noise, name) for name in COMPONENTS]
        z = (found.mean(axis=0) - truth) / (found.std(axis=0, ddof=1) / np.sqrt(len(found)))
        assert np.abs(z).max() <= 4


class TestPolicy:
    def population(self, num_outputs):
        panel = Panel(problem()[0], PROMPTS, graded, max_tokens=2, outputs_at_once=1)
        return population_of_policy(panel, len(PROMPTS), num_outputs, generator(3))

    def test_with_all_outputs_it_is_the_model(self):
        """5000 outputs a prompt find each of the 13."""
        population = self.population(5000)
        assert len(population.probs) == len(PROMPTS) * len(OUTPUTS)
        expected = problem()[1].moments(grades()).noise
        for name in COMPONENTS:
            found = getattr(population.noise, name)
            assert found == pytest.approx(getattr(expected, name), rel=1e-10)

    def test_with_some_outputs_it_is_the_model_given_these(self):
        """Scores of the policy by hand: W − E[W], the mean over the outputs that are left."""
        model, every = problem()
        rollouts = sample_groups(model, PROMPTS, 6, max_tokens=2, rng=generator(3))
        probs = np.zeros_like(every.probs)
        for prompt, (outputs, mask) in enumerate(zip(rollouts.outputs, rollouts.mask, strict=True)):
            for output, real in zip(outputs, mask, strict=True):
                place = OUTPUTS.index(tuple(output[real].tolist()))
                probs[prompt, place] = every.probs[prompt, place]
        assert (probs == 0).any(axis=1).all()
        probs /= probs.sum(axis=1, keepdims=True)
        scores = every.scores - np.einsum("pk,pkd->pd", probs, every.scores)[:, None]
        expected = moments_of(probs, scores, grades()).noise
        noise = self.population(6).noise
        for name in COMPONENTS:
            assert getattr(noise, name) == pytest.approx(getattr(expected, name), rel=1e-10)
