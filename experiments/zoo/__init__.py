"""Every estimator in use, side by side."""
