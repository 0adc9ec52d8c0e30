"""Options of a training by name, sorted into its configuration and the rest of the call."""

from __future__ import annotations

from dataclasses import fields

from ustat_grpo import TrainingConfig, optimize
from ustat_grpo.compiled import thread_limit

_OF_THE_CONFIG = {field.name for field in fields(TrainingConfig)}


def configured(options):
    """Return the configuration, and what is left of the options."""
    rest = {name: value for name, value in options.items() if name not in _OF_THE_CONFIG}
    own = {name: value for name, value in options.items() if name in _OF_THE_CONFIG}
    return TrainingConfig(**own), rest


def optimized(bandit, estimator, *, threads=None, **options):
    """Runs of `optimize` on so many threads, all cores if None."""
    config, rest = configured({"estimator": estimator, **options})
    with thread_limit(threads):
        return optimize(bandit, config, **rest)
