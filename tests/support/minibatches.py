"""Every minibatch of a tiny problem, for estimators that look at more than one group."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from ustat_grpo import Estimator, SideInformation, Snapshot, gradient


class Minibatches(NamedTuple):
    """All draws of prompts, groups and greedy rewards.

    Args:
        scores: W, shape (M, B, G, d).
        rewards: Z, shape (M, B, G).
        side: V, b*, ‖W‖² and a greedy reward of each group.
        probs: of each minibatch, shape (M,).
        weights: of each group in the gradient, shape (B,).
    """

    scores: np.ndarray
    rewards: np.ndarray
    side: SideInformation
    probs: np.ndarray
    weights: np.ndarray

    def gradients(self, estimator: Estimator) -> np.ndarray:
        """ĝ of each minibatch, shape (M, d)."""
        each = gradient(estimator, self.scores, self.rewards, self.side)
        return np.einsum("b,mbd->md", self.weights, each)

    def mean(self, estimator: Estimator) -> np.ndarray:
        return self.probs @ self.gradients(estimator)

    def error(self, estimator: Estimator, target: np.ndarray) -> float:
        return float(self.probs @ ((self.gradients(estimator) - target) ** 2).sum(axis=-1))


def minibatches(
    snapshot: Snapshot, batch_size: int | None, group_size: int, *, greedy: bool = False
) -> Minibatches:
    """List them: (2P·C^G)^B entries at most, with C cells a prompt, hence for tiny problems only.

    Args:
        snapshot: the problem.
        batch_size: B i.i.d. prompts, or None for every prompt once, weighted by its probability.
        group_size: G.
        greedy: whether the reward of the most likely action is drawn too; it is NaN if not.
    """
    slots = [_slot(snapshot, x, group_size, greedy) for x in range(len(snapshot.value))]
    if batch_size is None:
        lists, weights = slots, snapshot.prompt_probs
    else:
        drawn = [(p * f, *rest) for f, slot in zip(snapshot.prompt_probs, slots, strict=True)
                 for p, *rest in slot]  # fmt: skip
        lists, weights = [drawn] * batch_size, np.full(batch_size, 1 / batch_size)
    probs, scores, rewards, prompts, firsts = (
        np.array(part)
        for part in zip(
            *(zip(*batch, strict=True) for batch in itertools.product(*lists)), strict=True
        )
    )
    side = SideInformation(
        snapshot.value[prompts],
        snapshot.optimal_baseline[prompts],
        greedy_reward=firsts,
        score_norm_squared=(scores**2).sum(axis=-1),
    )
    return Minibatches(scores, rewards, side, probs.prod(axis=-1), weights)


def _slot(snapshot: Snapshot, x: int, group_size: int, greedy: bool) -> list[tuple]:
    """Every (probability, scores, rewards, prompt, greedy reward) of a group at prompt x."""
    joint = snapshot.action_probs[x][:, None] * snapshot.reward_probs[x]
    cells = list(np.ndindex(joint.shape))
    most_likely = snapshot.reward_probs[x, np.argmax(snapshot.action_probs[x])]
    firsts = list(zip(most_likely, snapshot.reward_levels, strict=True))
    return [
        (
            np.prod([joint[cell] for cell in group]) * first_prob,
            snapshot.dense_scores()[x, [y for y, _ in group]],
            snapshot.reward_levels[[level for _, level in group]],
            x,
            first,
        )
        for group in itertools.product(cells, repeat=group_size)
        for first_prob, first in (firsts if greedy else [(1.0, np.nan)])
    ]
