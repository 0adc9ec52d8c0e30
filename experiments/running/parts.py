"""Tables of single runs, kept while a long job is under way; a killed job goes on from them.

Each carries in its first line a digest of itself and of the code and input files that made it. One
that is damaged is computed anew; those of other code or inputs never enter a table.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Protocol, TypeVar

import pandas as pd
from rich.progress import track

from experiments.running.records import RERUN, Configuration, Origin, digest_of
from experiments.running.runner import to_csv, write_atomically

T = TypeVar("T", bound=Hashable)

_FIRST_LINE = re.compile(r"# table ([0-9a-f]{16}) of ([0-9a-f]{16})\n")


class Job(Configuration, Protocol):
    """A configuration that says what to do with tables of other code or inputs."""

    stale: str


class Parts:
    """The kept tables of one job."""

    def __init__(self, module: str, config: Job) -> None:
        """Look at what computes them now.

        Args:
            module: what computes them, with all that it imports.
            config: its checked configuration.
        """
        self._origin = Origin.of(module, config)
        self._digest = self._origin.digest
        self._stale = config.stale

    def missing(self, paths: Sequence[Path]) -> list[Path]:
        """Return the paths of the tables that are not there, and say why if they seemed to be.

        Raises:
            ValueError: if tables are of other code or inputs, and it is not said that they be
                computed again.
        """
        left, stale = [], []
        for path in paths:
            if not path.exists():
                left.append(path)
                continue
            table, origin = _opened(path)
            if table is None:
                print(f"{path} is damaged or of an older version, computed anew")
                left.append(path)
            elif origin != self._digest:
                stale.append(path)
        if stale and self._stale != RERUN:
            raise ValueError(
                f"runs that are kept must be of today's code and input files, got {len(stale)} "
                f"others, such as {stale[0]}: --stale computes them again"
            )
        wanted = {*left, *stale}
        return [path for path in paths if path in wanted]

    def write(self, path: Path, table: pd.DataFrame) -> None:
        """Keep the table of a run.

        Raises:
            ValueError: if an input file is another one than when the job began.
        """
        self._origin.require_unchanged()
        text = to_csv(table)
        write_atomically(path, f"# table {digest_of(text.encode())} of {self._digest}\n{text}")

    def read(self, path: Path) -> pd.DataFrame:
        """Return the table of a run.

        Raises:
            ValueError: if it was damaged since it was kept, or is of other code or inputs.
        """
        table, origin = _opened(path)
        if table is None or origin != self._digest:
            raise ValueError(f"{path} must be as it was kept, got another: run the job again")
        return pd.read_csv(StringIO(table))


class KeptRuns:
    """Single runs of a long job, of which those are computed that are not there yet."""

    def __init__(self, parts: Parts, folder: Path) -> None:
        """Keep the tables of a job in a folder."""
        self._parts, self._folder = parts, folder

    def tables(
        self,
        names: Mapping[str, T],
        compute: Callable[[Sequence[T]], Iterable[tuple[T, pd.DataFrame]]],
        title: str,
    ) -> dict[str, pd.DataFrame]:
        """Return the table of every run as it is kept, in the order of their names.

        Args:
            names: what identifies a run, by the name of its table.
            compute: yields some runs with their tables, each as soon as it is there.
            title: of the bar that shows how far it is.
        """
        paths = {run: self._folder / f"{name}.csv" for name, run in names.items()}
        absent = set(self._parts.missing(list(paths.values())))
        missing = [run for run, path in paths.items() if path in absent]
        computed = compute(missing) if missing else ()
        for run, table in track(computed, title, total=len(missing)):
            self._parts.write(paths[run], table)
        return {name: self._parts.read(paths[run]) for name, run in names.items()}


def _opened(path: Path) -> tuple[str | None, str]:
    """Return the text of a table, None if it is damaged, and the digest of what made it."""
    if path.is_dir():
        raise ValueError(f"{path} must be a file, got a folder: remove it")
    text = path.read_bytes().decode(errors="replace")
    first = _FIRST_LINE.match(text)
    if first is None:
        return None, ""
    table = text[first.end() :]
    whole, origin = first.groups()
    return (table if digest_of(table.encode()) == whole else None), origin
