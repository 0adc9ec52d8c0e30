"""Training on sequential tasks at every division of a budget, beside what the laws predict.

Tables carry no law of the gap: the prediction is the group size of least gradient error where the
runs begin. Runs share their random numbers at every group size, so sizes are compared run by run.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from rich.progress import track

from experiments.group_size.confidence import compare
from experiments.group_size.config import GroupSize
from experiments.running.estimators import Compared
from experiments.running.parts import Parts
from experiments.tasks import bandits as tasks
from experiments.tasks.kinds import for_kind
from experiments.tasks.sequential import FrozenLake, Gym, TabularPanel
from ustat_grpo import Estimator, Runs, TrainingConfig
from ustat_grpo.environments import group_rollouts, optimize_mdp, snapshot, train
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.pools.measured_moments import MeasuredMoments, pool_moments

COLUMNS = [
    "task", "estimator", "budget", "group_size", "batch_size", "iteration", "runs", "objective",
    "std_error", "excess", "excess_std_error", "in_confidence_set", "predicted_mse", "prompt",
    "prompt_std_error", "oracle", "residual",
]  # fmt: skip

_NEEDS_VALUE = ("oracle", "optimal_baseline")
_EVALUATED = 4
"""Episodes of each start that measure J at a checkpoint, where it is not known exactly."""


class Cell(NamedTuple):
    """One run on an environment of which only episodes can be had."""

    estimator: str
    group_size: int
    run: int

    def path(self, parts: Path) -> Path:
        """Return where its table lies."""
        return parts / f"{self.estimator}_G{self.group_size}_run{self.run}.csv"


def measure(config: GroupSize, parts: Path) -> pd.DataFrame:
    """Train with every estimator at every division of the budget.

    Args:
        config: of `group_size`, with a task of `experiments.tasks.sequential`.
        parts: folder of the tables of single runs, where these take long.
    """
    return _known(config).measure(config, parts)


def _on_table(config: GroupSize, _: Path) -> pd.DataFrame:
    """Run Algorithm 1 compiled, from the first policy of the task; objectives are exact."""
    panel, start = next(iter(config.task.snapshots.items()))
    moments, tables = MeasuredMoments(snapshot(*start).moments, []), []
    for name, each in config.compared.items():
        sizes = track(config.group_size, f"{panel}, {name}")
        runs = [_compiled(config, panel, start, each.estimator, size) for size in sizes]
        objective = np.stack([of_size.objective for of_size in runs], axis=-1)
        table = _compared(config, config.iterations, objective)
        tables.append(_labelled(config, panel, each, table, moments))
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


def _compiled(
    config: GroupSize, panel: str, start: TabularPanel, estimator: Estimator, size: int
) -> Runs:
    """Run one division; the same generator each time, so that divisions and estimators share."""
    training = TrainingConfig(
        estimator=estimator,
        batch_size=config.budget // size,
        group_size=size,
        num_iterations=config.iterations[-1],
        schedule=config.schedule.build(config.task.learning_rate),
        checkpoints=config.iterations,
        keep_theta=False,
    )
    rng, num_runs = tasks.panel_rng(config.seed, panel), config.scale.runs
    return optimize_mdp(start.mdp, training, theta0=start.theta, num_runs=num_runs, rng=rng)


def _on_environment(config: GroupSize, parts: Path) -> pd.DataFrame:
    """Run Algorithm 1 on copies of the environment; runs that are finished are kept."""
    task: Gym = config.task
    names, points = _valueless(config), task.iterations or config.iterations
    runs = range(_num_runs(config))
    cells = [Cell(name, size, run) for name in names for size in config.group_size for run in runs]
    kept, paths = Parts(__name__, config), {cell.path(parts): cell for cell in cells}
    left = [paths[path] for path in kept.left(list(paths))]
    # Forked workers would inherit the locks of this process's threads.
    with ProcessPoolExecutor(config.threads, mp_context=get_context("spawn")) as pool:
        done = zip(left, pool.map(partial(_trained, config), left), strict=True)
        for cell, objective in track(done, task.name, total=len(left)):
            kept.write(cell.path(parts), pd.DataFrame({"objective": objective}))
    panel, start = next(iter(task.snapshots.items()))
    with task.copies() as copies:
        pool = task.pool(copies, start, tasks.panel_rng(config.seed, panel))
    moments = pool_moments(pool)
    found = {cell: kept.read(path)["objective"].to_numpy() for path, cell in paths.items()}
    tables = []
    for name in names:
        of_name = [[found[Cell(name, size, run)] for size in config.group_size] for run in runs]
        table = _compared(config, points, np.moveaxis(np.array(of_name), 1, 2))
        tables.append(_labelled(config, panel, config.compared[name], table, moments))
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


def _trained(config: GroupSize, cell: Cell) -> Float[Array, " C"]:
    """Return the objective of one run at every checkpoint, from fresh episodes."""
    task: Gym = config.task
    points = task.iterations or config.iterations
    panel, start = next(iter(task.snapshots.items()))
    # The group size is no part of the key: runs are paired.
    training_rng, evaluation = tasks.panel_rng(config.seed, f"{panel}, run {cell.run}").spawn(2)
    training = TrainingConfig(
        estimator=config.compared[cell.estimator].estimator,
        batch_size=config.budget // cell.group_size,
        group_size=cell.group_size,
        num_iterations=points[-1],
        schedule=config.schedule.build(task.learning_rate),
        checkpoints=points,
    )
    with task.copies() as copies:
        runs = train(
            copies,
            start.policy,
            training,
            seeds=task.prompts,
            theta0=start.theta,
            rng=training_rng,
        )
        played = [
            group_rollouts(copies, start.policy, theta, task.prompts, _EVALUATED, rng=rng)
            for theta, rng in zip(runs.theta, evaluation.spawn(len(points)), strict=True)
        ]
    return np.array([episodes.returns.mean() for episodes in played])


def _compared(
    config: GroupSize, points: Sequence[int], objective: Float[Array, "R C m"]
) -> pd.DataFrame:
    """Compare the group sizes at every checkpoint, run by run."""
    tables = []
    for place, iteration in enumerate(points):
        reached = objective[:, place]
        table = compare(-reached, config.group_size).drop(columns="gap")
        table.insert(0, "objective", reached.mean(axis=0))
        tables.append(table.reset_index().assign(iteration=iteration, runs=len(objective)))
    return pd.concat(tables, ignore_index=True)


def _labelled(
    config: GroupSize,
    panel: str,
    compared: Compared,
    table: pd.DataFrame,
    measured: MeasuredMoments,
) -> pd.DataFrame:
    """Add what the table is of, and what the laws say of the gradient where runs begin."""
    moments = measured.moments
    prompt, std_error = moments.prompt_noise, 0.0
    if measured.left_out:
        prompt, std_error = measured.estimate(lambda each: each.prompt_noise)
    # An unbiased estimate of prompt noise may fall below zero.
    noise = replace(moments, prompt_noise=max(prompt, 0.0))
    table["batch_size"] = config.budget // table["group_size"]
    table["predicted_mse"] = [
        compared.law(noise, size, config.budget // size) for size in table["group_size"]
    ]
    return table.assign(
        task=panel,
        estimator=compared.name,
        budget=config.budget,
        prompt=prompt,
        prompt_std_error=std_error,
        oracle=noise.noise.oracle,
        residual=noise.noise.residual,
    )


def _num_runs(config: GroupSize) -> int:
    """Return how many runs of each division there are: at least two, to compare them."""
    return max(2, round(config.task.share_of_runs * config.scale.runs))


def _valueless(config: GroupSize) -> list[str]:
    """Return the estimators that need to know no V(x), which episodes do not show."""
    known = [name for name in config.estimators if name not in _NEEDS_VALUE]
    if not known:
        raise ValueError(
            f"estimators must hold one that needs no V(x) on {config.task.name}, "
            f"got {list(config.estimators)}"
        )
    return known


def require_runs(config: GroupSize) -> None:
    """Raise where runs on a sequential task cannot do what the configuration asks."""
    if len(config.group_size) < 2 or len(set(config.group_size)) < len(config.group_size):
        raise ValueError(
            f"group_size must hold at least two sizes to compare, got {config.group_size}"
        )
    _known(config).require(config)


def _require_on_table(config: GroupSize) -> None:
    if "optimal_baseline" in config.estimators:
        raise ValueError(
            "estimators must not hold optimal_baseline on sequential tasks, got "
            f"{list(config.estimators)}"
        )


def _require_on_environment(config: GroupSize) -> None:
    if config.schedule.kind != "constant":
        raise ValueError(
            "schedule.kind must be constant on environments of which only episodes can be had, "
            f"got {config.schedule.kind}"
        )
    for name in config.estimators:
        if name not in _valueless(config):
            print(f"{name}: V(x) is not known on {config.task.name}, left out")


class _Known(NamedTuple):
    """What is done on a kind of task: a check of the configuration, and the runs."""

    require: Callable[[GroupSize], None]
    measure: Callable[[GroupSize, Path], pd.DataFrame]


_KNOWN = {
    FrozenLake: _Known(_require_on_table, _on_table),
    Gym: _Known(_require_on_environment, _on_environment),
}


def _known(config: GroupSize) -> _Known:
    return for_kind(config.task, _KNOWN, "task must be an environment")
