"""Collect the jobs of a sweep into one CSV.

    python -m experiments collect gradient_mse --scale paper --to sweep.csv
    python -m experiments collect group_size --where seed=1 --to seed_1.csv
    python -m experiments collect group_size --column schedule.rate --to rates.csv

Collecting is a step of its own: a sweep with a failed job still leaves the others' results. Data
that are damaged, or of other code or input files than those of today, enter no table unasked.
Tables do not hold every parameter. Where jobs differ in another one, `--where` chooses among them,
and `--column` writes it beside the data.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from experiments.running import records
from experiments.running.commands import ends_in_one_line
from experiments.running.runner import to_csv, write_atomically
from ustat_grpo.inputs.files import require_another_file

_POINT = (
    "task", "estimator", "prompt_sampling", "schedule", "rule", "optimizer", "budget", "batch_size",
    "group_size", "iteration", "seed", "probability", "evidence",
)  # fmt: skip

_NOT_COMPARED = "output", "threads", "processes"
"""Parameters that change no data."""


def collect(
    experiment: str,
    scale: str,
    results: Path,
    *,
    where: Mapping[str, Any] | None = None,
    columns: Sequence[str] = (),
    keep_stale: bool = False,
) -> pd.DataFrame:
    """Return the data of all finished jobs of an experiment at one scale.

    Args:
        experiment: name of the app.
        scale: name of the scale.
        results: folder of all experiments.
        where: parameters of the jobs that are wanted, as `{"schedule.rate": 0.5}`.
        columns: parameters that become columns.
        keep_stale: whether jobs of other code or inputs are taken, too.

    Raises:
        ValueError: if there are none, or one is damaged, or stale and it is not said to keep those,
            or a parameter is unknown, or as `merge` does.
    """
    paths = selected(finished(experiment, scale, results, keep_stale=keep_stale), where or {})
    return merge(paths, _columns(paths, columns))


def _columns(paths: list[Path], names: Sequence[str]) -> dict[str, str]:
    """Return which parameter each column to add holds."""
    known = {path: parameters(path) for path in paths}
    return {name: _key(name, "column", known) for name in names}


def finished(experiment: str, scale: str, results: Path, *, keep_stale: bool = False) -> list[Path]:
    """Return the data files of all finished jobs; see `collect`."""
    found, stale = [], []
    for path in _data_files(experiment, scale, results):
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
        folder = results / experiment / scale
        raise ValueError(f"results must hold finished jobs, got none under {folder}")
    if stale and not keep_stale:
        raise ValueError(
            f"results must be of today's code and input files, but {stale[0]} ({len(stale)} of "
            f"{len(found)} jobs): run them again with --stale, or collect them with --keep-stale"
        )
    if stale:
        print(f"{len(stale)} of {len(found)} jobs are stale: {stale[0]}", file=sys.stderr)
    return found


def _data_files(experiment: str, scale: str, results: Path) -> list[Path]:
    return sorted((results / experiment / scale).glob(f"*/{records.DATA}"))


def selected(paths: list[Path], where: Mapping[str, Any]) -> list[Path]:
    """Return the jobs whose parameters are those that are wanted.

    Raises:
        ValueError: if a parameter is unknown, or no job has the value.
    """
    known = {path: parameters(path) for path in paths}
    for name, value in where.items():
        key = _key(name, "where", known)
        there = {str(known[path].get(key)) for path in paths}
        paths = [path for path in paths if known[path].get(key) == value]
        if not paths:
            raise ValueError(
                f"where must be met by a job, got {name}={value}, not {_listed(there)}"
            )
    return paths


def parameters(data_path: Path) -> dict[str, Any]:
    """Return the configuration of a finished job, by dotted names; nothing if it has none."""
    path = data_path.with_name("config.yaml")
    if not path.exists():
        return {}
    plain = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(plain, dict)
    return dict(_flat({str(key): value for key, value in plain.items()}))


def merge(paths: list[Path], columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the rows of several jobs, each row once.

    Args:
        paths: the jobs' data.
        columns: names of columns to add, and which parameter of the job each holds.

    Raises:
        ValueError: if two jobs measured the same point, with another precision or seed, say, or a
            column is there already.
    """
    tables = [_with_columns(path, columns or {}) for path in paths]
    data = pd.concat(tables, ignore_index=True)
    job = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    new = ~data.duplicated().to_numpy()
    data, job = data.loc[new].reset_index(drop=True), job[new]
    point = [name for name in dict.fromkeys((*_POINT, *(columns or {}))) if name in data]
    seen = data[point].assign(job=job).drop_duplicates()
    twice = seen.duplicated(point).to_numpy()
    if twice.any():
        first = seen.iloc[int(twice.argmax())]
        group = seen.groupby(point, dropna=False).ngroup()
        same = seen[group == group.iloc[int(twice.argmax())]]
        raise ValueError(
            f"results must hold each point once, got several jobs for {first[point].to_dict()}: "
            f"{_advice([paths[number] for number in same['job']])}"
        )
    return data


