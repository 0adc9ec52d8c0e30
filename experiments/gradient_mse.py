"""How wrong is each policy-gradient estimate? Error against group size, measured and by law.

The paper's gradient-error figure: every prompt once, or a minibatch of i.i.d. prompts, for policies
of rising skill. Try

    python -m experiments.gradient_mse task=arithmetic_choice scale=smoke
    python -m experiments.gradient_mse -m task=bandit,tug_of_war group_size=4,8,16 batch_size=32
    python -m experiments.gradient_mse task=gym env_id=Acrobot-v1 task.features=affine
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig
from rich.progress import track

from experiments import compared, language_tasks, sequential_tasks, tasks
from experiments.commands import hydra_main
from experiments.language_tasks import LanguageTask
from experiments.runner import execute, main_job, require_seed_and_threads
from experiments.sequential_tasks import Gym, SequentialTask
from ustat_grpo import gradient_mse
from ustat_grpo.checks import integer, real

COLUMNS = [
    "task", "estimator", "batch_size", "group_size", "replications", "mse", "std_error",
    "bias_norm", "law", "law_std_error", "evidence",
]  # fmt: skip


@dataclass
class Scale:
    """How much work: the relative standard error to reach, or the runs of an optimisation."""

    name: str = "smoke"
    precision: float = 0.01
    runs: int = 200

    def __post_init__(self) -> None:
        """Check the ranges."""
        real("scale.precision", self.precision, above=0.0)
        integer("scale.runs", self.runs, at_least=2)


@dataclass
class GradientMse:
    """The configuration of this app."""

    task: Any = MISSING
    policy: Any = None  # of language models
    env_id: str | None = None  # of task=gym
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
        compared.require_group_size(self.estimators, min(self.group_size))


def group_sizes(value: Any) -> list[int]:
    """Return one group size or several as a list, or raise."""
    sizes = list(value) if isinstance(value, list | tuple) else [value]
    if not sizes:
        raise ValueError("group_size must hold at least one size, got []")
    return [integer("group_size", size) for size in sizes]


def run(config: GradientMse) -> pd.DataFrame:
    """Measure every estimator at every group size, for each panel of the task."""
    if isinstance(config.task, LanguageTask):
        from experiments.language_errors import measure

        return measure(config).reindex(columns=COLUMNS)
    if isinstance(config.task, SequentialTask):
        from experiments.sequential_errors import measure

        return measure(config).reindex(columns=COLUMNS)
    return _run_bandit(config)


def _run_bandit(config: GradientMse) -> pd.DataFrame:
    estimators = compared.build(config.estimators)
    tables = []
    for panel, snapshot in track(config.task.snapshots.items(), config.task.name):
        table = gradient_mse(
            snapshot,
            estimators,
            config.group_size,
            config.batch_size,
            precision=config.scale.precision,
            rng=tasks.panel_rng(config.seed, panel),
            num_threads=config.threads,
        )
        table.insert(0, "task", panel)
        table["law"] = [
            compared.law(name, config.estimators[name], snapshot.moments, size, config.batch_size)
            for name, size in zip(table["estimator"], table["group_size"], strict=True)
        ]
        tables.append(table)
    data = pd.concat(tables, ignore_index=True).assign(law_std_error=0.0, evidence="simulation")
    return data.reindex(columns=COLUMNS)


def describe(config: GradientMse) -> str:
    """Return the readable part of the results folder's name."""
    batch = "all" if config.batch_size is None else config.batch_size
    return f"{config.task.name}_B{batch}_G{'-'.join(map(str, config.group_size))}"


def execute_config(config: DictConfig) -> Path:
    """Run one configuration, or find its results; return the CSV."""
    return execute(config, "gradient_mse", run, describe, prepare)


def prepare(config: GradientMse) -> None:
    """Build the task, or raise."""
    if isinstance(config.task, LanguageTask | Gym):
        from experiments.pool_table import require_pool

        require_pool(config)
    if isinstance(config.task, LanguageTask):
        language_tasks.panels(config.task, config.policy)
    else:
        _ = config.task.snapshots


tasks.register()
language_tasks.register()
sequential_tasks.register()
ConfigStore.instance().store(name="gradient_mse_schema", node=GradientMse)


@hydra_main("gradient_mse")
def main(config: DictConfig) -> None:
    """Entry point of `python -m experiments.gradient_mse`."""
    main_job(execute_config, config)


if __name__ == "__main__":
    main()
