"""The zoo's own tables: bias, noise and implied objective of every estimator."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from experiments.ledger.documents import markdown
from experiments.zoo.table import cell, root

_PANEL, _SIZE = "arithmetic_choice: accuracy 0.4", 8
_PROBABILITIES = (0.05, 0.2, 0.5, 0.8)
_SIZES = (2, 8, 64)


def tables(data: pd.DataFrame) -> str:
    """Return what is known of every estimator, one row each, as Markdown.

    Args:
        data: columns as `experiments.zoo.estimator_zoo` writes them.
    """
    means, errors, gains = [], [], []
    here = data.loc[data["task"] == _PANEL]
    for name, rows in here.groupby("estimator", sort=False):
        by_size = {row["group_size"]: row for row in rows.to_dict(orient="records")}
        at = by_size[_SIZE]
        library = at["library"] if isinstance(at["library"], str) else "–"
        means.append([str(name), library, str(at["objective"]), cell(at, "gain"), *_off(at)])
        errors.append([str(name), *(cell(by_size[size], "relative_error") if size in by_size
                                    else "–" for size in _SIZES)])  # fmt: skip
        gains.append([str(name), *_gains(data, str(name))])
    parts = [
        _LEGEND,
        markdown(["estimator", "library", "objective", "gain", "bias", "angle"], means),
        _ERRORS,
        markdown(["estimator", *(f"G = {size}" for size in _SIZES)], errors),
        _PHI,
        markdown(["estimator", *(f"p = {prob:g}" for prob in _PROBABILITIES)], gains),
    ]
    return "\n\n".join(parts)


_LEGEND = (
    f"Every estimator on `{_PANEL}`: gain ⟨E ĝ, ∇J⟩/‖∇J‖², relative bias and angle to ∇J at "
    f"G = {_SIZE}. Exact, or simulated where a standard error of the last digits stands in "
    "brackets; “<”: not told from 0 by four of them. `opo` is told ‖W‖² where the library takes "
    "lengths, which these outputs do not have; `critic` says V ± 0.1. All tasks and group sizes: "
    "`experiments/reference/estimator_zoo.csv`."
)
_ERRORS = (
    "tr Var ĝ/‖E ĝ‖² of 32 prompts at equal cost in sampled outputs, relative to the oracle's:"
)
_PHI = (
    f"φ on one prompt of success probability p, G = {_SIZE}; over several prompts dynamic sampling "
    "divides every φ by one number, not by each prompt's own:"
)


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
