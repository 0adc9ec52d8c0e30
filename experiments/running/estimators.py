"""Estimators as configurations name them: each name stands for an algorithm and for its laws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

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
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.laws import covariance, mse
from ustat_grpo.laws.covariance import NoiseMatrices
from ustat_grpo.moments import ScoreMoments

Parameters = Mapping[str, float]


def _unbiased(group_size: int) -> float:
    """Return 1, the gain of an estimator whose mean is ∇J at every group size."""
    return 1.0


class _Known(NamedTuple):
    """What a name stands for before its parameters are given; see `Compared`."""

    estimator: Callable[..., Estimator]
    errors: Callable[..., Float[Array, " P"]]
    noise: Callable[..., NoiseMatrices]
    gain: Callable[[int], float] = _unbiased


_COMPARED = {
    "vanilla": _Known(Vanilla, mse.vanilla, covariance.vanilla),
    "grpo": _Known(Grpo, mse.grpo, covariance.grpo),
    "oracle": _Known(Oracle, mse.oracle, covariance.oracle),
    "group_mean": _Known(GroupMean, mse.group_mean, covariance.grpo, mse.group_mean_gain),
    "constant_baseline": _Known(
        ConstantBaseline, mse.constant_baseline, covariance.constant_baseline
    ),
    "optimal_baseline": _Known(OptimalBaseline, mse.optimal_baseline, covariance.optimal_baseline),
    "shrinkage": _Known(Shrinkage, mse.shrinkage, covariance.shrinkage),
}


@dataclass(frozen=True)
class Compared:
    """An estimator that a configuration names, with its parameters and its laws.

    Args:
        name: in configurations and tables.
        estimator: the algorithm.
        errors: E‖ĝ(x) − g(x)‖² at each prompt, shape (P,), from moments and `group_size`: the law
            of `laws.mse`.
        noise: the law of its covariance, of `laws.covariance`; for the group mean it is that of the
            estimate divided by its gain.
        gain: the factor between the mean of an estimate and ∇J by group size; it scales the
            learning rate.
    """

    name: str
    estimator: Estimator
    errors: Callable[..., Float[Array, " P"]]
    noise: Callable[[ScoreMoments], NoiseMatrices]
    gain: Callable[[int], float]

    def law(self, moments: Moments, group_size: int, batch_size: int | None) -> float:
        """Return the exact error of a minibatch gradient, E‖ĝ − ∇J‖².

        Args:
            moments: of the policy.
            group_size: G.
            batch_size: B, or None for every prompt once.
        """
        errors = self.errors(moments, group_size=group_size)
        return mse.minibatch(errors, moments, batch_size=batch_size, gain=self.gain(group_size))


def resolve(estimators: Mapping[str, Parameters]) -> dict[str, Compared]:
    """Return the estimators of a configuration with their laws, by name.

    Raises:
        ValueError: if a name is unknown, or its parameters do not fit.
    """
    return {name: _resolved(name, parameters) for name, parameters in estimators.items()}


def algorithms(compared: Mapping[str, Compared]) -> dict[str, Estimator]:
    """Return the estimators without their laws, by name."""
    return {name: each.estimator for name, each in compared.items()}


def require_group_size(compared: Mapping[str, Compared], group_size: int) -> None:
    """Let every estimator refuse a group size before any work starts."""
    nothing = SideInformation(np.zeros(()), np.zeros(()))
    for each in compared.values():
        each.estimator.advantages(np.zeros(group_size), nothing)


def _resolved(name: str, parameters: Parameters) -> Compared:
    if name not in _COMPARED:
        raise ValueError(f"estimators must be among {', '.join(_COMPARED)}, got {name!r}")
    known = _COMPARED[name]
    expected = set(getattr(known.estimator, "__dataclass_fields__", {}))
    if not set(parameters) <= expected:
        raise ValueError(
            f"parameters of {name} must be among {sorted(expected)}, got {sorted(parameters)}"
        )
    try:
        estimator = known.estimator(**parameters)
    except TypeError:
        missing = sorted(expected - set(parameters))
        raise ValueError(f"{name} must be given {missing}, got {dict(parameters)}") from None
    errors, noise = partial(known.errors, **parameters), partial(known.noise, **parameters)
    return Compared(name, estimator, errors, noise, known.gain)
