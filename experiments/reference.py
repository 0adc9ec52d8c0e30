"""Replace the committed references: `python -m experiments.reference` runs the paper scale.

Jobs that are finished under results/ are not run again, so a killed run is resumed by the same
command. Afterwards the two commands of the README are timed, as a user would run them.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.jobs import run_all
from experiments.runner import write_atomically

REFERENCE = Path(__file__).parent / "reference"


def main() -> None:
    """Run all experiments at paper scale and write their CSVs, minutes and provenance."""
    done = run_all("paper", "results", REFERENCE)
    records = {name: [_provenance(path) for path in paths] for name, paths in done.items()}
    every = [record for several in records.values() for record in several]
    commits = sorted({record["commit"] for record in every})
    if len(commits) > 1:
        sys.exit(f"error: jobs must be of one commit, got {commits}; remove results/ to run anew")
    seconds = {name: sum(r["seconds"] for r in several) for name, several in records.items()}
    record = every[0] | {"seconds": seconds | _commands()}
    write_atomically(REFERENCE / "provenance.json", json.dumps(record, indent=2) + "\n")
    print(f"references written to {REFERENCE}; now run `make figures ledger`")


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
    main()
