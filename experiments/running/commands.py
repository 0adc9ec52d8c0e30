"""How our commands begin and end: what to do with stale jobs, and one line where the disk refuses.

Experiments are Hydra's, which knows overrides but no options: `--stale` is `stale=rerun` there, and
`--keep-stale` is `stale=keep`.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from unittest import mock

from hydra.errors import CompactHydraException

from experiments.running.records import KEEP, REFUSE, RERUN

_OPTIONS = {"--stale": RERUN, "--keep-stale": KEEP}
_FULL = "HYDRA_FULL_ERROR"
INTERRUPTED = 130  # as shells have it
TOLD = "error: interrupted by the user; the same command takes what is finished and goes on"


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return an app's arguments with the options that Hydra does not know as overrides."""
    return [f"stale={_OPTIONS[each]}" if each in _OPTIONS else each for each in arguments]


def with_own_errors(run: Callable[[], None]) -> None:
    """Run Hydra, and print its errors here: it has no line for those of the disk."""
    if os.environ.get(_FULL):
        run()
        return
    try:
        with mock.patch.dict(os.environ, {_FULL: "1"}):
            run()
    except OSError:
        raise
    except CompactHydraException as error:
        print(*filter(None, (error, error.__cause__)), sep="\n", file=sys.stderr)
    except Exception:
        traceback.print_exc()
    else:
        return
    raise SystemExit(1)


def add_stale_options(parser: argparse.ArgumentParser) -> None:
    """Add what to do with finished jobs of other code or input files; by default they stop us."""
    several = parser.add_mutually_exclusive_group()
    several.add_argument(
        "--stale", action="store_const", const=RERUN, default=REFUSE,
        help="run finished jobs again whose code or input files have changed since",
    )  # fmt: skip
    several.add_argument(
        "--keep-stale", action="store_const", const=KEEP, dest="stale", help="take them as they are"
    )


@contextmanager
def ends_in_one_line() -> Iterator[None]:
    """Let a command end in one line and exit code 1 where the disk or its output refuse.

    After Ctrl-C the code is 130, and the line says that finished jobs are kept. A reader that has
    gone, as of `| head`, takes no line. Letters that the output cannot show become question marks.

    Raises:
        SystemExit: with 1 or 130.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            yield
        finally:  # here, where it can be dealt with, not when the interpreter ends
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        raise refused(error) from None
    except KeyboardInterrupt:
        print(TOLD, file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def refused(error: OSError) -> SystemExit:
    """Say what the disk refuses, and return what ends the command."""
    try:
        print(end="", flush=True)
    except OSError:  # what is buffered goes nowhere, or the interpreter would fail at it again
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        print(f"error: {described(error)}", file=sys.stderr)
    return SystemExit(1)


def described(error: OSError) -> str:
    """Say in one line what the disk refuses, and where.

    An error without a number is no refusal of the disk, but one that a library raises and words,
    such as Hydra's for a task that there is not.
    """
    what = error.strerror or " ".join(str(error).split())
    if error.errno is None:
        return what
    return f"{error.filename}: {what}" if error.filename else f"files must be writable, got: {what}"
