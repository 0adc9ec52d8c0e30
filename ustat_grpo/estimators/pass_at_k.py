"""Advantages for the best of several outputs, in place of the mean output."""

from dataclasses import dataclass

from array_api_compat import array_namespace

from ustat_grpo.estimators.interface import NOTHING, SideInformation
from ustat_grpo.estimators.scored import (
    Array,
    Scored,
    in_working_precision,
    plain,
    require_ddof,
    require_eps,
)
from ustat_grpo.inputs.checks import integer, leave_one_out_group_size

_OTHER_VALUE = "rewards must be 0 or 1 for the PassAtK estimator, got another value"


@dataclass(frozen=True)
class PassAtK:
    """Unbiased for the gradient of pass@k, 1 − (1 − V)^k, for rewards 0 and 1.

    PKPO (arXiv 2505.15201) rewards a success among n outputs, c of them right, with k and a failure
    with k·ρ(n−1, c, k−1), ρ(n, c, k) = 1 − C(n−c, k)/C(n, k). Less the mean of that over the j
    successes and n−1−j failures among the others, with ρ(n−1, j, k−1) for the latter, it is

        A_i = k · C(n−1−j, k−1)/C(n−1, k−1) · (Z_i − j/(n−1)),

    GRPO's advantage times k times the chance that k−1 of the others all fail; for k = 1 it is GRPO.
    A group with fewer than k scorable outputs says nothing of pass@k and has advantage 0.

    Args:
        k: number of attempts, at most the group size.

    Examples:
        >>> from ustat_grpo import PassAtK
        >>> PassAtK(k=2).advantages([1, 0, 0, 0]).round(3).tolist()  # 2 · 1 · 1 and −2 · 2/3 · 1/3
        [2.0, -0.444, -0.444, -0.444]
    """

    k: int

    def __post_init__(self) -> None:
        """Raise if k is no positive integer."""
        integer("k", self.k)

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return advantages; see `Estimator.advantages`.

        Raises for rewards other than 0 and 1, infinite ones among them; NaN alone is left out.
        """
        rewards = plain("rewards", rewards)
        if array_namespace(rewards).any(array_namespace(rewards).isinf(rewards)):
            raise ValueError(_OTHER_VALUE)
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        size = leave_one_out_group_size(z.values.shape[-1])
        if self.k > size:
            raise ValueError(f"k must be at most group_size = {size}, got {self.k}")
        xp, values, count = z.xp, z.values, z.count
        if not xp.all((values == 0) | (values == 1)):
            raise ValueError(_OTHER_VALUE)
        failures = count - 1 - (xp.sum(values, axis=-1, keepdims=True) - values)
        chance = xp.ones_like(values)
        for drawn in range(self.k - 1):  # C(f, k−1)/C(n−1, k−1), one draw after the other
            remaining = xp.where(failures > drawn, failures - drawn, 0.0)
            chance = chance * remaining / xp.where(count - 1 > drawn, count - 1 - drawn, 1.0)
        weight = xp.where(count >= self.k, float(self.k) * chance, 0.0)
        return weight * z.masked(z.shifted - z.mean_of_others)


@dataclass(frozen=True)
class BestOfGroup:
    """Only the best output counts: A = Z_(1) − Z_(2) for it, 0 for the others.

    `grpo_passk` of verl (arXiv 2503.19595). Where two outputs share the best reward all advantages
    are 0, and so is that of a single scorable output, for which verl raises.

    Args:
        eps: ε by which the difference is divided, as (std Z + ε); None does not divide.
        ddof: the variance divides by n − ddof.

    Examples:
        >>> from ustat_grpo import BestOfGroup
        >>> BestOfGroup(eps=None).advantages([5, 3, 0]).tolist()
        [2.0, 0.0, 0.0]
    """

    eps: float | None = 1e-6
    ddof: int = 1

    def __post_init__(self) -> None:
        """Raise if ε is negative or ddof neither 0 nor 1."""
        if self.eps is not None:
            require_eps(self.eps)
        require_ddof(self.ddof)

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return the lead of the best output; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        leave_one_out_group_size(z.values.shape[-1])
        xp, values = z.xp, z.values
        ranked = xp.sort(xp.where(z.scored, values, -xp.inf), axis=-1)
        ranked = xp.where(z.count > 1, ranked, xp.zeros_like(ranked))
        best = ranked[..., -1:]
        lead = best - ranked[..., -2:-1]
        if self.eps is not None:
            _, std = z.deviations(self.ddof)
            lead = xp.where(lead > 0, lead / xp.where(lead > 0, std + float(self.eps), 1.0), 0.0)
        return xp.where(z.scored & (values == best), lead, xp.zeros_like(values))
