"""The command `ustat-grpo`, outside the package whose import takes most of its time to start.

Ctrl-C while Python imports ends it as later: in one line, with the exit code of shells.
"""

import sys


def main() -> int:
    """Run the command of `ustat_grpo.command_line` and return its exit code.

    Raises:
        SystemExit: with 2 after wrong usage, with 0 after a help text.
    """
    try:
        from ustat_grpo.command_line import main as run
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("ustat-grpo: error: interrupted by the user", file=sys.stderr)
        return 130
    return run()
