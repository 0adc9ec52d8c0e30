"""A pool of outputs to every prompt, with the inner products of their scores.

Scores may live in many dimensions, but the error of a gradient at a prompt needs their inner
products only: with K_uv = W_u·W_v over the distinct outputs, ‖Σ_i a_i W_i‖² = aᵀKa. One pool serves
every group size and every estimator.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import integer

NUM_BLOCKS = 16
"""Parts of a pool that are left out one by one to learn its error."""


@dataclass(frozen=True, eq=False)
class PromptPool:
    """M outputs to one prompt; an output without a reward (NaN) is not among them.

    Args:
        gram: W_u·W_v over the U distinct outputs, shape (U, U).
        place: which distinct output each of the M is, shape (M,).
        rewards: Z of each of the M, shape (M,).
        value: V(x) if known exactly. Then the gradient is g(x) = V(x)·W_solution.
        solution: the distinct output that is the solution, if V(x) is known exactly; it need not
            be one of the M.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.pools import PromptPool
        >>> scores = np.array([[1, 0], [0, 2]])  # of the U = 2 distinct outputs
        >>> place, rewards = np.array([0, 0, 1]), np.array([1, 1, 0])  # the first one came twice
        >>> pool = PromptPool(scores @ scores.T, place, rewards)
        >>> pool.norms.tolist()  # ‖W‖² of each of the M = 3
        [1, 1, 4]
    """

    gram: Float[Array, "U U"]
    place: Int[Integers, " M"]
    rewards: Float[Array, " M"]
    value: float | None = None
    solution: int | None = None

    @property
    def products(self) -> Float[Array, "M M"]:
        """W_i·W_j over the M outputs."""
        return self.gram[np.ix_(self.place, self.place)]

    @property
    def norms(self) -> Float[Array, " M"]:
        """‖W_i‖² of the M outputs."""
        return self.gram.diagonal()[self.place]


@dataclass(frozen=True, eq=False)
class Pool:
    """Outputs to each of P prompts, all of the same weight.

    Args:
        prompts: one pool a prompt.
        gradient_products: T_k·T_l over the gradients of the objective from `NUM_BLOCKS` parts of
            the pool, shape (K, K); or ‖∇J‖² itself, shape (1, 1), if it is known exactly.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.pools import Pool, PromptPool
        >>> rewards = np.tile([1.0, 0.0], 16)  # 32 outputs, W = Z − ½
        >>> prompt = PromptPool(np.outer([1, -1], [1, -1]) / 4, np.tile([0, 1], 16), rewards)
        >>> pool = Pool([prompt], gradient_products=np.full((16, 16), 1 / 16))  # g = E[WZ] = ¼
        >>> len(pool.prompts), pool.exact
        (1, False)
    """

    prompts: Sequence[PromptPool]
    gradient_products: Float[Array, "K K"]

    @property
    def exact(self) -> bool:
        """Whether values and gradients are known without sampling."""
        return self.prompts[0].value is not None


def whole_blocks(name: str, value: object) -> int:
    """Return a number of outputs of which every part of a pool holds two or more, or raise."""
    count = integer(name, value, at_least=2 * NUM_BLOCKS)
    if count % NUM_BLOCKS:
        raise ValueError(f"{name} must be a multiple of {NUM_BLOCKS}, got {value}")
    return count
