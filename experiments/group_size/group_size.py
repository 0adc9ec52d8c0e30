"""How does the suboptimality gap after n iterations depend on the group size, at N = B·G outputs?

Theorem 7 for the gap itself: runs of Algorithm 1 that share their random numbers, at every division
of a budget, beside the law of their mean gap. Try

    python -m experiments group_size task=arithmetic_choice budget=256
    python -m experiments group_size -m task=tug_of_war,weak_tug_of_war budget=256,1024
    python -m experiments group_size task=frozenlake

On sequential tasks the objective itself is measured, and the prediction is the group size of least
gradient error where runs begin: `experiments/group_size/sequential_training.py`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments.group_size.config import GroupSize
from experiments.running.app import App
from experiments.running.estimators import Compared
from experiments.tasks import bandits as tasks
from experiments.tasks.bandits import Start, bandit_task
from experiments.tasks.kinds import for_kind
from experiments.tasks.runs_table import by_group_size, by_iteration
from experiments.tasks.sequential import FrozenLake, Gym
from ustat_grpo.bandits.expansion import expand
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.laws.path import ExpectedGap, expected_gap

COLUMNS = [
    "task", "estimator", "budget", "group_size", "batch_size", "iteration", "runs", "gap",
    "std_error", "law", "path_gap", "optimal",
]  # fmt: skip


def run(config: GroupSize, parts: Path) -> pd.DataFrame:
    """Measure the gap of every estimator at every division, for each panel of the task.

    Args:
        config: of this app.
        parts: folder of the tables of single runs, on tasks where these take long.
    """
    return _known(config).run(config, parts)


def _run_bandit(config: GroupSize, _: Path) -> pd.DataFrame:
    starts, tables = bandit_task(config.task).starts, []
    laws = {
        (panel, name): predicted(config, start, each)
        for panel, start in starts.items()
        for name, each in config.compared.items()
    }
    runs = config.subject.training_runs(config.asked())
    for keys, rows in runs.groupby(["task", "estimator", "group_size"], sort=False):
        panel, name, size = keys  # pyright: ignore
        gap = starts[panel].bandit.best_objective - by_iteration(rows)
        of_size = laws[panel, name][size]
        table = pd.DataFrame(_columns(config, gap, of_size, size))
        tables.append(table.assign(task=panel, estimator=name))
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


def gap_columns(gap: Float[Array, "R C"], iterations: Sequence[int]) -> dict[str, Any]:
    """Return the columns that say what runs have reached: a mean gap with its standard error."""
    return {
        "iteration": iterations,
        "runs": len(gap),
        "gap": gap.mean(axis=0),
        "std_error": gap.std(axis=0, ddof=1) / np.sqrt(len(gap)),
    }


def measured_gaps(config: GroupSize, panel: str, start: Start, name: str) -> Float[Array, "R m C"]:
    """Run an estimator at every division from one policy, and return the gaps of all runs."""
    runs = config.subject.training_runs(config.asked(panel=panel, estimator=name))
    points = [by_group_size(rows, config.group_size) for _, rows in runs.groupby("iteration")]
    return start.bandit.best_objective - np.stack(points, axis=-1)


def predicted(config: GroupSize, start: Start, compared: Compared) -> dict[int, list[ExpectedGap]]:
    """Return the laws by group size, one at each iteration; most estimators share one pass."""
    passes: dict[float, list[ExpectedGap]] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # see what follows
        for size in config.group_size:
            gain = compared.gain(size)
            if gain not in passes:
                passes[gain] = _expected(config, start, compared, gain)
    laws = {size: passes[compared.gain(size)] for size in config.group_size}
    for size, of_size in laws.items():
        gaps = [law.gap(batch_size=config.budget // size, group_size=size) for law in of_size]
        if not np.isfinite(gaps).all():
            rate = config.schedule.build(config.task.learning_rate).rates(1)[0]
            raise FloatingPointError(
                f"the law of the gap is not finite for {compared.name} at G = {size}: the learning "
                f"rate must be smaller, got {rate:g}"
            )
    return laws


def _expected(
    config: GroupSize, start: Start, compared: Compared, gain: float
) -> list[ExpectedGap]:
    """Return the laws of an estimator whose gradient is `gain` times as long as the true one."""
    schedule = config.schedule.build(config.task.learning_rate, gain)
    return expected_gap(
        expand(start.bandit.at),
        compared.noise,
        theta0=start.theta0,
        rates=schedule.rates(config.iterations[-1]),
        checkpoints=config.iterations,
        best_objective=start.bandit.best_objective,
    )


def _columns(
    config: GroupSize, gap: Float[Array, "R C"], laws: Sequence[ExpectedGap], size: int
) -> dict[str, Any]:
    batch_size = config.budget // size
    return {
        "budget": config.budget,
        "group_size": size,
        "batch_size": batch_size,
        **gap_columns(gap, config.iterations),
        "law": [law.gap(batch_size=batch_size, group_size=size) for law in laws],
        "path_gap": [law.path_gap for law in laws],
        "optimal": [law.best_group_size for law in laws],
    }


def describe(config: GroupSize) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_N{config.budget}_{len(config.group_size)}sizes"


def prepare(config: GroupSize) -> None:
    """Build the task, or raise."""
    _known(config).require(config)
    _ = config.task.snapshots


def _require_nothing(config: GroupSize) -> None:
    """Accept what the configuration accepts."""


def _require_runs(config: GroupSize) -> None:
    from experiments.group_size.sequential_training import require_runs

    require_runs(config)


def _run_sequential(config: GroupSize, parts: Path) -> pd.DataFrame:
    from experiments.group_size.sequential_training import measure

    return measure(config, parts)


class _Known(NamedTuple):
    """What is done on a kind of task: a check of the configuration, and the runs."""

    require: Callable[[GroupSize], None]
    run: Callable[[GroupSize, Path], pd.DataFrame]


_KNOWN = {
    **dict.fromkeys(tasks.TRAINED, _Known(_require_nothing, _run_bandit)),
    **dict.fromkeys((FrozenLake, Gym), _Known(_require_runs, _run_sequential)),
}


def _known(config: GroupSize) -> _Known:
    wanted = "task must be a bandit that is trained on, or an environment"
    return for_kind(config.task, _KNOWN, wanted)


APP = App("group_size", GroupSize, run, describe, prepare, keeps_parts=True)
