"""`implied_objective`: the app's columns against their laws, its mistakes, its figure, readings."""

from __future__ import annotations

import functools
import statistics

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from experiments.practice import implied_objective
from experiments.practice.readings import implied_objective as readings
from figures import implied_objective as figure
from support.apps import checked, refuses
from theory import implied_objective as chapter
from ustat_grpo import Practice
from ustat_grpo.bandits.tug_of_war import one_axis
from ustat_grpo.laws import binary
from ustat_grpo.optimization.mean_field import mean_field

TINY = ("iterations=20", "scale.runs=40", "threads=1")
LAWS = {"leave_one_out_normalised": binary.leave_one_out_normalised,
        "std_normalised": binary.std_normalised}  # fmt: skip


@functools.cache
def table(*overrides):
    return implied_objective.run(checked("implied_objective", *TINY, *overrides))


def part(name, data=None):
    data = table() if data is None else data
    return data[data["part"] == name]


class TestTable:
    def test_cells(self):
        keys = ["estimator", "group_size", "penalty", "num_minibatches"]
        assert len(part("runs")) == 2 * len(part("runs")[keys].drop_duplicates()) == 2 * 36
        assert set(part("runs")["iteration"]) == {10, 20} and set(part("runs")["runs"]) == {10}
        assert not part("runs").iloc[:, :13].isna().any(axis=None)

    def test_curves_are_the_laws(self):
        for name, law in LAWS.items():
            rows = part("gain").loc[part("gain")["estimator"] == name]
            for size, curve in rows.groupby("group_size"):
                prob = curve["success_probability"].to_numpy()
                expected = (
                    (1 / np.sqrt(prob * (1 - prob)), 2 * np.arcsin(np.sqrt(prob)))
                    if np.isinf(size)
                    else (binary.gain(law(int(size), eps=0.0), prob),
                          binary.implied_objective(law(int(size), eps=0.0), prob))
                )  # fmt: skip
                np.testing.assert_allclose(curve["gain"], expected[0], rtol=1e-12)
                np.testing.assert_allclose(curve["implied_objective"], expected[1], rtol=1e-12)
        assert (part("gain").query("estimator == 'grpo'")["gain"] - 1).abs().max() < 1e-12

    @pytest.mark.parametrize("column", ["predicted", "predicted_value", "predicted_limit"])
    def test_candidates_are_stationary(self, column):
        """Would catch: a candidate of another penalty, G or estimator; κ left out."""
        bandit = one_axis([[0.3, 0.7], [0.3, 0.02]], [0.0, 1.0])
        for row in part("maximiser").itertuples():
            gain = np.ones_like if column == "predicted_value" else binary.limiting_gain
            if column == "predicted":
                law = LAWS.get(row.estimator)
                size = int(row.group_size)
                advantages = binary.grpo(size) if law is None else law(size, eps=0.0)
                gain = functools.partial(binary.gain, advantages)
            practice = Practice(penalty=row.penalty, penalty_weight=0.04)
            theta = [getattr(row, column)]
            assert abs(mean_field(bandit, theta, gain, practice=practice, reference=[3.0])) < 1e-12

    def test_runs_carry_the_candidates_of_their_cell(self):
        keys = ["estimator", "penalty", "group_size"]
        both = part("runs").merge(part("maximiser"), on=keys, suffixes=("", "_law"))
        assert len(both) == len(part("runs"))
        for column in ("predicted", "predicted_value", "predicted_limit"):
            np.testing.assert_array_equal(both[column], both[f"{column}_law"])

    def test_a_cell_does_not_depend_on_the_others(self):
        """Would catch: a generator that moves on from cell to cell."""
        lone = table("estimators=[std_normalised]", "penalties=[k3]", "group_size=[8]",
                     "num_minibatches=[4]")  # fmt: skip
        same = part("runs").query(
            "estimator == 'std_normalised' and penalty == 'k3' and group_size == 8 "
            "and num_minibatches == 4"
        )
        left, right = part("runs", lone), same
        np.testing.assert_array_equal(left["coordinate"], right["coordinate"])

    def test_another_problem(self):
        data = table("problem.success=[[0.1,0.9],[0.6,0.05]]", "group_size=[4]", "penalties=[k1]")
        assert set(data["predicted_value"].dropna().round(6)) != {1.962209}
        assert set(data["penalty"].dropna()) == {"k1"}


MISTAKES = {
    "an unknown estimator": (
        ["estimators=[sgd]"],
        "estimators must be among grpo, leave_one_out_normalised, std_normalised, got 'sgd'",
    ),
    "an unknown penalty": (["penalties=[k4]"], "penalty must be one of k1, k2, k3, got 'k4'"),
    "groups that do not divide": (
        ["group_size=[2,3]"], "group_size must divide budget = 256 and be at least 2, got 3",
    ),
    "a group of one": (
        ["group_size=[1]"], "group_size must divide budget = 256 and be at least 2, got 1",
    ),
    "too many minibatches": (
        ["group_size=[2,128]"],
        "batch_size must be a multiple of num_minibatches = 4, got 2",
    ),
    "a negative weight": (
        ["penalty_weight=-1"], "penalty_weight must not be negative, got -1.0",
    ),
    "no chance": (
        ["problem.success=[[0.3,1.7],[0.3,0.02]]"], "success must lie in [0, 1], got 1.7",
    ),
}  # fmt: skip


