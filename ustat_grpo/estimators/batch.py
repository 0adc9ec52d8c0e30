"""Estimators that look at the whole batch: its standard deviation, its mean, its hits."""

from dataclasses import dataclass
from typing import Any

from ustat_grpo.estimators.group import GroupMean
from ustat_grpo.estimators.interface import NOTHING, Estimator, SideInformation
from ustat_grpo.estimators.scored import (
    Array,
    Scored,
    extremes,
    in_working_precision,
    offset,
    output_level,
    power_of_two,
    require_batch,
    require_ddof,
    require_eps,
)

PLACES = ("variance", "std", "floor")
"""What keeps a whitening finite: 1/√(var + ε), 1/(√var + ε), or 1/√max(var, ε)."""

_BATCH = (-2, -1)
"""The axes of a batch of groups."""

_ROUNDING = 16
"""Spacings of floating-point numbers at the largest baseline, within which advantages are equal."""


@dataclass(frozen=True)
class BatchStdNormalised:
    """Group mean, divided by the batch's standard deviation: A_bi = (Z_bi − Z̄_b)/(std Z + ε).

    TRL's `scale_rewards="batch"` (arXiv 2508.08221): one factor for the whole batch, so that no
    prompt gains on another. It is the deviation of the rewards, not of what is left of them without
    their group means. A batch whose rewards are all equal has advantage 0 at every ε.

    Args:
        eps: ε, in units of reward.
        ddof: the variance divides by n − ddof, with n outputs in the batch.

    Examples:
        >>> from ustat_grpo import BatchStdNormalised
        >>> estimator = BatchStdNormalised(eps=0.0, ddof=0)
        >>> estimator.advantages([[1, 0], [3, 4]]).round(3).tolist()  # both prompts over √2.5
        [[0.316, -0.316], [-0.316, 0.316]]
    """

    eps: float = 1e-4
    ddof: int = 1

    def __post_init__(self) -> None:
        """Raise if ε is negative or ddof neither 0 nor 1."""
        require_eps(self.eps)
        require_ddof(self.ddof)

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return scaled advantages (..., B, G); see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        require_batch("BatchStdNormalised", z)
        xp, centred, whole = z.xp, GroupMean().advantages(z.rewards), z.as_one_group()
        if not whole.values.shape[-1]:
            return centred
        equal = whole.all_equal[..., None]
        _, std = whole.deviations(self.ddof)
        scaled = centred / xp.where(equal, 1.0, std[..., None] + float(self.eps))
        return xp.where(equal, xp.zeros_like(scaled), scaled)


