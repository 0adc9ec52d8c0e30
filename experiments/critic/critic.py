"""Is the value network missed? GRPO against an actor–critic of the same budget, and what both cost.

The critic is a network of the policy's size that starts from its weights. Along training stands
its RMSE against the exact V(x), beside the error at which it does as well as GRPO's group mean.
One step of each method is timed, and its memory counted by the allocator. Try

    python -m experiments critic
    python -m experiments critic start=beginner budget=512 seeds=8

A run that is finished is kept: a killed job goes on with the runs that are left.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.critic.config import NAME, CriticConfig, CriticRun
from experiments.running.app import App
from experiments.running.parts import KeptRuns, Parts
from experiments.running.threads import use_threads

Work = Callable[[], pd.DataFrame]

COLUMNS = [
    "task", "method", "group_size", "batch_size", "budget", "optimizer", "iteration", "seed",
    "quantity", "part", "value",
]  # fmt: skip


def run(config: CriticConfig, parts: Path) -> pd.DataFrame:
    """Time the steps, and train every method and seed whose table is not there.

    Args:
        config: of this app.
        parts: folder of the runs' own tables.
    """
    from experiments.critic.training import costs, train

    use_threads(config.threads)
    sets = config.posed.training_sets()
    cells = [CriticRun(method, seed) for method in config.methods() for seed in range(config.seeds)]
    jobs = {"costs": partial(costs, config, sets)}
    jobs |= {cell.name: partial(train, config, sets, cell) for cell in cells}
    kept = KeptRuns(Parts(__name__, config), parts)
    tables = kept.tables(jobs, _tables, config.task.name)
    return pd.concat(tables.values(), ignore_index=True)


def _tables(jobs: Sequence[Work]) -> Iterator[tuple[Work, pd.DataFrame]]:
    yield from ((job, job().reindex(columns=COLUMNS)) for job in jobs)


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
    config.posed.training_sets()


APP = App(
    NAME,
    CriticConfig,
    run,
    describe,
    prepare,
    lambda data: Console().print(report(data)),
    keeps_parts=True,
)
