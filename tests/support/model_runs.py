"""Runs on language models by the names of what they are made of."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from ustat_grpo import Constant, Grpo, TrainingConfig
from ustat_grpo.lm import ModelTraining

_OWN = {entry.name for entry in fields(ModelTraining)} - {"config"}


def model_training(**parts: Any) -> ModelTraining:
    """Return a run; GRPO at a rate of 0.5 unless something else is said."""
    shared = {"estimator": Grpo(), "schedule": Constant(0.5)}
    own = {name: parts.pop(name) for name in _OWN & set(parts)}
    return ModelTraining(TrainingConfig(**{**shared, **parts}), **own)


def changed(run: ModelTraining, **parts: Any) -> ModelTraining:
    """Return a run that differs in some parts."""
    own = {name: parts.pop(name) for name in _OWN & set(parts)}
    return replace(run, config=replace(run.config, **parts), **own)
