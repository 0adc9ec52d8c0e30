"""Speed against the plain ways a user would write it; `python -m benchmarks`."""
