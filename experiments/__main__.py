"""The door to all experiments: one of them by its NAME, or the main job if none is given.

`python -m experiments NAME overrides...` runs one, with -m a sweep, and NAME --help shows its
options; `python -m experiments collect ...` makes one table of a sweep's jobs, and
`python -m experiments get_model NAME` fetches a pretrained language model.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.jobs import APPS
from experiments.running import collect, get_model
from experiments.running.commands import add_stale_options, ends_in_one_line

COMMANDS = {"collect": collect.main, "get_model": get_model.main}
"""What the door opens to beside experiments."""


def command_line(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments`; a mistake is one line on stderr and exit code 2."""
    rest = list(sys.argv[1:] if arguments is None else arguments)
    if rest and rest[0] in APPS:
        APPS[rest[0]].main(rest[1:])
    elif rest and rest[0] in COMMANDS:
        with ends_in_one_line():
            COMMANDS[rest[0]](rest[1:])
    else:
        _smoke(rest)


def _smoke(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description=__doc__, epilog=_listed(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help=f"an experiment, or {' or '.join(COMMANDS)}",
    )  # fmt: skip
    parser.add_argument(
        "--folder", type=Path, default=Path("results"),
        help="of the results of the main job (%(default)s)",
    )  # fmt: skip
    add_stale_options(parser)
    given = parser.parse_args(arguments)
    if given.name is not None:
        parser.error(f"NAME must be one of {', '.join([*APPS, *COMMANDS])}; got {given.name!r}")
    with ends_in_one_line():
        from experiments.smoke import main  # it draws: nobody else waits for that library

        try:
            main(given.folder, given.stale)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None


def _listed() -> str:
    width = max(map(len, APPS))
    lines = [f"  {name:{width}}  {app.summary}" for name, app in sorted(APPS.items())]
    return "\n".join(["experiments:", *lines])


if __name__ == "__main__":
    command_line()
