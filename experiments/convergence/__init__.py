"""How fast runs converge: the limit law of their gap, and bounds of it."""
