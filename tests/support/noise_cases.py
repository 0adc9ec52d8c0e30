"""Samples for the tests of `ustat_grpo.noise`: every group there is, and drawn batches."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from theory.enumeration import Outcomes, ordered_groups, outcomes
from theory.problems import random_problem
from ustat_grpo import Grpo, Snapshot, gradient
from ustat_grpo.noise import OutputSample
from ustat_grpo.noise.components import PromptStatistics, prompt_statistics
from ustat_grpo.noise.groups import FlatGroups


def tiny_snapshot() -> Snapshot:
    """Two prompts, two actions, two reward levels and two features: nothing is symmetric."""
    return random_problem(23, num_actions=2, num_levels=2, dimension=2)


class EveryGroup(NamedTuple):
    """Every group of M outputs to one prompt, its chance, and what is measured of it."""

    probs: np.ndarray
    groups: FlatGroups
    score_norms: np.ndarray
    gradients: np.ndarray

    @property
    def gradient_norms(self) -> np.ndarray:
        return np.sum(self.gradients**2, axis=-1)

    @property
    def statistics(self) -> PromptStatistics:
        return prompt_statistics(self.groups, self.score_norms, self.gradient_norms)


def every_group(possible: Outcomes, size: int) -> EveryGroup:
    """Gradients are those of the library's estimator, not of the weights under test."""
    members, probs = ordered_groups(possible.probs, size)
    scores, rewards = possible.scores[members], possible.rewards[members]
    group = np.repeat(np.arange(len(probs)), size)
    groups = FlatGroups(rewards.ravel(), group, np.full(len(probs), size))
    norms = np.sum(scores**2, axis=-1).ravel()
    return EveryGroup(probs, groups, norms, gradient(Grpo(), scores, rewards))


def every_group_of_every_prompt(snapshot: Snapshot, size: int) -> list[EveryGroup]:
    return [every_group(outcomes(snapshot, x), size) for x in range(len(snapshot.prompt_probs))]


def random_scores(rng, sizes, dimension: int = 3):
    """Scores and rewards of groups of the given sizes, far from centred."""
    scores = [rng.normal(1.0, 2.0, size=(size, dimension)) for size in sizes]
    return scores, [rng.normal(5.0, 1.0, size=size) for size in sizes]


def draw_batch(snapshot: Snapshot, batch_size: int, group_size: int, rng):
    """Scores (M, d) and rewards (M,) of prompts drawn i.i.d. from a bandit."""
    every = _every_outcome(snapshot)
    prompts = rng.choice(len(every), size=batch_size, p=snapshot.prompt_probs)
    places = [rng.choice(len(every[x].probs), size=group_size, p=every[x].probs) for x in prompts]
    pairs = list(zip(prompts, places, strict=True))
    return [every[x].scores[y] for x, y in pairs], [every[x].rewards[y] for x, y in pairs]


@cache
def _every_outcome(snapshot: Snapshot) -> list[Outcomes]:
    return [outcomes(snapshot, x) for x in range(len(snapshot.prompt_probs))]


def flat_sample(rng, sizes) -> OutputSample:
    return OutputSample.from_scores(*random_scores(rng, sizes))
