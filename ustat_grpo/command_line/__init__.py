"""The command `ustat-grpo`: which group size, from a file of measurements or from a model."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from ustat_grpo.command_line import measure, plan, streams
from ustat_grpo.inputs.quoting import one_line

_EXAMPLES = """\
examples:
  ustat-grpo plan sample.csv --budget 512
  ustat-grpo measure --policy intermediate --budget 512
  ustat-grpo measure --help
"""

FAILURE = 1
"""Exit code where the data cannot give a plan; wrong usage is argparse's 2."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: of the command line, those of the process if None.

    Raises:
        SystemExit: with 2 after wrong usage, with 0 after a help text.
    """
    if streams.is_closed():  # said before, not after, a model was measured for nothing
        return _failed("ustat-grpo", "standard output must be open, got a closed one")
    streams.escape_what_cannot_be_encoded()
    try:
        try:
            return _run(_parser().parse_args(arguments))
        finally:  # here, where a closed pipe can be dealt with, not when the interpreter ends
            sys.stdout.flush()
    except BrokenPipeError:  # as of `| head`, which has read what it wants
        streams.discard_output()
        return 0
    except OSError as error:  # as of a full disk
        streams.discard_output()
        return _failed("ustat-grpo", error.strerror or error)
    except KeyboardInterrupt:
        return _failed("ustat-grpo", "interrupted by the user", code=INTERRUPTED)


def _run(args: argparse.Namespace) -> int:
    name = f"ustat-grpo {args.command}"
    try:
        return args.run(args)
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:  # of the output itself, or of a file that was open
            raise
        return _failed(name, f"{error.filename}: {error.strerror}")
    except ValueError as error:
        return _failed(name, error)
    except MemoryError:
        return _failed(name, "memory must hold the measurements, got too little of it")


def _failed(name: str, reason: object, *, code: int = FAILURE) -> int:
    streams.tell(f"{name}: error: {reason}")
    return code


class _Parser(argparse.ArgumentParser):
    """A parser whose errors do not repeat what a terminal would obey, or megabytes."""

    def error(self, message: str) -> NoReturn:
        super().error(one_line(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ustat-grpo",
        description="How many outputs per prompt? A group size for GRPO, from measured noise.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('ustat_grpo')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (plan, measure):
        command.add_parser(subparsers)
    return parser
