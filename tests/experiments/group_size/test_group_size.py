"""The app `group_size`: the law of the gap against runs, mistakes."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from experiments.critic import critic
from experiments.group_size import config as sweep_config
from experiments.group_size import finite_prompts, group_size, group_size_rules, language_group_size
from experiments.tasks.finite_subject import train_bandit
from support.apps import call_main, checked, refuses
from ustat_grpo import Grpo, Oracle
from ustat_grpo.laws.path import ExpectedGap

TINY = ("task=tug_of_war", "budget=64", "group_size=[2,4,8]", "iterations=[5,20]", "scale.runs=50")


def measure(*overrides):
    """Return what `run` computes."""
    return group_size.APP.compute(checked("group_size", *TINY, *overrides), Path("none"))


class TestTable:
    def test_rows(self):
        data = measure()
        assert not data.isna().any(axis=None)
        keys = [
            (estimator, size, iteration)
            for estimator in ("vanilla", "grpo", "oracle")
            for size in (2, 4, 8)
            for iteration in (5, 20)
        ]
        found = zip(data["estimator"], data["group_size"], data["iteration"], strict=True)
        assert list(found) == keys
        assert (data["batch_size"] * data["group_size"] == 64).all()
        assert set(data["task"]) == {"tug_of_war: t = -1"} and set(data["runs"]) == {50}

    def test_every_division_by_default(self):
        assert checked("group_size", "budget=12", "group_size=null").group_size == [2, 3, 4, 6]

    def test_neither_threads_nor_other_sizes_nor_later_iterations_change_a_row(self):
        both = measure("threads=2")
        pd.testing.assert_frame_equal(both, measure("threads=1"))
        one = measure("group_size=4", "iterations=[5]")
        same = both.query("group_size == 4 and iteration == 5").reset_index(drop=True)
        pd.testing.assert_frame_equal(one, same)
        assert (one["gap"] != measure("group_size=4", "iterations=[5]", "seed=1")["gap"]).all()


class TestLaw:
    @pytest.mark.parametrize("schedule", ["constant", "decay"])
    def test_every_estimator(self, schedule):
        """|z| ≤ 4; would catch a law whose noise has half or one and a half times the effect."""
        rate = ["schedule.kind=decay", "schedule.rate=20", "schedule.offset=20"]
        overrides = rate if schedule == "decay" else []
        data = measure(
            "estimator=all", "budget=256", "group_size=[2,32]", "iterations=[8,30]",
            "scale.runs=1000", *overrides,
        )  # fmt: skip
        assert len(data) == 7 * 2 * 2
        z = (data["gap"] - data["law"]) / data["std_error"]
        assert z.abs().max() <= 4
        effect = data["law"] - data["path_gap"]
        for wrong in (0.5, 1.5):
            mutant = data["path_gap"] + wrong * effect
            assert ((data["gap"] - mutant) / data["std_error"]).abs().max() > 4

    def test_best_group_size_is_where_the_law_is_least(self):
        data = measure("budget=1024", "group_size=null").query("estimator == 'grpo'")
        for _, rows in data.groupby("iteration"):
            least = rows.loc[rows["law"].idxmin()]
            assert least["group_size"] / 2 < least["optimal"] < 2 * least["group_size"]


class TestJobs:
    def test_a_schedule_of_its_own_has_a_folder_of_its_own(self, tmp_path):
        """Would catch: a nested parameter that is left out of the folder's name."""
        for extra in ([], ["schedule.rate=0.5"], ["iterations=[5,10]"]):
            assert call_main(group_size, *TINY, *extra, f"output={tmp_path}")[0] == 0
        gaps = {pd.read_csv(path)["gap"].iloc[-1] for path in tmp_path.rglob("data.csv")}
        assert len(gaps) == 3


def test_a_law_that_leaves_the_numbers_is_refused(monkeypatch):
    law = ExpectedGap(5, np.inf, 1.0, 1.0, 1.0)
    monkeypatch.setattr(group_size, "expected_gap", lambda *_, **__: [law])
    with pytest.raises(FloatingPointError, match=r"^the law of the gap is not finite for "):
        measure("budget=4", "group_size=[2]", "iterations=[5]")