@dataclass(frozen=True)
class Whitened:
    """Advantages of another estimator, brought to mean 0 and variance 1 over the batch.

    A = (A′ − mean A′)·(var A′ + ε)^(−½). With `Vanilla` inside it is REINFORCE++ (arXiv
    2501.03262), with `GroupMean` its baseline variant. Mean and variance are over tokens, that is
    outputs weighted by their lengths, if `side.lengths` are known. Advantages that are all equal,
    within the rounding of a baseline where the rewards of every group are equal, give 0 at every ε.

    Args:
        inner: gives A′.
        eps: ε, in units of A′², or of A′ if it stands with the standard deviation.
        ddof: the variance divides by n − ddof, with n tokens (outputs, if lengths are not known).
        place: of ε, one of `PLACES`: verl adds it to the variance, OpenRLHF puts a floor there.
        per_token: False for moments over outputs whatever is known of their lengths.
        keep_singletons: False leaves the single scorable output of a group out of mean and
            variance, with advantage 0, as TRL does.

    Examples:
        >>> from ustat_grpo import Vanilla, Whitened
        >>> reinforce_plus_plus = Whitened(Vanilla(), eps=0.0, ddof=0)
        >>> reinforce_plus_plus.advantages([[4, 0], [4, 0]]).tolist()  # mean 2, deviation 2
        [[1.0, -1.0], [1.0, -1.0]]
    """

    inner: Estimator
    eps: float = 1e-8
    ddof: int = 1
    place: str = "variance"
    per_token: bool = True
    keep_singletons: bool = True

    def __post_init__(self) -> None:
        """Raise if a value is out of its range."""
        require_eps(self.eps)
        require_ddof(self.ddof)
        if self.place not in PLACES:
            raise ValueError(f"place must be one of {', '.join(PLACES)}, got {self.place!r}")

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return whitened advantages (..., B, G); see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        require_batch("Whitened", z)
        xp, values = z.xp, self.inner.advantages(z.rewards, side)
        if not z.values.shape[-2] * z.values.shape[-1]:
            return values
        known = z.scored if self.keep_singletons else z.scored & (z.count > 1)
        weights = xp.astype(known, values.dtype)
        if self.per_token and side.lengths is not None:
            weights = weights * output_level("lengths", "Whitened", side.lengths, z)
        total = xp.sum(weights, axis=_BATCH, keepdims=True)
        shifted = xp.where(known, values - offset(xp, values, known, _BATCH), 0.0)
        unit = power_of_two(xp, xp.max(xp.abs(shifted), axis=_BATCH, keepdims=True))
        shifted = shifted / unit  # whose squares neither over- nor underflow
        mean = xp.sum(weights * shifted, axis=_BATCH, keepdims=True)
        deviation = shifted - mean / xp.where(total > 0, total, 1.0)
        squares = xp.sum(weights * deviation**2, axis=_BATCH, keepdims=True)
        variance = squares / xp.where(total > self.ddof, total - self.ddof, 1.0)
        equal = _equal(z, known, values)
        whitened = deviation / xp.where(equal, 1.0, self._scale(xp, variance, unit))
        return xp.where(known & ~equal, whitened, xp.zeros_like(whitened))

    def _scale(self, xp: Any, variance: Array, unit: Array) -> Array:
        """Return the regularised deviation in a unit, from the variance in its square."""
        eps = float(self.eps) / unit
        if self.place == "std":
            return xp.sqrt(variance) + eps
        eps = eps / unit
        if self.place == "variance":
            return xp.sqrt(variance + eps)
        return xp.sqrt(xp.where(variance > eps, variance, eps))


def _equal(z: Scored, known: Array, advantages: Array) -> Array:
    """Return whether the known advantages of a batch are one number, (..., 1, 1).

    Where the rewards of every group are equal, what an inner estimator has subtracted leaves its
    rounding. Elsewhere a difference, however small beside the rewards, is one of the rewards.
    """
    xp = z.xp
    least, largest = extremes(xp, advantages, known, _BATCH)
    baseline = xp.abs(xp.where(known, z.values - advantages, 0.0))
    spacing = xp.finfo(advantages.dtype).eps * xp.max(baseline, axis=_BATCH, keepdims=True)
    is_rounding = xp.all(z.all_equal, axis=_BATCH, keepdims=True)
    is_rounding = is_rounding & (largest - least <= _ROUNDING * spacing)
    return (largest <= least) | is_rounding


@dataclass(frozen=True)
class HitScaled:
    """Another estimator, over the batch's share of rewards that are not 0: A_bi = (N/N₊) A′_bi.

    GPG (arXiv 2504.02546) as verl has it, around the group mean: N outputs in the batch, N₊ of them
    with a reward other than 0; a batch without any is left as it is.

    Args:
        inner: gives A′.

    Examples:
        >>> from ustat_grpo import GroupMean, HitScaled
        >>> HitScaled(GroupMean()).advantages([[1, 0], [0, 0]]).tolist()  # a hit in four
        [[2.0, -2.0], [0.0, 0.0]]
    """

    inner: Estimator

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return scaled advantages (..., B, G); see `Estimator.advantages`."""
        return in_working_precision(self._of, rewards, side)

    def _of(self, z: Scored, side: SideInformation) -> Array:
        require_batch("HitScaled", z)
        xp, values = z.xp, z.values
        advantages = self.inner.advantages(z.rewards, side)
        hits = xp.sum(xp.astype(values != 0, values.dtype), axis=(-2, -1), keepdims=True)
        total = xp.sum(z.count, axis=(-2, -1), keepdims=True)
        return advantages * xp.where(hits > 0, total / xp.where(hits > 0, hits, 1.0), 1.0)
