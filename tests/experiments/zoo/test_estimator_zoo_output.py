"""What is made of the zoo: its figure, its readings, and the page of documentation."""

from __future__ import annotations

import doctest
import functools
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from experiments.zoo import estimator_zoo as app
from experiments.zoo.readings import estimator_zoo as readings
from figures import estimator_zoo as figure
from figures.palette import draw_tasks
from support.apps import checked
from ustat_grpo import estimators
from ustat_grpo.estimators import LIBRARIES

SMALL = ("task.group_size_targets=[4,16]", "task.num_prompts=8", "group_size=[2,4,16]",
         "batch_size=8", "scale.runs=20")  # fmt: skip


@functools.cache
def tables():
    """The table of two bandits, and that of single prompts."""
    bandits = app.run(checked("estimator_zoo", "task=bandit", *SMALL))
    prompts = app.run(checked("estimator_zoo", "task=success_probability", "group_size=[2,4,16]"))
    return bandits, prompts


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def lines(axes):
    """Return what is drawn through several points, by label."""
    return {line.get_label(): line for line in axes.lines if len(line.get_xdata()) > 2}


class TestFigure:
    def test_lines_are_the_relative_errors_of_the_table(self):
        data = tables()[0]
        axes = figure.build(data).axes
        assert len(axes) == 6  # three families, two policies
        drawn = {}
        for place, each in enumerate(axes):
            panel = data["task"].unique()[place % 2]
            drawn |= {(panel, label): line for label, line in lines(each).items()}
        shown = {"grpo_batch_std": "group mean / batch std", "gpg": "group mean / hit rate (GPG)",
                 "grpo_trl": "std-normalised (GRPO)"}  # fmt: skip
        for (name, panel), rows in data.groupby(["estimator", "task"]):
            if name in shown:
                found = drawn[panel, shown[name]].get_ydata()
                np.testing.assert_allclose(found, rows["relative_error"])

    def test_gains_are_relative_to_the_middle(self):
        data = tables()[1]
        axes = figure.build(data).axes
        rows = data.query("estimator == 'grpo_trl' and group_size == 2")
        line = lines(axes[0])["std-normalised (GRPO)"]
        middle = rows.loc[rows["task"].str.endswith("= 0.5"), "gain"].iloc[0]
        np.testing.assert_allclose(line.get_ydata(), rows["gain"] / middle, rtol=1e-12)
        np.testing.assert_allclose(line.get_xdata(), checked("estimator_zoo",
            "task=success_probability").task.probabilities)  # fmt: skip

    def test_one_picture_a_task(self, tmp_path):
        csv = tmp_path / "zoo.csv"
        pd.concat(tables()).to_csv(csv, index=False)
        drawn = draw_tasks(csv, tmp_path, figure.NAME, figure.build)
        names = ["estimator_zoo_bandit.png", "estimator_zoo_success_probability.png"]
        assert sorted(path.name for path in drawn) == names


def read(data):
    """Return the readings by the first words of their claims."""
    found = list(readings(data))
    assert all(reading.obtained and "nan" not in reading.obtained for reading in found)
    return {" ".join(reading.claim.split()[:2]): reading for reading in found}


class TestReadings:
    def test_of_a_table(self):
        found = read(pd.concat(tables(), ignore_index=True))
        exact = found["unbiased estimators,"].obtained.split(";")[0]
        assert exact == "exactly: vanilla, oracle, optimal baseline, critic, remax, rloo"
        assert "dr grpo" in found["estimators whose"].obtained.split(";")[0]
        assert found["std normalisation"].verdict
        assert found["dynamic sampling"].verdict == "reproduced"
        assert found["the ε"].verdict == "reproduced"
        assert found["the greedy"].verdict == "refuted"
        assert found["bandit: the"].obtained.startswith("G = 2, G* = 4: ")

    @pytest.mark.parametrize(
        ("estimator", "column", "factor", "claim"),
        [("dynamic_sampling", "relative_error", 1.5, "dynamic sampling"),
         ("grpo_verl", "scale_free_error", 1.1, "the ε")],
    )  # fmt: skip
    def test_other_numbers_are_read_otherwise(self, estimator, column, factor, claim):
        """Would catch: a verdict that does not look at the table."""
        data = pd.concat(tables(), ignore_index=True)
        data.loc[data["estimator"] == estimator, column] *= factor
        assert read(data)[claim].verdict == "refuted"


class TestPage:
    """`docs/estimators.md`."""

    PAGE = Path(__file__).parents[3] / "docs" / "estimators.md"

    def test_examples_run(self):
        failed, tried = doctest.testfile(str(self.PAGE), module_relative=False, encoding="utf-8")
        assert tried > 15 and not failed

    def test_every_library_form_is_listed_with_its_constants(self):
        """ε is that of the outermost estimator that has one."""
        lines = map(_cells, self.PAGE.read_text(encoding="utf-8").split("\n"))
        rows = {cells[0].strip("`"): cells for cells in lines if len(cells) == 4}
        assert set(rows) - {"name", "---"} == set(LIBRARIES)
        for name, form in LIBRARIES.items():
            _, library, _, constant = rows[name]
            eps = re.findall(r"eps=([\d.e-]+)", repr(form.estimator))
            assert library == form.library
            assert float(constant.split(",")[0] or 0) == float(eps[-1] if eps else 0), name

    def test_every_estimator_is_listed(self):
        text = self.PAGE.read_text(encoding="utf-8")
        listed = {cells[0].strip("`") for cells in map(_cells, text.split("\n")) if len(cells) == 6}
        public = {name for name in estimators.__all__
                  if isinstance(getattr(estimators, name), type)
                  and hasattr(getattr(estimators, name), "advantages")}  # fmt: skip
        assert public - {"Estimator"} == {name for name in listed if name[:1].isupper()}


def _cells(line):
    return [cell.strip() for cell in line[1:-1].split("|")] if line.startswith("|") else []
