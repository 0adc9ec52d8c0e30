"""Write several documents so that all of them are there, or none."""

import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path

GENERATED = (".md", ".csv")


def write_all(folder: Path, texts: Mapping[str, str]) -> None:
    """Write all texts, and put them in their places only once every one is written.

    Args:
        folder: where they go.
        texts: by path from the folder.

    Raises:
        OSError: if one cannot be written; then all documents are as they were.
    """
    with ExitStack() as cleaning:
        partials = {}
        for name, text in texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
            cleaning.callback(partial.unlink, missing_ok=True)
            partial.write_text(text, encoding="utf-8", newline="\n")
            partials[partial] = path
        for partial, path in partials.items():
            os.replace(partial, path)


def remove_stale(folder: Path, names: Collection[str]) -> None:
    """Remove documents of a generated folder that are not among those just written."""
    for path in folder.iterdir():
        if path.suffix in GENERATED and path.name not in names:
            path.unlink()
