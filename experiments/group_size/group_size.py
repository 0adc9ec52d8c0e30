"""How does the suboptimality gap after n iterations depend on the group size, at N = B·G outputs?

Theorem 7 for the gap itself: runs of Algorithm 1 that share their random numbers, at every division
of a budget, beside the law of their mean gap. Try

    python -m experiments group_size task=arithmetic_choice budget=256
    python -m experiments group_size -m task=tug_of_war,weak_tug_of_war budget=256,1024
    python -m experiments group_size task=frozenlake

On sequential tasks the objective itself is measured, and the prediction is the group size of least
gradient error where runs begin: `experiments/group_size/sequential_training.py`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import MISSING
from rich.progress import track

from experiments.running.app import App
from experiments.running.estimators import Compared, require_group_size, resolve
from experiments.running.options import (
    Scale,
    ScheduleConfig,
    divisors,
    group_sizes,
    require_divisors,
    require_seed_and_threads,
)
from experiments.tasks import bandits as tasks
from experiments.tasks.bandits import Start
from experiments.tasks.sequential import SequentialTask
from ustat_grpo import Estimator, Runs, optimize
from ustat_grpo.bandits.expansion import expand
from ustat_grpo.inputs.checks import increasing, integer
from ustat_grpo.laws.path import ExpectedGap, expected_gap

COLUMNS = [
    "task", "estimator", "budget", "group_size", "batch_size", "iteration", "runs", "gap",
    "std_error", "law", "path_gap", "optimal",
]  # fmt: skip


DEFAULT_SIZES = (2, 4, 8, 16, 32, 64, 128)
"""Those of conf/group_size.yaml, of which a budget takes what divides it."""


@dataclass
class GroupSize:
    """The configuration of this app."""

    task: Any = MISSING
    scale: Scale = field(default_factory=Scale)
    estimators: dict[str, dict[str, float]] = MISSING
    env_id: str | None = None  # of task=gym
    budget: int = 256
    group_size: Any = None  # one, or a list; null takes every divisor from 2 to half the budget
    iterations: list[int] = field(default_factory=lambda: [25, 50, 100, 200])
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    seed: int = 0
    threads: int | None = None  # null takes all cores
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        every = self.group_size is None
        self.group_size = (
            divisors(self.budget)
            if every
            else sizes_at(self.budget, self.group_size, default=DEFAULT_SIZES)
        )
        increasing("iterations", self.iterations)
        require_seed_and_threads(self.seed, self.threads)
        require_group_size(self.compared, min(self.group_size))

    @cached_property
    def compared(self) -> dict[str, Compared]:
        """The estimators with their laws, by name."""
        return resolve(self.estimators)


def sizes_at(budget: int, group_size: Any, *, default: Sequence[int], fewest: int = 2) -> list[int]:
    """Return the group sizes at a budget: those asked for, or what it allows of an app's default.

    Of the default list those are left out, with a line that says so, that do not divide the budget.
    Where fewer than `fewest` are left, every divisor from 2 to half of the budget is taken.

    Args:
        budget: N = B·G.
        group_size: of a configuration, one or a list.
        default: what the app's configuration file holds.
        fewest: how many sizes the app needs.

    Raises:
        ValueError: if a size that was asked for does not divide the budget, or the budget has no
            divisor.
    """
    asked = group_sizes(group_size)
    integer("budget", budget, at_least=2)
    if asked != list(default):
        require_divisors(budget, asked)
        return asked
    kept = [size for size in asked if budget % size == 0]
    if len(kept) < fewest:
        kept = divisors(budget)
    if kept != asked:
        _say_once(f"group_size: {kept}, which divide the budget {budget}, in place of {asked}")
    return kept


@cache
def _say_once(line: str) -> None:
    """Print a line on stderr, however often a configuration is checked."""
    print(line, file=sys.stderr)


def grpo_sweep(config: Any, budget: int, sizes: list[int]) -> GroupSize:
    """Return GRPO's sweep over group sizes at one budget, all else as another app has it."""
    return GroupSize(
        task=config.task,
        scale=config.scale,
        estimators={"grpo": {}},
        budget=budget,
        group_size=sizes,
        iterations=config.iterations,
        schedule=config.schedule,
        seed=config.seed,
        threads=config.threads,
    )


def run(config: GroupSize, parts: Path) -> pd.DataFrame:
    """Measure the gap of every estimator at every division, for each panel of the task.

    Args:
        config: of this app.
        parts: folder of the tables of single runs, on tasks where these take long.
    """
    if isinstance(config.task, SequentialTask):
        from experiments.group_size.sequential_training import measure

        return measure(config, parts)
    return _run_bandit(config)


def _run_bandit(config: GroupSize) -> pd.DataFrame:
    tables = []
    for panel, start in config.task.starts.items():
        for name, each in config.compared.items():
            laws = predicted(config, start, each)
            for size in track(config.group_size, f"{panel}, {name}"):
                runs = measure(config, panel, start, each.estimator, size)
                table = pd.DataFrame(_columns(config, runs, laws[size], size))
                tables.append(table.assign(task=panel, estimator=name))
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


def measure(
    config: Any,
    panel: str,
    start: Start,
    estimator: Estimator,
    size: int,
    prompt_sampling: str = "iid",
) -> Runs:
    """Run Algorithm 1; the same generator each time, so that divisions and estimators share."""
    return optimize(
        start.bandit,
        estimator,
        batch_size=config.budget // size,
        group_size=size,
        num_iterations=config.iterations[-1],
        schedule=config.schedule.build(config.task.learning_rate),
        num_runs=config.scale.runs,
        theta0=start.theta0,
        checkpoints=config.iterations,
        projection=start.projection,
        prompt_sampling=prompt_sampling,
        keep_theta=False,
        rng=tasks.panel_rng(config.seed, panel),
        num_threads=config.threads,
    )


def summary(runs: Runs) -> dict[str, Any]:
    """Return the columns that say what runs have reached: a mean gap with its standard error."""
    return {
        "iteration": runs.checkpoints,
        "runs": len(runs.gap),
        "gap": runs.gap.mean(axis=0),
        "std_error": runs.gap.std(axis=0, ddof=1) / np.sqrt(len(runs.gap)),
    }


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
    config: GroupSize, runs: Runs, laws: Sequence[ExpectedGap], size: int
) -> dict[str, Any]:
    batch_size = config.budget // size
    return {
        "budget": config.budget,
        "group_size": size,
        "batch_size": batch_size,
        **summary(runs),
        "law": [law.gap(batch_size=batch_size, group_size=size) for law in laws],
        "path_gap": [law.path_gap for law in laws],
        "optimal": [law.best_group_size for law in laws],
    }


def describe(config: GroupSize) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_N{config.budget}_{len(config.group_size)}sizes"


def prepare(config: GroupSize) -> None:
    """Build the task, or raise."""
    if isinstance(config.task, SequentialTask):
        from experiments.group_size.sequential_training import require_runs

        require_runs(config)
    _ = config.task.snapshots


APP = App("group_size", GroupSize, run, describe, prepare, keeps_parts=True)
