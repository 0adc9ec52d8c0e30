"""Prompts that pull one coordinate, each to its own side and with its own chances of success."""

import numpy as np
from numpy.typing import ArrayLike

from ustat_grpo.bandits.softmax import SoftmaxBandit
from ustat_grpo.inputs.checks import finite, same_length, unit_interval


def one_axis(success: ArrayLike, shifts: ArrayLike) -> SoftmaxBandit:
    """Return equally likely prompts with two actions, π_θ(1∣x) = sigmoid(θ − shift(x)), θ ∈ ℝ.

    The value V(x) lies between the chances of success of the two actions. Prompts of which one
    succeeds more often by action 1 and another by action 0 have to share θ: the objective is
    largest in between, where depends on how much each prompt counts.

    Args:
        success: P(Z = 1∣x, y), shape (P, 2).
        shifts: shape (P,).

    Raises:
        ValueError: if the shapes do not fit, or a chance lies outside [0, 1].

    Examples:
        >>> from ustat_grpo.bandits import one_axis
        >>> bandit = one_axis(success=[[0, 1], [1, 0]], shifts=[0, 0])  # opposite right answers
        >>> bandit.at([0.0]).value.tolist(), bandit.at([5.0]).value.round(2).tolist()
        ([0.5, 0.5], [0.99, 0.01])
    """
    chances = unit_interval("success", finite("success", success, ndim=2))
    offsets = finite("shifts", shifts, ndim=1)
    if chances.shape[1] != 2:
        raise ValueError(f"success must have a column for each of 2 actions, got {chances.shape}")
    same_length("prompts", {"success": len(chances), "shifts": len(offsets)})
    features = np.zeros((len(chances), 2, 1))
    features[:, 1] = 1.0
    return SoftmaxBandit(
        features,
        np.array([0.0, 1.0]),
        np.stack([1 - chances, chances], axis=-1),
        offsets=np.stack([np.zeros(len(offsets)), -offsets], axis=-1),
    )
