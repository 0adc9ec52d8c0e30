"""Check the claims and print them: `python -m theory [CHAPTER ...]`."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from types import ModuleType

from rich.console import Console
from rich.table import Table

import theory
from theory.claims import SIMULATION, Claim

_WIDTH_OF_A_FILE = 140  # where there is no terminal to ask


def main(arguments: Sequence[str]) -> int:
    """Check chapters; return 0 if every claim holds, 1 if one fails, 2 for an unknown chapter.

    Raises:
        SystemExit: after --help (0), or for an option, of which there is no other (2).
    """
    parser = argparse.ArgumentParser(prog="python -m theory", description=__doc__)
    parser.add_argument("chapter", nargs="*", help="a file of theory/, without .py; all if none")
    try:
        selected = theory.chapters(*parser.parse_args(arguments).chapter)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_FILE)
    verdicts = [holds for chapter in selected for holds in _check(chapter, console)]
    failures = verdicts.count(False)
    console.print(f"{len(verdicts) - failures} claims hold, {failures} fail")
    return int(failures > 0)


def _check(chapter: ModuleType, console: Console) -> list[bool]:
    """Print one chapter and return the verdicts."""
    table = Table(title=f"{chapter.ITEM}: {chapter.TITLE}", title_justify="left", expand=True)
    table.add_column("claim", ratio=1)
    table.add_column("evidence")
    for heading in ("expected", "obtained", "error", "", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    verdicts = []
    for claim, seconds in _timed(chapter.claims()):
        verdicts.append(claim.holds)
        table.add_row(
            claim.statement,
            claim.evidence,
            f"{claim.expected:.6g}",
            f"{claim.obtained:.6g}",
            _comparison(claim),
            "[green]holds[/]" if claim.holds else "[bold red]FAILS[/]",
            f"{seconds:.2f}",
        )
    console.print(table)
    return verdicts


def _comparison(claim: Claim) -> str:
    """Say what was demanded of the error and what it was: '2e-16 ≤ 1e-12'."""
    exceeds = claim.error > claim.tolerance
    unit = " s.e." if claim.evidence == SIMULATION else ""
    return f"{claim.error:.2g} {'>' if exceeds else '≤'} {claim.tolerance:.2g}{unit}"


def _timed(claims: Iterator[Claim]) -> Iterator[tuple[Claim, float]]:
    """Yield each claim with the seconds that it took."""
    start = time.perf_counter()
    for claim in claims:
        yield claim, time.perf_counter() - start
        start = time.perf_counter()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
