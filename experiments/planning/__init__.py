"""The planner tried: coverage of its intervals, and where its group size ends."""
