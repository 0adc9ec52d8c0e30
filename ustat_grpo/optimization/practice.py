"""What Algorithm 2 of arXiv 2603.01162 adds to Algorithm 1: what trainers do in practice."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from array_api_compat import array_namespace

from ustat_grpo.inputs.checks import integer, real, sequence

Array: TypeAlias = Any  # a NumPy array or a torch tensor: whatever array_api_compat understands

RATIOS = ("token", "sequence", "none")
"""How old outputs are weighed under the new policy, token by token:

    token     μ_t = π_θ(y_t∣x, y_<t)/π_old(y_t∣x, y_<t), as GRPO and PPO do: biased,
    sequence  Π_s μ_s over the whole output: unbiased, and what the others stand in for,
    none      1."""

PENALTIES = ("k1", "k2", "k3")
"""Estimates of a KL divergence that are differentiated as part of the loss, with
ℓ = log π_θ(y_t∣x, y_<t) − log π_ref(y_t∣x, y_<t) for each token (Schulman 2020):

    k1  ℓ,             whose gradient ∇ log π has mean zero: no penalty at all,
    k2  ½ℓ²,           whose gradient ℓ·∇ log π has the mean ∇KL(π_θ ‖ π_ref),
    k3  e^(−ℓ) − 1 + ℓ, whose gradient (1 − e^(−ℓ))·∇ log π has the mean ∇KL(π_ref ‖ π_θ),

for outputs of one token from π_θ. Of longer outputs the sampled tokens are π_θ's too: there k2 is
the mean over prefixes of the per-token divergences, with the prefixes held fixed, and so is k3."""


@dataclass(frozen=True)
class Practice:
    """How often outputs are used, and what is added to the policy gradient.

    A batch of B prompts, sampled from π_old, is cut into m minibatches of B/m; each gives one
    update, so that all but the first use outputs of an older policy:

        θ ← θ + η · (1/|b|G) Σ_i Σ_t [A_i ρ_it − κ k′_it] ∇ log π_θ(y_it∣x_i, y_i,<t).

    Args:
        num_minibatches: m, which divides the batch size.
        ratio: ρ, one of `RATIOS`.
        clip: (low, high): no ascent beyond a ratio of 1 + high where A > 0, or below 1 − low where
            A < 0, as in PPO; None does not clip, nor does anything without a ratio.
        penalty: k, one of `PENALTIES`.
        penalty_weight: κ, in units of the advantage; 0 needs no reference policy.

    Raises:
        ValueError: if a value is out of its range.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Constant, Practice, StdNormalised, TrainingConfig, TugOfWar
        >>> from ustat_grpo import optimize
        >>> config = TrainingConfig(
        ...     estimator=StdNormalised(),
        ...     batch_size=8,
        ...     group_size=4,
        ...     num_iterations=5,
        ...     schedule=Constant(0.5),
        ...     practice=Practice(num_minibatches=4, clip=(0.2, 0.2)),  # 5 · 4 updates
        ... )
        >>> task, rng = TugOfWar(), np.random.default_rng(0)
        >>> runs = optimize(task.bandit, config, theta0=task.theta(-1.0), num_runs=2, rng=rng)
        >>> bool((runs.objective > task.at(task.theta(-1.0)).objective).all())
        True
    """

    num_minibatches: int = 1
    ratio: str = "token"
    clip: tuple[float, float] | None = None
    penalty: str = "k3"
    penalty_weight: float = 0.0

    def __post_init__(self) -> None:
        """Check every value."""
        integer("num_minibatches", self.num_minibatches)
        _one_of("ratio", self.ratio, RATIOS)
        _one_of("penalty", self.penalty, PENALTIES)
        if real("penalty_weight", self.penalty_weight) < 0:
            raise ValueError(f"penalty_weight must not be negative, got {self.penalty_weight!r}")
        if self.clip is not None:
            ends = [real("clip", each, above=0.0) for each in sequence("clip", self.clip)]
            if len(ends) != 2:
                raise ValueError(f"clip must be two numbers, low and high, got {ends}")
            low, high = ends
            if low >= 1:
                raise ValueError(f"clip must have a low end below 1, got {low!r}")
            object.__setattr__(self, "clip", (low, high))

    @property
    def is_on_policy(self) -> bool:
        """Whether this is Algorithm 1: all ratios are 1, none is clipped, nothing is added."""
        return self.num_minibatches == 1 and self.penalty_weight == 0

    def require_batch_size(self, batch_size: int) -> None:
        """Raise unless the minibatches are of equal size."""
        if batch_size % self.num_minibatches:
            raise ValueError(
                f"batch_size must be a multiple of num_minibatches = {self.num_minibatches}, "
                f"got {batch_size}"
            )


def penalty_slope(penalty: str, log_ratio: Array) -> Array:
    """Return k′(ℓ) of ℓ = log π_θ − log π_ref, NumPy or torch, of the same shape.

    Raises:
        ValueError: if `penalty` is none of `PENALTIES`.
    """
    xp = array_namespace(log_ratio)
    if _one_of("penalty", penalty, PENALTIES) == "k1":
        return xp.ones_like(log_ratio)
    return log_ratio if penalty == "k2" else -xp.expm1(-log_ratio)


def ratio_of(ratio: str, log_ratios: Array) -> Array:
    """Return ρ of log π_θ − log π_old of each token, shape (..., T); the last axis may come as 1.

    Raises:
        ValueError: if `ratio` is none of `RATIOS`.
    """
    xp = array_namespace(log_ratios)
    if _one_of("ratio", ratio, RATIOS) == "none":
        return xp.ones_like(log_ratios)
    if ratio == "sequence":
        log_ratios = xp.sum(log_ratios, axis=-1, keepdims=True)
    return xp.exp(log_ratios)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> object:
    """Return a value, or raise if it is not allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value
