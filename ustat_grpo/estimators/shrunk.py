"""Group means shrunk toward what other groups had: of earlier batches, or of this one.

All of the weight and of the target comes from other groups than the one at hand: the gradient stays
unbiased.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ustat_grpo.estimators.interface import NOTHING, SideInformation
from ustat_grpo.estimators.scored import (
    Array,
    Scored,
    beside,
    in_working_precision,
    offset,
    power_of_two,
    require_batch,
    require_eps,
    sum_of_others,
)
from ustat_grpo.inputs.checks import leave_one_out_group_size, real

_BATCH = (-2, -1)
"""The axes of a batch of groups."""


@dataclass(frozen=True)
class RunningRewards:
    """What earlier batches say of rewards: their mean, and their variance within and between.

    Start from `RunningRewards()` and call `updated` after each batch. Older batches fade by the
    factor `memory` a batch, since the policy moves on.

    Args:
        memory: in (0, 1]; 1 forgets nothing.
        groups: number of groups with a scorable output, faded.
        mean: their mean of group means.
        spread: Σ (group mean − mean)².
        within: Σ (Z − group mean)² over outputs.
        freedom: Σ (n − 1), what `within` is divided by.
        inverse_size: Σ 1/n.

    Examples:
        >>> from ustat_grpo import RunningRewards
        >>> history = RunningRewards().updated([[1, 0], [1, 1]])  # group means ½ and 1
        >>> history.mean, history.within_variance, history.mean_variance
        (0.75, 0.25, 0.125)
    """

    memory: float = 1.0
    groups: float = 0.0
    mean: float = 0.0
    spread: float = 0.0
    within: float = 0.0
    freedom: float = 0.0
    inverse_size: float = 0.0

    def __post_init__(self) -> None:
        """Raise if the memory lies outside (0, 1]."""
        if not 0 < real("memory", self.memory) <= 1:
            raise ValueError(f"memory must lie in (0, 1], got {self.memory!r}")

    def updated(self, rewards: Array) -> "RunningRewards":
        """Return these statistics after one more batch of rewards, shape (..., G).

        They are taken in double precision.

        Raises:
            ValueError: if rewards are so large that their squares are not finite.
        """
        z = Scored.of(np.asarray(beside("rewards", rewards, np.empty(0)), dtype=np.float64))
        used = z.count[..., 0] > 0
        means, counts = (z.offset + z.mean)[..., 0][used], z.count[..., 0][used]
        if not len(means):
            return self
        with np.errstate(over="ignore", invalid="ignore"):
            after = self._with(means, counts, np.sum(z.deviations(0)[0] ** 2, axis=-1)[used])
        if not np.isfinite([after.mean, after.spread, after.within]).all():
            raise ValueError(
                "rewards must be small enough that their squares are finite, "
                f"got {np.abs(z.values).max():g} in size"
            )
        return after

    def _with(self, means: Array, counts: Array, within: Array) -> "RunningRewards":
        """Return these statistics after groups with given means, sizes and Σ (Z − mean)²."""
        old = self.memory * self.groups
        groups = old + len(means)
        step = float(means.mean()) - self.mean
        spread = float(np.sum((means - means.mean()) ** 2))
        return replace(
            self,
            groups=groups,
            mean=self.mean + step * len(means) / groups,
            spread=self.memory * self.spread + spread + step * step * old * len(means) / groups,
            within=self.memory * self.within + float(within.sum()),
            freedom=self.memory * self.freedom + float(np.sum(counts - 1)),
            inverse_size=self.memory * self.inverse_size + float(np.sum(1 / counts)),
        )

    @property
    def within_variance(self) -> float:
        """σ², pooled over groups; 0 before any group of two."""
        return self.within / self.freedom if self.freedom else 0.0

    @property
    def mean_variance(self) -> float:
        """D, the variance of group means (ddof 1); 0 before the second group."""
        return self.spread / (self.groups - 1) if self.groups > 1 else 0.0

    @property
    def between_variance(self) -> float:
        """s = max(0, D − σ² mean(1/n)), the variance of V(x) over prompts."""
        if not self.groups:
            return 0.0
        noise = self.within_variance * self.inverse_size / self.groups
        return max(0.0, self.mean_variance - noise)


@dataclass(frozen=True)
class EmpiricalBayes:
    """Leave-one-out mean shrunk toward the mean of earlier batches. Unbiased.

    A_i = Z_i − (1−λ) Z̄^(−i) − λ μ with λ = v/(v + s + D/m), the best weight of a target whose
    squared error is s + D/m beside a mean whose variance is v = σ²/(n−1). The mean reward μ of
    earlier groups, the variance σ² within them, the variance D of their means, their number m and
    the variance s = D − σ² mean(1/n) of V over prompts are the history's. Without two groups of
    history λ is 0: GRPO. A single scorable output, which has no others, is compared with μ alone.

    Args:
        history: of batches before this one.

    Examples:
        >>> from ustat_grpo import EmpiricalBayes, RunningRewards
        >>> history = RunningRewards().updated([[1, 0], [1, 0]])  # V = ½ at all prompts
        >>> EmpiricalBayes(history).advantages([1, 1]).tolist()  # so λ = 1, where GRPO would give 0
        [0.5, 0.5]
    """

    history: RunningRewards = RunningRewards()

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return rewards less the shrunk mean; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        leave_one_out_group_size(z.values.shape[-1])
        if self.history.groups <= 1:
            return z.masked(z.shifted - z.mean_of_others)
        xp = z.xp
        error = self.history.between_variance + self.history.mean_variance / self.history.groups
        total = self.history.within_variance + error * (z.count - 1)
        weight = _ratio(xp, xp.full_like(total, self.history.within_variance), total)
        weight = xp.where(z.count > 1, weight, 1.0)
        target = self.history.mean - z.offset
        return z.masked(z.shifted - ((1 - weight) * z.mean_of_others + weight * target))


@dataclass(frozen=True)
class JamesStein:
    """Leave-one-out mean shrunk toward the mean T_b of the other groups of the batch. Unbiased.

    A_bi = Z_bi − (1−λ_b) Z̄_b^(−i) − λ_b T_b with λ_b = v/(v + s² + ε): v is the mean variance
    (ddof 1) within the other groups over the size of this one, s² the variance (ddof 0) of their
    means. JSPO (arXiv 2511.03710) as its authors run it: s² holds the noise of those means too, so
    that λ stays near ½ where all prompts are alike. Without another group λ is 0: GRPO. A single
    scorable output, which has no others in its group, is compared with T_b alone.

    Args:
        eps: ε, in units of reward².

    Examples:
        >>> from ustat_grpo import JamesStein
        >>> certain = [[1, 1], [1, 1], [0, 0]]  # no noise within groups: λ = 0
        >>> JamesStein().advantages(certain).tolist()
        [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
        >>> JamesStein(eps=0.0).advantages([[1, 0], [1, 0], [1, 0]]).tolist()  # T = ½, λ = 1
        [[0.5, -0.5], [0.5, -0.5], [0.5, -0.5]]
    """

    eps: float = 1e-6

    def __post_init__(self) -> None:
        """Raise if ε is negative."""
        require_eps(self.eps)

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return advantages (..., B, G); see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        require_batch("JamesStein", z)
        leave_one_out_group_size(z.values.shape[-1])
        if not z.values.shape[-2]:
            return z.values
        values = z.masked(z.values - offset(z.xp, z.values, z.scored, _BATCH))
        unit = power_of_two(z.xp, z.xp.max(z.xp.abs(values), axis=_BATCH, keepdims=True))
        scaled = Scored(z.xp, z.scored, values / unit, z.dtype)  # whose squares do not overflow
        return unit * scaled.less(self._baseline(scaled, float(self.eps) / unit / unit))

    def _baseline(self, z: Scored, eps: Array) -> Array:
        """Return (1−λ_b) Z̄_b^(−i) + λ_b T_b, with ε in the unit of squared rewards."""
        xp, own = z.xp, z.offset + z.mean_of_others
        means, counts, squares = _group_sums(z)
        used, several = (xp.astype(counts > least, means.dtype) for least in (0, 1))
        number = sum_of_others(xp, used)
        total, size = (xp.sum(part, axis=-1, keepdims=True) for part in (used * means, used))
        centred = used * (means - _ratio(xp, total, size))  # else s² loses digits to an offset
        offset = _ratio(xp, sum_of_others(xp, centred), number)
        spread = _ratio(xp, sum_of_others(xp, centred**2), number) - offset**2
        within = _ratio(xp, squares, counts - 1)
        noise = _ratio(xp, sum_of_others(xp, several * within), sum_of_others(xp, several))
        noise = _ratio(xp, noise, counts)
        weight = _ratio(xp, noise, noise + xp.where(spread > 0, spread, 0.0) + eps[..., 0])
        weight = xp.where(counts == 1, xp.ones_like(weight), weight)
        weight = xp.where(number > 0, weight, 0.0)[..., None]
        target = _ratio(xp, sum_of_others(xp, used * means), number)[..., None]
        return (1 - weight) * own + weight * target


def _group_sums(z: Scored) -> tuple[Array, Array, Array]:
    """Return mean, number and Σ (Z − mean)² of the scorable rewards of each group, (...)."""
    squares = z.masked(z.shifted - z.mean) ** 2
    return (z.offset + z.mean)[..., 0], z.count[..., 0], z.xp.sum(squares, axis=-1)


def _ratio(xp: Any, numerator: Array, denominator: Array) -> Array:
    """Return the quotient, 0 where the denominator is not positive."""
    positive = denominator > 0
    return xp.where(positive, numerator / xp.where(positive, denominator, 1.0), 0.0)
