"""What estimators do to arrays of rewards, NumPy or torch: masks, means, side information."""

from typing import Any, TypeAlias

from array_api_compat import array_namespace, device, is_array_api_obj, to_device

from ustat_grpo.checks import leave_one_out_group_size

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


def prompt_level(name: str, estimator: str, known: Array | None, rewards: Array) -> Array:
    """Return side information of shape (...) as (..., 1) in the rewards' type, or raise."""
    if known is None:
        raise ValueError(f"{name} must be given for the {estimator} estimator, got None")
    xp = array_namespace(rewards)
    dtype = floating(xp, rewards).dtype
    if not is_array_api_obj(known):
        known = xp.asarray(known)
    array = xp.astype(to_device(known, device(rewards)), dtype, copy=False)
    if array.ndim and tuple(array.shape) != tuple(rewards.shape[:-1]):
        raise ValueError(
            f"{name} must have the shape of rewards without its last axis, "
            f"{tuple(rewards.shape[:-1])}, got {tuple(array.shape)}"
        )
    return array[..., None]
