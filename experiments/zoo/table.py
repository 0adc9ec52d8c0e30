"""The zoo as text, a hundred columns wide."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 100
"""Columns of the tables, wider than a terminal that is not told."""

_DETAIL_AT = 8
"""The group size, or the nearest to it, at which means are described."""

_MANY = 4
"""With more panels than this, panels become columns."""

_RESOLVED = 4.0
"""Standard errors from which on a deviation counts as one."""

_EXACT = 1e-12

_LEGEND = (
    "gain ⟨E ĝ, ∇J⟩/‖∇J‖²; bias ‖E ĝ − ∇J‖/‖∇J‖; angle between E ĝ and ∇J; error tr Var ĝ/‖E ĝ‖²\n"
    "at equal cost in outputs, relative to the oracle's, which knows V. Simulated where the last\n"
    "digits have a standard error, 1.23(4); “<”: not told from 0 by four of them. Else exact."
)


def show(data: pd.DataFrame, console: Console) -> None:
    """Print the table: one a panel, or for many panels one a quantity.

    Args:
        data: columns as `experiments.zoo.estimator_zoo` writes them.
        console: to print on.
    """
    sizes = set(data["group_size"].tolist())
    detail = min(sizes, key=lambda size: abs(np.log(size / _DETAIL_AT)))
    if len(set(data["task"])) > _MANY:
        rows = data.loc[data["group_size"] == detail]
        console.print(_wide(rows, "gain", f"gain φ_G at G = {detail}"))
        console.print(_wide(rows, "relative_error", f"relative error at G = {detail}"))
    else:
        for panel, rows in data.groupby("task", sort=False):
            console.print(_panel(str(panel), rows, detail))
    console.print(_LEGEND, highlight=False)


def _panel(panel: str, rows: pd.DataFrame, detail: int) -> Table:
    sizes = sorted(set(rows["group_size"]))
    headings = [f"gain, G={detail}", "bias", "angle", *(f"error, G={size}" for size in sizes)]
    table = _empty(f"{panel}, B = {rows['batch_size'].iloc[0]}", headings)
    for name, found in rows.groupby("estimator", sort=False):
        by_size = {row["group_size"]: row for row in found.to_dict(orient="records")}
        mean = _mean(by_size[detail]) if detail in by_size else ["", "", ""]
        errors = [cell(by_size[size], "relative_error") if size in by_size else ""
                  for size in sizes]  # fmt: skip
        table.add_row(str(name), *mean, *errors)
    return table


def _mean(row: Mapping[Hashable, Any]) -> list[str]:
    """Describe E ĝ: gain, bias and angle."""
    bias, sine = (root(row, name) for name in ("squared_bias", "squared_sine"))
    return [
        cell(row, "gain"),
        bias[0] + (f"{100 * bias[1]:.1f} %" if bias[1] else "0"),
        sine[0] + (f"{np.degrees(np.arcsin(min(sine[1], 1.0))):.1f}°" if sine[1] else "0"),
    ]


def root(row: Mapping[Hashable, Any], name: str) -> tuple[str, float]:
    """Return the root of a squared quantity, or an upper bound if it is not told from zero."""
    square, noise = row[name], row[f"{name}_std_error"]
    if square > _RESOLVED * noise + _EXACT:
        return "", float(np.sqrt(square))
    bound = max(square, 0.0) + _RESOLVED * noise
    return ("<", float(np.sqrt(bound))) if bound > _EXACT else ("", 0.0)


def _wide(rows: pd.DataFrame, name: str, title: str) -> Table:
    """One row an estimator, one column a panel."""
    panels = list(dict.fromkeys(rows["task"]))
    table = _empty(title, [panel.split(": ")[1].replace(" ", "") for panel in panels])
    for estimator, found in rows.groupby("estimator", sort=False):
        by_panel = {row["task"]: row for row in found.to_dict(orient="records")}
        table.add_row(str(estimator), *(cell(by_panel[panel], name) for panel in panels))
    return table


def _empty(title: str, headings: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("estimator", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def cell(row: Mapping[Hashable, Any], name: str) -> str:
    """Write a number to three digits, and the standard error of the last ones in brackets."""
    value, noise = row[name], row.get(f"{name}_std_error", 0.0)
    if noise:
        digits = min(3, max(0, -int(np.floor(np.log10(noise)))))
        return f"{value:.{digits}f}({max(1, round(noise * 10**digits))})"
    if value and not 1e-2 <= abs(value) < 1e3:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.{max(0, 2 - int(np.floor(np.log10(abs(value) or 1.0))))}f}"
