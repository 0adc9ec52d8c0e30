"""The figures of language models draw their tables: errors, accuracies, G* and training curves."""

from __future__ import annotations

import statistics
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from figures import gradient_mse, language_group_size, palette, pretrain
from figures.palette import LOOKS, draw_tasks
from support.optimisation_tables import ESTIMATORS, assert_apart, intervals, legend_names, lines

NORMAL = statistics.NormalDist().inv_cdf(0.975)
SKILLS = ("beginner", "intermediate", "advanced")
KINDS = ("two_step", "three_step", "multiplication", "division", "parentheses")


pytestmark = pytest.mark.usefixtures("house_style")


def error_table(skills=SKILLS, sizes=(4, 8, 16, 32, 64)):
    """Return errors from a pool at each size, and by brute force at one."""
    keys = [
        (f"arithmetic: {skill}", size, evidence, name)
        for skill in skills
        for size, evidence in [*((size, "pool") for size in sizes), (16, "brute force")]
        for name in ESTIMATORS
    ]
    data = pd.DataFrame(keys, columns=["task", "group_size", "evidence", "estimator"])
    number = np.arange(len(data))
    law = (2 + np.sin(number)) / data["group_size"] * 1e-2
    return data.assign(
        law=law, mse=law * (1 + 0.1 * np.cos(number)), std_error=law * (0.02 + 1e-4 * number),
        law_std_error=0.001 * law, batch_size=500, bias_norm=np.nan,
    )  # fmt: skip


def accuracy_table(budgets=(64,), sizes=(2, 4, 8), iterations=(50, 100), seeds=3, **columns):
    """Return a sweep in which the noise components of the first two seeds were measured."""
    levels = {
        "budget": budgets,
        "group_size": sizes,
        "seed": range(seeds),
        "iteration": (0, *iterations),
    }
    data = pd.MultiIndex.from_product(levels.values(), names=levels).to_frame(index=False)
    number = np.arange(len(data))
    accuracy = 0.4 + 0.001 * data["iteration"] * (1 + 0.3 * np.sin(number))
    data = data.assign(
        task="arithmetic: intermediate", estimator="grpo", optimizer="sgd",
        batch_size=data["budget"] // data["group_size"], accuracy=accuracy, mean_reward=0.5,
        prompt=2.0, oracle=30.0, residual=200.0 + data["iteration"] + number,
    )  # fmt: skip
    data.loc[data["seed"] >= 2, ["prompt", "oracle", "residual"]] = np.nan
    return data.assign(**columns)


def curve_table(policies={3: "beginner", 8: "intermediate", 15: "advanced"}):  # noqa: B006
    """Return a training curve as it is read from its CSV."""
    steps = 100 * np.arange(1, 17)
    rising = 1 - np.exp(-steps / 800)
    data = pd.DataFrame({"step": steps, "loss": 4 * np.exp(-steps / 500), "accuracy": rising})
    for place, kind in enumerate(KINDS):
        data[kind] = rising ** (1 + place / 3)
    data["policy"] = pd.Series(policies, dtype=object).reindex(data.index)
    return data.assign(task="arithmetic: pretraining")


def shown_ticks(axes):
    """Return the ticks of the vertical axis that lie on it."""
    low, high = axes.get_ylim()
    return [tick for tick in axes.get_yticks() if low <= tick <= high]


