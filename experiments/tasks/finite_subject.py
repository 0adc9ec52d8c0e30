"""Bandits as subjects: all of them is known exactly."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pandas as pd
from rich.progress import track

from experiments.running.estimators import algorithms
from experiments.tasks import first_batches
from experiments.tasks.bandits import FiniteTask, Start, panel_rng
from experiments.tasks.subject import ErrorsAsked, FirstPolicy
from ustat_grpo import Precision, Snapshot, gradient_mse


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
            table.insert(0, "task", panel)
            table["law"] = [
                asked.compared[name].law(snapshot.moments, size, asked.batch_size)
                for name, size in zip(table["estimator"], table["group_size"], strict=True)
            ]
            tables.append(table)
        found = pd.concat(tables, ignore_index=True)
        return found.assign(law_std_error=0.0, evidence="simulation")

    @contextmanager
    def first_policies(self, threads: int | None) -> Iterator[Iterator[FirstPolicy]]:
        """Yield the policies at which runs begin."""
        yield (_first_policy(name, start) for name, start in self.task.starts.items())


def _first_policy(name: str, start: Start) -> FirstPolicy:
    snapshot = start.bandit.at(start.theta0)
    return FirstPolicy(name, partial(first_batches.bandit_sample, snapshot), snapshot.noise)
