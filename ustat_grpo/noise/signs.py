"""Noise components from norms of weighted sums of scores, which every trainer can take.

A probe is ‖Σ_i w_i W_i‖², the squared norm of the gradient of Σ_i w_i log π(y_i∣x_i). Prompts are
cut into blocks, and a block is measured by four kinds of probe. With random signs ε and the weights
a_i = (Z_i − Z̄⁽⁻ⁱ⁾)/M of GRPO's gradient they are

    total    w_i = a_i                       ‖Σ_b ĝ_b‖²
    prompts  w_i = ε_b a_i                   on average (1−r) Σ_b q_b + r·total
    outputs  w_i = ε_i a_i                   on average Σ_i a_i² ‖W_i‖²
    spread   w_i = ε_i √(Var̂(Z_j, j≠i)/M)    on average Σ_b ŝσ²

τ̂ is a combination of the last two, so nothing negative has to go under a root. The signs of the k
prompts of a block are balanced: r = E ε_bε_c is −1/(k−1) for even k, −1/k for odd. For k = 2 the
first two kinds are exact. From the four follow unbiased c₁, c₂, c₃ of the block; blocks are
independent, so their spread gives intervals.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from ustat_grpo.inputs.arrays import Array, exponent_of
from ustat_grpo.inputs.checks import finite, generator, integer, not_negative, require_unmasked
from ustat_grpo.noise.components import debiasing
from ustat_grpo.noise.groups import MIN_OUTPUTS, FlatGroups, grouped, require_signal

MIN_BLOCKS = 4
"""Fewer independent blocks give no interval worth the name."""


@dataclass(frozen=True, eq=False)
class SignSample:
    """Unbiased components of independent blocks of prompts.

    Args:
        components: c₁, c₂, c₃ of every block, shape (blocks, 3).

    Raises:
        ValueError: if they have another shape, are not finite, or of fewer than 4 blocks.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import estimate_noise
        >>> from ustat_grpo.noise import SignSample
        >>> blocks = SignSample(np.array([[0, 2, 9], [2, 2, 9]] * 4))
        >>> estimate_noise(blocks).optimal.value  # 1 + √(9/1)
        4.0
    """

    components: Float[Array, "blocks 3"]

    def __post_init__(self) -> None:
        """Raise unless these are three components of enough blocks."""
        object.__setattr__(self, "components", finite("components", self.components, ndim=2))
        count, width = self.components.shape
        if width != 3 or count < MIN_BLOCKS:
            raise ValueError(
                f"components must have shape (blocks, 3) with at least {MIN_BLOCKS} blocks, "
                f"got {self.components.shape}"
            )


@dataclass(frozen=True, eq=False)
class SignProbes:
    """Weights of the sums whose norms are to be measured.

    Args:
        weights: w, shape (K, n), non-zero on the outputs of one block of prompts only. The rows
            of a block follow one another: total, then (prompts, outputs, spread) for each draw.
        block_sizes: prompts in each block, shape (blocks,).
        group_size: M, the same for all prompts.

    Raises:
        ValueError: if a weight is not finite, a block empty, or M below 3.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import sign_probes
        >>> rewards, prompts = [1, 0, 0] * 8, np.repeat(np.arange(8), 3)
        >>> probes = sign_probes(rewards, prompts, rng=np.random.default_rng(0))
        >>> scores = np.tile([[2], [0], [0]], (8, 1))  # of all outputs, d = 1
        >>> sums = probes.weights @ scores  # in practice one backward pass each
        >>> sample = probes.measured((sums**2).sum(axis=1))
        >>> sample.components.shape  # c₁, c₂, c₃ of every pair of prompts
        (4, 3)
    """

    weights: Float[Array, "K n"]
    block_sizes: NDArray[np.int64]
    group_size: int

    def __post_init__(self) -> None:
        """Take lists for arrays, and raise if a size is none."""
        object.__setattr__(self, "weights", finite("weights", self.weights, ndim=2))
        require_unmasked("block_sizes", self.block_sizes)
        sizes = [integer("block_sizes", size) for size in self.block_sizes]
        object.__setattr__(self, "block_sizes", np.array(sizes, dtype=np.int64))
        integer("group_size", self.group_size, at_least=MIN_OUTPUTS)

    def measured(self, squared_norms: ArrayLike) -> SignSample:
        """Return the components of every block from the norms of the sums.

        Args:
            squared_norms: ‖Σ_i w_i W_i‖², shape (K,).

        Raises:
            ValueError: if there is not one norm a probe, or one is negative or not finite.
        """
        norms = finite("squared_norms", squared_norms, ndim=1)
        norms = not_negative("squared_norms", norms, scale=np.abs(norms).max())
        if norms.shape != self.weights.shape[:1]:
            raise ValueError(
                f"squared_norms must have shape ({len(self.weights)},), got {norms.shape}"
            )
        silent = ~self.weights.any(axis=1)
        if norms[silent].any():
            raise ValueError(
                "squared_norms must be 0 where all weights are, as all rewards of a block are "
                f"equal, got {norms[silent].max():g}"
            )
        return SignSample(_components(norms, self.block_sizes, self.group_size))


def sign_probes(
    rewards: ArrayLike,
    prompts: ArrayLike,
    *,
    prompts_per_block: int = 2,
    num_draws: int = 1,
    rng: np.random.Generator,
) -> SignProbes:
    """Draw the weights of 1 + 3·num_draws probes a block.

    A probe of a block needs its outputs only, so all of them cost 1 + 3·num_draws backward passes
    of the batch, however small the blocks. Pairs of prompts have the least noise. On bandits with
    128 prompts of 8 outputs their standard error of c₁ was 1.3 to 1.5 times that of an
    `OutputSample`, those of c₂ and c₃ 1.7 to 2.5 times; four draws took c₁ in blocks of four from
    1.3 to 2.1 times to 1.1 to 1.4 times.

    Args:
        rewards: Z, shape (n,).
        prompts: an id of each output's prompt, shape (n,); prompts are put into blocks in the
            order of their first appearance, the last block taking what is left over.
        prompts_per_block: at least 2, such as what a trainer takes through the model at once.
        num_draws: draws of the signs, at least 1.
        rng: source of the signs.

    Raises:
        ValueError: if groups differ in size, there are fewer than 4 blocks, or as for an
            `OutputSample`.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import sign_probes
        >>> rewards, prompts = [1, 0, 0] * 8, np.repeat(np.arange(8), 3)
        >>> probes = sign_probes(rewards, prompts, rng=np.random.default_rng(0))
        >>> probes.weights.shape, probes.block_sizes.tolist()  # 1 + 3 probes a pair of prompts
        ((16, 24), [2, 2, 2, 2])
    """
    groups, width = (
        require_signal(grouped(rewards, prompts)),
        integer("prompts_per_block", prompts_per_block, at_least=2),
    )
    draws = integer("num_draws", num_draws)
    generator(rng)
    if (groups.sizes != groups.sizes[0]).any():
        raise ValueError(
            "groups must be of one size for sign probes, "
            f"got {groups.sizes.min()} to {groups.sizes.max()} outputs"
        )
    count = len(groups.sizes) // width
    if count < MIN_BLOCKS:
        raise ValueError(
            f"prompts_per_block must leave at least {MIN_BLOCKS} blocks, "
            f"got {width} for {len(groups.sizes)} prompts"
        )
    block = np.minimum(np.arange(len(groups.sizes)) // width, count - 1)
    sizes = np.bincount(block)
    kinds = [groups.weights]
    for _ in range(draws):
        kinds += _signed(groups, np.concatenate([_balanced(size, rng) for size in sizes]), rng)
    own = np.arange(count)[:, None] == block[groups.group]
    weights = own[:, None] * np.array(kinds)
    return SignProbes(weights.reshape(-1, len(groups.rewards)), sizes, int(groups.sizes[0]))


def _signed(groups: FlatGroups, of_prompt: Array, rng: np.random.Generator) -> list[Array]:
    """Return the weights of the kinds prompts, outputs and spread, with one draw of the signs."""
    first, second = rng.choice([-1.0, 1.0], size=(2, len(groups.rewards)))
    exponent = exponent_of(groups.rewards)  # the variance of tiny rewards is no double
    own = replace(groups, rewards=np.ldexp(groups.rewards, -exponent)).variance_of_others
    spread = np.ldexp(np.sqrt(own / groups.sizes[groups.group]), exponent)
    return [of_prompt[groups.group] * groups.weights, first * groups.weights, second * spread]


def _balanced(count: int, rng: np.random.Generator) -> Array:
    """Return as many signs +1 as −1 in random order, one more of +1 if the count is odd."""
    return rng.permutation(np.where(np.arange(count) % 2, -1.0, 1.0))


def _components(norms: Array, block_sizes: NDArray[np.int64], group_size: int) -> Array:
    """Return c₁, c₂, c₃ of every block, shape (blocks, 3)."""
    of_block = norms.reshape(len(block_sizes), -1)
    total = of_block[:, 0]
    prompts, outputs, spread = of_block[:, 1:].reshape(len(block_sizes), -1, 3).mean(axis=1).T
    pairs = block_sizes * (block_sizes - 1)
    correlation = (block_sizes % 2 - block_sizes) / pairs
    squares = (prompts - correlation * total) / (1 - correlation)
    gradient = debiasing(np.array(group_size)) * (squares - outputs) / block_sizes
    residual = spread / block_sizes
    oracle = group_size * outputs / block_sizes - residual / (group_size - 1)
    objective = (total - squares) / pairs
    return np.stack([gradient - objective, oracle - gradient, residual + gradient], axis=-1)
