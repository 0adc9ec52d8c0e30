"""Collect the jobs of a sweep into one CSV.

    python -m experiments.collect gradient_mse --scale paper --to sweep.csv

Collecting is a step of its own: a sweep with a failed job still leaves the others' results.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from experiments.runner import to_csv, write_atomically

_POINT = (
    "task", "estimator", "prompt_sampling", "schedule", "rule", "budget", "batch_size",
    "group_size", "iteration", "probability",
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
    data = pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)
    data = data.drop_duplicates(ignore_index=True)
    point = [name for name in _POINT if name in data]
    twice = data.duplicated(point).to_numpy()
    if twice.any():
        found = data.loc[int(twice.argmax()), point].to_dict()
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
