"""Runs of Algorithm 1 on sequential tasks: compiled on a table, or on copies of an environment."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from rich.progress import track

from experiments.tasks.bandits import panel_rng
from experiments.tasks.runs_table import runs_table
from experiments.tasks.sequential import FrozenLake, Gym, TabularPanel
from experiments.tasks.subject import TrainingAsked
from ustat_grpo import Estimator, Runs
from ustat_grpo.environments import group_rollouts, optimize_mdp, train
from ustat_grpo.inputs.arrays import Array

_NEEDS_VALUE = ("oracle", "optimal_baseline")
_EVALUATED = 4
"""Episodes of each start that measure J at a checkpoint, where it is not known exactly."""


class EnvironmentRun(NamedTuple):
    """One run on an environment of which only episodes can be had."""

    estimator: str
    group_size: int
    run: int

    @property
    def name(self) -> str:
        """The name of its table."""
        return f"{self.estimator}_G{self.group_size}_run{self.run}"


def on_table(task: FrozenLake, asked: TrainingAsked) -> pd.DataFrame:
    """Run Algorithm 1 compiled, from the first policy of the task; objectives are exact."""
    panel, start = next(iter(task.snapshots.items()))
    tables = []
    for name, each in asked.compared.items():
        for size in track(asked.group_size, f"{panel}, {name}"):
            runs = train_on_table(asked, task, panel, start, each.estimator, size)
            labels = {"task": panel, "estimator": name, "group_size": size}
            tables.append(runs_table(runs.objective, asked.iterations, **labels))
    return pd.concat(tables, ignore_index=True)


def train_on_table(
    asked: TrainingAsked,
    task: FrozenLake,
    panel: str,
    start: TabularPanel,
    estimator: Estimator,
    group_size: int,
) -> Runs:
    """Run one division; the same generator each time, so that divisions and estimators share."""
    return optimize_mdp(
        start.mdp,
        asked.config(estimator, group_size, task.learning_rate),
        theta0=start.theta,
        num_runs=asked.num_runs,
        rng=panel_rng(asked.seed, panel),
    )


def on_environment(task: Gym, asked: TrainingAsked) -> pd.DataFrame:
    """Run Algorithm 1 on copies of the environment, a process a run; finished runs are kept."""
    assert asked.keep is not None
    panel, names = next(iter(task.snapshots)), without_values(asked.compared)
    runs = [
        EnvironmentRun(name, size, run)
        for name in names
        for size in asked.group_size
        for run in range(num_runs(task, asked.num_runs))
    ]
    compute = partial(_in_processes, task, asked)
    kept = asked.keep(__name__).tables({run.name: run for run in runs}, compute, task.name)
    tables = []
    for run in runs:
        labels = {"task": panel, "estimator": run.estimator, "group_size": run.group_size}
        objective = kept[run.name]["objective"].to_numpy()[None]
        table = runs_table(objective, task.iterations or asked.iterations, **labels)
        tables.append(table.assign(run=run.run))
    return pd.concat(tables, ignore_index=True)


def _in_processes(
    task: Gym, asked: TrainingAsked, runs: Sequence[EnvironmentRun]
) -> Iterator[tuple[EnvironmentRun, pd.DataFrame]]:
    work = partial(train_on_environment, task, replace(asked, keep=None))
    # Forked workers would inherit the locks of this process's threads.
    with ProcessPoolExecutor(asked.threads, mp_context=get_context("spawn")) as pool:
        for run, objective in zip(runs, pool.map(work, runs), strict=True):
            yield run, pd.DataFrame({"objective": objective})


def train_on_environment(
    task: Gym, asked: TrainingAsked, run: EnvironmentRun
) -> Float[Array, " C"]:
    """Return the objective of one run at every checkpoint, from fresh episodes."""
    points = task.iterations or asked.iterations
    estimator = asked.compared[run.estimator].estimator
    asked = replace(asked, iterations=points)
    config = asked.config(estimator, run.group_size, task.learning_rate)
    panel, start = next(iter(task.snapshots.items()))
    # The group size is no part of the key: runs are paired.
    training, evaluation = panel_rng(asked.seed, f"{panel}, run {run.run}").spawn(2)
    with task.copies() as copies:
        runs = train(
            copies,
            start.policy,
            replace(config, keep_theta=True),
            seeds=task.prompts,
            theta0=start.theta,
            rng=training,
        )
        played = [
            group_rollouts(copies, start.policy, theta, task.prompts, _EVALUATED, rng=rng)
            for theta, rng in zip(runs.theta, evaluation.spawn(len(points)), strict=True)
        ]
    return np.array([episodes.returns.mean() for episodes in played])


def num_runs(task: Gym, asked: int) -> int:
    """Return how many runs of each division there are: at least two, to compare them."""
    return max(2, round(task.share_of_runs * asked))


def without_values(names: Iterable[str]) -> list[str]:
    """Return the estimators that need to know no V(x), which episodes do not show."""
    return [name for name in names if name not in _NEEDS_VALUE]
