"""Every figure of optimisation, whatever its number of panels; and those against iterations."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from figures import (
    finite_prompts,
    gap_bound,
    group_size,
    group_size_by_budget,
    group_size_rules,
    limit_law,
    palette,
    scaling_law,
    training_path,
)
from figures.palette import LOOKS, draw_tasks, panel_grid
from figures.tables import TABLES, plain
from support.optimisation_tables import (
    POLICIES,
    POLICY,
    assert_apart,
    finite_prompts_table,
    gap_bound_table,
    group_size_table,
    intervals,
    legend_names,
    limit_law_table,
    lines,
    rules_table,
    training_path_table,
)

ROOT = Path(__file__).parents[2]
NORMAL = statistics.NormalDist().inv_cdf(0.975)
FIGURES = {
    group_size: lambda tasks: group_size_table(tasks, budgets=(64,)),
    group_size_by_budget: group_size_table,
    scaling_law: group_size_table,
    limit_law: limit_law_table,
    gap_bound: gap_bound_table,
    training_path: training_path_table,
    finite_prompts: finite_prompts_table,
    group_size_rules: rules_table,
}
PANELS = {
    "group_size": 3, "group_size_by_budget": 2, "scaling_law": 2, "limit_law": 6, "gap_bound": 2,
    "training_path": 2, "finite_prompts": 2, "group_size_rules": 2,
}  # fmt: skip

FIRST_ORDER = [each for each in FIGURES if each is not limit_law]
"""Their laws are those of `laws.path` and `laws.epochs`."""

every_figure = pytest.mark.parametrize(
    ("module", "table"), FIGURES.items(), ids=lambda each: getattr(each, "NAME", "")
)
every_module = pytest.mark.parametrize("module", FIGURES, ids=lambda module: module.NAME)

pytestmark = pytest.mark.usefixtures("house_style")


@cache
def drawn(module, *tasks):
    """A figure of these policies, to be looked at."""
    return module.build(FIGURES[module](list(tasks)))


class TestEveryFigure:
    @every_module
    def test_so_many_panels_a_policy(self, module):
        for tasks in ([POLICY], POLICIES):
            figure = drawn(module, *tasks)
            assert len(figure.axes) == PANELS[module.NAME] * len(tasks)
            titles = " ".join(axes.get_title() for axes in figure.axes)
            for task in tasks:
                assert plain(task) in titles

    @pytest.mark.parametrize("module", FIRST_ORDER, ids=lambda module: module.NAME)
    def test_laws_of_the_gap_are_said_to_be_of_first_order(self, module):
        figure = drawn(module, *POLICIES)
        ticks = [each.get_text() for axes in figure.axes for each in axes.get_yticklabels()]
        said = [figure.legends[0].get_title().get_text(), *legend_names(figure), *ticks]
        named = [each for each in said if re.search(r"\blaws?\b", each)]
        assert named and all("first-order" in each or "first order" in each for each in named)

    @every_module
    def test_legend_names_everything_once(self, module):
        names = legend_names(drawn(module, *POLICIES))
        assert names and len(set(names)) == len(names)

    @every_module
    def test_nothing_is_drawn_over_anything(self, module):
        """Would catch: titles over their neighbours, panels over the legend."""
        assert_apart(drawn(module, POLICY))

    @every_figure
    def test_order_of_rows_does_not_matter_to_lines(self, module, table):
        """Would catch: a line that runs to and fro."""
        data = table([POLICY])
        figure = module.build(data.sample(frac=1, random_state=0))
        for axes in figure.axes:
            for line in lines(axes):
                assert (np.diff(line.get_xdata()) >= 0).all()

    @every_figure
    def test_reads_the_table_of_its_experiment(self, module, table, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", [module.NAME])
        monkeypatch.setattr(palette, "draw_tasks", lambda csv, *_: print(csv) or [])
        monkeypatch.setattr(Path, "exists", lambda _: True)
        palette.command_line(module.NAME, module.build)
        experiment = TABLES.get(module.NAME, module.NAME)
        read = capsys.readouterr().out.split()[0]
        assert read == str(ROOT / "experiments" / "reference" / f"{experiment}.csv")
        assert list((ROOT / "experiments").glob(f"*/{experiment}.py"))


class TestPanelGrid:
    @pytest.mark.parametrize(
        ("count", "per_row", "shape"),
        [
            (1, 1, (1, 1)), (2, 2, (1, 2)), (3, 3, (1, 3)), (4, 4, (1, 4)), (5, 5, (2, 3)),
            (6, 6, (2, 3)), (6, 2, (3, 2)), (12, 4, (3, 4)),
        ],
    )  # fmt: skip
    def test_shape(self, count, per_row, shape):
        figure, grid = panel_grid(count, per_row)
        assert len(grid) == len(figure.axes) == count
        assert grid[0].get_subplotspec().get_gridspec().get_geometry() == shape


class TestLimitLaw:
    def test_quantiles(self):
        data = limit_law_table()
        figure = limit_law.build(data)
        last = data[data["iteration"] == 1000]
        for axes, (name, rows) in zip(
            figure.axes[::2], last.groupby("estimator", sort=False), strict=True
        ):
            (wrong,) = (line.get_ydata() for line in lines(axes))
            (diagonal,) = (line for line in axes.lines if line.get_label() == "limit law")
            np.testing.assert_array_equal(diagonal.get_xdata(), rows["law"].iloc[[0, -1]])
            np.testing.assert_array_equal(diagonal.get_ydata(), rows["law"].iloc[[0, -1]])
            np.testing.assert_array_equal(wrong, rows["law_without_beta_squared"])
            x, y, ends = intervals(axes.containers[0])
            assert 15 <= len(x) <= 40
            np.testing.assert_allclose(y, 1.03 * x)
            p = 1 - np.exp(-x)
            # For the exponential law q f(q) = −(1−p)·log(1−p).
            half = NORMAL * np.sqrt(p * (1 - p) / 2000) / ((1 - p) * x)
            np.testing.assert_allclose(np.log(ends[:, 1] / y), half, rtol=1e-5)
            np.testing.assert_allclose(np.log(y / ends[:, 0]), half, rtol=1e-5)
            assert to_hex(axes.containers[0][0].get_color()) == LOOKS[name][0].lower()

    def test_density_meets_its_law(self):
        """Between quantiles of an exponential law, at the middle of each step."""
        data = limit_law_table(iterations=(1000,))
        figure = limit_law.build(data.assign(quantile=data["law"]))
        for axes in figure.axes[1::2]:
            x, y, ends = intervals(axes.containers[0])
            np.testing.assert_allclose(y, x * np.exp(-x), rtol=0.02)
            (law,) = lines(axes)
            np.testing.assert_allclose(law.get_ydata(), law.get_xdata() * np.exp(-law.get_xdata()))
            step = 4 / 100
            half = NORMAL * np.sqrt((1 - step) / (step * 2000))
            np.testing.assert_allclose(ends[:, 1] / y - 1, half, rtol=1e-5)
            assert "1.050 ± 0.020" in axes.texts[0].get_text()


class TestGapBound:
    def test_bounds_lie_where_they_are_and_are_grey(self):
        data = gap_bound_table()
        figure = gap_bound.build(data)
        for axes, (_, panel) in zip(figure.axes, data.groupby("schedule", sort=False), strict=True):
            for column, (grey, name) in gap_bound.BOUNDS.items():
                drawn = lines(axes, name)
                assert [line.get_color() for line in drawn] == [grey] * 3
                for line, (_, rows) in zip(
                    drawn, panel.groupby("estimator", sort=False), strict=True
                ):
                    expected = rows.sort_values("iteration")[column]
                    np.testing.assert_array_equal(line.get_ydata(), expected)
            assert len(axes.containers) == 3
            assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


class TestTrainingPath:
    def test_lines_band_and_objective(self):
        data = training_path_table()
        figure = training_path.build(data)
        axes, top = figure.axes
        gradient, paper, gap = (line.get_ydata() for line in lines(axes))
        np.testing.assert_array_equal(gradient, data["gradient_error_optimal"])
        np.testing.assert_array_equal(paper, data["paper_optimal"])
        np.testing.assert_array_equal(gap, [np.nan, 9, 8, np.nan])
        np.testing.assert_array_equal(top.lines[0].get_ydata(), data["objective"])
        vertices = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert (vertices.min(), vertices.max()) == (5, 14)

    def test_arrows_where_the_law_has_no_best(self):
        """Would catch: ∞ taken for none, whose answer is the opposite."""
        axes, _ = training_path.build(training_path_table()).axes
        arrows = {
            line.get_marker(): list(line.get_xdata())
            for line in axes.lines
            if line.get_linestyle() == "None"
        }
        assert arrows == {"^": [1], "v": [1000]}

    def test_two_rows_of_panels(self):
        """Would catch: a title over the panel above, of two parts."""
        assert_apart(training_path.build(training_path_table([f"bandit: {i}" for i in range(5)])))


class TestFiles:
    @pytest.fixture
    def saved(self, monkeypatch):
        """Figures are not written, which takes long, but listed by name."""
        stems = []
        monkeypatch.setattr(palette, "save", lambda _, path: stems.append(path.stem))
        return stems

    def test_one_figure_a_task_where_there_are_no_jobs(self, tmp_path, saved):
        group_size_table([POLICY, *POLICIES]).to_csv(tmp_path / "data.csv", index=False)
        draw_tasks(tmp_path / "data.csv", tmp_path, "scaling_law", scaling_law.build)
        assert saved == ["scaling_law_weak_tug_of_war", "scaling_law_bandit"]

    def test_one_figure_a_budget(self, tmp_path, saved):
        group_size_table(iterations=(25,)).to_csv(tmp_path / "data.csv", index=False)
        draw_tasks(tmp_path / "data.csv", tmp_path, "group_size", group_size.build)
        assert saved == [f"group_size_weak_tug_of_war_budget{budget}" for budget in (64, 256)]

    def test_jobs_that_do_not_fit_together(self, tmp_path, monkeypatch, capsys):
        """Would catch: a traceback, or quantiles of two jobs in one plot."""
        data = pd.concat([limit_law_table(), limit_law_table().assign(batch_size=64)])
        data.to_csv(tmp_path / "data.csv", index=False)
        monkeypatch.setattr(sys, "argv", ["limit_law", str(tmp_path / "data.csv")])
        with pytest.raises(SystemExit) as stop:
            palette.command_line("limit_law", limit_law.build)
        assert stop.value.code == 2
        assert "batch_size must be the same" in capsys.readouterr().err

    @pytest.mark.slow  # test_figures asks the same of another figure
    def test_in_a_process_of_its_own(self, tmp_path):
        """Same bytes. Would catch: a warning of Matplotlib's."""
        training_path_table().to_csv(tmp_path / "data.csv", index=False)
        arguments = [str(tmp_path / "data.csv"), "--folder", str(tmp_path / "there")]
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "figures.training_path", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert (done.returncode, done.stderr) == (0, "")
        there = tmp_path / "there" / "training_path_weak_tug_of_war.png"
        assert there.read_bytes().startswith(b"\x89PNG")
        (here,) = draw_tasks(
            tmp_path / "data.csv", tmp_path / "here", "training_path", training_path.build
        )
        for suffix in (".png", ".pdf"):
            written = there.with_suffix(suffix).read_bytes()
            assert written == here.with_suffix(suffix).read_bytes()