class TestGradientError:
    def test_brute_force_has_hollow_points_of_its_own(self):
        """Would catch: a line from the pool to the brute force, or one standard error."""
        data = error_table()
        figure = gradient_mse.build(data)
        for axes, (_, rows) in zip(figure.axes, data.groupby("task", sort=False), strict=True):
            pool, whole = (rows[rows["evidence"] == e] for e in ("pool", "brute force"))
            assert len(lines(axes)) == len(ESTIMATORS)
            assert len(axes.containers) == 2 * len(ESTIMATORS)
            for name, filled, hollow in zip(
                ESTIMATORS, axes.containers[:3], axes.containers[3:], strict=True
            ):
                of_pool, of_whole = (each[each["estimator"] == name] for each in (pool, whole))
                x, y, _ = intervals(filled)
                np.testing.assert_array_equal(x, of_pool["group_size"])
                np.testing.assert_array_equal(y, of_pool["mse"])
                x, y, ends = intervals(hollow)
                assert (list(x), list(y)) == ([16], list(of_whole["mse"]))
                half = NORMAL * of_whole["std_error"]
                np.testing.assert_allclose(ends[:, 1] - y, half, rtol=1e-5)
                assert hollow[0].get_markerfacecolor() == "none"
                assert to_hex(hollow[0].get_color()) == LOOKS[name][0].lower()
                assert hollow[0].get_marker() == LOOKS[name][1]

    def test_legend_names_what_there_is(self):
        both = legend_names(gradient_mse.build(error_table()))
        assert len(both) == len(set(both)) == 4 and "large and hollow: by brute force" in both
        without = error_table().query("evidence == 'pool'")
        assert legend_names(gradient_mse.build(without)) == ["vanilla", "GRPO", "oracle"]

    @pytest.mark.parametrize("skills", [SKILLS, SKILLS[:1]])
    def test_nothing_is_drawn_over_anything(self, skills):
        assert_apart(gradient_mse.build(error_table(skills)))

    @pytest.mark.parametrize("spread", [2, 20, 50, 99, 500])
    def test_axis_has_ticks_whatever_the_range(self, spread):
        """One tick is no scale. Would catch: only 10⁻³ where errors differ fiftyfold."""
        data = error_table(SKILLS[:1])
        law = 4e-4 * spread ** np.linspace(0, 1, len(data))
        (axes,) = gradient_mse.build(data.assign(law=law, mse=law, std_error=0)).axes
        assert len(shown_ticks(axes)) >= 2

    def test_table_of_before(self, tmp_path, monkeypatch, capsys):
        """Would catch: a traceback for a table that does not say its evidence."""
        old = error_table().query("evidence == 'pool'").drop(columns="evidence")
        old.to_csv(tmp_path / "data.csv", index=False)
        arguments = [str(tmp_path / "data.csv"), "--folder", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["gradient_mse", *arguments])
        with pytest.raises(SystemExit) as stop:
            palette.command_line("gradient_mse", gradient_mse.build)
        assert stop.value.code == 2
        assert "csv must have a column 'evidence'" in capsys.readouterr().err


