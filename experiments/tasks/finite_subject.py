"""Bandits as subjects: all of them is known exactly."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
from rich.progress import track

from experiments.running.estimators import algorithms
from experiments.tasks import first_batches
from experiments.tasks.bandits import FiniteTask, Start, bandit_task, panel_rng
from experiments.tasks.errors_table import simulated
from experiments.tasks.runs_table import runs_table
from experiments.tasks.subject import ErrorsAsked, FirstPolicy, TrainingAsked
from ustat_grpo import Estimator, Precision, Runs, Snapshot, gradient_mse, optimize


@dataclass(frozen=True)
class FiniteSubject:
    """Policies on bandits; see `experiments.tasks.subject.Subject`."""

    task: FiniteTask

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    def prepare(self) -> Mapping[str, Snapshot]:
        """Build the policies, or raise."""
        return self.task.snapshots

    def require_errors(self, asked: ErrorsAsked) -> None:
        """Accept every group size: as many outputs are drawn as it takes."""

    def gradient_errors(self, asked: ErrorsAsked) -> pd.DataFrame:
        """Simulate minibatches; laws are exact."""
        tables = []
        for panel, snapshot in track(self.task.snapshots.items(), self.name):
            table = gradient_mse(
                snapshot,
                algorithms(asked.compared),
                asked.group_size,
                asked.batch_size,
                replications=Precision(asked.precision),
                rng=panel_rng(asked.seed, panel),
            )
            tables.append(simulated(table, asked, panel, snapshot.moments))
        return pd.concat(tables, ignore_index=True)

    def training_runs(self, asked: TrainingAsked) -> pd.DataFrame:
        """Run Algorithm 1 compiled; objectives are exact."""
        tables = []
        for panel in [asked.panel] if asked.panel else self.task.starts:
            for name, each in asked.compared.items():
                for size in track(asked.group_size, f"{panel}, {name}, N = {asked.budget}"):
                    runs = train_bandit(asked, self.task, panel, each.estimator, size)
                    labels = {"task": panel, "estimator": name, "group_size": size}
                    tables.append(runs_table(runs.objective, asked.iterations, **labels))
        return pd.concat(tables, ignore_index=True)

    @contextmanager
    def first_policies(self, threads: int | None) -> Iterator[Iterator[FirstPolicy]]:
        """Yield the policies at which runs begin."""
        yield (_first_policy(name, start) for name, start in self.task.starts.items())


def train_bandit(
    asked: TrainingAsked,
    task: FiniteTask,
    panel: str,
    estimator: Estimator,
    group_size: int,
    prompt_sampling: str = "iid",
) -> Runs:
    """Run Algorithm 1; the same generator each time, so that divisions and estimators share."""
    start, rate = task.starts[panel], bandit_task(task).learning_rate
    config = replace(
        asked.config(estimator, group_size, rate),
        projection=start.projection,
        prompt_sampling=prompt_sampling,
    )
    return optimize(
        start.bandit,
        config,
        theta0=start.theta0,
        num_runs=asked.num_runs,
        rng=panel_rng(asked.seed, panel),
    )


def _first_policy(name: str, start: Start) -> FirstPolicy:
    snapshot = start.bandit.at(start.theta0)
    return FirstPolicy(name, partial(first_batches.bandit_sample, snapshot), snapshot.noise)
