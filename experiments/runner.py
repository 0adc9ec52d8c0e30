"""What all apps share: checks before work, results that are written whole or not at all.

A job's folder is named by its own configuration. Its data appear there in one atomic step, beside
the composed configuration and the provenance; a job whose data are there is skipped. So the
command that started a sweep also resumes it.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from ustat_grpo.checks import integer
from ustat_grpo.files import write_whole

_VERSIONS = ("ustat_grpo", "numpy", "numba", "scipy", "pandas", "hydra-core")
_DOES_NOT_CHANGE_DATA = ("output", "threads", "processes")
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
        ValueError: if the configuration is out of range or the output folder is not writable.
    """
    checked: Any = OmegaConf.to_object(config)
    folder = job_folder(config, experiment, describe)
    data_path = folder / "data.csv"
    if data_path.exists():
        print(f"{experiment}: {data_path} exists, skipped")
        return data_path
    prepare(checked)
    _require_writable(folder)
    started = time.perf_counter()
    try:
        data = run(checked)
    except (ValueError, FloatingPointError):
        with suppress(OSError):  # that it is not empty: finished runs are kept
            os.removedirs(folder)
        raise
    seconds = time.perf_counter() - started
    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    write_atomically(folder / "provenance.json", json.dumps(provenance(seconds), indent=2) + "\n")
    write_atomically(data_path, to_csv(data))
    print(f"{experiment}: {data_path} written after {seconds:.1f} s")
    return data_path


def job_folder(config: DictConfig, experiment: str, describe: Callable[[Any], str]) -> Path:
    """Return the folder of one job's results; see `execute`."""
    job = f"{describe(OmegaConf.to_object(config))}_{_digest(config)}"
    return Path(config.output) / experiment / config.scale.name / job


def main_job(experiment: Callable[[DictConfig], Path], config: DictConfig) -> None:
    """Run a Hydra job; a mistake of the user becomes one line on stderr and exit code 2.

    So does a run that diverged: its learning rate was too large. In a sweep the error is left to
    Hydra, so that the other jobs still run.
    """
    try:
        experiment(config)
    except (ValueError, FloatingPointError, MissingMandatoryValue) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        missing = isinstance(error, MissingMandatoryValue)
        what = f"{error.full_key} must be given" if missing else error
        print(f"error: {what}", file=sys.stderr)
        raise SystemExit(2) from None


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
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
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
        probe = folder / ".probe.partial"
        probe.write_text("")
        probe.unlink()
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
