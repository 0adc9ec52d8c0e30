"""The estimators whose errors have exact laws, each with its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ustat_grpo import (
    ConstantBaseline,
    Estimator,
    GroupMean,
    Grpo,
    OptimalBaseline,
    Oracle,
    Shrinkage,
    Vanilla,
    laws,
)

Law = Callable[..., object]
ESTIMATORS: dict[str, tuple[Estimator, Law]] = {
    "vanilla": (Vanilla(), laws.mse.vanilla),
    "oracle": (Oracle(), laws.mse.oracle),
    "grpo": (Grpo(), laws.mse.grpo),
    "group_mean": (GroupMean(), laws.mse.group_mean),
    "constant": (ConstantBaseline(0.3), partial(laws.mse.constant_baseline, baseline=0.3)),
    "optimal": (OptimalBaseline(), laws.mse.optimal_baseline),
    "shrinkage": (Shrinkage(0.4, 0.2), partial(laws.mse.shrinkage, weight=0.4, target=0.2)),
}
