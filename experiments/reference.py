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

from experiments.jobs import run_all
from experiments.runner import provenance, write_atomically

REFERENCE = Path(__file__).parent / "reference"


def main() -> None:
    """Run all experiments at paper scale and write their CSVs, minutes and provenance."""
    done = run_all("paper", "results", REFERENCE)
    seconds = {
        name: sum(_seconds(path) for path in paths) for name, paths in done.items()
    } | _commands()
    record = provenance(sum(seconds.values())) | {"seconds": seconds}
    write_atomically(REFERENCE / "provenance.json", json.dumps(record, indent=2) + "\n")
    print(f"references written to {REFERENCE}; now run `make figures ledger`")


def _seconds(data_path: Path) -> float:
    return json.loads(data_path.with_name("provenance.json").read_text())["seconds"]


def _commands() -> dict[str, float]:
    """Time `make run` and `make test` without their installation step."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, module in {"run": ["experiments", folder], "test": ["pytest"]}.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", *module], check=True)
            seconds[name] = round(time.perf_counter() - started, 1)
    return seconds


if __name__ == "__main__":
    main()
