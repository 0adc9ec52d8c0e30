"""Sweeps on sequential tasks at every division of a budget, beside what the laws predict.

Tables carry no law of the gap: the prediction is the group size of least gradient error where the
runs begin. Runs share their random numbers at every group size, so sizes are compared run by run.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from experiments.group_size.confidence import compare
from experiments.group_size.config import GroupSize
from experiments.running.estimators import Compared
from experiments.tasks import bandits as tasks
from experiments.tasks.kinds import for_kind
from experiments.tasks.runs_table import by_group_size
from experiments.tasks.sequential import FrozenLake, Gym
from experiments.tasks.sequential_training import without_values
from ustat_grpo.environments import snapshot
from ustat_grpo.pools.measured_moments import MeasuredMoments, pool_moments

COLUMNS = [
    "task", "estimator", "budget", "group_size", "batch_size", "iteration", "runs", "objective",
    "std_error", "excess", "excess_std_error", "in_confidence_set", "predicted_mse", "prompt",
    "prompt_std_error", "oracle", "residual",
]  # fmt: skip


def measure(config: GroupSize, parts: Path) -> pd.DataFrame:
    """Train with every estimator at every division of the budget.

    Args:
        config: of `group_size`, with a task of `experiments.tasks.sequential`.
        parts: folder of the tables of single runs, where these take long.
    """
    runs = config.subject.training_runs(config.asked(parts))
    moments, tables = _known(config).moments(config), []
    for (panel, name), rows in runs.groupby(["task", "estimator"], sort=False):  # pyright: ignore
        table = _compared(config, rows)
        tables.append(_labelled(config, panel, config.compared[name], table, moments))
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


def _moments_on_table(config: GroupSize) -> MeasuredMoments:
    start = next(iter(config.task.snapshots.values()))
    return MeasuredMoments(snapshot(*start).moments, [])


def _moments_of_episodes(config: GroupSize) -> MeasuredMoments:
    task: Gym = config.task
    panel, start = next(iter(task.snapshots.items()))
    with task.copies() as copies:
        return pool_moments(task.pool(copies, start, tasks.panel_rng(config.seed, panel)))


def _compared(config: GroupSize, runs: pd.DataFrame) -> pd.DataFrame:
    """Compare the group sizes at every checkpoint, run by run."""
    tables = []
    for iteration, rows in runs.groupby("iteration"):
        reached = by_group_size(rows, config.group_size)
        table = compare(-reached, config.group_size).drop(columns="gap")
        table.insert(0, "objective", reached.mean(axis=0))
        tables.append(table.reset_index().assign(iteration=iteration, runs=len(reached)))
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


def _valueless(config: GroupSize) -> list[str]:
    """Return the estimators that need to know no V(x), or raise if there is none."""
    known = without_values(config.estimators)
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
    for name in config.estimators:
        if name not in _valueless(config):
            print(f"{name}: V(x) is not known on {config.task.name}, left out")


class _Known(NamedTuple):
    """What differs by kind of task: a check of the configuration, and moments at the start."""

    require: Callable[[GroupSize], None]
    moments: Callable[[GroupSize], MeasuredMoments]


_KNOWN = {
    FrozenLake: _Known(_require_on_table, _moments_on_table),
    Gym: _Known(_require_on_environment, _moments_of_episodes),
}


def _known(config: GroupSize) -> _Known:
    return for_kind(config.task, _KNOWN, "task must be an environment")
