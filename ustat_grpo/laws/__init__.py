"""Closed forms: moments in, numbers out. Nothing here ever simulates."""

from ustat_grpo.laws import group_size, mse

__all__ = ["group_size", "mse"]
