"""What experiments ask of a task, whatever kind it is: every subject has the same verbs.

A configuration names a task, and for language models a policy. `experiments.tasks.resolve.subject`
makes one object of the two. What only some kinds can do, an app asks through `kinds`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from experiments.running.estimators import Compared
from experiments.running.options import ScheduleConfig
from experiments.running.parts import KeptRuns
from ustat_grpo import Estimator, NoiseComponents, TrainingConfig
from ustat_grpo.noise import OutputSample


@dataclass(frozen=True)
class ErrorsAsked:
    """What is asked of gradient errors.

    Args:
        compared: the estimators by name.
        group_size: every G.
        batch_size: B, or None for every prompt once.
        precision: relative standard error to reach, where errors are simulated.
        seed: of the draws.
        threads: at most so many; None leaves it open.
    """

    compared: Mapping[str, Compared]
    group_size: Sequence[int]
    batch_size: int | None
    precision: float
    seed: int
    threads: int | None


@dataclass(frozen=True)
class TrainingAsked:
    """What is asked of runs of Algorithm 1 at one budget.

    Args:
        compared: the estimators by name.
        budget: N = B·G, outputs a step.
        group_size: every G, each of which divides the budget.
        iterations: n, after which the runs are looked at, unless the task says when.
        schedule: of the learning rate, which is the task's own if it has none.
        num_runs: R of each, of which a task takes fewer where a run takes long.
        seed: of the draws; runs of a number share them, whatever estimator and group size.
        threads: processes at a time, where a run takes long; None leaves it open.
        keep: from the module that trains to what keeps single runs, where a run takes long.
        panel: the only policy to begin at; None takes all at which runs begin.
    """

    compared: Mapping[str, Compared]
    budget: int
    group_size: Sequence[int]
    iterations: Sequence[int]
    schedule: ScheduleConfig
    num_runs: int
    seed: int
    threads: int | None
    keep: Callable[[str], KeptRuns] | None = None
    panel: str | None = None

    def config(self, estimator: Estimator, group_size: int, rate: float) -> TrainingConfig:
        """Return what one run does at a group size.

        Args:
            estimator: turns the rewards of each group into advantages.
            group_size: G.
            rate: the task's own learning rate.
        """
        return TrainingConfig(
            estimator=estimator,
            batch_size=self.budget // group_size,
            group_size=group_size,
            num_iterations=self.iterations[-1],
            schedule=self.schedule.build(rate),
            checkpoints=self.iterations,
            keep_theta=False,
        )


class FirstBatch(NamedTuple):
    """The size of a first batch: prompts, and outputs to each."""

    num_prompts: int
    num_outputs: int


DrawFirstBatch = Callable[[FirstBatch, np.random.Generator], OutputSample]
"""Takes a first batch of outputs, and measures it."""


class FirstPolicy(NamedTuple):
    """A policy at which runs begin, as somebody knows it who takes first batches there.

    Args:
        name: of the panel.
        draw: takes a first batch.
        noise: c₁, c₂, c₃ of its gradient; None where only outputs can be had.
    """

    name: str
    draw: DrawFirstBatch
    noise: NoiseComponents | None


class Subject(Protocol):
    """A task with all that it needs, policies included: panels that can be measured on."""

    @property
    def name(self) -> str:
        """The task's name, with which those of its panels begin."""
        ...

    def prepare(self) -> Mapping[str, Any]:
        """Build what may turn out impossible, and return the panels by name.

        Raises:
            ValueError: if task and policy do not go together, or a file is missing or wrong.
        """
        ...

    def require_errors(self, asked: ErrorsAsked) -> None:
        """Check that gradient errors can be measured as it is asked, before any work starts.

        Raises:
            ValueError: if a group size is too large for the outputs that there are.
        """
        ...

    def gradient_errors(self, asked: ErrorsAsked) -> pd.DataFrame:
        """Measure every estimator at every group size on every panel, each beside its law.

        Returns:
            A table with the columns of `experiments.tasks.errors_table.GradientError`.
        """
        ...

    def first_policies(self, threads: int | None) -> AbstractContextManager[Iterator[FirstPolicy]]:
        """Open the policies at which runs begin; environments are open as long.

        Args:
            threads: of torch, at most; None leaves it to the task.
        """
        ...


class TrainedSubject(Subject, Protocol):
    """A subject on which sweeps train, and measure nothing but the objective at checkpoints.

    Language models are none: their sweeps take an optimizer, look at the noise on the way, and
    train several runs as one ensemble; see `experiments.group_size.language_training`.
    """

    def training_runs(self, asked: TrainingAsked) -> pd.DataFrame:
        """Train from the policies at which runs begin, one row a run and checkpoint.

        Returns:
            A table with the columns of `experiments.tasks.runs_table`.
        """
        ...
