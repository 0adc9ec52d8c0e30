"""Every rule for the group size, replayed on the same runs: what it wants, gets and loses."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.group_size import group_size_rules
from experiments.group_size.group_size_rules import MEASURED_BEST, RULES, Known, nearest
from experiments.running.runner import to_csv
from experiments.tasks.finite_subject import train_bandit
from support.apps import checked, refuses
from ustat_grpo import Grpo, NoiseComponents
from ustat_grpo.laws.path import ExpectedGap

TINY = ("task=tug_of_war", "budgets=[32,64]", "iterations=[5,20]", "scale.runs=60")
POWERS = [2, 4, 8, 16, 32]


@pytest.fixture(scope="module")
def data():
    """What `run` computes."""
    return group_size_rules.run(checked("group_size_rules", *TINY))


@pytest.fixture(scope="module")
def gaps():
    """The gaps below `data`, by (budget, iteration): one column a group size."""
    found = {}
    for budget in (32, 64):
        config = checked("group_size_rules", *TINY).sweep(budget)
        (panel,) = config.task.starts
        runs = [
            train_bandit(config.asked(), config.task, panel, Grpo(), size).gap
            for size in config.group_size
        ]
        for point, iteration in enumerate(config.iterations):
            table = np.stack(runs, axis=1)[:, :, point]
            found[budget, iteration] = pd.DataFrame(table, columns=config.group_size)
    return found


class TestWanted:
    KNOWN = Known(1000, NoiseComponents(1.0, 5.0, 36.0), ExpectedGap(9, 0.1, 4.0, 2.0, 100.0))

    def test_by_hand(self):
        assert {name: rule(self.KNOWN) for name, rule in RULES.items()} == pytest.approx(
            {
                "law (gap)": 6.0,
                "law (gradient error)": 7.0,
                "paper": 6.0,
                "cube root": 10.0,
                "grows with compute": 1000**0.5,
                "two": 2.0,
                "flat: 8": 8.0,
                "flat: 16": 16.0,
                "flat: 32": 32.0,
            }
        )

    def test_a_gap_without_best_group_size(self):
        """Prompt noise that helps asks for ∞, a leave-one-out mean that helps for G → 1."""
        rule, noise = RULES["law (gap)"], self.KNOWN.noise
        assert rule(Known(8, noise, ExpectedGap(9, 0.1, -4.0, 2.0, 1.0))) == np.inf
        assert np.isnan(rule(Known(8, noise, ExpectedGap(9, 0.1, 4.0, 2.0, -1.0))))


class TestNearest:
    @pytest.mark.parametrize(
        ("wanted", "size"),
        [
            (5.6, 4),
            (5.7, 8),
            (1.3, 2),
            (99, 32),
            (np.inf, 32),
            (np.nan, 2),
            (8, 8),
            (4 * 2**0.5, 4),
        ],
    )
    def test_by_ratio(self, wanted, size):
        """√32 lies between 4 and 8; by difference 6 would. Would catch: rounding in G."""
        assert nearest(wanted, POWERS) == size
        assert nearest(wanted, POWERS[::-1]) == size


class TestTable:
    def test_rows(self, data):
        assert not data.drop(columns="wanted").isna().any(axis=None)
        keys = [
            (budget, iteration, rule)
            for budget in (32, 64)
            for iteration in (5, 20)
            for rule in (*RULES, MEASURED_BEST)
        ]
        found = zip(data["budget"], data["iteration"], data["rule"], strict=True)
        assert list(found) == keys
        assert set(data["task"]) == {"tug_of_war: t = -1"} and set(data["runs"]) == {60}

    def test_sizes_are_allowed_and_nearest(self, data):
        for row in data.itertuples():
            allowed = [size for size in POWERS if 2 * size <= row.budget]
            assert row.group_size == nearest(row.wanted, allowed)
        wanted = data.set_index(["rule", "budget"])["wanted"].groupby(level=[0, 1]).first()
        assert wanted["grows with compute", 64] == 8 and wanted["cube root", 64] == pytest.approx(4)
        assert data.query("rule == 'flat: 32' and budget == 32")["group_size"].unique() == [16]

    def test_what_rules_lose_is_paired(self, data, gaps):
        for row in data.itertuples():
            table = gaps[row.budget, row.iteration]
            best = table.mean().idxmin()
            difference = table[row.group_size] - table[best]
            assert row.gap == pytest.approx(table[row.group_size].mean(), rel=1e-12)
            assert row.excess == pytest.approx(difference.mean(), abs=1e-15)
            assert row.std_error == pytest.approx(stats.sem(difference), abs=1e-15)
            assert row.relative_excess == pytest.approx(difference.mean() / table[best].mean())

    def test_the_measured_best_loses_nothing(self, data):
        best = data.query("rule == @MEASURED_BEST")
        assert (best[["excess", "std_error", "relative_excess"]] == 0).all(axis=None)
        assert best["in_confidence_set"].all()
        assert (best["wanted"] == best["group_size"]).all()
        assert (data["excess"] >= 0).all() and (data["law_excess"] >= 0).all()

    def test_a_rule_is_judged_by_its_size(self, data):
        """Rules that pick the same size have the same row but for their name and wish."""
        rest = data.drop(columns=["rule", "wanted"]).drop_duplicates()
        assert not rest.duplicated(["budget", "iteration", "group_size"]).any()

    def test_large_groups_leave_the_confidence_set(self):
        """On the tug-of-war a few outputs a prompt are best, by law and measured."""
        data = group_size_rules.run(
            checked("group_size_rules", *TINY, "budgets=[128]", "scale.runs=300")
        )
        last = data.query("iteration == 20").set_index("rule")
        assert not last.loc["flat: 32", "in_confidence_set"]
        assert last.loc[["law (gap)", "two"], "in_confidence_set"].all()
        z = (last["excess"] - last["law_excess"])["flat: 32"] / last.loc["flat: 32", "std_error"]
        assert abs(z) <= 4

    def test_infinity_survives_the_csv(self, data):
        table = data.assign(wanted=np.where(data["rule"] == "two", np.inf, data["wanted"]))
        again = pd.read_csv(io.StringIO(to_csv(table)))
        np.testing.assert_allclose(again["wanted"], table["wanted"], rtol=1e-9)
        assert again["in_confidence_set"].tolist() == data["in_confidence_set"].tolist()


class TestCommand:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["budgets=[64,32]"], "budgets must be increasing, got [64, 32]"),
            (
                ["budgets=[7,64]", "group_size=[8,2]"],
                "group_size must hold a divisor of budget 7 of at most half of it, got [2, 8]",
            ),
            (
                ["group_size=[1,2]"],
                "group_size must be at least 2 for a leave-one-out baseline, got 1",
            ),
        ],
    )
    def test_mistakes(self, overrides, message, tmp_path):
        refuses(group_size_rules, message, tmp_path / "results", *TINY, *overrides)
