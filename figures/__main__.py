"""Draw every figure from the committed references: `python -m figures`."""

import argparse
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from figures import (
    critic,
    estimator_zoo,
    finite_prompts,
    fixed_budget,
    gap_bound,
    gradient_mse,
    group_size,
    group_size_by_budget,
    group_size_rules,
    hard_prompts,
    implied_objective,
    language_group_size,
    limit_law,
    noise_coverage,
    planned_group_size,
    practical_bias,
    pretrain,
    scaling_law,
    sequential_group_size,
    training_path,
)
from figures.palette import DRAWN, draw_tasks
from figures.tables import REFERENCE, TABLES

FIGURES = (
    gradient_mse,
    fixed_budget,
    group_size,
    group_size_by_budget,
    scaling_law,
    group_size_rules,
    training_path,
    finite_prompts,
    gap_bound,
    limit_law,
    estimator_zoo,
    practical_bias,
    implied_objective,
    sequential_group_size,
    hard_prompts,
    critic,
    language_group_size,
    noise_coverage,
    planned_group_size,
    pretrain,
)


def draw_all(tables: Iterable[Path], folder: Path) -> list[Path]:
    """Draw all figures of some tables into a folder; return the PNGs' paths.

    Drawing is slow and figures know nothing of each other: as many are drawn at once as there are
    cores, and while the next table is waited for.

    Args:
        tables: CSVs, each named by its experiment.
        folder: where the figures go.
    """
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        drawn = [
            pool.submit(draw_tasks, table, folder, figure.NAME, figure.build)
            for table in tables
            for figure in FIGURES
            if TABLES.get(figure.NAME, figure.NAME) == table.stem
        ]
        return [path for each in drawn for path in each.result()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m figures`, which takes no arguments: a figure's own command does."""
    description = f"{__doc__} `python -m figures.NAME --help` draws one from another table."
    argparse.ArgumentParser(prog="python -m figures", description=description).parse_args(arguments)
    print(*draw_all(sorted(REFERENCE.glob("*.csv")), DRAWN), sep="\n")


if __name__ == "__main__":
    main()
