"""Baselines made of the other rewards of the group, or of all of it, weighted or not."""

from dataclasses import dataclass

from ustat_grpo.estimators.interface import NOTHING, SideInformation
from ustat_grpo.estimators.scored import (
    Array,
    Scored,
    in_working_precision,
    output_level,
    sum_of_others,
)
from ustat_grpo.inputs.checks import leave_one_out_group_size, real


@dataclass(frozen=True)
class Grpo:
    """Leave-one-out group mean: A_i = Z_i − Z̄^(−i). Unbiased.

    Its gradient is the second-order U-statistic with kernel ½(W_i − W_j)(Z_i − Z_j), that is the
    sample covariance (ddof 1) of score and reward (Lemma 1). Known as RLOO in trainers.

    Examples:
        >>> from ustat_grpo import Grpo
        >>> Grpo().advantages([1, 0, 0, 0]).round(3).tolist()  # a failure: 0 − 1/3
        [1.0, -0.333, -0.333, -0.333]
    """

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return rewards less the mean of the others; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        leave_one_out_group_size(z.values.shape[-1])
        return z.masked(z.shifted - z.mean_of_others)


@dataclass(frozen=True)
class GroupMean:
    """Group mean that includes the output itself: A_i = Z_i − Z̄ = (1 − 1/G)(Z_i − Z̄^(−i)).

    What trainers call GRPO without std normalisation (Dr. GRPO, arXiv 2503.20783). Its mean is
    (1 − 1/G) g(x): at a fixed learning rate a sweep over G is also a sweep over the step size.

    Examples:
        >>> from ustat_grpo import GroupMean
        >>> GroupMean().advantages([1, 0, 0, 0]).tolist()
        [0.75, -0.25, -0.25, -0.25]
    """

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return rewards less the group mean; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        leave_one_out_group_size(z.values.shape[-1])
        return z.masked(z.shifted - z.mean)


@dataclass(frozen=True)
class Shrinkage:
    """Group mean shrunk toward a constant: A_i = Z_i − (1−λ) Z̄^(−i) − λ c. Unbiased.

    Args:
        weight: λ in [0, 1]; 0 is GRPO, 1 the constant baseline.
        target: c, in units of reward; must not be computed from this group.

    Examples:
        >>> from ustat_grpo import Shrinkage
        >>> Shrinkage(weight=0.5, target=1.0).advantages([1, 0, 0]).tolist()  # others: 0, ½, ½
        [0.5, -0.75, -0.75]
    """

    weight: float
    target: float = 0.0

    def __post_init__(self) -> None:
        """Raise if the weight lies outside [0, 1] or the target is no finite number."""
        real("target", self.target)
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must lie in [0, 1], got {self.weight!r}")

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return rewards less the shrunk mean of the others; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        leave_one_out_group_size(z.values.shape[-1])
        weight, target = float(self.weight), float(self.target) - z.offset
        return z.masked(z.shifted - ((1 - weight) * z.mean_of_others + weight * target))


@dataclass(frozen=True)
class ScoreWeightedMean:
    """Leave-one-out estimate of the best baseline: A_i = Z_i − Σ_{j≠i}‖W_j‖²Z_j / Σ_{j≠i}‖W_j‖².

    Unbiased; as G grows the baseline tends to b*(x), which `OptimalBaseline` is told. If all the
    others have a score of zero it is their plain mean. Needs `side.score_norm_squared`, or scores.

    Examples:
        >>> from ustat_grpo import ScoreWeightedMean, SideInformation
        >>> side = SideInformation(score_norm_squared=[1, 1, 3])
        >>> ScoreWeightedMean().advantages([1, 0, 0], side).tolist()  # others weigh 1:3, 1:3, 1:1
        [1.0, -0.25, -0.5]
    """

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return rewards less the weighted mean of the others; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        leave_one_out_group_size(z.values.shape[-1])
        norms = output_level("score_norm_squared", "ScoreWeightedMean", side.norms(), z)
        xp, weight = z.xp, sum_of_others(z.xp, norms)
        mean = sum_of_others(xp, norms * (z.shifted / z.unit))
        mean = mean / xp.where(weight > 0, weight, 1.0) * z.unit
        return z.masked(z.shifted - xp.where(weight > 0, mean, z.mean_of_others))


@dataclass(frozen=True)
class LengthWeightedMean:
    """Mean weighted by length, own output included: A_i = Z_i − Σ_j L_j Z_j / Σ_j L_j.

    OPO (arXiv 2505.23585): lengths stand in for the squared norms of scores. Biased, since the
    output itself is in the mean, and by more than the factor 1 − 1/G: by its length too. Needs
    `side.lengths`; outputs that are all of length 0 weigh the same.

    Examples:
        >>> from ustat_grpo import LengthWeightedMean, SideInformation
        >>> side = SideInformation(lengths=[3, 1])  # tokens
        >>> LengthWeightedMean().advantages([1, 0], side).tolist()
        [0.25, -0.75]
    """

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return rewards less the length-weighted mean; see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        leave_one_out_group_size(z.values.shape[-1])
        lengths = output_level("lengths", "LengthWeightedMean", side.lengths, z)
        xp, total = z.xp, z.xp.sum(lengths, axis=-1, keepdims=True)
        weights = xp.where(total > 0, lengths, xp.astype(z.scored, lengths.dtype))
        total = xp.sum(weights, axis=-1, keepdims=True)
        mean = xp.sum(weights * (z.shifted / z.unit), axis=-1, keepdims=True)
        return z.masked(z.shifted - mean / xp.where(total > 0, total, 1.0) * z.unit)
