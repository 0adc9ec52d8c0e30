"""Names of estimators in configurations: each stands for an estimator and for its law."""

from collections.abc import Callable, Mapping
from functools import partial

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
    SideInformation,
    Vanilla,
)
from ustat_grpo.laws import covariance, mse
from ustat_grpo.laws.covariance import NoiseMatrices
from ustat_grpo.moments import ScoreMoments

_COMPARED = {
    "vanilla": (Vanilla, mse.vanilla, covariance.vanilla),
    "grpo": (Grpo, mse.grpo, covariance.grpo),
    "oracle": (Oracle, mse.oracle, covariance.oracle),
    "group_mean": (GroupMean, mse.group_mean, covariance.grpo),
    "constant_baseline": (
        ConstantBaseline, mse.constant_baseline, covariance.constant_baseline,
    ),
    "optimal_baseline": (OptimalBaseline, mse.optimal_baseline, covariance.optimal_baseline),
    "shrinkage": (Shrinkage, mse.shrinkage, covariance.shrinkage),
}  # fmt: skip

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
    nothing = SideInformation(np.zeros(()), np.zeros(()))
    for estimator in build(compared).values():
        estimator.advantages(np.zeros(group_size), nothing)


def law(
    name: str, parameters: Parameters, moments: Moments, group_size: int, batch_size: int | None
) -> float:
    """Return the exact error of a minibatch gradient: `laws.mse`, by name."""
    errors = _COMPARED[name][1](moments, group_size=group_size, **parameters)
    return mse.minibatch(errors, moments, batch_size=batch_size, gain=gain(name, group_size))


def gain(name: str, group_size: int) -> float:
    """Return the factor between the mean of an estimate and ∇J: it scales the learning rate."""
    return mse.group_mean_gain(group_size) if name == "group_mean" else 1.0


def noise(name: str, parameters: Parameters) -> Callable[[ScoreMoments], NoiseMatrices]:
    """Return the law of an estimator's covariance: `laws.covariance`, by name.

    For the group mean it is that of the estimate divided by its gain.
    """
    return partial(_COMPARED[name][2], **parameters)
