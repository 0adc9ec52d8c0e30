"""Closed forms: moments in, numbers out. Nothing here ever simulates."""

from ustat_grpo.laws import (
    binary,
    covariance,
    critic,
    epochs,
    gap,
    group_size,
    limit,
    mse,
    path,
    spread,
)
from ustat_grpo.laws.weighted_chi_squared import WeightedChiSquared

__all__ = [
    "WeightedChiSquared",
    "binary",
    "covariance",
    "critic",
    "epochs",
    "gap",
    "group_size",
    "limit",
    "mse",
    "path",
    "spread",
]
