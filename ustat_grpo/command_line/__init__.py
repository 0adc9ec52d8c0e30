"""The command `ustat-grpo`: which group size, from a file of measurements or from a model."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from ustat_grpo.command_line import measure, plan

_EXAMPLES = """\
examples:
  ustat-grpo plan sample.csv --budget 512
  ustat-grpo measure --policy intermediate --budget 512
  ustat-grpo measure --help
"""

FAILURE = 1
"""Exit code where the data cannot give a plan; wrong usage is argparse's 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: of the command line, those of the process if None.

    Raises:
        SystemExit: with 2 after wrong usage, with 0 after a help text.
    """
    try:
        try:
            return _run(_parser().parse_args(arguments))
        finally:  # here, where a closed pipe can be dealt with, not when the interpreter ends
            sys.stdout.flush()
    except BrokenPipeError:  # as of `| head`, which has read what it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(args: argparse.Namespace) -> int:
    try:
        return args.run(args)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _failed(args, f"{error.filename}: {error.strerror}" if error.filename else error)
    except ValueError as error:
        return _failed(args, error)


def _failed(args: argparse.Namespace, reason: object) -> int:
    print(f"ustat-grpo {args.command}: error: {reason}", file=sys.stderr)
    return FAILURE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
