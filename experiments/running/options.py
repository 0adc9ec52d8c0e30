"""Options that apps share: scale, group sizes, schedule of the learning rate, seed and threads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ustat_grpo.inputs.checks import integer, real
from ustat_grpo.laws import group_size as law
from ustat_grpo.optimization.schedules import Constant, Decay, Schedule

_KINDS = ("constant", "decay")
LARGEST_RATE = 2.0**52
"""Here the rounding of a gradient of size one moves θ by one, and runs are the processor's."""


@dataclass
class ScheduleConfig:
    """A constant rate, or rate/(i + offset)."""

    kind: str = "constant"
    rate: float | None = None  # null takes the task's
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.kind not in _KINDS:
            raise ValueError(f"schedule.kind must be among {', '.join(_KINDS)}, got {self.kind!r}")
        if self.rate is not None and real("schedule.rate", self.rate, above=0.0) > LARGEST_RATE:
            raise ValueError(
                f"schedule.rate must be at most {LARGEST_RATE:.2g}, from where on rounding decides "
                f"what a run does, got {self.rate!r}"
            )
        if real("schedule.offset", self.offset) < 0:
            raise ValueError(f"schedule.offset must not be negative, got {self.offset}")

    def build(self, default_rate: float, gain: float = 1.0) -> Schedule:
        """Return the schedule, with rates times `gain`."""
        rate = gain * (default_rate if self.rate is None else self.rate)
        return Constant(rate) if self.kind == "constant" else Decay(rate, self.offset)


def require_seed_and_threads(seed: int, threads: int | None) -> None:
    """Check two parameters that all apps share."""
    integer("seed", seed, at_least=0)
    if threads is not None:
        integer("threads", threads)


@dataclass
class Scale:
    """How much work: the relative standard error to reach, or the runs of an optimisation."""

    name: str = "smoke"
    precision: float = 0.01
    runs: int = 200

    def __post_init__(self) -> None:
        """Check the ranges."""
        real("scale.precision", self.precision, above=0.0)
        integer("scale.runs", self.runs, at_least=2)


def group_sizes(value: Any, name: str = "group_size") -> list[int]:
    """Return one group size or several as a list, or raise."""
    sizes = list(value) if isinstance(value, list | tuple) else [value]
    if not sizes:
        raise ValueError(f"{name} must hold at least one size, got []")
    return [integer(name, size) for size in sizes]


def sizes_of_budget(budget: int) -> list[int]:
    """Return every divisor from 2 to half of the budget, or raise if there is none."""
    total = integer("budget", budget, at_least=4, at_most=2**53)
    sizes = law.divisors(total)[1:-1]
    if not sizes:
        raise ValueError(f"budget must have a divisor from 2 on, got {budget}")
    return sizes


def require_divisors(budget: int, sizes: Sequence[int], name: str = "group_size") -> None:
    """Raise unless every group size divides the budget."""
    integer("budget", budget, at_least=2)
    for size in sizes:
        if budget % size:
            raise ValueError(f"{name} must divide the budget {budget}, got {size}")
