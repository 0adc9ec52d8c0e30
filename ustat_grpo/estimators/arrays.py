"""What estimators do to arrays of rewards, NumPy or torch: masks, means, side information."""

from typing import Any, TypeAlias

from array_api_compat import array_namespace, device, is_array_api_obj, to_device

from ustat_grpo.checks import leave_one_out_group_size, real

Array: TypeAlias = Any  # a NumPy array or a torch tensor: whatever array_api_compat understands


def scorable(rewards: Array) -> tuple[Any, Array, Array, Array]:
    """Return namespace, mask of scorable rewards, rewards with 0 for NaN, count (..., 1)."""
    xp = array_namespace(rewards)
    rewards = floating(xp, rewards)
    scored = ~xp.isnan(rewards)
    filled = xp.where(scored, rewards, xp.zeros_like(rewards))
    count = xp.sum(xp.astype(scored, rewards.dtype), axis=-1, keepdims=True)
    return xp, scored, filled, count


def floating(xp: Any, array: Array) -> Array:
    """Counts and booleans are legitimate rewards; a mean of them needs a floating type."""
    if xp.isdtype(array.dtype, "real floating"):
        return array
    return xp.astype(array, xp.asarray(0.0).dtype)


def subtract(rewards: Array, baseline: Array | float) -> Array:
    """Return rewards less a baseline, 0 where the reward is NaN."""
    xp, scored, filled, _ = scorable(rewards)
    centred = filled - baseline
    return xp.where(scored, centred, xp.zeros_like(centred))


def leave_one_out_mean(rewards: Array) -> Array:
    """Return the mean of the other scorable rewards; an output without others is its own mean."""
    leave_one_out_group_size(rewards.shape[-1])
    xp, _, filled, count = scorable(rewards)
    others = xp.sum(filled, axis=-1, keepdims=True) - filled
    return xp.where(count > 1, others / xp.where(count > 1, count - 1, 1.0), filled)


def all_equal(rewards: Array) -> Array:
    """Return whether the scorable rewards of a group are one number, shape (..., 1).

    The largest is compared with the least: the standard deviation of 0.1, 0.1, 0.1 is 1e-17.
    """
    xp, scored, filled, _ = scorable(rewards)
    largest = xp.max(xp.where(scored, filled, -xp.inf), axis=-1, keepdims=True)
    return largest <= xp.min(xp.where(scored, filled, xp.inf), axis=-1, keepdims=True)


def deviations(rewards: Array, ddof: int) -> tuple[Array, Array]:
    """Return Z − Z̄, 0 for NaN, and the standard deviation (..., 1) of each group.

    Both passes over the rewards are made: the difference of E Z² and Z̄² would be rounding where
    all but one reward agree. Squares are taken in units of the largest deviation.
    """
    xp, scored, filled, count = scorable(rewards)
    mean = xp.sum(filled, axis=-1, keepdims=True) / xp.where(count > 0, count, 1.0)
    deviation = xp.where(scored, filled - mean, xp.zeros_like(filled))
    unit = xp.max(xp.abs(deviation), axis=-1, keepdims=True)
    unit = xp.where(unit > 0, unit, 1.0)
    squares = xp.sum((deviation / unit) ** 2, axis=-1, keepdims=True)
    freedom = xp.where(count > ddof, count - ddof, 1.0)
    return deviation, unit * xp.sqrt(squares / freedom)


def sum_of_others(xp: Any, terms: Array) -> Array:
    """Return Σ_{j≠i} of terms along the last axis, without subtracting the own one.

    What is left of a total that the own term dominates would be rounding.
    """
    none = xp.zeros_like(terms[..., :1])
    before = xp.cumulative_sum(terms[..., :-1], axis=-1)
    after = xp.flip(xp.cumulative_sum(xp.flip(terms[..., 1:], axis=-1), axis=-1), axis=-1)
    return xp.concat([none, before], axis=-1) + xp.concat([after, none], axis=-1)


def require_batch(estimator: str, rewards: Array) -> None:
    """Raise unless rewards have the shape (..., B, G)."""
    if rewards.ndim < 2:
        raise ValueError(
            f"rewards must have the shape (..., B, G) for the {estimator} estimator, "
            f"got {tuple(rewards.shape)}"
        )


def prompt_level(name: str, estimator: str, known: Array | None, rewards: Array) -> Array:
    """Return side information of shape (...) as (..., 1) in the rewards' type, or raise."""
    array = _beside(name, estimator, known, rewards)
    if array.ndim and tuple(array.shape) != tuple(rewards.shape[:-1]):
        raise ValueError(
            f"{name} must have the shape of rewards without its last axis, "
            f"{tuple(rewards.shape[:-1])}, got {tuple(array.shape)}"
        )
    return array[..., None]


def output_level(name: str, estimator: str, known: Array | None, rewards: Array) -> Array:
    """Return side information of shape (..., G) in the rewards' type, 0 for NaN, or raise."""
    array = _beside(name, estimator, known, rewards)
    if tuple(array.shape) != tuple(rewards.shape):
        raise ValueError(
            f"{name} must have the shape of rewards, {tuple(rewards.shape)}, "
            f"got {tuple(array.shape)}"
        )
    xp, scored, _, _ = scorable(rewards)
    return xp.where(scored, array, xp.zeros_like(array))


def _beside(name: str, estimator: str, known: Array | None, rewards: Array) -> Array:
    """Return side information in the rewards' type and on their device, or raise."""
    if known is None:
        raise ValueError(f"{name} must be given for the {estimator} estimator, got None")
    xp = array_namespace(rewards)
    if not is_array_api_obj(known):
        known = xp.asarray(known)
    return xp.astype(to_device(known, device(rewards)), floating(xp, rewards).dtype, copy=False)


def require_eps(eps: object) -> None:
    """Raise if a regularisation is no finite number of at least 0."""
    if real("eps", eps) < 0:
        raise ValueError(f"eps must not be negative, got {eps!r}")


def require_ddof(ddof: object) -> None:
    """Raise if the number taken off a count is neither 0 nor 1."""
    if isinstance(ddof, bool) or ddof not in (0, 1):
        raise ValueError(f"ddof must be 0 or 1, got {ddof!r}")
