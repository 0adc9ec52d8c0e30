"""Samples as NumPy archives, of which the headers are read before any array is."""

import lzma
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ustat_grpo.inputs.quoting import LONGEST_VALUE, one_line, quoted
from ustat_grpo.noise.sample import OutputSample
from ustat_grpo.noise.sample_table import require_names
from ustat_grpo.noise.signs import SignSample

LARGEST_ARRAYS = 2**30
"""The most bytes of all arrays together: twenty million outputs."""

_ARRAYS = ("rewards", "score_norms", "prompts", "gradient_norms", "gradient_products")
_BATCHES = "batches"
_COMPONENTS = "components"
_SUFFIX = ".npy"
_DAMAGE = (
    ValueError, TypeError, KeyError, ArithmeticError, OSError, EOFError, RuntimeError, MemoryError,
    BadZipFile, SyntaxError, TokenError, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip


def read_archive(path: Path) -> OutputSample | SignSample:
    """Return the sample of an archive with the arrays of one by their names.

    Raises:
        ValueError: if the archive is damaged, or holds something else or over 1 GiB.
        OSError: if the file cannot be opened.
    """
    with path.open("rb") as file:  # a file that is not there is no damaged archive
        if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            raise ValueError("must be a NumPy archive, got a single array")
        with _naming_damage():
            archive = ZipFile(file)
        names = [name.removesuffix(_SUFFIX) for name in archive.namelist()]
        if _COMPONENTS in names:
            require_names("arrays", names, [_COMPONENTS])
            return SignSample(_arrays(archive)[_COMPONENTS])
        require_names("arrays", names, _ARRAYS, [_BATCHES])
        arrays = _arrays(archive)
    return OutputSample(*(arrays[name] for name in _ARRAYS), batches=arrays.get(_BATCHES))


def write_archive(sample: OutputSample | SignSample, path: Path) -> None:
    """Write the arrays of a sample.

    Raises:
        ValueError: if ids are so long that an array of them would be too large to be read again.
        OSError: if the file cannot be written.
    """
    arrays: dict[str, Any]
    if isinstance(sample, SignSample):
        arrays = {_COMPONENTS: sample.components}
    else:
        arrays = {name: getattr(sample, name) for name in _ARRAYS}
        arrays["prompts"] = _without_objects("prompts", sample.prompts)
        if sample.batches is not None:
            arrays[_BATCHES] = _without_objects(_BATCHES, sample.batches)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _arrays(archive: ZipFile) -> dict[str, NDArray[Any]]:
    """Return the arrays, if what their headers claim is not too much."""
    _require_small(sum(each.file_size for each in archive.infolist()))
    with _naming_damage():
        claims = {name: _claimed_bytes(archive, name) for name in archive.namelist()}
    _require_small(sum(claims.values()))
    with _naming_damage():
        return {name.removesuffix(_SUFFIX): _array(archive, name) for name in claims}


def _require_small(total: int) -> None:
    if total > LARGEST_ARRAYS:
        raise ValueError(f"arrays must take at most {LARGEST_ARRAYS} bytes, got {quoted(total)}")


def _claimed_bytes(archive: ZipFile, name: str) -> int:
    """Return how many bytes an array takes by its header."""
    with archive.open(name) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, kind = read(file)
    return prod(map(int, shape)) * kind.itemsize


def _array(archive: ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as file:
        return npy.read_array(file, allow_pickle=False)


@contextmanager
def _naming_damage() -> Iterator[None]:
    """Say of every error that a damaged file can end in what the file should be."""
    try:
        yield
    except _DAMAGE as error:
        reason = one_line(error, longest=LONGEST_VALUE) or type(error).__name__
        raise ValueError(f"must be a whole NumPy archive of plain arrays ({reason})") from error


def _without_objects(name: str, ids: NDArray[Any]) -> NDArray[Any]:
    """Return texts in the type that archives have for them: all as long as the longest."""
    if ids.dtype.kind != "O":
        return ids
    longest = max(map(len, ids))
    if (total := 4 * longest * len(ids)) > LARGEST_ARRAYS:
        raise ValueError(
            f"{name} of an archive must take at most {LARGEST_ARRAYS} bytes, got {total} with "
            f"one of {longest} characters: shorten it, or write .csv or .jsonl"
        )
    return ids.astype(str)
