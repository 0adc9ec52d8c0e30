"""A learned critic against the group mean, at equal cost."""
