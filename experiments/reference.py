"""Replace the committed references: `python -m experiments.reference` runs the paper scale.

Jobs that are finished under results/ are not run again, so a killed run is resumed by the same
command; those of other code stop it, unless `--stale` runs them again or `--keep-stale` takes them
as they are. Afterwards the two commands of the README are timed, as a user would run them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.commands import add_stale_options, ends_in_one_line
from experiments.jobs import run_all
from experiments.records import REFUSE
from experiments.runner import write_atomically

REFERENCE = Path(__file__).parent / "reference"
_COMMON = ("python", "versions", "cores")


def main(stale: str = REFUSE) -> None:
    """Run all experiments at paper scale and write their CSVs, minutes and provenance."""
    done = run_all("paper", "results", REFERENCE, stale)
    records = {name: [_provenance(path) for path in paths] for name, paths in done.items()}
    record: dict[str, Any] = {
        "commits": {name: _commit(name, several) for name, several in records.items()}
    }
    record |= {key: value for key, value in records["gradient_mse"][0].items() if key in _COMMON}
    seconds = {name: sum(r["seconds"] for r in several) for name, several in records.items()}
    record["seconds"] = seconds | _commands()
    write_atomically(REFERENCE / "provenance.json", json.dumps(record, indent=2) + "\n")
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
        for name, module in {"run": ["experiments", folder], "test": tests}.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", *module], check=name == "run")
            seconds[name] = round(time.perf_counter() - started, 1)
    return seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m experiments.reference")
    add_stale_options(parser)
    with ends_in_one_line():
        try:
            main(parser.parse_args().stale)
        except ValueError as error:
            sys.exit(f"error: {error}")
