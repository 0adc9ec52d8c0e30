"""How wrong is each policy-gradient estimate? Error against group size, measured and by law.

The paper's gradient-error figure: every prompt once, or a minibatch of i.i.d. prompts, for policies
of rising skill. Try

    python -m experiments gradient_mse task=arithmetic_choice scale=smoke
    python -m experiments gradient_mse -m task=bandit,tug_of_war group_size=4,8,16 batch_size=32
    python -m experiments gradient_mse task=gym env_id=Acrobot-v1 task.features=affine
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
from omegaconf import MISSING

from experiments.running.app import App
from experiments.running.estimators import Compared, require_group_size, resolve
from experiments.running.options import Scale, group_sizes, require_seed_and_threads
from experiments.tasks.resolve import subject
from experiments.tasks.subject import ErrorsAsked, Subject
from ustat_grpo.inputs.checks import integer


@dataclass
class GradientMse:
    """The configuration of this app."""

    task: Any = MISSING
    policy: Any = None  # of language models
    env_id: str | None = None  # of task=gym
    dataset: str | None = None  # of task=reasoning_gym, with parameters of its own
    dataset_config: dict[str, Any] = field(default_factory=dict)
    scale: Scale = field(default_factory=Scale)
    estimators: dict[str, dict[str, float]] = MISSING
    group_size: Any = MISSING  # one, or a list: all of a list share their draws
    batch_size: int | None = None  # null takes every prompt once
    seed: int = 0
    threads: int | None = None  # null takes all cores
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        self.group_size = group_sizes(self.group_size)
        if self.batch_size is not None:
            integer("batch_size", self.batch_size)
        require_seed_and_threads(self.seed, self.threads)
        require_group_size(self.compared, min(self.group_size))

    @cached_property
    def compared(self) -> dict[str, Compared]:
        """The estimators with their laws, by name."""
        return resolve(self.estimators)

    @property
    def subject(self) -> Subject:
        """The task with its policies."""
        return subject(self.task, self.policy)

    @property
    def asked(self) -> ErrorsAsked:
        """What is asked of the subject."""
        return ErrorsAsked(
            self.compared,
            self.group_size,
            self.batch_size,
            self.scale.precision,
            self.seed,
            self.threads,
        )


def run(config: GradientMse) -> pd.DataFrame:
    """Measure every estimator at every group size, for each panel of the task."""
    return config.subject.gradient_errors(config.asked)


def describe(config: GradientMse) -> str:
    """Return the readable part of the results folder's name."""
    batch = "all" if config.batch_size is None else config.batch_size
    return f"{config.task.name}_B{batch}_G{'-'.join(map(str, config.group_size))}"


def prepare(config: GradientMse) -> None:
    """Build the task, or raise."""
    config.subject.require_errors(config.asked)
    config.subject.prepare()


APP = App("gradient_mse", GradientMse, run, describe, prepare)
