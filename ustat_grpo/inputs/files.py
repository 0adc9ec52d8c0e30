"""Files that are there whole or not at all, and that replace nothing but a file of their own."""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place, whatever kills the process.

    A symbolic link stays, and what it points at is replaced. A file that is replaced keeps its
    mode and owner; a new one has the mode that the umask gives.

    Args:
        path: of the file; its folder is made.
        write: is called with the path of the file to fill.

    Raises:
        OSError: if the file cannot be written, is write-protected, or is no regular file: a folder,
            a device or a pipe is never replaced.
    """
    target = Path(os.path.realpath(path))
    old = _status(target, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{secrets.token_hex(8)}.partial")  # no other process' or host's
    try:
        mode = _create(partial, old)
        write(partial)
        partial.chmod(mode)  # a writer may have made a file of its own
        os.replace(partial, target)
    except OSError as error:
        if error.filename in (None, str(partial)):  # a name that nobody else knows
            raise type(error)(error.errno, error.strerror or str(error), str(path)) from None
        raise
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def require_another_file(name: str, path: Path, others: Iterable[Path]) -> None:
    """Raise if a file to be written is one that is read, by whatever name.

    Args:
        name: of the option that names the file to be written.
        path: of the file to be written.
        others: the files that are read, or written beside it.

    Raises:
        ValueError: if `path` is one of the others.
    """
    for other in others:
        if _is_same(path, other):
            raise ValueError(f"{name} must be another file than {other}, got {path}")


def _is_same(path: Path, other: Path) -> bool:
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    try:
        return path.samefile(other)  # a hard link, or a name that differs in case only
    except OSError:
        return False


def _status(target: Path, path: Path) -> os.stat_result | None:
    """Return what is known of the file to be replaced, None if there is none."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
        raise OSError(errno.EINVAL, f"must be a regular file, got {kind}", str(path))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return status


def _create(partial: Path, old: os.stat_result | None) -> int:
    """Make an empty file that nobody may read who may not read the old one; return its last mode.

    The owner is kept where this process may give files away.
    """
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if not old else 0o600)
    try:
        made = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if old is None:
        return stat.S_IMODE(made.st_mode)
    if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
        with suppress(OSError):
            os.chown(partial, old.st_uid, old.st_gid)
    return stat.S_IMODE(old.st_mode)
