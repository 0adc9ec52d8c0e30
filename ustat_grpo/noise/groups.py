"""What rewards alone decide: groups, the weights of GRPO's gradient, variances of the others."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray

from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import finite
from ustat_grpo.inputs.ids import identified
from ustat_grpo.inputs.quoting import LONGEST_VALUE, one_line

MIN_OUTPUTS = 3
"""Fewer outputs to a prompt do not tell c₂ from c₃."""

MIN_PROMPTS = 8
"""Fewer prompts say too little about the noise of the prompt draw."""


@dataclass(frozen=True, eq=False)
class FlatGroups:
    """Flat rewards with the group of each, in the order in which the groups first appear.

    Args:
        rewards: Z, shape (n,).
        group: which of the B groups each output is in, shape (n,).
        sizes: M of every group, shape (B,), each at least 2.
    """

    rewards: Float[Array, " n"]
    group: Int[Integers, " n"]
    sizes: Int[Integers, " B"]

    def totals(self, values: Float[Array, " n"]) -> Float[Array, " B"]:
        """Return the sum of values over every group, shape (B,)."""
        return np.bincount(self.group, values, len(self.sizes)).astype(np.float64)

    @cached_property
    def centred(self) -> Float[Array, " n"]:
        """Z − Z̄ with the mean of the own group; exactly zero where all rewards are equal."""
        first = np.zeros(len(self.sizes))
        first[self.group[::-1]] = self.rewards[::-1]
        shifted = self.rewards - first[self.group]
        return shifted - (self.totals(shifted) / self.sizes)[self.group]

    @cached_property
    def weights(self) -> Float[Array, " n"]:
        """a_i = (Z_i − Z̄⁽⁻ⁱ⁾)/M, so that ĝ = Σ a_i W_i is GRPO's gradient, shape (n,)."""
        return self.centred / (self.sizes - 1)[self.group]

    @cached_property
    def variance_of_others(self) -> Float[Array, " n"]:
        """The sample variance of the other rewards of the group, shape (n,); M ≥ 3."""
        sizes = self.sizes[self.group]
        own = self.centred**2
        others = self.totals(own)[self.group] - own * sizes / (sizes - 1)
        return np.maximum(others, 0.0) / (sizes - 2)


def grouped(rewards: ArrayLike, prompts: ArrayLike) -> FlatGroups:
    """Return the groups of flat rewards, checked.

    Args:
        rewards: Z, shape (n,).
        prompts: an id of each output's prompt, shape (n,): numbers or strings, in any order.

    Raises:
        ValueError: if rewards are not finite, an id is none, or a group has fewer than 3 outputs.
    """
    values, ids = finite("rewards", rewards, ndim=1), identified("prompts", prompts)
    if ids.values.shape != values.shape:
        raise ValueError(
            f"prompts must have the shape of rewards, {values.shape}, got {ids.values.shape}"
        )
    groups = FlatGroups(values, ids.place, np.bincount(ids.place))
    _require_outputs(groups, ids.values[ids.first])
    return groups


def require_signal(groups: FlatGroups) -> FlatGroups:
    """Return groups that can tell the noise.

    Raises:
        ValueError: if there are fewer than 8 prompts, or the rewards of every group are equal.
    """
    if len(groups.sizes) < MIN_PROMPTS:
        raise ValueError(
            f"prompts must name at least {MIN_PROMPTS} different prompts, got {len(groups.sizes)}"
        )
    values = groups.rewards
    if (values == values[0]).all():
        raise ValueError(
            f"rewards must not all be equal, got {values[0]:g} throughout: no signal, no plan"
        )
    if not groups.centred.any():
        raise ValueError(
            "rewards must differ within some group, got equal ones in every group: "
            "no signal, no plan"
        )
    return groups


def _require_outputs(groups: FlatGroups, labels: NDArray[np.generic]) -> None:
    smallest = int(groups.sizes.argmin())
    size, label = int(groups.sizes[smallest]), labels[smallest]
    if size < MIN_OUTPUTS:
        shown = one_line(label, longest=LONGEST_VALUE)
        raise ValueError(
            f"every prompt must have at least {MIN_OUTPUTS} outputs: from pairs only the sum "
            f"c₂ + c₃ can be learned, not each; got {size} for prompt {shown}"
        )
