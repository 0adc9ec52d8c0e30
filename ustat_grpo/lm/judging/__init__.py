"""Judges: whether an answer in words says what the solution says."""
