"""Readings of the planner's table whose answer is known by construction."""

from __future__ import annotations

import pandas as pd
import pytest

from experiments.planning.plan_readings import plans
from support.planned_tables import table


def read(**fields):
    tug, lake, overall, caution, gradient = plans(table(**fields))
    return {"tug": tug, "lake": lake, "overall": overall, "caution": caution, "gradient": gradient}


class TestVerdicts:
    def test_a_planner_that_works(self):
        found = read()
        assert [each.verdict for each in found.values()] == ["reproduced"] * 5

    def test_a_planner_that_loses(self):
        found = read(planned=0.5)
        assert (
            found["tug"].verdict == "refuted: clearly behind fixed 8 in 4, fixed 16 in 4 of 4 cells"
        )
        assert (
            found["overall"].verdict
            == "refuted: on average clearly better than fixed 64, but not than fixed 8, fixed 16"
        )
        assert found["caution"].verdict == "refuted"
        setback = "there by at most 7.5% of the loss at the best G"  # (0.5 − 0.2)/4
        assert found["tug"].obtained.endswith(setback)

    def test_runs_that_cannot_tell(self):
        found = read(error=1.0)
        assert found["tug"].verdict.startswith("not resolved: the runs cannot tell")
        assert found["overall"].verdict == (
            "not resolved: on average not clearly better than fixed 8, fixed 16, fixed 64"
        )

    def test_ahead_here_and_behind_there(self):
        """Fixed 8 is better in 4 cells of 8, but less so than it is worse in the others."""
        mixed = pd.concat(
            [table(tasks=("tug: a",), fixed_8=0.05), table(tasks=("lake: b",), fixed_8=0.6)]
        )
        verdicts = [each.verdict for each in plans(mixed)]
        assert verdicts[0] == "refuted: clearly behind fixed 8 in 4 of 4 cells"
        assert verdicts[1] == "reproduced"
        assert verdicts[2] == "refined: clearly better on average, but not everywhere"

    def test_a_law_outside_the_confidence_set(self):
        found = read(inside=0.5)["gradient"]
        assert found.verdict == "refuted"
        assert "not in tug: a at N = 64 (excess 0.05), tug: a at N = 256" in found.obtained


class TestNumbers:
    def test_of_a_task(self):
        found = read()["tug"]
        assert found.claim.startswith("tug: a plan from a first batch")
        assert "planned 0.100, fixed 8 0.200, fixed 16 0.400, fixed 64 0.800" in found.obtained
        assert "32 prompts: 100% of the plans, 25% with a lower bound on G* only" in found.obtained
        assert "better than fixed 8/16/64 in 4/4/4 and worse in 0/0/0 of 4" in found.obtained

    def test_errors_add_up_within_a_policy_only(self):
        """Two policies of four cells each: √(2·(4·0.01)²)/8 = 0.0071, neither 0.01 nor 0.0035."""
        found = read()["overall"]
        assert "fixed 8 by +0.100 ± 0.007" in found.obtained
        assert "8 of 8 cells" in found.obtained
        assert "no fixed size below the plan in 8 cells" in found.obtained

    def test_a_sweep_that_cannot_tell_judges_nothing(self):
        blind = table(tasks=("lake: b",), budgets=(64,), planned=0.9).assign(set_size=7)
        mixed = pd.concat([table(tasks=("tug: a",)), blind])
        (tug, overall, *_) = plans(mixed)
        assert tug.verdict == overall.verdict == "reproduced"
        assert overall.obtained.startswith("4 of 6 cells, the others' sweeps rule out no size")

    def test_tasks_of_the_same_weight(self):
        """Four cells of 0.1 and two of 0.3: 0.2 over tasks, 0.167 over cells."""
        mixed = pd.concat(
            [table(tasks=("tug: a",)), table(tasks=("lake: b",), budgets=(64,), planned=0.3)]
        )
        overall = list(plans(mixed))[2]
        assert "mean excess planned 0.167" in overall.obtained
        assert "same weight planned 0.200, fixed 8 0.200" in overall.obtained

    @pytest.mark.parametrize(("name", "cells"), [("caution", "8 cells"), ("gradient", "4 of 4")])
    def test_counts(self, name, cells):
        assert cells in read()[name].obtained

    def test_the_law_of_the_gap_is_counted_where_it_is_known(self):
        assert "0 of 2, mean excess 0.000" in read()["gradient"].obtained