def _with_columns(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    table = pd.read_csv(path)
    known = parameters(path) if columns else {}
    for name, key in columns.items():
        if name in table:
            raise ValueError(f"column must not be in the table already, got {name}")
        table[name] = str(value) if isinstance(value := known.get(key), list) else value
    return table


def _advice(paths: Sequence[Path]) -> str:
    """Say in which parameters jobs differ, and how to choose."""
    known = [parameters(path) for path in paths]
    names = dict.fromkeys(name for each in known for name in each)
    differing = {
        name: list(dict.fromkeys(str(each.get(name)) for each in known))
        for name in names
        if name not in _NOT_COMPARED and len({str(each.get(name)) for each in known}) > 1
    }
    if not differing:
        return f"remove one of {_listed(str(path.parent) for path in paths)}"
    name, values = next(iter(differing.items()))
    shown = "; ".join(f"{name} ({', '.join(values)})" for name, values in differing.items())
    return (
        f"they differ in {shown}; choose by --where {name}={values[0]}, or keep all by "
        f"--column {name}"
    )


def _key(name: str, option: str, known: Mapping[Path, Mapping[str, Any]]) -> str:
    """Return the parameter's name in the configurations: `task` for one means `task.name`."""
    for key in (name, f"{name}.name"):
        if any(key in each for each in known.values()):
            return key
    there = dict.fromkeys(key for each in known.values() for key in each)
    raise ValueError(f"{option} must name a parameter of the jobs ({_listed(there)}), got {name}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries, each by its dotted name."""
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _chosen(pairs: Sequence[str]) -> dict[str, Any]:
    """Return `--where` options as values of the type that they have in a configuration."""
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"where must be PARAMETER=VALUE, got {pair}")
    plain = OmegaConf.to_container(OmegaConf.from_dotlist(list(pairs)))
    assert isinstance(plain, dict)
    return dict(_flat({str(key): value for key, value in plain.items()}))


def main(arguments: Sequence[str]) -> None:
    """Do what `python -m experiments collect` does with the arguments after it."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m experiments collect",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", help="gradient_mse, fixed_budget, …")
    parser.add_argument("--scale", default="smoke")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--to", type=Path, required=True, help="the CSV to write")
    parser.add_argument(
        "--where", action="append", default=[], metavar="PARAMETER=VALUE", help="only such jobs"
    )
    parser.add_argument(
        "--column", action="append", default=[], metavar="PARAMETER", help="write it as well"
    )
    parser.add_argument(
        "--keep-stale", action="store_true",
        help="collect also jobs whose code or input files have changed since",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    with ends_in_one_line():
        try:
            _run(given)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None


def _run(arguments: argparse.Namespace) -> None:
    """Collect, and write the table.

    Raises:
        ValueError: if there is nothing to collect, or the table cannot be written.
    """
    jobs = arguments.experiment, arguments.scale, arguments.results
    require_another_file("--to", arguments.to, _data_files(*jobs))
    data = collect(
        *jobs,
        where=_chosen(arguments.where),
        columns=arguments.column,
        keep_stale=arguments.keep_stale,
    )
    try:
        write_atomically(arguments.to, to_csv(data))
    except OSError as error:
        raise ValueError(f"to must be writable, got {arguments.to} ({error})") from None
    print(f"{len(data)} rows in {arguments.to}")
