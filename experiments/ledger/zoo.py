"""The ledger's section on the zoo: what the table of all estimators says, and the table."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from experiments.ledger.documents import markdown
from experiments.zoo.readings import estimator_zoo
from experiments.zoo.table import cell, root

_PANEL, _SIZE = "arithmetic_choice: accuracy 0.4", 8
_PROBABILITIES = (0.05, 0.2, 0.5, 0.8)
_SIZES = (2, 8, 64)


def section(data: pd.DataFrame) -> str:
    """Return the readings of the zoo, and one line an estimator, as Markdown.

    Args:
        data: columns as `experiments.zoo.estimator_zoo` writes them.
    """
    headings = ["question", "expected", "obtained", "verdict"]
    rows = [[r.claim, r.expected, r.obtained, r.verdict] for r in estimator_zoo(data)]
    return "\n\n".join([markdown(headings, rows), _LEGEND, _table(data)])


_LEGEND = (
    f"Every estimator on `{_PANEL}` and, for φ, on one prompt of success probability p: gain "
    "⟨E ĝ, ∇J⟩/‖∇J‖², relative bias and angle to ∇J at "
    f"G = {_SIZE}; tr Var ĝ/‖E ĝ‖² of 32 prompts at equal cost in sampled outputs, relative to the "
    "oracle's. Exact, or simulated where a standard error of the last digits stands in brackets; "
    "“<”: not told from 0 by four of them. `opo` is told ‖W‖² where the library takes lengths, "
    "which these outputs do not have; `critic` says V ± 0.1; over several prompts dynamic sampling "
    "divides every φ by one number, not by each prompt's own. All tasks and group sizes: "
    "`experiments/reference/estimator_zoo.csv`."
)


def _table(data: pd.DataFrame) -> str:
    here = data.loc[data["task"] == _PANEL]
    headings = [
        "estimator", "library", "objective", "gain", "bias", "angle",
        *(f"error, G = {size}" for size in _SIZES),
        *(f"φ at p = {prob:g}" for prob in _PROBABILITIES),
    ]  # fmt: skip
    rows = []
    for name, found in here.groupby("estimator", sort=False):
        by_size = {row["group_size"]: row for row in found.to_dict(orient="records")}
        at = by_size[_SIZE]
        errors = [cell(by_size[size], "relative_error") if size in by_size else "–"
                  for size in _SIZES]  # fmt: skip
        library = at["library"] if isinstance(at["library"], str) else "–"
        rows.append(
            [str(name), library, str(at["objective"]), cell(at, "gain"), *_off(at), *errors,
             *_gains(data, str(name))]
        )  # fmt: skip
    return markdown(headings, rows)


def _off(row: Mapping[Hashable, Any]) -> list[str]:
    """Bias and angle, or bounds on them."""
    (sign, bias), (bound, sine) = root(row, "squared_bias"), root(row, "squared_sine")
    return [
        f"{sign}{100 * bias:.1f} %" if bias else "0",
        f"{bound}{np.degrees(np.arcsin(min(sine, 1.0))):.1f}°" if sine else "0",
    ]


def _gains(data: pd.DataFrame, name: str) -> list[str]:
    """φ_G(p) at some p; nothing for what looks at more than one prompt."""
    rows = data.loc[(data["estimator"] == name) & (data["group_size"] == _SIZE)].set_index("task")
    panels = [f"success_probability: p = {prob:g}" for prob in _PROBABILITIES]
    return [f"{rows.at[panel, 'gain']:.3g}" if panel in rows.index else "–" for panel in panels]
