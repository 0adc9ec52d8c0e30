"""Group baselines divided by the group's standard deviation, or by the deviation itself."""

from dataclasses import dataclass

from ustat_grpo.estimators.interface import NOTHING, SideInformation
from ustat_grpo.estimators.scored import (
    Array,
    Scored,
    in_working_precision,
    require_ddof,
    require_eps,
)
from ustat_grpo.inputs.checks import leave_one_out_group_size


@dataclass(frozen=True)
class StdNormalised:
    """Group mean, divided by the group's standard deviation: A_i = (Z_i − Z̄)/(std Z + ε).

    GRPO as trainers have it (DeepSeekMath, arXiv 2402.03300). Biased: for 0/1 rewards and large
    groups E ĝ is g/√(V(1−V)). A group whose rewards are all equal has advantage 0 at every ε.

    Args:
        eps: ε, in units of reward: 1e-4 in TRL, 1e-6 in verl, 1e-9 in OpenRLHF.
        ddof: the variance divides by n − ddof.

    Examples:
        >>> from ustat_grpo import StdNormalised
        >>> StdNormalised(eps=0.0).advantages([1, 0, 0, 0]).round(3).tolist()  # std Z = ½
        [1.5, -0.5, -0.5, -0.5]
        >>> StdNormalised().advantages([1, 1, 1, 1]).tolist()
        [0.0, 0.0, 0.0, 0.0]
    """

    eps: float = 1e-4
    ddof: int = 1

    def __post_init__(self) -> None:
        """Raise if ε is negative or ddof neither 0 nor 1."""
        require_eps(self.eps)
        require_ddof(self.ddof)

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return standardised rewards; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        return _standardised(z, self.eps, self.ddof, leave_one_out=False)


@dataclass(frozen=True)
class LeaveOneOutNormalised:
    """Leave-one-out mean, divided by the whole group's deviation: (Z_i − Z̄^(−i))/(std Z + ε).

    Algorithm 2 of arXiv 2603.01162. A standard deviation of the *others* would be 0 beside the one
    reward that differs; that of the whole group keeps ∣A_i∣ ≤ √G. A group whose rewards are all
    equal has advantage 0 at every ε.

    Args:
        eps: ε, in units of reward.
        ddof: the variance divides by n − ddof.

    Examples:
        >>> from ustat_grpo import LeaveOneOutNormalised
        >>> LeaveOneOutNormalised().advantages([1, 0, 0, 0]).round(3).tolist()  # std Z = ½
        [2.0, -0.667, -0.667, -0.667]
    """

    eps: float = 0.0
    ddof: int = 1

    def __post_init__(self) -> None:
        """Raise if ε is negative or ddof neither 0 nor 1."""
        require_eps(self.eps)
        require_ddof(self.ddof)

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return the normalised difference from the others; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        return _standardised(z, self.eps, self.ddof, leave_one_out=True)


def _standardised(z: Scored, eps: float, ddof: int, *, leave_one_out: bool) -> Array:
    leave_one_out_group_size(z.values.shape[-1])
    xp, count = z.xp, z.count
    deviation, std = z.deviations(ddof)
    if leave_one_out:  # Z_i − Z̄^(−i) = n/(n−1) (Z_i − Z̄)
        deviation = deviation * (count / xp.where(count > 1, count - 1, 1.0))
    advantages = deviation / xp.where(z.all_equal, 1.0, std + float(eps))
    return xp.where(z.all_equal, xp.zeros_like(advantages), advantages)


_ROUNDING = 8
"""Spacings of floating-point numbers at the largest reward, less the offset of its group, within
which a reward is the mean."""


@dataclass(frozen=True)
class Sign:
    """Only whether an output was better than its group: A_i = sign(Z_i − Z̄).

    Biased. A reward within rounding of the mean counts as the mean: 0.

    Examples:
        >>> from ustat_grpo import Sign
        >>> Sign().advantages([5, 2, 1, 0]).tolist()  # the mean is 2
        [1.0, 0.0, -1.0, -1.0]
    """

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return the signs; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        leave_one_out_group_size(z.values.shape[-1])
        xp, deviation = z.xp, z.masked(z.shifted - z.mean)
        largest = xp.max(xp.abs(z.shifted), axis=-1, keepdims=True)
        close = xp.abs(deviation) <= _ROUNDING * xp.finfo(deviation.dtype).eps * largest
        return xp.where(close, xp.zeros_like(deviation), xp.sign(deviation))
