"""What a finished job is made of, by content: its data, its input files, the code that computed it.

The record lies beside the data, in the file of the provenance. Data that are not what the job wrote
are damaged, and computed anew. Data made by other code or of other inputs are stale: nobody takes
them for today's numbers unless told to.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import pandas as pd

from experiments.running.sources import code_now, code_of

DATA, RECORD = "data.csv", "provenance.json"

REFUSE, RERUN, KEEP = "refuse", "rerun", "keep"
_CHOICES = (REFUSE, RERUN, KEEP)

MISSING, WHOLE, DAMAGED, STALE = "missing", "whole", "damaged", "stale"

_SHOWN = 3
"""Names in a message; a longer list is cut."""


class Configuration(Protocol):
    """A checked configuration, or a part of one: a dataclass.

    It may name paths by content: `inputs` that its numbers depend on, `outputs` that it writes.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]


class JobState(NamedTuple):
    """Whether a job is finished, and what speaks against it."""

    state: str
    reason: str = ""


@dataclass(frozen=True)
class Origin:
    """What numbers are computed from, when the work begins.

    Args:
        code: digests of the source files, by file.
        inputs: digests of the files and folders that the configuration names, by path.
    """

    code: Mapping[str, str]
    inputs: Mapping[str, str]

    @classmethod
    def of(cls, module: str, config: Configuration) -> "Origin":
        """Look at the files.

        Args:
            module: what computes the numbers, with all that it imports.
            config: its checked configuration.
        """
        return cls(code_of(module), _digests(_paths(config, "inputs")))

    @property
    def digest(self) -> str:
        """All of it as one digest."""
        return digest_of(json.dumps([dict(self.code), dict(self.inputs)], sort_keys=True).encode())

    def require_unchanged(self) -> None:
        """Raise if an input file is another one by now."""
        changed = _changed(self.inputs)
        if changed:
            raise ValueError(
                f"input files must not change while a job runs, got another {_shown(changed)}"
            )


def digest_of(content: bytes) -> str:
    """Return the beginning of a SHA-256, beyond any accident."""
    return hashlib.sha256(content).hexdigest()[:16]


def record_of(origin: Origin, data: str, config: Configuration) -> dict[str, Any]:
    """Return what tells a finished job from a damaged or a stale one."""
    return {
        "data": digest_of(data.encode()),
        "inputs": dict(origin.inputs),
        "outputs": _digests(_paths(config, "outputs")),
        "code": dict(origin.code),
    }


def examine(folder: Path) -> JobState:
    """Say whether a folder holds a finished job.

    An input file that is gone cannot be compared: the numbers are those of the one that was there.

    Raises:
        ValueError: if a folder stands where the data belong.
        OSError: if the data cannot be read.
    """
    path = folder / DATA
    if not path.exists():
        return JobState(MISSING)
    if path.is_dir():
        raise ValueError(f"{path} must be a file, got a folder: remove it")
    content, record = path.read_bytes(), _record(folder)
    if record is None:
        if not _is_table(path):
            return JobState(DAMAGED, "is no table")
        return JobState(STALE, "has no record of what it was made of")
    if digest_of(content) != record["data"]:
        return JobState(DAMAGED, "is not what its job wrote")
    changed = [file for file, digest in record["code"].items() if code_now(file) != digest]
    changed += _changed(record["inputs"])
    changed += _changed(record["outputs"], gone=True)
    if changed:
        return JobState(STALE, f"was made before a change of {_shown(changed)}")
    return JobState(WHOLE)


def require_choice(choice: str) -> None:
    """Raise unless it is known what to do with stale jobs."""
    if choice not in _CHOICES:
        raise ValueError(f"stale must be one of {', '.join(_CHOICES)}, got {choice!r}")


def _record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a job, None if there is none or not a whole one."""
    try:
        found = json.loads((folder / RECORD).read_bytes())
        parts = {name: dict(found[name]) for name in ("inputs", "outputs", "code")}
        return {"data": str(found["data"]), **parts}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_table(path: Path) -> bool:
    try:
        return not pd.read_csv(path).empty
    except ValueError:  # no columns, cells beyond them, no text
        return False


def _paths(config: Configuration, kind: str) -> list[Path]:
    """Return the paths that a configuration and its parts name as inputs, or as outputs."""
    found: list[Path] = [*getattr(config, kind, ())]
    for field in fields(config):
        part = getattr(config, field.name)
        if is_dataclass(part) and not isinstance(part, type):
            found += _paths(part, kind)
    return found


def _digests(paths: Iterable[Path]) -> dict[str, str]:
    return {str(path): _digest_at(path) for path in paths}


def _changed(digests: Mapping[str, str], *, gone: bool = False) -> list[str]:
    """Return the paths where something else lies by now, or if asked nothing."""
    return [
        path
        for path, digest in digests.items()
        if (gone or Path(path).exists()) and _digest_at(Path(path)) != digest
    ]


def _digest_at(path: Path) -> str:
    """Return the digest of a file, or of all files in a folder; empty if there is nothing.

    Raises:
        OSError: if it cannot be read.
    """
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file() and _counts(each, path))
        names = [[each.relative_to(path).as_posix(), _digest_at(each)] for each in files]
        return digest_of(json.dumps(names).encode())
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _counts(file: Path, folder: Path) -> bool:
    """Whether a file of a folder matters: caches and a trainer's own checkpoints do not."""
    inside = file.relative_to(folder).parts
    return not any(part.startswith((".", "__pycache__", "checkpoint-")) for part in inside)


def _shown(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
