"""Every check of every theory chapter as a table: `docs/repro/claims.csv`.

Errors are relative, or in standard errors for simulations. No digit that rounding decides is
shown, since it differs between processors: an error is *rounding* below `AGREEMENT`, and *within
tolerance* where it is what is left of a minimiser, a limit or a numerical derivative.
"""

import csv
from collections.abc import Iterable
from io import StringIO

from experiments.ledger.evidence import Chapter
from theory.claims import (
    AGREEMENT,
    COUNTEREXAMPLE,
    ENUMERATION,
    IDENTITY,
    RATE,
    SIMULATION,
    Claim,
)

HOLDS, FAILS = "holds", "FAILS"
COLUMNS = (
    "chapter", "item", "statement", "kind", "expected", "obtained", "error", "tolerance", "verdict",
)  # fmt: skip

_RATE_ROUNDING = 1e-6


def claims_csv(chapters: Iterable[Chapter]) -> str:
    """Return all claims as CSV, one row a claim, in the order of the chapters."""
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for chapter in chapters:
        for claim in chapter.claims:
            table.writerow([chapter.name, chapter.item, *claim_cells(claim)])
    return text.getvalue()


def claim_cells(claim: Claim) -> list[str]:
    """Return what the table says of a claim, from its statement to its verdict."""
    unit = " s.e." if claim.evidence == SIMULATION else ""
    sign = ">" if claim.evidence == COUNTEREXAMPLE else "≤"
    return [
        claim.statement,
        claim.evidence,
        number(claim, claim.expected),
        obtained(claim),
        error(claim),
        f"{sign} {claim.tolerance:.2g}{unit}",
        HOLDS if claim.holds else FAILS,
    ]


def obtained(claim: Claim) -> str:
    """Return what was computed without the statement, with its standard error if it has one."""
    shown = number(claim, claim.obtained)
    return shown if claim.std_error is None else f"{shown} ± {claim.std_error:.1g}"


def number(claim: Claim, value: float) -> str:
    """Show no digit of a side that rounding decides, which differs between processors."""
    # A slope on log scales has the rounding of the values, many times over where they agree.
    zero = _RATE_ROUNDING if claim.evidence == RATE else 1e-14
    return _shown(0.0 if abs(value) < zero else value, 4 if _is_numerical(claim) else 6)


def error(claim: Claim) -> str:
    """Show of an error that rounding decides its size only."""
    slight = claim.evidence == RATE and claim.error < _RATE_ROUNDING
    if (_is_numerical(claim) or slight) and claim.holds:
        return "within tolerance"
    unit = " s.e." if claim.evidence == SIMULATION else ""
    return "rounding" if abs(claim.error) < AGREEMENT else f"{_shown(claim.error, 2)}{unit}"


def _is_numerical(claim: Claim) -> bool:
    """Whether a side comes from a minimiser, a limit or a derivative: accurate to a tolerance."""
    return claim.evidence in (IDENTITY, ENUMERATION) and claim.tolerance > AGREEMENT


def _shown(value: float, digits: int) -> str:
    """Return some digits, of 0.125 the same two whatever rounding adds to it."""
    return f"{float(f'{value:.10g}'):.{digits}g}"