class TestJobs:
    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_mistakes_take_one_line_before_any_work(self, mistake, tmp_path):
        overrides, message = MISTAKES[mistake]
        refuses(implied_objective, message, tmp_path / "results", *TINY, *overrides)


def ends(off=0.5, std_error=1e-3, own=1.3, limit=1.0):
    """Return the runs' rows of a table in which all ends lie `off` standard errors above theirs."""
    cells = [(name, size, penalty) for name in ("grpo", "std_normalised") for size in (2, 8)
             for penalty in ("k2", "k3")]  # fmt: skip
    data = pd.DataFrame(cells, columns=["estimator", "group_size", "penalty"])
    shift = np.where(data["penalty"] == "k3", 0.1, 0.0)
    data["predicted_value"], data["predicted_limit"] = 1.9 - shift, limit - shift
    data["predicted"] = np.where(data["estimator"] == "grpo", 1.9, own) - shift
    data["coordinate"] = data["predicted"] + off * std_error
    last = data.assign(part="runs", num_minibatches=1, iteration=20, std_error=std_error)
    return pd.concat([last.assign(iteration=10, coordinate=0.0), last], ignore_index=True)


class TestReadings:
    def verdicts(self, **changes):
        return [reading.verdict.split(":")[0] for reading in readings(ends(**changes))]

    def test_every_candidate_told_apart(self):
        normalised, alone, divergence = readings(ends())
        assert normalised.verdict.startswith("refined: E F_G at each G")
        assert "(4 cells" in normalised.claim and "within 0.5 std. errors" in normalised.obtained
        assert "G = 8: 1.3005 ± 0.0010 (E F_G: 1.3000, E V: 1.9000, limit: 1.0000)" in (
            normalised.obtained
        )
        assert alone.verdict == "reproduced" and alone.expected == "4 of 4 cells"
        assert divergence.verdict.startswith("refuted as stated")
        assert "at least 100 from" in divergence.obtained

    def test_five_standard_errors_off(self):
        assert self.verdicts(off=5) == ["refuted", "refuted", "not resolved in every cell"]

    def test_intervals_too_wide(self):
        normalised, _, divergence = self.verdicts(std_error=0.1)
        assert normalised == divergence == "not resolved in every cell"

    def test_a_limit_that_is_near(self):
        assert self.verdicts(limit=1.299)[0] == "not resolved in every cell"

    def test_of_runs_of_the_app(self):
        assert len(list(readings(table()))) == 3


class TestFigure:
    @pytest.fixture(autouse=True)
    def _close(self):
        yield
        plt.close("all")

    def test_curves_get_darker_with_the_group_size(self):
        axes = figure.build(table()).axes[0]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            "$G = 2$", "$G = 4$", "$G = 8$", "$G = 16$", "$G = 64$", "limit",
        ]  # fmt: skip
        grey = [np.dot(line.get_color()[:3], [0.3, 0.59, 0.11]) for line in axes.lines[:-1]]
        assert (np.diff(grey) < -0.05).all()
        gain = part("gain").query("estimator == @figure.SHOWN and group_size == 8")["gain"]
        np.testing.assert_array_equal(axes.lines[2].get_ydata(), gain)

    def test_a_panel_a_penalty_with_laws_and_intervals(self):
        """Would catch: one standard error, runs of half-way, estimators exchanged."""
        built = figure.build(table())
        assert [axes.get_title()[:2] for axes in built.axes[1:]] == ["K2", "K3"]
        runs = part("runs").query("iteration == 20")
        for axes, penalty in zip(built.axes[1:], ("k2", "k3"), strict=True):
            series = list(runs[runs["penalty"] == penalty].groupby(
                ["num_minibatches", "estimator"], sort=False))  # fmt: skip
            assert len(axes.containers) == len(series) == 6
            for drawn, (_, expected) in zip(axes.containers, series, strict=True):
                points, _, (bars,) = drawn
                np.testing.assert_array_equal(points.get_ydata(), expected["coordinate"])
                length = np.array([np.ptp(each[:, 1]) for each in bars.get_segments()])
                half = statistics.NormalDist().inv_cdf(0.975) * expected["std_error"]
                np.testing.assert_allclose(length, 2 * half, rtol=1e-5)

    def test_of_one_estimator_and_penalty(self):
        data = table("estimators=[grpo]", "penalties=[k1]", "group_size=[8]")
        assert len(figure.build(data).axes) == 2


def test_the_chapter_and_the_app_study_the_same_problem():
    config = checked("implied_objective")
    np.testing.assert_array_equal(config.problem.bandit.reward_probs, chapter.BANDIT.reward_probs)
    np.testing.assert_array_equal(config.problem.bandit.offsets, chapter.BANDIT.offsets)
    assert config.problem.reference == chapter.REFERENCE[0]
    assert config.penalty_weight == chapter.WEIGHT


def test_every_claim_of_the_chapter_holds():
    found = list(chapter.claims())
    assert [claim for claim in found if not claim.holds] == [] and len(found) > 30
    assert len({claim.statement for claim in found}) == len(found)
