"""What all apps share: checks before work, results that are written whole or not at all.

A job's folder is named by its own configuration. Its data appear there in one atomic step, beside
the composed configuration and the provenance; a job whose data are there, whole and of today's code
and input files, is skipped. So the command that started a sweep also resumes it.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from experiments import records
from experiments.commands import described, refused
from experiments.records import Origin
from ustat_grpo.checks import integer
from ustat_grpo.files import write_whole

_VERSIONS = ("ustat_grpo", "numpy", "numba", "scipy", "pandas", "hydra-core")
_DOES_NOT_CHANGE_DATA = ("output", "threads", "processes", "stale")
_COMPUTING = (":/", ":/!experiments/reference", ":/!figures/drawn")
"""Files that decide numbers, as git names them: those made of other jobs' numbers do not."""
_ADDED = ("env_id",)
"""Options that jobs may be older than: left out where they are null, so that these keep names."""


def execute(
    config: DictConfig,
    experiment: str,
    run: Callable[[Any], pd.DataFrame],
    describe: Callable[[Any], str],
    prepare: Callable[[Any], object] = lambda checked: checked.task.snapshots,
) -> Path:
    """Run one job unless its data exist, and return the path of its CSV.

    Args:
        config: the composed configuration.
        experiment: name of the app; first folder below `config.output`.
        run: computes the data from the checked configuration object.
        describe: the readable part of the folder's name, from the same object.
        prepare: builds what may turn out impossible, so that it leaves no folder behind.

    Raises:
        ValueError: if the configuration is out of range, the output folder is not writable, or the
            job was finished by other code or with other input files and it is not said what to do.
        OSError: if data can be neither read nor written.
    """
    checked: Any = OmegaConf.to_object(config)
    records.require_choice(checked.stale)
    folder = job_folder(config, experiment, describe)
    data_path = folder / records.DATA
    if _is_finished(folder, experiment, checked.stale):
        return data_path
    prepare(checked)
    with _own_folders(folder):
        _require_writable(folder)
        origin = Origin.of(experiment, checked)
        started = time.perf_counter()
        data = to_csv(run(checked))
        seconds = time.perf_counter() - started
        origin.require_unchanged()
        record = provenance(seconds) | records.record_of(origin, data, checked)
        write_atomically(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        write_atomically(folder / records.RECORD, json.dumps(record, indent=2) + "\n")
        write_atomically(data_path, data)
    print(f"{experiment}: {data_path} written after {seconds:.1f} s")
    return data_path


def _is_finished(folder: Path, experiment: str, stale: str) -> bool:
    """Say whether a job's data are there to be taken, in a line where they are there at all.

    Raises:
        ValueError: if they are stale and it is not said what to do.
    """
    path, (state, reason) = folder / records.DATA, records.examine(folder)
    if state == records.STALE and stale == records.REFUSE:
        raise ValueError(
            f"{path} must be of today's code and input files, but {reason}: --stale runs the job "
            "again, --keep-stale takes it as it is"
        )
    if state == records.WHOLE:
        print(f"{experiment}: {path} exists, skipped")
    elif state == records.STALE and stale == records.KEEP:
        print(f"{experiment}: {path} exists, skipped; it {reason}")
    elif state != records.MISSING:
        print(f"{experiment}: {path} {reason}, computed anew")
        return False
    return state != records.MISSING


@contextmanager
def _own_folders(folder: Path) -> Iterator[None]:
    """Make a folder, and if the work in it fails remove what was made as far as it is empty.

    Folders that were there before are the user's; what is in the folder by then are finished runs.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        for each in made:
            with suppress(OSError):  # that it is not empty, or was never made
                each.rmdir()
        raise


def job_folder(config: DictConfig, experiment: str, describe: Callable[[Any], str]) -> Path:
    """Return the folder of one job's results; see `execute`."""
    job = f"{describe(OmegaConf.to_object(config))}_{_digest(config)}"
    return Path(config.output) / experiment / config.scale.name / job


def main_job(experiment: Callable[[DictConfig], Path], config: DictConfig) -> None:
    """Run a Hydra job; a mistake of the user becomes one line on stderr and exit code 2.

    So does a run that diverged: its learning rate was too large. What the disk refuses is one line,
    too, and exit code 1. In a sweep the line is left to Hydra, so that the other jobs still run.
    """
    try:
        experiment(config)
    except (ValueError, FloatingPointError, MissingMandatoryValue) as error:
        missing = isinstance(error, MissingMandatoryValue)
        what = f"{error.full_key} must be given" if missing else str(error)
        if _is_in_a_sweep():
            raise CompactHydraException(f"error: {what}") from None
        print(f"error: {what}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if _is_in_a_sweep():
            raise CompactHydraException(f"error: {described(error)}") from None
        raise refused(error) from None


def _is_in_a_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def require_seed_and_threads(seed: int, threads: int | None) -> None:
    """Check two parameters that all apps share."""
    integer("seed", seed, at_least=0)
    if threads is not None:
        integer("threads", threads)


def to_csv(data: pd.DataFrame) -> str:
    """Return a table as CSV, with ten digits: far beyond any standard error."""
    return data.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, whatever kills the process."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def provenance(seconds: float) -> dict[str, Any]:
    """Return what a number's reader may ask: which code, which versions, how long."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no", "--", *_COMPUTING)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _VERSIONS},
        "seconds": round(seconds, 1),
        "cores": os.cpu_count(),
    }


def _digest(config: DictConfig) -> str:
    """Hash what determines the data, so that every configuration has a folder of its own."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    relevant = {
        key: value
        for key, value in plain.items()
        if key not in _DOES_NOT_CHANGE_DATA and not (key in _ADDED and value is None)
    }
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:10]


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:  # of this process alone
            probe.write(b"room for a byte")
    except OSError as error:
        raise ValueError(f"output must be a writable folder, got {folder} ({error})") from None


def _git(*arguments: str) -> str:
    """Return what git says, or nothing outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
