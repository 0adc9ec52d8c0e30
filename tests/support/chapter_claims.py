"""The claims of the theory chapters, worked out once for all tests and all of their processes."""

from __future__ import annotations

import pickle
from pathlib import Path

from filelock import FileLock

import theory
from theory.claims import Claim


def claims_of(folder: Path, name: str) -> list[Claim]:
    """Return the claims of a chapter from a folder that the processes share, or put them there."""
    path = folder / f"{name}.claims"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            (chapter,) = theory.chapters(name)
            path.write_bytes(pickle.dumps(list(chapter.claims())))
    return pickle.loads(path.read_bytes())
