"""Output of the commands, whatever stands at its other end."""

import io
import os
import sys

from ustat_grpo.inputs.quoting import one_line


def escape_what_cannot_be_encoded() -> None:
    r"""Let characters that the output cannot show, as in an ASCII locale, appear as \u2081."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_closed() -> bool:
    """Return whether there is no standard output, as after `>&-`."""
    return sys.stdout is None


def discard_output() -> None:
    """Forget what is still to be written, lest the interpreter complains when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(text: str) -> None:
    """Print a line to the standard error stream, if there is one."""
    if sys.stderr is not None:  # print() would take the standard output in its place
        print(one_line(text), file=sys.stderr)
