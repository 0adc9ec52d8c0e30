"""Learning-rate schedules: η₁, …, η_n as an array."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, integer, real


class Schedule(Protocol):
    """Anything that gives the learning rates of the first n iterations."""

    def rates(self, num_iterations: int) -> Float[Array, " n"]:
        """Return η₁, …, η_n, shape (n,), each positive."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same rate throughout: η_i = β (Lemma 6 (a)).

    Args:
        rate: β, positive.

    Examples:
        >>> from ustat_grpo import Constant
        >>> Constant(0.5).rates(3).tolist()
        [0.5, 0.5, 0.5]
    """

    rate: float

    def __post_init__(self) -> None:
        """Raise if the rate is not positive."""
        real("rate", self.rate, above=0.0)

    def rates(self, num_iterations: int) -> Float[Array, " n"]:
        """Return β, n times."""
        return np.full(integer("num_iterations", num_iterations), float(self.rate))


@dataclass(frozen=True)
class Decay:
    """A rate that falls like 1/i: η_i = β/(i + i₀) (Lemma 6 (b), Theorem 8).

    Args:
        rate: β, positive.
        offset: i₀, not negative; keeps the first steps small and does not enter any limit.

    Examples:
        >>> from ustat_grpo import Decay
        >>> Decay(rate=2.0, offset=1.0).rates(3).round(4).tolist()  # 2/2, 2/3, 2/4
        [1.0, 0.6667, 0.5]
    """

    rate: float
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Raise if a number is out of its range."""
        real("rate", self.rate, above=0.0)
        if real("offset", self.offset) < 0:
            raise ValueError(f"offset must not be negative, got {self.offset!r}")

    def rates(self, num_iterations: int) -> Float[Array, " n"]:
        """Return β/(1 + i₀), …, β/(n + i₀)."""
        steps = np.arange(1.0, integer("num_iterations", num_iterations) + 1)
        return float(self.rate) / (steps + float(self.offset))


def learning_rates(schedule: Schedule, num_iterations: int) -> Float[Array, " n"]:
    """Return the learning rates of n iterations, or raise unless they are n positive numbers."""
    count = integer("num_iterations", num_iterations)
    rates = finite("schedule.rates", schedule.rates(count), ndim=1)
    if len(rates) != count or (rates <= 0).any():
        raise ValueError(
            f"schedule.rates must be {count} positive numbers, got {len(rates)} from "
            f"{rates.min():g}"
        )
    return rates
