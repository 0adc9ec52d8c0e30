"""How does the best group size move as the policy learns? G* along the path of exact ascent.

Three answers at each iteration n: the G of least gradient error at θ_n (1 + √(c₃/c₁)), the paper's
√(c₃/c₁), and the G of least gap were training to stop after n (1 + √(a₃/a₁), `laws.path`). Nothing
here is random. Try

    python -m experiments training_path task=arithmetic_choice
    python -m experiments training_path task=bandit iterations=[10,100,1000]
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import MISSING

from experiments.running.app import App
from experiments.running.options import Scale, ScheduleConfig
from experiments.tasks.bandits import Start, bandit_task, prepare
from ustat_grpo import Snapshot, laws
from ustat_grpo.bandits.expansion import expand
from ustat_grpo.inputs.checks import increasing
from ustat_grpo.laws.covariance import grpo
from ustat_grpo.laws.path import expected_gap

COLUMNS = [
    "task", "iteration", "objective", "gradient_error_optimal", "near_optimal_low",
    "near_optimal_high", "paper_optimal", "gap_optimal",
]  # fmt: skip


@dataclass
class TrainingPath:
    """The configuration of this app."""

    task: Any = MISSING
    scale: Scale = field(default_factory=Scale)
    iterations: list[int] = MISSING
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        increasing("iterations", self.iterations)


def run(config: TrainingPath) -> pd.DataFrame:
    """Follow the exact gradient from each start of the task."""
    schedule = config.schedule.build(config.task.learning_rate)
    rates = schedule.rates(config.iterations[-1])
    tables = []
    for panel, start in bandit_task(config.task).starts.items():
        gaps = expected_gap(
            expand(start.bandit.at),
            grpo,
            theta0=start.theta0,
            rates=rates,
            checkpoints=config.iterations,
            best_objective=start.bandit.best_objective,
        )
        rows = [
            _row(snapshot) | {"gap_optimal": gap.best_group_size, "iteration": gap.iteration}
            for snapshot, gap in zip(_visited(start, rates, config.iterations), gaps, strict=True)
        ]
        tables.append(pd.DataFrame(rows).assign(task=panel))
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


def _visited(start: Start, rates: np.ndarray, iterations: list[int]) -> list[Snapshot]:
    """Return the policies that exact gradient ascent reaches at the given iterations."""
    theta, visited = start.theta0, []
    for iteration, rate in enumerate(rates, start=1):
        theta = theta + rate * start.bandit.at(theta).gradient
        if iteration in iterations:
            visited.append(start.bandit.at(theta))
    return visited


def _row(snapshot: Snapshot) -> dict[str, float]:
    noise = snapshot.noise
    low, high = laws.group_size.near_optimal(noise, tolerance=0.05)
    return {
        "objective": snapshot.objective,
        "gradient_error_optimal": laws.group_size.optimal(noise),
        "near_optimal_low": low,
        "near_optimal_high": high,
        "paper_optimal": float(np.sqrt(noise.residual / noise.prompt)),
    }


def describe(config: TrainingPath) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_n{config.iterations[-1]}"


APP = App("training_path", TrainingPath, run, describe, prepare)
