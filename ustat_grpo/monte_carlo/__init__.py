"""Gradient errors by simulation: an independent measurement of what `ustat_grpo.laws` states."""

from ustat_grpo.monte_carlo.comparison import label
from ustat_grpo.monte_carlo.harness import gradient_mse
from ustat_grpo.monte_carlo.replications import Precision

__all__ = ["Precision", "gradient_mse", "label"]
