"""What a sweep over group sizes is asked: its configuration, and the sizes at a budget."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

from omegaconf import MISSING

from experiments.running.estimators import Compared, require_group_size, resolve
from experiments.running.options import (
    Scale,
    ScheduleConfig,
    group_sizes,
    require_divisors,
    require_seed_and_threads,
    sizes_of_budget,
)
from experiments.running.parts import KeptRuns, Parts
from experiments.tasks.resolve import trained_subject
from experiments.tasks.subject import TrainedSubject, TrainingAsked
from ustat_grpo.inputs.checks import increasing, integer

DEFAULT_SIZES = (2, 4, 8, 16, 32, 64, 128)
"""Those of conf/group_size.yaml, of which a budget takes what divides it."""


@dataclass
class GroupSize:
    """The configuration of this app."""

    task: Any = MISSING
    scale: Scale = field(default_factory=Scale)
    estimators: dict[str, dict[str, float]] = MISSING
    env_id: str | None = None  # of task=gym
    budget: int = 256
    group_size: Any = None  # one, or a list; null takes every divisor from 2 to half the budget
    iterations: list[int] = field(default_factory=lambda: [25, 50, 100, 200])
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    seed: int = 0
    threads: int | None = None  # null takes all cores
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        every = self.group_size is None
        self.group_size = (
            sizes_of_budget(self.budget)
            if every
            else sizes_at(self.budget, self.group_size, default=DEFAULT_SIZES)
        )
        increasing("iterations", self.iterations)
        require_seed_and_threads(self.seed, self.threads)
        require_group_size(self.compared, min(self.group_size))

    @cached_property
    def compared(self) -> dict[str, Compared]:
        """The estimators with their laws, by name."""
        return resolve(self.estimators)

    @property
    def subject(self) -> TrainedSubject:
        """The task, with the verbs of every task on which sweeps train."""
        return trained_subject(self.task)

    def asked(
        self, parts: Path | None = None, *, panel: str | None = None, estimator: str | None = None
    ) -> TrainingAsked:
        """Return what is asked of the subject.

        Args:
            parts: folder of the tables of single runs, on tasks where these take long.
            panel: the only policy to begin at, if any.
            estimator: the only one to train with, if any.
        """
        keep = None if parts is None else lambda module: KeptRuns(Parts(module, self), parts)
        only = {} if estimator is None else {estimator: self.compared[estimator]}
        return TrainingAsked(
            only or self.compared,
            self.budget,
            self.group_size,
            self.iterations,
            self.schedule,
            self.scale.runs,
            self.seed,
            self.threads,
            keep,
            panel,
        )


def sizes_at(
    budget: int,
    group_size: Any,
    *,
    default: Sequence[int],
    fewest: int = 2,
    name: str = "group_size",
) -> list[int]:
    """Return the group sizes at a budget: those asked for, or what it allows of an app's default.

    Of the default list those are left out, with a line that says so, that do not divide the budget.
    Where fewer than `fewest` are left, every divisor from 2 to half of the budget is taken.

    Args:
        budget: N = B·G.
        group_size: of a configuration, one or a list.
        default: what the app's configuration file holds.
        fewest: how many sizes the app needs.
        name: of the parameter.

    Raises:
        ValueError: if a size that was asked for does not divide the budget, or the budget has no
            divisor.
    """
    asked = group_sizes(group_size, name)
    integer("budget", budget, at_least=2)
    if asked != list(default):
        require_divisors(budget, asked, name)
        return asked
    kept = [size for size in asked if budget % size == 0]
    if len(kept) < fewest:
        kept = sizes_of_budget(budget)
    if kept != asked:
        _say_once(f"{name}: {kept}, which divide the budget {budget}, in place of {asked}")
    return kept


@cache
def _say_once(line: str) -> None:
    """Print a line on stderr, however often a configuration is checked."""
    print(line, file=sys.stderr)


class SweepAsked(Protocol):
    """What several apps ask of a sweep over group sizes, beside budget and sizes."""

    task: Any
    scale: Scale
    iterations: list[int]
    schedule: ScheduleConfig
    seed: int
    threads: int | None


def grpo_sweep(config: SweepAsked, budget: int, sizes: list[int]) -> GroupSize:
    """Return GRPO's sweep over group sizes at one budget, all else as another app has it."""
    return GroupSize(
        task=config.task,
        scale=config.scale,
        estimators={"grpo": {}},
        budget=budget,
        group_size=sizes,
        iterations=config.iterations,
        schedule=config.schedule,
        seed=config.seed,
        threads=config.threads,
    )
