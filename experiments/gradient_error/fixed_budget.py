"""Which group size wastes least of a budget? Error at N = B·G outputs a step, against G.

Theorem 7's trade-off for the gradient itself: many prompts (small G) or many outputs of each
(large G), measured, by law, and with the predicted best G beside the paper's. Try

    python -m experiments fixed_budget task=bandit budget=1024
    python -m experiments fixed_budget -m task=bandit budget=256,1024,4096
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import MISSING

from experiments.running.app import App
from experiments.running.estimators import Compared, require_group_size, resolve
from experiments.running.options import (
    Scale,
    group_sizes,
    require_divisors,
    require_seed_and_threads,
    sizes_of_budget,
)
from experiments.tasks.bandits import finite_task
from experiments.tasks.finite_subject import FiniteSubject
from experiments.tasks.subject import ErrorsAsked
from ustat_grpo import NoiseComponents, laws
from ustat_grpo.inputs.checks import integer

COLUMNS = [
    "task", "estimator", "budget", "batch_size", "group_size", "replications", "mse", "std_error",
    "bias_norm", "law", "optimal", "near_optimal_low", "near_optimal_high", "paper_optimal",
]  # fmt: skip


@dataclass
class FixedBudget:
    """The configuration of this app."""

    task: Any = MISSING
    scale: Scale = field(default_factory=Scale)
    estimators: dict[str, dict[str, float]] = MISSING
    budget: int = 1024
    group_size: Any = None  # null takes every divisor of the budget from 2 to half of it
    seed: int = 0
    threads: int | None = None  # null takes all cores
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        integer("budget", self.budget, at_least=4)
        every = self.group_size is None
        self.group_size = sizes_of_budget(self.budget) if every else group_sizes(self.group_size)
        require_divisors(self.budget, self.group_size)
        require_seed_and_threads(self.seed, self.threads)
        require_group_size(self.compared, min(self.group_size))

    @cached_property
    def compared(self) -> dict[str, Compared]:
        """The estimators with their laws, by name."""
        return resolve(self.estimators)

    def asked(self, size: int) -> ErrorsAsked:
        """Return what is asked at one division; all divisions share their prompts."""
        return ErrorsAsked(
            self.compared,
            [size],
            self.budget // size,
            self.scale.precision,
            self.seed,
            self.threads,
        )


def run(config: FixedBudget) -> pd.DataFrame:
    """Measure every estimator at every division of the budget, for each panel of the task."""
    subject = FiniteSubject(finite_task(config.task))
    errors = pd.concat(
        [subject.gradient_errors(config.asked(size)) for size in config.group_size],
        ignore_index=True,
    )
    tables = [
        errors[errors["task"] == panel].assign(**_predictions(snapshot.noise))
        for panel, snapshot in subject.prepare().items()
    ]
    data = pd.concat(tables, ignore_index=True)
    return data.assign(budget=config.budget).reindex(columns=COLUMNS)


def _predictions(noise: NoiseComponents) -> dict[str, float]:
    """The best G by the exact law, its 5 % interval, and the paper's √(c₃/c₁)."""
    low, high = laws.group_size.near_optimal(noise, tolerance=0.05)
    return {
        "optimal": laws.group_size.optimal(noise),
        "near_optimal_low": low,
        "near_optimal_high": high,
        "paper_optimal": float(np.sqrt(noise.residual / noise.prompt)),
    }


def describe(config: FixedBudget) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_N{config.budget}_{len(config.group_size)}sizes"


def prepare(config: FixedBudget) -> None:
    """Build the task, or raise."""
    FiniteSubject(finite_task(config.task)).prepare()


APP = App("fixed_budget", FixedBudget, run, describe, prepare)
