"""Exact expectations by summing over everything that can happen; no law is used here.

What a group of G outputs can be is a finite list: one cell, that is (action, reward level), for
each output. `gradient` is evaluated on every entry of that list and weighted by its probability.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from math import factorial, prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ustat_grpo import Estimator, SideInformation, Snapshot, gradient
from ustat_grpo.inputs.arrays import Array, Integers

_BLOCK = 4096  # groups evaluated at once


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Every output that a prompt can lead to.

    Args:
        scores: W, shape (C, d).
        rewards: Z, shape (C,).
        probs: positive, shape (C,), summing to one.
    """

    scores: Float[Array, "C d"]
    rewards: Float[Array, " C"]
    probs: Float[Array, " C"]

    @cached_property
    def value(self) -> float:
        """V = E Z."""
        return float(self.probs @ self.rewards)

    @cached_property
    def gradient(self) -> Float[Array, " d"]:
        """g(x) = E[WZ], shape (d,)."""
        return (self.probs * self.rewards) @ self.scores

    @cached_property
    def optimal_baseline(self) -> float:
        """b* = E‖W‖²Z / E‖W‖²; V where the score is always zero."""
        weights = self.probs * np.sum(self.scores**2, axis=-1)
        return float(weights @ self.rewards / weights.sum()) if weights.any() else self.value

    @property
    def side(self) -> SideInformation:
        """What the oracle and its like may know: the exact V(x) and b*(x)."""
        return SideInformation(np.asarray(self.value), np.asarray(self.optimal_baseline))


class Groups(NamedTuple):
    """Every group: the cells of its members, shape (M, G), and its probability, shape (M,)."""

    members: Int[Integers, "M G"]
    probs: Float[Array, " M"]


Listing = Callable[[Array, int], Groups]


class Distribution(NamedTuple):
    """A gradient estimate in every case: its values, shape (M, d), and probabilities, (M,)."""

    gradients: Float[Array, "M d"]
    probs: Float[Array, " M"]

    def mean(self) -> Float[Array, " d"]:
        """E ĝ, shape (d,)."""
        return self.probs @ self.gradients

    def error(self, target: Float[Array, " d"]) -> float:
        """E‖ĝ − target‖²."""
        return float(self.probs @ np.sum((self.gradients - target) ** 2, axis=-1))


def outcomes(snapshot: Snapshot, prompt: int) -> Outcomes:
    """List the cells (action, reward level) of one prompt that have a positive probability."""
    probs = snapshot.action_probs[prompt][:, None] * snapshot.reward_probs[prompt]
    actions, levels = np.nonzero(probs)
    scores = snapshot.dense_scores()[prompt]
    return Outcomes(scores[actions], snapshot.reward_levels[levels], probs[actions, levels])


def ordered_groups(probs: Array, group_size: int) -> Groups:
    """List all C^G groups, one member after the other."""
    members = np.indices((len(probs),) * group_size).reshape(group_size, -1).T
    return Groups(members, probs[members].prod(axis=-1))


def unordered_groups(probs: Array, group_size: int) -> Groups:
    """List the groups up to the order of their members, which no estimator looks at.

    That is (G+C−1 choose C−1) multisets in place of C^G groups: with three cells a group of 64
    has 2145. Each weighs as much as its orders together: G!/∏ kᵢ! · ∏ pᵢ^kᵢ.
    """
    cells = range(len(probs))
    members = np.array(list(combinations_with_replacement(cells, group_size)))
    counts = np.stack([(members == cell).sum(axis=-1) for cell in cells], axis=-1)
    orders = [factorial(group_size) // prod(map(factorial, row)) for row in counts.tolist()]
    return Groups(members, np.array(orders, dtype=float) * np.prod(probs**counts, axis=-1))


def gradient_distribution(
    estimator: Estimator,
    possible: Outcomes,
    *,
    group_size: int,
    groups: Listing = ordered_groups,
) -> Distribution:
    """Evaluate ĝ(x) on every group of one prompt.

    Args:
        estimator: may use the exact V(x) and b*(x), as the oracle does.
        possible: the outcomes of the prompt.
        group_size: G.
        groups: how to list the groups.
    """
    members, probs = groups(possible.probs, group_size)
    blocks = [
        gradient(
            estimator,
            possible.scores[block],
            possible.rewards[block],
            possible.side,
        )
        for block in np.split(members, range(_BLOCK, len(members), _BLOCK))
    ]
    return Distribution(np.concatenate(blocks), probs)


def group_errors(
    estimator: Estimator,
    snapshot: Snapshot,
    *,
    group_size: int,
    groups: Listing = ordered_groups,
) -> Float[Array, " P"]:
    """Return E‖ĝ(x) − g(x)‖² at every prompt, shape (P,), by summing over every group."""
    errors = []
    for prompt in range(len(snapshot.prompt_probs)):
        possible = outcomes(snapshot, prompt)
        distribution = gradient_distribution(
            estimator, possible, group_size=group_size, groups=groups
        )
        errors.append(distribution.error(possible.gradient))
    return np.array(errors)


def group_means(
    estimator: Estimator, snapshot: Snapshot, *, group_size: int
) -> tuple[Float[Array, "P d"], Float[Array, "P d"]]:
    """Return E ĝ(x) by summing over every group, and g(x) by summing over outputs."""
    possible = [outcomes(snapshot, prompt) for prompt in range(len(snapshot.prompt_probs))]
    means = [gradient_distribution(estimator, x, group_size=group_size).mean() for x in possible]
    return np.array(means), np.array([x.gradient for x in possible])


def minibatch_error(
    estimator: Estimator, snapshot: Snapshot, *, batch_size: int | None, group_size: int
) -> float:
    """Return E‖ĝ − g‖² by summing over every minibatch: every draw of prompts and of groups.

    With `batch_size=None` each prompt is taken once and weighted by its probability. The number of
    minibatches is (P·C^G)^B, or C^(GP): for tiny problems only.
    """
    possible = [outcomes(snapshot, prompt) for prompt in range(len(snapshot.prompt_probs))]
    target = snapshot.prompt_probs @ np.array([x.gradient for x in possible])
    at_prompts = [gradient_distribution(estimator, x, group_size=group_size) for x in possible]
    if batch_size is None:
        weighted = zip(snapshot.prompt_probs, at_prompts, strict=True)
        parts = [Distribution(prob * each.gradients, each.probs) for prob, each in weighted]
        return _sum(parts).error(target)
    gradients = np.concatenate([each.gradients for each in at_prompts])
    joint = zip(snapshot.prompt_probs, at_prompts, strict=True)
    probs = np.concatenate([prob * each.probs for prob, each in joint])
    return _sum([Distribution(gradients / batch_size, probs)] * batch_size).error(target)


def _sum(parts: Iterable[Distribution]) -> Distribution:
    """Return the distribution of a sum of independent vectors, without merging equal values."""
    first, *others = parts
    gradients, probs = first
    for other in others:
        gradients = (gradients[:, None] + other.gradients).reshape(-1, gradients.shape[-1])
        probs = np.outer(probs, other.probs).ravel()
    return Distribution(gradients, probs)
