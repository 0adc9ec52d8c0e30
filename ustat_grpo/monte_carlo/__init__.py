"""Gradient errors by simulation: an independent measurement of what `ustat_grpo.laws` states."""

from ustat_grpo.monte_carlo.harness import gradient_mse, label

__all__ = ["gradient_mse", "label"]