MISTAKES = {
    "a rate at which rounding decides": (
        ["schedule.rate=1e100"],
        "schedule.rate must be at most 4.5e+15, from where on rounding decides what a run does, "
        "got 1e+100",
    ),
    "size does not divide": (["group_size=3"], "group_size must divide the budget 64, got 3"),
    "single outputs": (
        ["group_size=[1,2]"],
        "group_size must be at least 2 for a leave-one-out baseline, got 1",
    ),
    "prime budget": (
        ["budget=7", "group_size=null"],
        "budget must have a divisor from 2 on, got 7",
    ),
    "budget too small": (
        ["budget=3", "group_size=null"],
        "budget must be an integer of at least 4, got 3",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_take_one_line_before_any_work(mistake, tmp_path):
    overrides, message = MISTAKES[mistake]
    folder = tmp_path / "results"
    refuses(group_size, message, folder, *TINY, *overrides)


def trained(config, panel, estimator):
    return train_bandit(config.asked(), config.task, panel, estimator, 4).gap


def test_measured_runs_are_shared_between_group_sizes():
    """Would catch: a stream of its own for each size, which makes differences as noisy as sums."""
    config = checked("group_size", *TINY, "scale.runs=400")
    (panel,) = config.task.starts
    few, same = (trained(config, panel, Grpo()) for _ in range(2))
    np.testing.assert_array_equal(few, same)
    other = trained(config, panel, Oracle())
    assert np.corrcoef(few[:, -1], other[:, -1])[0, 1] > 0.5


APPS = {
    module.__name__.rpartition(".")[2]: module
    for module in (critic, finite_prompts, group_size, group_size_rules, language_group_size)
}
"""Whose configurations are composed here: importing them makes their schemas known."""


class TestSizesOfABudget:
    """What a budget takes of the default list; would catch: `budget=64` refused for 128 in it."""

    @pytest.mark.parametrize(
        ("app", "budget", "sizes"),
        [
            ("group_size", 64, [2, 4, 8, 16, 32, 64]),
            ("group_size", 256, [2, 4, 8, 16, 32, 64, 128]),
            ("group_size", 96, [2, 4, 8, 16, 32]),
            ("group_size", 10, [2, 5]),
            ("group_size", 81, [3, 9, 27]),
            ("finite_prompts", 96, [4, 8, 16, 32]),
            ("finite_prompts", 50, [2, 5, 10, 25]),
            ("language_group_size", 48, [2, 4, 8, 16]),
            ("critic", 24, [2, 4, 8]),
        ],
    )
    def test_default_list(self, app, budget, sizes):
        assert checked(app, f"budget={budget}").group_size == sizes

    def test_each_of_several_budgets(self):
        config = checked("group_size_rules", "budgets=[64,81]")
        assert config.sweep(64).group_size == [2, 4, 8, 16, 32]
        assert config.sweep(81).group_size == [3, 9, 27]

    def test_what_is_left_out_is_said_once(self, capsys):
        sweep_config._say_once.cache_clear()
        for _ in range(2):
            checked("group_size", "budget=20")
        assert capsys.readouterr().err == (
            "group_size: [2, 4], which divide the budget 20, "
            "in place of [2, 4, 8, 16, 32, 64, 128]\n"
        )

    @pytest.mark.parametrize("app", ["group_size", "finite_prompts", "language_group_size"])
    def test_a_budget_without_divisors(self, app):
        with pytest.raises(ValueError, match="budget must have a divisor from 2 on, got 13"):
            checked(app, "budget=13")

    def test_lists_in_the_code_are_those_of_the_configuration_files(self):
        """Would catch: a list that is changed in one place, and then refused at most budgets."""
        for app in APPS:
            with mock.patch.object(sweep_config, "sizes_of_budget", side_effect=AssertionError):
                overrides = ["budgets=[36]"] if app == "group_size_rules" else ["budget=36"]
                assert checked(app, *overrides)
