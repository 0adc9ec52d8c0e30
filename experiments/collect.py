"""Collect the jobs of a sweep into one CSV.

    python -m experiments.collect gradient_mse --scale paper --to sweep.csv

Collecting is a step of its own: a sweep with a failed job still leaves the others' results.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.runner import to_csv, write_atomically

_POINT = (
    "task", "estimator", "prompt_sampling", "schedule", "rule", "optimizer", "budget", "batch_size",
    "group_size", "iteration", "seed", "probability", "evidence",
)  # fmt: skip


def collect(experiment: str, scale: str, results: Path) -> pd.DataFrame:
    """Return the data of all finished jobs of an experiment at one scale.

    Raises:
        ValueError: if there are none.
    """
    folder = results / experiment / scale
    paths = sorted(folder.glob("*/data.csv"))
    if not paths:
        raise ValueError(f"results must hold finished jobs, got none under {folder}")
    return merge(paths)


def merge(paths: list[Path]) -> pd.DataFrame:
    """Return the rows of several jobs, each row once.

    Raises:
        ValueError: if two jobs measured the same point, with another precision or seed, say.
    """
    tables = [pd.read_csv(path) for path in paths]
    data = pd.concat(tables, ignore_index=True)
    job = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    new = ~data.duplicated().to_numpy()
    data, job = data.loc[new].reset_index(drop=True), job[new]
    point = [name for name in _POINT if name in data]
    seen = data[point].assign(job=job).drop_duplicates()
    twice = seen.duplicated(point).to_numpy()
    if twice.any():
        found = seen.iloc[int(twice.argmax())][point].to_dict()
        raise ValueError(f"results must hold each point once, got several jobs for {found}")
    return data


def main() -> None:
    """Entry point of `python -m experiments.collect`."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m experiments.collect")
    parser.add_argument("experiment", help="gradient_mse, fixed_budget, …")
    parser.add_argument("--scale", default="smoke")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--to", type=Path, required=True, help="the CSV to write")
    arguments = parser.parse_args()
    try:
        data = collect(arguments.experiment, arguments.scale, arguments.results)
        write_atomically(arguments.to, to_csv(data))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"error: to must be writable, got {arguments.to} ({error})", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{len(data)} rows in {arguments.to}")


if __name__ == "__main__":
    main()
