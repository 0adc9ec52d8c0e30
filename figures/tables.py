"""What figures read of their tables: where they lie, their panels, and what panels are called."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

REFERENCE = Path(__file__).parents[1] / "experiments" / "reference"

JOBS = {
    "gradient_mse": "batch_size",
    "fixed_budget": "budget",
    "group_size": "budget",
    "limit_law": "group_size",
    "gap_bound": "group_size",
    "finite_prompts": "num_prompts",
    "language_group_size": "optimizer",
    "critic": "budget",
}
"""The column that tells the jobs of one task apart, by figure: each gets a picture of its own."""

TABLES = {"group_size_by_budget": "group_size", "scaling_law": "group_size"}
"""The experiment whose table a figure reads, where its name is another."""

SYMBOLS = {"iteration": "n", "budget": "N", "num_outputs": "M"}
"""What panels that differ in a column are called by."""

MADE_FOR = re.compile(r"G\* = (\d+)$")


def read(csv: Path, name: str) -> pd.DataFrame:
    """Read a table, of which a figure of a name must have something to draw.

    Raises:
        ValueError: if it has no rows, or words where the reference has numbers.
    """
    data = pd.read_csv(csv)
    if data.empty:
        raise ValueError("csv must have rows, got none")
    path = REFERENCE / f"{TABLES.get(name, name)}.csv"
    if csv.resolve() == path.resolve():
        return data
    reference = pd.read_csv(path)
    for column in data.columns.intersection(reference.select_dtypes("number").columns):
        cells = pd.Series(data[column]).dropna()
        words = cells[pd.Series(pd.to_numeric(cells, errors="coerce")).isna()]
        if len(words):
            got = repr(str(next(iter(words)))[:40])
            raise ValueError(f"column {column} must hold numbers, got {got}")
    return data


def by_task(data: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split a table by task, whose panels are named 'task: panel'."""
    tasks = data["task"].str.split(":").str[0]
    return {str(task): rows for task, rows in data.groupby(tasks, sort=False)}


def pictures(data: pd.DataFrame, name: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield what a figure of a name draws apart, by the stem of its file: tasks and their jobs."""
    job = JOBS.get(name)
    for task, panels in by_task(data).items():
        jobs = list(panels.groupby(job, sort=False)) if job else [(None, panels)]
        for value, rows in jobs:
            yield f"{name}_{task}" + (f"_{job}{value}" if len(jobs) > 1 else ""), rows


def policies(data: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each policy, in the order of the table."""
    return [(str(task), rows) for task, rows in data.groupby("task", sort=False)]


def policies_by(data: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each policy and value of a column, which the panels' titles name."""
    return [
        (f"{plain(task)}, ${SYMBOLS[column]} = {value}$", rows)
        for task, policy in policies(data)
        for value, rows in policy.groupby(column)
    ]


def plain(task: str) -> str:
    """Write 'tug_of_war: t = 0' on two lines and without underscores.

    Bandits are named by the best group size for their gradient's error, 'bandit: G* = 16'. What a
    panel shows may be best at another, so it is said whose that is.
    """
    named = MADE_FOR.sub(r"gradient's G* = \1", task)
    return named.replace(": ", "\n").replace("_", " ")


def at_last_iteration(data: pd.DataFrame) -> pd.DataFrame:
    """Return the rows at the last iteration of each task."""
    last = data.groupby("task")["iteration"].transform("max")
    return data.loc[data["iteration"] == last]


def only(data: pd.DataFrame, column: str) -> int:
    """Return the one value of a column; points of several jobs must not be joined by a line.

    Raises:
        ValueError: if there are several.
    """
    values = data[column].unique().tolist()
    if len(values) > 1:
        raise ValueError(f"{column} must be the same throughout a figure, got {values}")
    return values[0]