class TestAccuracy:
    def test_accuracies_against_group_size(self):
        """Means over seeds, with 95 % intervals from their spread."""
        data = accuracy_table(budgets=(64, 256))
        figure = language_group_size.build(data.sample(frac=1, random_state=0))
        for axes, (budget, rows) in zip(figure.axes[::2], data.groupby("budget"), strict=True):
            assert f"= {budget}$" in axes.get_title()
            assert [drawn.get_label() for drawn in axes.containers] == ["$n = 50$", "$n = 100$"]
            for drawn, iteration in zip(axes.containers, (50, 100), strict=True):
                found = rows[rows["iteration"] == iteration].pivot(
                    index="seed", columns="group_size", values="accuracy"
                )
                x, y, ends = intervals(drawn)
                np.testing.assert_allclose(x, found.columns, rtol=0.1)
                np.testing.assert_allclose(y, found.mean())
                half = NORMAL * found.std(ddof=1) / 3**0.5
                np.testing.assert_allclose(ends[:, 1] - y, half, rtol=1e-5)
                np.testing.assert_allclose(y - ends[:, 0], half, rtol=1e-5)

    def test_where_runs_begin_and_what_the_law_says(self):
        data = accuracy_table()
        axes = language_group_size.build(data).axes[0]
        (start,) = [line for line in axes.lines if list(line.get_xdata()) == [0, 1]]
        assert list(start.get_ydata()) == [0.4, 0.4]
        (law,) = [line for line in axes.lines if "law's best" in str(line.get_label())]
        first = data[(data["iteration"] == 0) & data["prompt"].notna()]
        expected = (1 + np.sqrt(first["residual"] / first["prompt"])).mean()
        np.testing.assert_allclose(law.get_xdata(), expected)

    def test_path_of_the_optimum(self):
        """Means over what was measured: two of three seeds."""
        data = accuracy_table()
        axes = language_group_size.build(data.sample(frac=1, random_state=0)).axes[1]
        drawn = lines(axes)
        assert [line.get_label() for line in drawn] == [f"$G = {size}$" for size in (2, 4, 8)]
        measured = data[data["seed"] < 2]
        for line, (_, rows) in zip(drawn, measured.groupby("group_size"), strict=True):
            optimal = 1 + np.sqrt(rows["residual"] / rows["prompt"])
            expected = optimal.groupby(rows["iteration"]).mean()
            np.testing.assert_array_equal(line.get_xdata(), [0, 50, 100])
            np.testing.assert_allclose(line.get_ydata(), expected)

    def test_several_optimizers_are_refused_and_drawn_apart(self, tmp_path, monkeypatch):
        data = pd.concat([accuracy_table(), accuracy_table(optimizer="adamw")])
        with pytest.raises(ValueError, match=r"^optimizer must .*sgd.*adamw"):
            language_group_size.build(data)
        stems = []
        monkeypatch.setattr(palette, "save", lambda _, path: stems.append(path.stem))
        data.to_csv(tmp_path / "data.csv", index=False)
        draw_tasks(
            tmp_path / "data.csv", tmp_path, "language_group_size", language_group_size.build
        )
        assert stems == [
            f"language_group_size_arithmetic_optimizer{name}" for name in ("sgd", "adamw")
        ]

    @pytest.mark.parametrize("budgets", [(64,), (256, 512, 1024)])
    def test_nothing_is_drawn_over_anything(self, budgets):
        sizes, iterations = (2, 4, 8, 16, 32, 64, 128), (50, 100, 150, 200)
        assert_apart(language_group_size.build(accuracy_table(budgets, sizes, iterations)))

    @pytest.mark.parametrize("most", [7.0, 9.0, 14.0, 100.0])
    def test_axis_of_the_optimum_has_ticks_whatever_the_range(self, most):
        """Would catch: no power of two among the ticks, and so none."""
        data = accuracy_table(residual=50.0)
        prompt = np.geomspace(2.0, 50 / (most - 1) ** 2, len(data))
        axes = language_group_size.build(data.assign(prompt=prompt)).axes[1]
        axes.figure.draw_without_rendering()
        assert len(shown_ticks(axes)) >= 2
        assert all(text.get_text() for text in axes.get_yticklabels())

    def test_no_prompt_noise(self):
        """G* is infinite. Would catch: a warning, or an axis without end."""
        figure = language_group_size.build(accuracy_table(prompt=0.0))
        figure.draw_without_rendering()
        assert all(np.isfinite(axes.get_xlim()).all() for axes in figure.axes)

    def test_legend_names_everything_once(self):
        names = legend_names(language_group_size.build(accuracy_table((64, 256))))
        assert len(names) == len(set(names)) == 1 + 2 + 3


class TestPretraining:
    def test_curves(self):
        data = curve_table()
        left, right = pretrain.build(data.sample(frac=1, random_state=0)).axes
        drawn = {line.get_label(): line for line in lines(left)}
        assert list(drawn) == ["all", *(kind.replace("_", " ") for kind in KINDS)]
        for name, column in zip(drawn, ("accuracy", *KINDS), strict=True):
            np.testing.assert_array_equal(drawn[name].get_xdata(), data["step"])
            np.testing.assert_array_equal(drawn[name].get_ydata(), data[column])
        assert len({to_hex(line.get_color()) for line in drawn.values()}) == 6
        (loss,) = lines(right)
        np.testing.assert_array_equal(loss.get_ydata(), data["loss"])
        assert right.get_yscale() == "log"

    def test_policies_are_marked_where_they_were_kept(self):
        for axes in pretrain.build(curve_table()).axes:
            marks = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
            assert marks == [400, 900, 1600]
            assert [text.get_text() for text in axes.texts] == list(SKILLS)

    @pytest.mark.parametrize("policies", [{3: "half"}, {3: "beginner", 15: "advanced"}])
    def test_nothing_is_drawn_over_anything(self, policies):
        assert_apart(pretrain.build(curve_table(policies)))

    def test_one_file(self, tmp_path, monkeypatch):
        stems = []
        monkeypatch.setattr(palette, "save", lambda _, path: stems.append(path.stem))
        curve_table().to_csv(tmp_path / "data.csv", index=False)
        draw_tasks(tmp_path / "data.csv", tmp_path, "pretrain", pretrain.build)
        assert stems == ["pretrain_arithmetic"]
