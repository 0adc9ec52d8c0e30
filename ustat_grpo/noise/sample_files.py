"""Samples in files: NumPy archives, CSV and JSON lines, which any trainer can write."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from ustat_grpo.inputs.files import write_whole
from ustat_grpo.inputs.quoting import LONGEST_VALUE, one_line, quoted, quoted_names
from ustat_grpo.noise.sample import OutputSample
from ustat_grpo.noise.sample_archive import read_archive, write_archive
from ustat_grpo.noise.sample_table import Table, sample_of, table_of
from ustat_grpo.noise.signs import SignSample

Sample = OutputSample | SignSample

_LONGEST_CELL = 2**24
"""Characters of a cell of a CSV file: an id may be a prompt itself."""


def load_sample(path: str | PathLike[str]) -> Sample:
    r"""Read a sample from a file that `save_sample` or a trainer has written.

    A CSV or JSON lines file has one row an output with the columns `prompt`, `reward`,
    `score_norm`, `gradient_norm`, `gradient_product` and perhaps `batch`, of which the last three
    repeat on every row of a prompt; or one row a block with `prompt_noise`, `oracle_noise` and
    `residual_noise`. A NumPy archive has the arrays of an `OutputSample` or a `SignSample`.

    Args:
        path: of a file that ends in .npz, .csv or .jsonl.

    Raises:
        ValueError: if the file holds no sample: with its name, the line, the column, what is
            required and what is there.
        OSError: if the file cannot be read.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from ustat_grpo import load_sample
        >>> blocks = "prompt_noise,oracle_noise,residual_noise\n" + "1,2,9\n" * 4
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "sample.csv"
        ...     _ = file.write_text(blocks)
        ...     load_sample(file).components.mean(axis=0).tolist()
        [1.0, 2.0, 9.0]
    """
    source = Path(path)
    read, name = _format_of(source).read, one_line(source)
    try:
        return read(source)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: must be UTF-8 text, got {error.reason}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def save_sample(sample: Sample, path: str | PathLike[str]) -> None:
    """Write a sample to a file, whole or not at all; doubles survive to the last bit.

    Args:
        sample: of outputs or of blocks.
        path: of a file that ends in .npz, .csv or .jsonl.

    Raises:
        ValueError: if the suffix is none of these.
        OSError: if the file cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from ustat_grpo import OutputSample, load_sample, save_sample
        >>> scores = [[[2], [0], [0]], [[0], [1], [-1]]]
        >>> sample = OutputSample.from_scores(scores, rewards=[[1, 0, 0], [1, 0, 0]])
        >>> with TemporaryDirectory() as folder:
        ...     save_sample(sample, Path(folder) / "sample.csv")
        ...     load_sample(Path(folder) / "sample.csv").rewards.tolist()
        [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    """
    target = Path(path)
    write = _format_of(target).write
    write_whole(target, lambda partial: write(sample, partial))


class _Format(NamedTuple):
    read: Callable[[Path], Sample]
    write: Callable[[Sample, Path], None]


def _format_of(path: Path) -> _Format:
    if path.suffix not in _FORMATS:
        raise ValueError(
            f"{one_line(path)}: name must end in {', '.join(_FORMATS)}, got {quoted(path.suffix)}"
        )
    return _FORMATS[path.suffix]


def _read_csv(path: Path) -> Sample:
    lines: list[int] = []
    with path.open(encoding="utf-8-sig", newline="") as file, _long_cells():
        reader = csv.reader(file, strict=True)
        try:
            columns = _empty_columns(next(reader, []))
            for row in filter(None, reader):
                if len(row) != len(columns):
                    raise ValueError(
                        f"line {reader.line_num}: must have {len(columns)} cells, got {len(row)}"
                    )
                lines.append(reader.line_num)
                for column, cell in zip(columns.values(), row, strict=True):
                    column.append(cell)
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: must be CSV ({error})") from error
    return _sample_of_rows(columns, lines)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let CSV's reader take cells as long as a prompt; its own limit is 131,072 characters."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _empty_columns(header: Sequence[str]) -> dict[str, list[Any]]:
    names = [name.strip() for name in header]
    if len(set(names)) < len(names):
        raise ValueError(f"columns must have different names, got {quoted_names(names)}")
    return {name: [] for name in names}


def _write_csv(sample: Sample, path: Path) -> None:
    columns = table_of(sample)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _read_json_lines(path: Path) -> Sample:
    columns: dict[str, list[Any]] = {}
    lines: list[int] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            row = _json_object(line, number)
            columns = columns or {name: [] for name in row}
            if row.keys() != columns.keys():
                raise ValueError(
                    f"line {number}: must have the keys of the first row, {quoted_names(columns)}, "
                    f"got {quoted_names(row)}"
                )
            lines.append(number)
            for name, column in columns.items():
                column.append(row[name])
    return _sample_of_rows(columns, lines)


def _json_object(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_with_different_keys)
    except (ValueError, RecursionError) as error:
        reason = one_line(error, longest=LONGEST_VALUE)
        raise ValueError(f"line {number}: must be a JSON object ({reason})") from error
    if not isinstance(row, dict) or not row:
        raise ValueError(
            f"line {number}: must be a JSON object with keys, got {quoted(line.strip())}"
        )
    return row


def _with_different_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; of keys that are there twice, JSON's reader would keep the last."""
    if len(row := dict(pairs)) < len(pairs):
        raise ValueError(f"keys must differ, got {quoted_names(key for key, _ in pairs)}")
    return row


def _write_json_lines(sample: Sample, path: Path) -> None:
    columns = table_of(sample)
    with path.open("w", encoding="utf-8") as file:
        for row in zip(*columns.values(), strict=True):
            file.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n")


def _sample_of_rows(columns: dict[str, list[Any]], lines: list[int]) -> Sample:
    if not lines:
        raise ValueError("must hold at least one row, got none")
    return sample_of(Table(columns, lines))


_FORMATS = {
    ".npz": _Format(read_archive, write_archive),
    ".csv": _Format(_read_csv, _write_csv),
    ".jsonl": _Format(_read_json_lines, _write_json_lines),
}

SUFFIXES = tuple(_FORMATS)
"""How the name of a file may end."""
