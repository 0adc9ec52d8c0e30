"""The best group size: by sweeps, by the laws, and by rules of thumb."""
