"""Finite Markov decision processes with a time limit, as transition tables."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TabularMdp:
    """S states, A actions, at most K outcomes of each; an episode ends after `horizon` steps.

    A prompt is a start state; the reward Z of an episode is its return Σ_t γᵗ r_t.

    Args:
        next_state: where each outcome leads, shape (S, A, K).
        probs: of each outcome, shape (S, A, K); 0 for outcomes that do not exist.
        rewards: r of each outcome, shape (S, A, K).
        terminated: whether the episode ends with the outcome, shape (S, A, K).
        starts: the P start states, shape (P,).
        start_probs: f(x) of each, shape (P,).
        horizon: T, the time limit.
        discount: γ in (0, 1].

    Raises:
        ValueError: if shapes disagree, probabilities do not sum to one, or a number is out of
            range.
    """

    next_state: Int[NDArray[np.int64], "S A K"]
    probs: Float[Array, "S A K"]
    rewards: Float[Array, "S A K"]
    terminated: Bool[NDArray[np.bool_], "S A K"]
    starts: Int[NDArray[np.int64], " P"]
    start_probs: Float[Array, " P"]
    horizon: int
    discount: float = 1.0
