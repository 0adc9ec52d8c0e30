"""How does a language model's accuracy after n iterations depend on the group size, at N = B·G?

The paper's universality experiments on a transformer: Algorithm 1 from one policy, at every
division of a budget, several seeds; accuracy on held-out questions is exact. Runs of one seed share
questions and random numbers, whatever their group size. Beside the accuracy stand the noise
components along training, hence the group size of least gradient error at every checkpoint. Try

    python -m experiments language_group_size budget=256
    python -m experiments language_group_size budget=1024 optimizer=adamw learning_rate=0.001

A run that is finished is kept: a killed job goes on with the runs that are left.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.table import Table

from experiments.group_size.language_config import NAME, LanguageGroupSize, SeededRun
from experiments.group_size.resolution import summary
from experiments.running.app import App
from experiments.running.parts import KeptRuns, Parts

COLUMNS = [
    "task", "estimator", "optimizer", "budget", "group_size", "batch_size", "iteration", "seed",
    "accuracy", "mean_reward", "prompt", "oracle", "residual",
]  # fmt: skip


def run(config: LanguageGroupSize, parts: Path) -> pd.DataFrame:
    """Train at every group size and seed, except for the runs whose tables are there.

    Args:
        config: of this app.
        parts: folder of the runs' own tables.
    """
    kept = KeptRuns(Parts(__name__, config), parts)
    cells = [SeededRun(*each) for each in product(config.group_size, range(config.seeds))]
    names = {cell.name: cell for cell in cells}
    tables = kept.tables(names, partial(_tables, config), config.task.name)
    return pd.concat(tables.values(), ignore_index=True)


def _tables(
    config: LanguageGroupSize, cells: Sequence[SeededRun]
) -> Iterator[tuple[SeededRun, pd.DataFrame]]:
    yield from ((cell, table.reindex(columns=COLUMNS)) for cell, table in _trained(config, cells))


def _trained(
    config: LanguageGroupSize, cells: Sequence[SeededRun]
) -> Iterator[tuple[SeededRun, pd.DataFrame]]:
    """Yield each run as it ends.

    Small policies train one a process on a CPU, and all at once on a GPU; Hugging Face models one
    after the other.
    """
    from experiments.group_size.language_training import train_alone, train_together
    from ustat_grpo.lm.language_model import chosen_device

    if not cells:
        return
    if not config.policy.run_beside_each_other:
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
    config.posed.training_sets()


APP = App(
    NAME,
    LanguageGroupSize,
    run,
    describe,
    prepare,
    lambda data: Console().print(report(data)),
    keeps_parts=True,
)
