"""What every job needs: folders of its own, a name, its provenance, files that are whole or not."""

import hashlib
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from ustat_grpo.inputs.files import write_whole

_VERSIONS = ("ustat_grpo", "numpy", "numba", "scipy", "pandas", "hydra-core")
_DOES_NOT_CHANGE_DATA = ("output", "threads", "processes", "stale")
_COMPUTING = (":/", ":/!experiments/reference", ":/!figures/drawn")
"""Files that decide numbers, as git names them: those made of other jobs' numbers do not."""
_ADDED = ("env_id", "dataset", "dataset_config")
"""Options that jobs may be older than: left out where they are empty, so that these keep names."""


@contextmanager
def own_folders(folder: Path) -> Iterator[None]:
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


def digest(config: DictConfig) -> str:
    """Hash what determines the data, so that every configuration has a folder of its own."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    relevant = {
        key: value
        for key, value in plain.items()
        if key not in _DOES_NOT_CHANGE_DATA and not (key in _ADDED and not value)
    }
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:10]


def require_writable(folder: Path) -> None:
    """Make a folder and try to write there, or raise."""
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
