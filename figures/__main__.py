"""Draw every figure from the committed references: `python -m figures`."""

from pathlib import Path

from figures import (
    finite_prompts,
    fixed_budget,
    gap_bound,
    gradient_mse,
    group_size,
    group_size_by_budget,
    group_size_rules,
    limit_law,
    scaling_law,
    training_path,
)
from figures.palette import DRAWN, REFERENCE, TABLES, draw_tasks

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
)


def draw_all(tables: Path, folder: Path) -> list[Path]:
    """Draw all figures from a folder of tables into another; return the PNGs' paths."""
    return [
        path
        for figure in FIGURES
        for path in draw_tasks(
            tables / f"{TABLES.get(figure.NAME, figure.NAME)}.csv", folder, figure.NAME,
            figure.build,
        )
    ]  # fmt: skip


if __name__ == "__main__":
    print(*draw_all(REFERENCE, DRAWN), sep="\n")
