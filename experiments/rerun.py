"""Replace the committed references: `python -m experiments.rerun` runs the paper scale.

With names, as in `python -m experiments.rerun noise_coverage commands`, only what they name is
replaced; `commands` are the two of the README, timed as a user would run them. What asks for a
model that must be fetched is run by name alone.

Jobs that are finished under results/ are not run again, so a killed run is resumed by the same
command; those of other code stop it, unless `--stale` runs them again or `--keep-stale` takes them
as they are.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from experiments.jobs import EXPERIMENTS, run_all
from experiments.running.commands import add_stale_options, ends_in_one_line
from experiments.running.records import REFUSE
from experiments.running.runner import write_atomically

REFERENCE = Path(__file__).parent / "reference"
COMMANDS = "commands"
BY_NAME = ("pretrained_errors",)
"""What is run only if it is named: it asks for a model that must be fetched, and takes hours."""

_COMMON = ("python", "versions", "cores")


def main(stale: str = REFUSE, names: Collection[str] = ()) -> None:
    """Run experiments at paper scale and write their CSVs, minutes and provenance.

    Args:
        stale: what to do with finished jobs of other code or input files.
        names: what to replace, experiments or `commands`; if there are none, everything but what
            is run `BY_NAME`.

    Raises:
        ValueError: if a name is none of these.
    """
    known, partial = (*EXPERIMENTS, COMMANDS), bool(names)
    for name in names:
        if name not in known:
            raise ValueError(f"NAME must be one of {', '.join(known)}; got {name!r}")
    names = names or [name for name in known if name not in BY_NAME]
    done = run_all("paper", "results", REFERENCE, stale, names)
    records = {name: [_provenance(path) for path in paths] for name, paths in done.items()}
    path = REFERENCE / "provenance.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    commits = {name: _commit(name, several) for name, several in records.items()}
    record["commits"] = record.get("commits", {}) | commits
    if not partial:
        record |= {key: records["gradient_mse"][0][key] for key in _COMMON}
    seconds = {name: sum(r["seconds"] for r in several) for name, several in records.items()}
    seconds |= _commands() if COMMANDS in names else {}
    record["seconds"] = record.get("seconds", {}) | seconds
    write_atomically(path, json.dumps(record, indent=2) + "\n")
    print(f"references written to {REFERENCE}; now run `make figures ledger`")


def _commit(experiment: str, records: list[dict[str, Any]]) -> str:
    """Return the commit that an experiment's jobs are of; another experiment's may be another."""
    commits = sorted({record["commit"] for record in records})
    if len(commits) > 1 or any(record["dirty"] for record in records):
        sys.exit(
            f"error: jobs of {experiment} must be of one clean commit, got {commits} "
            f"(changed files: {any(record['dirty'] for record in records)}); remove "
            f"results/{experiment} to run it anew"
        )
    return commits[0]


def _provenance(data_path: Path) -> dict[str, Any]:
    return json.loads(data_path.with_name("provenance.json").read_text())


def _commands() -> dict[str, float]:
    """Time `make run` and `make test` without their installation step.

    The tests may fail here, where the ledger is not yet that of the new references.
    """
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        tests = ["pytest", "-n", "auto", "--dist", "loadfile"]
        for name, module in {"run": ["experiments", "--folder", folder], "test": tests}.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", *module], check=name == "run")
            seconds[name] = round(time.perf_counter() - started, 1)
    return seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m experiments.rerun")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"what to replace (by default all but {BY_NAME[0]})",
    )
    add_stale_options(parser)
    with ends_in_one_line():
        try:
            arguments = parser.parse_args()
            main(arguments.stale, arguments.names)
        except ValueError as error:
            sys.exit(f"error: {error}")
