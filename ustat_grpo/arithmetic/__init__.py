"""Arithmetic problems with their exact values and the answers that one could give; no torch."""

from ustat_grpo.arithmetic.problems import ArithmeticProblem, OperandRanges, arithmetic_problems

__all__ = ["ArithmeticProblem", "OperandRanges", "arithmetic_problems"]
