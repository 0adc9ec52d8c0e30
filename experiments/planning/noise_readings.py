"""What the table of the noise estimates' coverage says: pure functions of a DataFrame."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments.running.reading import STANDARD_ERRORS, Reading, plain

_LEAST, _MOST = 0.92, 0.98
"""Coverage that passes for 95 %."""
_LARGE = 128, 512
"""Numbers of prompts from which on intervals are to cover; smaller ones are reported."""
_SYMBOLS = {"prompt": "c₁", "oracle": "c₂", "residual": "c₃", "optimal": "G*"}
_SETS = {"surely": "for certain", "possibly": "perhaps"}
_EXPECTED = f"{_LEAST:.0%} to {_MOST:.0%} at B = {' and '.join(map(str, _LARGE))}"
_APART = 2.0
"""Standard errors beyond which a coverage outside of the limits is no chance."""


def coverage(data: pd.DataFrame) -> Iterator[Reading]:
    """Do 95 % intervals cover at each population, and are the estimates unbiased?"""
    for task, rows in data.groupby("task", sort=False):
        yield _components(str(task), rows)
    yield _near_optimal(data)
    yield _unbiased(data)


def _components(task: str, rows: pd.DataFrame) -> Reading:
    shares = _shares(rows, _SYMBOLS)
    return Reading(
        f"{plain(task)}: the 95 % intervals of c₁, c₂, c₃ and G* cover",
        _EXPECTED,
        f"{_ranges(shares)}; {_intervals(rows)}{_refused(rows)}",
        _verdict(shares),
    )


def _near_optimal(data: pd.DataFrame) -> Reading:
    """Are group sizes near-optimal that plans call so for certain, and are all others not?

    These are promises in one direction: too high a coverage is no fault.
    """
    shares = _shares(data, _SETS)
    shares["quantity"] = shares["quantity"] + " at " + shares["task"].map(plain)
    return Reading(
        "plans call group sizes near-optimal (within 5 %) for certain only if they are, and all "
        f"that are at least perhaps ({data['task'].nunique()} populations)",
        f"at least {_LEAST:.0%} of plans at B = {' and '.join(map(str, _LARGE))}",
        f"{_ranges(shares)}; {data['surely_claims'].min():.0%} to "
        f"{data['surely_claims'].max():.0%} of plans call a group size so for certain",
        _verdict(shares, most=1.0),
    )


def _shares(rows: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """One row a quantity and cell: its coverage with standard error."""
    found = []
    for name, shown in names.items():
        value, count = rows[f"{name}_coverage"], rows["replicates"] - rows["refused"]
        std_error = np.sqrt(value * (1 - value) / count)
        cells = rows[["task", "num_prompts", "num_outputs"]]
        found.append(cells.assign(quantity=shown, value=value, std_error=std_error))
    return pd.concat(found, ignore_index=True)


def _ranges(shares: pd.DataFrame) -> str:
    """Write the least and the largest coverage at every number of prompts."""
    shown = []
    for number, cells in shares.groupby("num_prompts"):
        lowest = cells.loc[cells["value"].idxmin()]
        shown.append(
            f"B = {number}: {lowest['value']:.1%} ({lowest['quantity']}, "
            f"M = {lowest['num_outputs']}) to {cells['value'].max():.1%}"
        )
    return f"{'; '.join(shown)} (std. error ≤ {shares['std_error'].max():.1%})"


def _intervals(rows: pd.DataFrame) -> str:
    """Write the median intervals of G* from the most outputs, and how many have no upper end."""
    rows = rows.query("num_outputs == num_outputs.max()")
    shown = [
        f"{row['low']:.3g} to {row['high']:.3g} ({row['lower_bounds']:.0%})".replace("inf", "∞")
        for row in rows.sort_values("num_prompts").to_dict("records")
    ]
    return (
        f"G* = {rows['optimal'].iloc[0]:.3g}, its median intervals at these B and "
        f"M = {rows['num_outputs'].iloc[0]}, and how many have no upper end: {', '.join(shown)}"
    )


def _refused(rows: pd.DataFrame) -> str:
    share = np.max(rows["refused"] / rows["replicates"])
    return f"; without signal, hence refused: {share:.1%} or less" if share else ""


def _verdict(shares: pd.DataFrame, most: float = _MOST) -> str:
    """Judge by the measured shares; those outside may be so by chance."""
    large = shares.query("num_prompts in @_LARGE")
    if set(large["num_prompts"]) != set(_LARGE):
        return "not attempted at these B"
    outside = np.maximum(_LEAST - large["value"], large["value"] - most)
    if (outside <= 0).all():
        return "reproduced"
    if (outside > _APART * large["std_error"]).any():
        return "refuted"
    return "not resolved: too few samples"


def _unbiased(data: pd.DataFrame) -> Reading:
    z = pd.DataFrame({
        symbol: (data[f"{name}_estimate"] - data[name]) / data[f"{name}_std_error"]
        for name, symbol in list(_SYMBOLS.items())[:3]
    })  # fmt: skip
    worst = z.abs().max(axis=None, skipna=False)
    return Reading(
        f"estimates of c₁, c₂, c₃ are unbiased at every population, B and M ({z.size} means)",
        f"every z within ±{STANDARD_ERRORS:g}",
        f"largest |z| {worst:.1f}, root mean square {np.sqrt(np.mean(z.to_numpy() ** 2)):.2f}",
        "reproduced" if worst <= STANDARD_ERRORS else "refuted",
    )
