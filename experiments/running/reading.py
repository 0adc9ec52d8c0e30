"""What the reference tables say about the paper's readings: pure functions of a DataFrame."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STANDARD_ERRORS = 4.0


@dataclass(frozen=True)
class Reading:
    """One reading of a figure, with what the paper leads to expect and what we found.

    Args:
        claim: one sentence.
        expected: by the paper or by a law.
        obtained: from our data, with standard errors where it is measured.
        verdict: of the ledger.
    """

    claim: str
    expected: str
    obtained: str
    verdict: str


def plain(task: str) -> str:
    """Return a name as text."""
    return task.replace("_", " ")


def columns(data: Any, *names: str) -> list[NDArray[np.float64]]:
    """Return columns of a table as arrays of numbers."""
    return [np.asarray(data[name], dtype=float) for name in names]
