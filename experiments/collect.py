"""Collect the jobs of a sweep into one CSV.

    python -m experiments.collect gradient_mse --scale paper --to sweep.csv

Collecting is a step of its own: a sweep with a failed job still leaves the others' results. Data
that are damaged, or of other code or input files than those of today, enter no table unasked.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from experiments import records
from experiments.commands import ends_in_one_line
from experiments.runner import to_csv, write_atomically
from ustat_grpo.files import require_another_file

_POINT = (
    "task", "estimator", "prompt_sampling", "schedule", "rule", "optimizer", "budget", "batch_size",
    "group_size", "iteration", "seed", "probability", "evidence",
)  # fmt: skip


def collect(
    experiment: str, scale: str, results: Path, *, keep_stale: bool = False
) -> pd.DataFrame:
    """Return the data of all finished jobs of an experiment at one scale.

    Raises:
        ValueError: if there are none, or one is damaged, or stale and it is not said to keep those.
    """
    return merge(finished(experiment, scale, results, keep_stale=keep_stale))


def finished(experiment: str, scale: str, results: Path, *, keep_stale: bool = False) -> list[Path]:
    """Return the data files of all finished jobs; see `collect`."""
    folder = results / experiment / scale
    found, stale = [], []
    for path in sorted(folder.glob(f"*/{records.DATA}")):
        state, reason = records.examine(path.parent)
        if state == records.DAMAGED:
            raise ValueError(
                f"results must be whole, but {path} {reason}: run its job again, or remove the "
                "folder"
            )
        if state == records.STALE:
            stale.append(f"{path} {reason}")
        if state != records.MISSING:
            found.append(path)
    if not found:
        raise ValueError(f"results must hold finished jobs, got none under {folder}")
    if stale and not keep_stale:
        raise ValueError(
            f"results must be of today's code and input files, but {stale[0]} ({len(stale)} of "
            f"{len(found)} jobs): run them again with --stale, or collect them with --keep-stale"
        )
    if stale:
        print(f"{len(stale)} of {len(found)} jobs are stale: {stale[0]}", file=sys.stderr)
    return found


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
    parser.add_argument(
        "--keep-stale", action="store_true",
        help="collect also jobs whose code or input files have changed since",
    )  # fmt: skip
    arguments = parser.parse_args()
    with ends_in_one_line():
        try:
            _run(arguments)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None


def _run(arguments: argparse.Namespace) -> None:
    """Collect, and write the table.

    Raises:
        ValueError: if there is nothing to collect, or the table cannot be written.
    """
    paths = finished(
        arguments.experiment,
        arguments.scale,
        arguments.results,
        keep_stale=arguments.keep_stale,
    )
    require_another_file("--to", arguments.to, paths)
    data = merge(paths)
    try:
        write_atomically(arguments.to, to_csv(data))
    except OSError as error:
        raise ValueError(f"to must be writable, got {arguments.to} ({error})") from None
    print(f"{len(data)} rows in {arguments.to}")


if __name__ == "__main__":
    main()
