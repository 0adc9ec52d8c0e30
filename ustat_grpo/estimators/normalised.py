"""Group baselines divided by the group's standard deviation, or by the deviation itself."""

from dataclasses import dataclass

from ustat_grpo.checks import leave_one_out_group_size
from ustat_grpo.estimators.arrays import (
    Array,
    all_equal,
    deviations,
    require_ddof,
    require_eps,
    scorable,
)
from ustat_grpo.estimators.interface import NOTHING, SideInformation


@dataclass(frozen=True)
class StdNormalised:
    """Group mean, divided by the group's standard deviation: A_i = (Z_i − Z̄)/(std Z + ε).

    GRPO as trainers have it (DeepSeekMath, arXiv 2402.03300). Biased: for 0/1 rewards and large
    groups E ĝ is g/√(V(1−V)). A group whose rewards are all equal has advantage 0 at every ε.

    Args:
        eps: ε, in units of reward: 1e-4 in TRL, 1e-6 in verl, 1e-9 in OpenRLHF.
        ddof: the variance divides by n − ddof.
    """

    eps: float = 1e-4
    ddof: int = 1

    def __post_init__(self) -> None:
        """Raise if ε is negative or ddof neither 0 nor 1."""
        require_eps(self.eps)
        require_ddof(self.ddof)

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return standardised rewards; see `Estimator.advantages`."""
        return _standardised(rewards, self.eps, self.ddof, leave_one_out=False)


@dataclass(frozen=True)
class LeaveOneOutNormalised:
    """Leave-one-out mean, divided by the whole group's deviation: (Z_i − Z̄^(−i))/(std Z + ε).

    Algorithm 2 of arXiv 2603.01162. A standard deviation of the *others* would be 0 beside the one
    reward that differs; that of the whole group keeps ∣A_i∣ ≤ √G. A group whose rewards are all
    equal has advantage 0 at every ε.

    Args:
        eps: ε, in units of reward.
        ddof: the variance divides by n − ddof.
    """

    eps: float = 0.0
    ddof: int = 1

    def __post_init__(self) -> None:
        """Raise if ε is negative or ddof neither 0 nor 1."""
        require_eps(self.eps)
        require_ddof(self.ddof)

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return the normalised difference from the others; see `Estimator.advantages`."""
        return _standardised(rewards, self.eps, self.ddof, leave_one_out=True)


def _standardised(rewards: Array, eps: float, ddof: int, *, leave_one_out: bool) -> Array:
    leave_one_out_group_size(rewards.shape[-1])
    xp, _, _, count = scorable(rewards)
    equal = all_equal(rewards)
    deviation, std = deviations(rewards, ddof)
    if leave_one_out:  # Z_i − Z̄^(−i) = n/(n−1) (Z_i − Z̄)
        deviation = deviation * (count / xp.where(count > 1, count - 1, 1.0))
    advantages = deviation / xp.where(equal, 1.0, std + float(eps))
    return xp.where(equal, xp.zeros_like(advantages), advantages)


_ROUNDING = 8
"""Spacings of floating-point numbers at the largest reward, within which a reward is the mean."""


@dataclass(frozen=True)
class Sign:
    """Only whether an output was better than its group: A_i = sign(Z_i − Z̄).

    Biased. A reward within rounding of the mean counts as the mean: 0.
    """

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return the signs; see `Estimator.advantages`."""
        leave_one_out_group_size(rewards.shape[-1])
        xp, _, filled, _ = scorable(rewards)
        deviation, _ = deviations(rewards, 0)
        largest = xp.max(xp.abs(filled), axis=-1, keepdims=True)
        close = xp.abs(deviation) <= _ROUNDING * xp.finfo(filled.dtype).eps * largest
        return xp.where(close, xp.zeros_like(deviation), xp.sign(deviation))
