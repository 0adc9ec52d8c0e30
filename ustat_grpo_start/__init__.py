"""What runs before our heavy imports, which take seconds: Ctrl-C ends in one line there, too.

A package of its own, since to import anything of `ustat_grpo` is to import it all.
"""

import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

TOLD = "error: interrupted by the user; the same command takes what is finished and goes on"
"""After Ctrl-C in a command of the checkout. Finished jobs are kept, and are not run again."""


def main() -> int:
    """Run the command `ustat-grpo`; see `ustat_grpo.command_line`.

    Raises:
        SystemExit: as that does, and with 130 after Ctrl-C.
    """
    end_in_one_line("ustat-grpo: error: interrupted by the user")
    from ustat_grpo import command_line

    as_ever()
    return command_line.main()


def end_in_one_line(line: str) -> None:
    """Let Ctrl-C end the process with a line in place of a traceback, until `as_ever`.

    Nothing is changed where Ctrl-C does something else already, or nothing, as under nohup.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed twice, it takes one line still
        if sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)
        raise SystemExit(INTERRUPTED)

    end.is_ours = True  # pyright: ignore[reportFunctionMemberAccess]
    signal.signal(signal.SIGINT, end)


def as_ever() -> None:
    """Let Ctrl-C raise a KeyboardInterrupt again: from here on it is caught."""
    if getattr(signal.getsignal(signal.SIGINT), "is_ours", False):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_commands_in_one_line(package: str, line: str = "error: interrupted by the user") -> None:
    """Do so if the process was started as `python -m PACKAGE`, or by a module of it.

    Args:
        package: which is being imported.
        line: what is told.
    """
    is_looked_for = sys.argv[:1] == ["-m"]  # by runpy, which imports packages first
    named = (each.partition(".")[0] for each in sys.orig_argv)
    if is_looked_for and package in named:
        end_in_one_line(line)
