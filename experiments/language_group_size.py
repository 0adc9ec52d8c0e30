"""How does a language model's accuracy after n iterations depend on the group size, at N = B·G?

The paper's universality experiments on a transformer: Algorithm 1 from one policy, at every
division of a budget, several seeds; accuracy on held-out questions is exact. Runs of one seed share
questions and random numbers, whatever their group size. Beside the accuracy stand the noise
components along training, hence the group size of least gradient error at every checkpoint. Try

    python -m experiments.language_group_size budget=256
    python -m experiments.language_group_size budget=1024 optimizer=adamw learning_rate=0.001

A run that is finished is kept: a killed job goes on with the runs that are left.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig
from rich import box
from rich.console import Console, Group
from rich.progress import track
from rich.table import Table

from experiments import compared, language_tasks
from experiments.commands import hydra_main
from experiments.gradient_mse import Scale
from experiments.group_size import DEFAULT_SIZES, sizes_at
from experiments.language_tasks import HuggingFacePolicy, LanguageTask, SmallPolicies
from experiments.parts import Parts
from experiments.resolution import summary
from experiments.runner import execute, job_folder, main_job, require_seed_and_threads
from ustat_grpo.checks import increasing, integer, real

NAME = "language_group_size"
COLUMNS = [
    "task", "estimator", "optimizer", "budget", "group_size", "batch_size", "iteration", "seed",
    "accuracy", "mean_reward", "prompt", "oracle", "residual",
]  # fmt: skip


@dataclass
class LanguageGroupSize:
    """The configuration of this app."""

    task: Any = MISSING
    policy: Any = MISSING
    start: str = "intermediate"  # of the small policies, the one where runs begin
    scale: Scale = field(default_factory=Scale)
    estimators: dict[str, dict[str, float]] = MISSING
    budget: int = 256
    group_size: Any = field(default_factory=lambda: [2, 4, 8, 16, 32, 64, 128])
    iterations: list[int] = field(default_factory=lambda: [50, 100, 150, 200])
    optimizer: str = "sgd"  # or adamw
    learning_rate: float = 0.005
    seeds: int = 10
    noise_seeds: int = 2  # of these, the noise components are measured along training
    noise_questions: int = 500
    noise_outputs: int = 16  # to each of these questions; more if no solution is known by token
    seed: int = 0
    threads: int | None = 1  # of each process
    processes: int = 2  # runs at a time, on a CPU; a GPU takes all of a budget at once
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        if isinstance(self.policy, SmallPolicies):
            self.policy = replace(self.policy, skills=[self.start])
        self.group_size = sizes_at(self.budget, self.group_size, default=DEFAULT_SIZES)
        if len(self.group_size) < 2 or len(set(self.group_size)) < len(self.group_size):
            raise ValueError(
                f"group_size must hold at least two sizes to compare, got {self.group_size}"
            )
        increasing("iterations", self.iterations)
        integer("seeds", self.seeds, at_least=2)
        for name in ("processes", "noise_questions", "noise_seeds"):
            integer(name, getattr(self, name))
        real("learning_rate", self.learning_rate, above=0.0)
        require_seed_and_threads(self.seed, self.threads)
        compared.require_group_size(self.estimators, min(self.group_size))
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"optimizer must be sgd or adamw, got {self.optimizer!r}")
        if len(self.estimators) != 1:
            raise ValueError(f"estimators must hold one, got {list(self.estimators)}")
        self._require_knowledge()

    def _require_knowledge(self) -> None:
        """Raise if an estimator or the noise components need what is not known of a task."""
        from ustat_grpo.pool import NUM_BLOCKS

        if not isinstance(self.task, LanguageTask):
            raise ValueError(f"task must be one of a language model, got {self.task.name}")
        exact = isinstance(self.policy, SmallPolicies) and self.task.reward == "exact_match"
        unknown = {"optimal_baseline"} if exact else {"optimal_baseline", "oracle"}
        if unknown & set(self.estimators):
            raise ValueError(
                f"estimators must not need what is not known ({', '.join(sorted(unknown))}), "
                f"got {list(self.estimators)}"
            )
        least = NUM_BLOCKS if exact else 2 * NUM_BLOCKS
        if self.noise_outputs < least or (self.noise_outputs % NUM_BLOCKS and not exact):
            raise ValueError(
                f"noise_outputs must be a multiple of {NUM_BLOCKS}, at least {least} for this task "
                f"and policy, got {self.noise_outputs}"
            )


class Cell(NamedTuple):
    """One run: a group size and a seed."""

    group_size: int
    seed: int

    def path(self, parts: Path) -> Path:
        """Return where its table lies."""
        return parts / f"G{self.group_size}_seed{self.seed}.csv"


def run(config: LanguageGroupSize, parts: Path) -> pd.DataFrame:
    """Train at every group size and seed, except for the runs whose tables are there.

    Args:
        config: of this app.
        parts: folder of the runs' own tables.
    """
    kept = Parts(NAME, config)
    cells = [Cell(*each) for each in product(config.group_size, range(config.seeds))]
    paths = {cell.path(parts): cell for cell in cells}
    left = [paths[path] for path in kept.left(list(paths))]
    for cell, table in track(_trained(config, left), config.task.name, total=len(left)):
        kept.write(cell.path(parts), table.reindex(columns=COLUMNS))
    return pd.concat([kept.read(path) for path in paths], ignore_index=True)


def _trained(
    config: LanguageGroupSize, cells: Sequence[Cell]
) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """Yield each run as it ends.

    Small policies train one a process on a CPU, and all at once on a GPU; Hugging Face models one
    after the other.
    """
    from experiments.language_training import train_alone, train_together
    from ustat_grpo.lm.language_model import chosen_device

    if not cells:
        return
    if isinstance(config.policy, HuggingFacePolicy):
        yield from ((cell, train_alone(config, cell)) for cell in cells)
        return
    if chosen_device(config.policy.device).type != "cpu":
        yield from train_together(config, cells)
        return
    # Forked workers would inherit the locks of this process's threads.
    with ProcessPoolExecutor(config.processes, mp_context=get_context("spawn")) as pool:
        yield from zip(cells, pool.map(partial(train_alone, config), cells), strict=True)


def report(data: pd.DataFrame) -> Group:
    """Return what the sweep found, and whether it can tell at all, at every checkpoint."""
    best = _table(
        "group size of largest accuracy",
        ("N", "n", "best", "may be best (95 %)", "G*", "within 5 % at the start"),
    )
    sure = _table(
        "can the runs tell?",
        ("N", "n", "sizes", "difference", "seeds needed", "ran", "noise floor"),
    )
    for row in summary(data):
        rivals, point = row.rivals, (str(row.budget), str(row.iteration))
        best.add_row(
            *point,
            str(rivals.better),
            ", ".join(map(str, row.may_be_best)),
            f"{row.optimal:.1f}",
            f"{row.predicted.low:.1f} … {row.predicted.high:.1f}",
        )
        sure.add_row(
            *point,
            f"{rivals.better} over {rivals.worse}",
            f"{rivals.difference:.4f} ± {rivals.std_error:.4f}",
            f"{rivals.seeds_needed:.0f}",
            str(row.seeds),
            f"{row.noise.floor:.4f}",
        )
    return Group(best, sure)


def _table(title: str, headings: Sequence[str]) -> Table:
    """A table that fits eighty columns."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=not heading.startswith("may"))
    return table


def describe(config: LanguageGroupSize) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_{config.optimizer}_N{config.budget}_{config.seeds}seeds"


def prepare(config: LanguageGroupSize) -> None:
    """Build the task, or raise."""
    language_tasks.training_sets(config.task, config.policy)


def execute_config(config: DictConfig) -> Path:
    """Run one configuration, or find its results; return the CSV."""
    parts = job_folder(config, NAME, describe) / "runs"
    path = execute(config, NAME, partial(run, parts=parts), describe, prepare)
    Console().print(report(pd.read_csv(path)))
    return path


language_tasks.register()
ConfigStore.instance().store(name=f"{NAME}_schema", node=LanguageGroupSize)


@hydra_main(NAME)
def main(config: DictConfig) -> None:
    """Entry point of `python -m experiments.language_group_size`."""
    main_job(execute_config, config)


if __name__ == "__main__":
    main()
