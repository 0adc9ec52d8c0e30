"""Gymnasium environments as problems for group estimators: a prompt is a reset seed.

Importing this registers the environments `ustat_grpo/ContextualBandit-v0`, `ustat_grpo/TugOfWar-v0`
and `ustat_grpo/Arithmetic-v0`. What needs torch is imported when it is first used.
"""
