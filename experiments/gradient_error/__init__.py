"""The error of the gradient against the group size."""
