"""Is the value network missed? GRPO against an actor–critic of the same budget, and what both cost.

The critic is a network of the policy's size that starts from its weights. Along training stands
its RMSE against the exact V(x), beside the error at which it does as well as GRPO's group mean.
One step of each method is timed, and its memory counted by the allocator. Try

    python -m experiments.critic
    python -m experiments.critic start=beginner budget=512 seeds=8

A run that is finished is kept: a killed job goes on with the runs that are left.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments import language_tasks
from experiments.commands import hydra_main
from experiments.gradient_mse import Scale
from experiments.group_size import sizes_at
from experiments.language_tasks import Arithmetic, SmallPolicies
from experiments.parts import Parts
from experiments.runner import execute, job_folder, main_job, require_seed_and_threads
from ustat_grpo.checks import increasing, integer, leave_one_out_group_size, real

NAME = "critic"
COLUMNS = [
    "task", "method", "group_size", "batch_size", "budget", "optimizer", "iteration", "seed",
    "quantity", "part", "value",
]  # fmt: skip
GRPO, CRITIC, TOKEN_CRITIC = "grpo", "critic", "token_critic"


@dataclass
class CriticConfig:
    """The configuration of this app."""

    task: Any = MISSING
    policy: Any = MISSING
    start: str = "intermediate"  # of the small policies, the one where runs begin
    scale: Scale = field(default_factory=Scale)
    budget: int = 256
    group_size: Any = field(default_factory=lambda: [2, 4, 8, 16])
    critic_group_size: Any = field(default_factory=lambda: [1, 4])
    iterations: list[int] = field(default_factory=lambda: [10, 25, 50, 100, 150, 200])
    learning_rate: float = 0.005
    critic_learning_rate: float = 0.001
    seeds: int = 8
    noise_seeds: int = 2  # of these, the gradient error is measured along training
    noise_questions: int = 250
    noise_outputs: int = 64  # to each of these questions
    cost_steps: int = 15  # of each method, in turn, to time
    seed: int = 0
    threads: int | None = 1
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        if not isinstance(self.task, Arithmetic):
            raise ValueError(f"task must be arithmetic, got {self.task.name}")
        if self.task.reward != "exact_match":
            raise ValueError(f"task.reward must be exact_match, got {self.task.reward}")
        if not isinstance(self.policy, SmallPolicies):
            raise ValueError(f"policy must be small, got {self.policy.name}")
        self.policy = replace(self.policy, skills=[self.start])
        self.group_size = sizes_at(self.budget, self.group_size, default=(2, 4, 8, 16), fewest=1)
        self.critic_group_size = sizes_at(
            self.budget, self.critic_group_size, default=(1, 4), fewest=1
        )
        leave_one_out_group_size(min(self.group_size))
        increasing("iterations", self.iterations)
        integer("seeds", self.seeds, at_least=2)
        for name in ("noise_seeds", "noise_questions", "cost_steps"):
            integer(name, getattr(self, name))
        integer("noise_outputs", self.noise_outputs, at_least=16)
        for name in ("learning_rate", "critic_learning_rate"):
            real(name, getattr(self, name), above=0.0)
        require_seed_and_threads(self.seed, self.threads)

    def methods(self) -> list["Method"]:
        """Return what is compared."""
        return [
            *(Method(GRPO, size) for size in self.group_size),
            *(Method(CRITIC, size) for size in self.critic_group_size),
            Method(TOKEN_CRITIC, 1),
        ]


class Method(NamedTuple):
    """GRPO or a critic, with a group size."""

    name: str
    group_size: int


class Cell(NamedTuple):
    """One run: a method and a seed."""

    method: Method
    seed: int

    def path(self, parts: Path) -> Path:
        """Return where its table lies."""
        return parts / f"{self.method.name}_G{self.method.group_size}_seed{self.seed}.csv"


def run(config: CriticConfig, parts: Path) -> pd.DataFrame:
    """Time the steps, and train every method and seed whose table is not there.

    Args:
        config: of this app.
        parts: folder of the runs' own tables.
    """
    from experiments.critic_training import costs, train

    language_tasks.use_threads(config.threads)
    sets = language_tasks.training_sets(config.task, config.policy)
    cells = [Cell(method, seed) for method in config.methods() for seed in range(config.seeds)]
    kept = Parts(NAME, config)
    jobs = {parts / "costs.csv": partial(costs, config, sets)}
    jobs |= {cell.path(parts): partial(train, config, sets, cell) for cell in cells}
    for path in track(kept.left(list(jobs)), config.task.name):
        kept.write(path, jobs[path]().reindex(columns=COLUMNS))
    return pd.concat([kept.read(path) for path in jobs], ignore_index=True)


def report(data: pd.DataFrame) -> Table:
    """Return accuracy and the critic's error at the end, and what a step costs, by method."""
    plain = data.query("optimizer == 'sgd'").fillna({"part": ""})
    at_end = plain["iteration"] == data["iteration"].max()
    found = plain[at_end | plain["quantity"].isin(["seconds", "bytes"])].pivot_table(
        index=["method", "group_size"], columns=["quantity", "part"], values="value"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("method", "G", "accuracy", "critic RMSE", "step, ms", "peak, MB"):
        table.add_column(name, justify="right", no_wrap=True)
    order = data[["method", "group_size"]].drop_duplicates().itertuples(index=False, name=None)
    for method, size in order:
        row = found.loc[(method, size)]
        table.add_row(
            str(method),
            str(size),
            f"{row['accuracy', '']:.4f}",
            f"{row['critic_rmse', '']:.3f}".replace("nan", "–"),
            f"{1e3 * row['seconds', 'step']:.0f}",
            f"{1e-6 * row['bytes', 'peak']:.1f}",
        )
    return table


def describe(config: CriticConfig) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_N{config.budget}_{config.seeds}seeds"


def prepare(config: CriticConfig) -> None:
    """Build the task, or raise."""
    language_tasks.training_sets(config.task, config.policy)


def execute_config(config: DictConfig) -> Path:
    """Run one configuration, or find its results; return the CSV."""
    parts = job_folder(config, NAME, describe) / "runs"
    path = execute(config, NAME, partial(run, parts=parts), describe, prepare)
    Console().print(report(pd.read_csv(path)))
    return path


language_tasks.register()
ConfigStore.instance().store(name=f"{NAME}_schema", node=CriticConfig)


@hydra_main(NAME)
def main(config: DictConfig) -> None:
    """Entry point of `python -m experiments.critic`."""
    main_job(execute_config, config)


if __name__ == "__main__":
    main()
