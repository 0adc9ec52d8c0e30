"""The learning rate of an experiment, as configured."""

from dataclasses import dataclass

from ustat_grpo.checks import real
from ustat_grpo.schedules import Constant, Decay, Schedule

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
