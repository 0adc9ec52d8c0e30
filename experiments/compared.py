"""Names of estimators in configurations: each stands for an estimator and for its law."""

from collections.abc import Mapping

import numpy as np

from ustat_grpo import (
    ConstantBaseline,
    Estimator,
    GroupMean,
    Grpo,
    Moments,
    OptimalBaseline,
    Oracle,
    Shrinkage,
    Vanilla,
)
from ustat_grpo.laws import mse

_COMPARED = {
    "vanilla": (Vanilla, mse.vanilla),
    "grpo": (Grpo, mse.grpo),
    "oracle": (Oracle, mse.oracle),
    "group_mean": (GroupMean, mse.group_mean),
    "constant_baseline": (ConstantBaseline, mse.constant_baseline),
    "optimal_baseline": (OptimalBaseline, mse.optimal_baseline),
    "shrinkage": (Shrinkage, mse.shrinkage),
}

Parameters = Mapping[str, float]


def build(compared: Mapping[str, Parameters]) -> dict[str, Estimator]:
    """Return the estimators of a configuration by name.

    Raises:
        ValueError: if a name is unknown, or its parameters do not fit.
    """
    estimators = {}
    for name, parameters in compared.items():
        if name not in _COMPARED:
            raise ValueError(f"estimators must be among {', '.join(_COMPARED)}, got {name!r}")
        kind = _COMPARED[name][0]
        expected = set(getattr(kind, "__dataclass_fields__", {}))
        if not set(parameters) <= expected:
            raise ValueError(
                f"parameters of {name} must be among {sorted(expected)}, got {sorted(parameters)}"
            )
        try:
            estimators[name] = kind(**parameters)
        except TypeError:
            missing = sorted(expected - set(parameters))
            raise ValueError(f"{name} must be given {missing}, got {dict(parameters)}") from None
    return estimators


def require_group_size(compared: Mapping[str, Parameters], group_size: int) -> None:
    """Let every estimator refuse a configuration or a group size before any work starts."""
    nothing = np.zeros(())
    for estimator in build(compared).values():
        estimator.advantages(np.zeros(group_size), nothing, optimal_baseline=nothing)


def law(
    name: str, parameters: Parameters, moments: Moments, group_size: int, batch_size: int | None
) -> float:
    """Return the exact error of a minibatch gradient: `laws.mse`, by name."""
    errors = _COMPARED[name][1](moments, group_size=group_size, **parameters)
    gain = mse.group_mean_gain(group_size) if name == "group_mean" else 1.0
    return mse.minibatch(errors, moments, batch_size=batch_size, gain=gain)
