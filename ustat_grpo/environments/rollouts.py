"""Groups of episodes: G from each start, of unequal lengths, with their returns and scores."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from ustat_grpo.environments.policies import Observations

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Episodes:
    """B·G episodes, G from each of B starts; the steps of all stand one after another.

    Args:
        observations: of every step, episode after episode in the order of `returns.ravel()`.
        actions: taken in them, shape (n,).
        lengths: steps of each episode, shape (B, G).
        returns: Z = Σ_t γᵗ r_t, shape (B, G).
    """

    observations: Observations
    actions: Int[NDArray[np.int64], " n"]
    lengths: Int[NDArray[np.int64], "B G"]
    returns: Float[Array, "B G"]
