"""What becomes of groups that carry no comparison: all rewards equal, or a single output."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ustat_grpo.estimators.interface import NOTHING, Estimator, SideInformation
from ustat_grpo.estimators.scored import (
    Array,
    Scored,
    in_working_precision,
    require_batch,
    require_eps,
)
from ustat_grpo.inputs.checks import finite, probabilities, same_length, unit_interval


@dataclass(frozen=True)
class KeepSingletons:
    """Another estimator, but a group with a single scorable output keeps its reward.

    A_1 = Z_1/(1 + ε) there, as if the group had mean 0 and standard deviation 1: what verl does,
    where our own group baselines give 0. Groups of size 1 are allowed.

    Args:
        inner: for all other groups.
        eps: ε of a library that divides by std + ε; 0 for one that does not divide.

    Examples:
        >>> from ustat_grpo import Grpo, KeepSingletons
        >>> alone = [1, float("nan")]  # one of two outputs could be scored
        >>> Grpo().advantages(alone).tolist(), KeepSingletons(Grpo()).advantages(alone).tolist()
        ([0.0, 0.0], [1.0, 0.0])
    """

    inner: Estimator
    eps: float = 0.0

    def __post_init__(self) -> None:
        """Raise if ε is negative."""
        require_eps(self.eps)

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return the advantages of both kinds of groups; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        kept = z.values / (1 + float(self.eps))
        if z.values.shape[-1] == 1:
            return kept
        return z.xp.where(z.count == 1, kept, self.inner.advantages(z.rewards, side))


@dataclass(frozen=True)
class DropEqualGroups:
    """Another estimator, averaged over the groups whose rewards are not all equal.

    A_bi = (B/B′)·A′_bi in the B′ groups that are kept and 0 in the others, so that the mean over
    the batch is the mean over them: DAPO's dynamic sampling (arXiv 2503.14476) as far as one batch
    goes. It weighs prompt x by the chance that its group is kept; see `groups_per_kept_group` for
    the price of filling the batch up.

    Args:
        inner: gives A′.
        keep_singletons: whether a group with a single scorable output is kept, as in verl.

    Examples:
        >>> from ustat_grpo import DropEqualGroups, Grpo
        >>> estimator = DropEqualGroups(Grpo())
        >>> estimator.advantages([[1, 0], [1, 1]]).tolist()  # one of two is kept: doubled
        [[2.0, -2.0], [0.0, 0.0]]
    """

    inner: Estimator
    keep_singletons: bool = False

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return advantages (..., B, G), 0 in equal groups; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        require_batch("DropEqualGroups", z)
        advantages = self.inner.advantages(z.rewards, side)
        xp, kept = z.xp, ~z.all_equal
        if self.keep_singletons:
            kept = kept | (z.count == 1)
        number = xp.sum(xp.astype(kept, advantages.dtype), axis=-2, keepdims=True)
        factor = z.values.shape[-2] / xp.where(number > 0, number, 1.0)
        return xp.where(kept, advantages * factor, xp.zeros_like(advantages))


def groups_per_kept_group(
    dead_probability: ArrayLike, prompt_probs: ArrayLike | None = None
) -> float:
    """Return how many groups are sampled for each that dynamic sampling keeps: 1/(1 − E D(X)).

    Args:
        dead_probability: D(x), the chance that all rewards of a group are equal, shape (P,).
        prompt_probs: f(x), shape (P,); uniform if None.

    Returns:
        A number of at least 1; infinite if no group is ever kept.

    Raises:
        ValueError: if a probability is none.

    Examples:
        >>> from ustat_grpo import groups_per_kept_group
        >>> groups_per_kept_group([0.5, 1.0])  # a quarter of all groups is kept
        4.0
    """
    name = "dead_probability"
    dead = unit_interval(name, finite(name, dead_probability, ndim=1))
    uniform = np.full(len(dead), 1 / len(dead))
    probs = uniform if prompt_probs is None else probabilities("prompt_probs", prompt_probs, ndim=1)
    same_length("prompts", {"dead_probability": len(dead), "prompt_probs": len(probs)})
    kept = float(probs @ (1 - dead))
    return 1 / kept if kept else np.inf
