"""The figure of the planner draws its table: one panel a policy, one dot a rule and first batch."""

from __future__ import annotations

import statistics

import numpy as np
import pandas as pd
import pytest

from figures import planned_group_size
from support.optimisation_tables import intervals
from support.planned_tables import EXCESS, GAP, LAW, table

NORMAL = statistics.NormalDist().inv_cdf(0.975)


pytestmark = pytest.mark.usefixtures("house_style")


def drawable(**fields) -> pd.DataFrame:
    return table(**fields).assign(relative_std_error=0.01, plans=20, num_outputs=8)


def dots(axes):
    """Return abscissae and intervals of every series, one entry a row, by its name."""
    found = {}
    for container in axes.containers:
        if len(container[0].get_xdata()):
            found.setdefault(container.get_label(), []).append(intervals(container))
    return found


def test_what_is_drawn():
    """Would catch: another checkpoint, one standard error, rules or first batches mixed up."""
    data = drawable()
    data.loc[data["num_prompts"] == 128, "relative_excess"] += 0.003
    tug, lake = planned_group_size.build(data).axes
    assert [axes.get_title() for axes in (tug, lake)] == ["tug\na", "lake\nb"]
    for axes in (tug, lake):
        for place in range(2):
            found = {name: rows[place] for name, rows in dots(axes).items()}
            height = [float(y[0]) for _, y, *_ in (r for r in found.values())]
            assert len(set(np.round(height, 6))) == len(height)
            assert all(-place - 0.5 < y < -place + 0.5 for y in height)
    found = {name: rows[0][0][0] for name, rows in dots(tug).items()}
    assert found == pytest.approx(
        {"planned, 32 prompts": 0.1, "planned, 128 prompts": 0.103,
         "at the estimate, 32 prompts": 0.3, "at the estimate, 128 prompts": 0.303,
         "fixed 8": EXCESS["fixed 8"], "fixed 16": EXCESS["fixed 16"],
         "fixed 64": EXCESS["fixed 64"], f"{LAW}, exact": 0.05, f"{GAP}, first order": 0.0}
    )  # fmt: skip
    assert f"{GAP}, first order" not in dots(lake)


def test_intervals_of_95_percent():
    (tug, _) = planned_group_size.build(drawable()).axes
    container = next(each for each in tug.containers if each.get_label() == "fixed 8")
    (segment,) = container[2][0].get_segments()
    low, high = segment[:, 0]
    assert (high - low) / 2 == pytest.approx(NORMAL * 0.01, rel=1e-4)


def test_rows_are_budgets_and_optimisers():
    data = pd.concat(
        [drawable(tasks=("a: b",)), drawable(tasks=("a: b",)).assign(optimizer="adamw")]
    )
    (axes,) = planned_group_size.build(data).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "$N=64$\nsgd", "$N=64$\nadamw", "$N=256$\nsgd", "$N=256$\nadamw",
    ]  # fmt: skip
    (plain,) = planned_group_size.build(drawable(tasks=("a: b",))).axes
    assert [label.get_text() for label in plain.get_yticklabels()] == ["$N=64$", "$N=256$"]


def test_looks_differ_without_colour():
    (tug, _) = planned_group_size.build(drawable()).axes
    looks = set()
    for container in tug.containers:
        line = container[0]
        looks.add((line.get_marker(), line.get_fillstyle()))
    assert len(looks) == len(dots(tug))
