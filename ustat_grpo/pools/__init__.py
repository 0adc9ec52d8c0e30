"""Pools of outputs drawn for each prompt: their moments, and errors of groups drawn from them."""

from ustat_grpo.pools.errors import PromptErrors, pool_errors
from ustat_grpo.pools.measured_moments import MeasuredMoments, pool_moments
from ustat_grpo.pools.prompt_pools import Pool, PromptPool

__all__ = [
    "MeasuredMoments",
    "Pool",
    "PromptErrors",
    "PromptPool",
    "pool_errors",
    "pool_moments",
]
