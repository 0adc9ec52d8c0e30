"""Estimators that look at the whole batch: its standard deviation, its mean, its hits."""

from dataclasses import dataclass
from typing import Any

from ustat_grpo.estimators.arrays import (
    Array,
    all_equal,
    deviations,
    output_level,
    require_batch,
    require_ddof,
    require_eps,
    scorable,
)
from ustat_grpo.estimators.group import GroupMean
from ustat_grpo.estimators.interface import NOTHING, Estimator, SideInformation

PLACES = ("variance", "std", "floor")
"""What keeps a whitening finite: 1/√(var + ε), 1/(√var + ε), or 1/√max(var, ε)."""

_ROUNDING = 16
"""Spacings of floating-point numbers at the largest reward, within which advantages are equal."""


@dataclass(frozen=True)
class BatchStdNormalised:
    """Group mean, divided by the batch's standard deviation: A_bi = (Z_bi − Z̄_b)/(std Z + ε).

    TRL's `scale_rewards="batch"` (arXiv 2508.08221): one factor for the whole batch, so that no
    prompt gains on another. It is the deviation of the rewards, not of what is left of them without
    their group means. A batch whose rewards are all equal has advantage 0 at every ε.

    Args:
        eps: ε, in units of reward.
        ddof: the variance divides by n − ddof, with n outputs in the batch.
    """

    eps: float = 1e-4
    ddof: int = 1

    def __post_init__(self) -> None:
        """Raise if ε is negative or ddof neither 0 nor 1."""
        require_eps(self.eps)
        require_ddof(self.ddof)

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return scaled advantages (..., B, G); see `Estimator.advantages`."""
        require_batch("BatchStdNormalised", rewards)
        xp, _, _, _ = scorable(rewards)
        centred = GroupMean().advantages(rewards)
        flat = xp.reshape(rewards, (*rewards.shape[:-2], -1))
        if not flat.shape[-1]:
            return centred
        equal = all_equal(flat)[..., None]
        _, std = deviations(flat, self.ddof)
        scaled = centred / xp.where(equal, 1.0, std[..., None] + float(self.eps))
        return xp.where(equal, xp.zeros_like(scaled), scaled)


@dataclass(frozen=True)
class Whitened:
    """Advantages of another estimator, brought to mean 0 and variance 1 over the batch.

    A = (A′ − mean A′)·(var A′ + ε)^(−½). With `Vanilla` inside it is REINFORCE++ (arXiv
    2501.03262), with `GroupMean` its baseline variant. Mean and variance are over tokens, that is
    outputs weighted by their lengths, if `side.lengths` are known. Advantages that are all equal
    within rounding give 0 at every ε.

    Args:
        inner: gives A′.
        eps: ε, in units of A′², or of A′ if it stands with the standard deviation.
        ddof: the variance divides by n − ddof, with n tokens (outputs, if lengths are not known).
        place: of ε, one of `PLACES`: verl adds it to the variance, OpenRLHF puts a floor there.
        per_token: False for moments over outputs whatever is known of their lengths.
    """

    inner: Estimator
    eps: float = 1e-8
    ddof: int = 1
    place: str = "variance"
    per_token: bool = True

    def __post_init__(self) -> None:
        """Raise if a value is out of its range."""
        require_eps(self.eps)
        require_ddof(self.ddof)
        if self.place not in PLACES:
            raise ValueError(f"place must be one of {', '.join(PLACES)}, got {self.place!r}")

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return whitened advantages (..., B, G); see `Estimator.advantages`."""
        require_batch("Whitened", rewards)
        xp, scored, filled, _ = scorable(rewards)
        values = self.inner.advantages(rewards, side)
        if not rewards.shape[-2] * rewards.shape[-1]:
            return values
        weights = xp.astype(scored, values.dtype)
        if self.per_token and side.lengths is not None:
            weights = output_level("lengths", "Whitened", side.lengths, rewards)
        total = xp.sum(weights, axis=(-2, -1), keepdims=True)
        mean = xp.sum(weights * values, axis=(-2, -1), keepdims=True)
        deviation = values - mean / xp.where(total > 0, total, 1.0)
        squares = xp.sum(weights * deviation**2, axis=(-2, -1), keepdims=True)
        variance = squares / xp.where(total > self.ddof, total - self.ddof, 1.0)
        largest = xp.max(xp.abs(filled), axis=(-2, -1), keepdims=True)
        distance = xp.max(xp.where(scored, xp.abs(deviation), 0.0), axis=(-2, -1), keepdims=True)
        equal = distance <= _ROUNDING * xp.finfo(values.dtype).eps * largest
        whitened = deviation / xp.where(equal, 1.0, self._scale(xp, variance))
        return xp.where(scored & ~equal, whitened, xp.zeros_like(whitened))

    def _scale(self, xp: Any, variance: Array) -> Array:
        eps = float(self.eps)
        if self.place == "std":
            return xp.sqrt(variance) + eps
        if self.place == "variance":
            return xp.sqrt(variance + eps)
        return xp.sqrt(xp.where(variance > eps, variance, eps))


@dataclass(frozen=True)
class HitScaled:
    """Another estimator, over the batch's share of rewards that are not 0: A_bi = (N/N₊) A′_bi.

    GPG (arXiv 2504.02546) as verl has it, around the group mean: N outputs in the batch, N₊ of them
    with a reward other than 0; a batch without any is left as it is.

    Args:
        inner: gives A′.
    """

    inner: Estimator

    def advantages(self, rewards: Array, side: SideInformation = NOTHING) -> Array:
        """Return scaled advantages (..., B, G); see `Estimator.advantages`."""
        require_batch("HitScaled", rewards)
        xp, _, filled, count = scorable(rewards)
        advantages = self.inner.advantages(rewards, side)
        hits = xp.sum(xp.astype(filled != 0, filled.dtype), axis=(-2, -1), keepdims=True)
        total = xp.sum(count, axis=(-2, -1), keepdims=True)
        return advantages * xp.where(hits > 0, total / xp.where(hits > 0, hits, 1.0), 1.0)
