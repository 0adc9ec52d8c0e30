"""The figures draw the numbers of their table: laws as lines, measurements with intervals."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from figures import fixed_budget, gradient_mse, palette
from figures.__main__ import FIGURES as ALL
from figures.palette import LOOKS, NAMES, draw_tasks, save, turning
from figures.tables import JOBS, TABLES, by_task, plain

ROOT = Path(__file__).parents[2]
FIGURES = {"gradient_mse": gradient_mse, "fixed_budget": fixed_budget}
PANELS = ["bandit: G* = 4", "bandit: G* = 16"]
ESTIMATORS = ["vanilla", "grpo", "oracle"]
SIZES = [8, 2, 4]
NORMAL = statistics.NormalDist().inv_cdf(0.975)

every_figure = pytest.mark.parametrize("name", FIGURES)


def table(estimators=ESTIMATORS, panels=PANELS, budget=64):
    """Return a table of both figures' columns, no two numbers of it alike, sizes unsorted."""
    keys = [(panel, size, each) for panel in panels for size in SIZES for each in estimators]
    data = pd.DataFrame(keys, columns=["task", "group_size", "estimator"])
    number = np.arange(len(data))
    data["law"] = (1 + number / 100) / data["group_size"]
    data["mse"] = data["law"] * (1 + 0.01 * np.sin(number))
    data["std_error"] = data["law"] * (0.02 + 0.001 * number)
    return data.assign(
        budget=budget,
        batch_size=32,
        evidence="simulation",
        optimal=4.5,
        near_optimal_low=3.0,
        near_optimal_high=7.0,
        paper_optimal=3.5,
    )


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def built(name, data):
    """Return a figure, its panels' axes and their rows."""
    figure = FIGURES[name].build(data)
    panels = [rows for _, rows in data.groupby("task", sort=False)]
    assert len(figure.axes) == len(panels)
    return figure, list(zip(figure.axes, panels, strict=True))


def law_lines(axes):
    """Return what is drawn as a line through several points, by colour."""
    lines = [each for each in axes.lines if each.get_linestyle() != "None"]
    return [each for each in lines if len(each.get_xdata()) > 2]


class TestBuild:
    @every_figure
    def test_one_panel_a_policy_in_the_order_of_the_table(self, name):
        _, panels = built(name, table())
        titles = [axes.get_title() for axes, _ in panels]
        said = PANELS if name == "fixed_budget" else map(plain, PANELS)
        assert all(title.startswith(each) for title, each in zip(titles, said, strict=True))

    @every_figure
    def test_each_law_is_one_line_in_the_estimators_colour(self, name):
        _, panels = built(name, table())
        for axes, rows in panels:
            lines = law_lines(axes)
            assert len(lines) == len(ESTIMATORS)
            for line, estimator in zip(lines, ESTIMATORS, strict=True):
                expected = rows[rows["estimator"] == estimator].sort_values("group_size")
                np.testing.assert_array_equal(line.get_xdata(), expected["group_size"])
                np.testing.assert_array_equal(line.get_ydata(), expected["law"])
                assert line.get_marker() == "None"
                assert to_hex(line.get_color()) == LOOKS[estimator][0].lower()

    @every_figure
    def test_each_measurement_is_a_marker_with_a_95_percent_interval(self, name):
        """Would catch: one standard error, or a whole interval for half of one."""
        _, panels = built(name, table())
        for axes, rows in panels:
            assert len(axes.containers) == len(ESTIMATORS)
            for drawn, estimator in zip(axes.containers, ESTIMATORS, strict=True):
                expected = rows[rows["estimator"] == estimator].sort_values("group_size")
                points, _, (bars,) = drawn
                np.testing.assert_array_equal(points.get_xdata(), expected["group_size"])
                np.testing.assert_array_equal(points.get_ydata(), expected["mse"])
                assert points.get_linestyle() == "None"
                assert points.get_marker() == LOOKS[estimator][1]
                assert to_hex(points.get_color()) == LOOKS[estimator][0].lower()
                ends = np.array([segment[:, 1] for segment in bars.get_segments()])
                half = NORMAL * expected["std_error"]
                np.testing.assert_allclose(ends[:, 0], expected["mse"] - half, rtol=1e-6)
                np.testing.assert_allclose(ends[:, 1], expected["mse"] + half, rtol=1e-6)

    @every_figure
    def test_every_estimator_has_looks_and_a_name_of_its_own(self, name):
        estimators = list(LOOKS)
        assert estimators == list(NAMES)
        for looks in zip(*LOOKS.values(), strict=True):
            assert len(set(looks)) == len(LOOKS)
        figure, panels = built(name, table(estimators))
        assert len(law_lines(panels[0][0])) == len(estimators)
        if name == "fixed_budget":  # names stand beside the curves
            names = [text.get_text() for text in panels[0][0].texts]
            assert sorted(names) == sorted(NAMES.values())
            return
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert sorted(names) == sorted(NAMES.values())

    def test_colours_are_the_houses(self):
        """Blue, orange and green, everywhere."""
        colours = {each: LOOKS[each][0] for each in ESTIMATORS}
        assert colours == {"vanilla": "#0072B2", "grpo": "#E69F00", "oracle": "#009E73"}

    def test_every_estimator_of_the_experiments_can_be_drawn(self):
        from experiments.running.estimators import _COMPARED

        assert set(LOOKS) == set(_COMPARED)

    @every_figure
    def test_legend_names_everything_once(self, name):
        figure, _ = built(name, table())
        (legend,) = figure.legends
        names = [text.get_text() for text in legend.get_texts()]
        assert len(set(names)) == len(names)
        if name == "fixed_budget":
            others = " ".join(names)
            assert len(names) == 4
            assert "5 %" in others and "$G^*" in others and "paper" in others
            return
        assert {"vanilla", "GRPO", "oracle"} <= set(names)

    @every_figure
    def test_axes_are_logarithmic_and_labelled(self, name):
        _, panels = built(name, table())
        for axes, rows in panels:
            assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
            assert "group size" in axes.get_xlabel()
            assert list(axes.get_xticks()) == sorted(set(rows["group_size"]))
            low, high = axes.get_ylim()
            shown = [tick for tick in axes.get_yticks() if low <= tick <= high]
            assert len(shown) >= 2  # one tick is no scale
        assert "gradient error" in panels[0][0].get_ylabel()

    def test_predictions_are_marked_where_they_are(self):
        _, panels = built("fixed_budget", table())
        for axes, _ in panels:
            marks = sorted(
                line.get_xdata()[0]
                for line in axes.lines
                if len(line.get_xdata()) == 2 and len(set(line.get_xdata())) == 1
            )
            assert marks == [3.5, 4.5]
            span = next(
                each for each in axes.patches if each.get_label() == "within 5 % of the best"
            )
            x = span.get_path().vertices @ np.array([1, 0])
            corners = span.get_patch_transform().transform(span.get_path().vertices)[:, 0]
            assert (corners.min(), corners.max()) == pytest.approx((3, 7)), x
        assert "64" in panels[0][0].get_ylabel()

    @pytest.mark.parametrize(
        ("name", "column"), [("fixed_budget", "budget"), ("gradient_mse", "batch_size")]
    )
    def test_several_jobs_are_not_joined(self, name, column):
        """As the README's own sweep over budgets gives. Would catch: laws that run to and fro."""
        jobs = [table().assign(**{column: value}) for value in (64, 256)]
        data = pd.concat(jobs, ignore_index=True)
        try:
            figure = FIGURES[name].build(data)
        except ValueError as error:  # to refuse is as good
            assert re.search(f"^{column} must .*64.*256", str(error))
            return
        for line in (each for axes in figure.axes for each in law_lines(axes)):
            assert (np.diff(line.get_xdata()) > 0).all()
        labels = " ".join(axes.get_title() + axes.get_ylabel() for axes in figure.axes)
        assert "64" in labels and "256" in labels


class TestFiles:
    @every_figure
    def test_the_same_bytes_at_each_run(self, name, tmp_path):
        """Would catch: a date in the PDF, a version in the PNG, glyphs named at random."""
        first, second = (
            save(FIGURES[name].build(table(["grpo"], PANELS[:1])), tmp_path / folder / "figure.png")
            for folder in ("first", "second")
        )
        for suffix, magic in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
            written = first.with_suffix(suffix).read_bytes()
            assert written.startswith(magic)
            assert written == second.with_suffix(suffix).read_bytes()
        assert not plt.get_fignums()  # a figure left open is memory lost

    def test_one_figure_a_task(self, tmp_path):
        data = pd.concat([table(["grpo"], PANELS[:1]), table(["grpo"], ["tug_of_war: t = 0"])])
        data.to_csv(tmp_path / "data.csv", index=False)
        out = tmp_path / "out"
        drawn = draw_tasks(tmp_path / "data.csv", out, "gradient_mse", gradient_mse.build)
        stems = ["gradient_mse_bandit", "gradient_mse_tug_of_war"]
        assert drawn == [out / f"{stem}.png" for stem in stems]
        assert {path.stem for path in out.glob("*.pdf")} == set(stems)

    def test_one_figure_a_job(self, tmp_path, monkeypatch):
        """A sweep over budgets, as in the README; written like those of tasks."""
        monkeypatch.setattr(palette, "save", lambda _, path: path)
        jobs = [table(["grpo"], PANELS[:1], budget=budget) for budget in (64, 256)]
        pd.concat(jobs).to_csv(tmp_path / "data.csv", index=False)
        drawn = draw_tasks(tmp_path / "data.csv", tmp_path, "fixed_budget", fixed_budget.build)
        names = [f"fixed_budget_bandit_budget{budget}.png" for budget in (64, 256)]
        assert [path.name for path in drawn] == names

    def test_style_is_not_left_behind(self, tmp_path, monkeypatch):
        monkeypatch.setattr(palette, "save", lambda _, path: path)
        table(["grpo"], PANELS[:1]).to_csv(tmp_path / "data.csv", index=False)
        before = dict(plt.rcParams)
        draw_tasks(tmp_path / "data.csv", tmp_path, "gradient_mse", gradient_mse.build)
        assert dict(plt.rcParams) == before

    def test_committed_figures_are_those_of_the_references(self, tmp_path):
        """Every drawn file has its table, and every table its files."""
        reference, drawn = ROOT / "experiments" / "reference", ROOT / "figures" / "drawn"
        expected = set()
        for name in (figure.NAME for figure in ALL):
            data = pd.read_csv(reference / f"{TABLES.get(name, name)}.csv")
            for task, rows in by_task(data).items():
                jobs = rows[JOBS[name]].unique() if name in JOBS else []
                several = [f"_{JOBS[name]}{job}" for job in jobs] if len(jobs) > 1 else [""]
                expected |= {f"{name}_{task}{suffix}" for suffix in several}
        for kind in (".png", ".pdf"):
            assert {path.stem for path in drawn.iterdir() if path.suffix == kind} == expected
        assert {path.suffix for path in drawn.iterdir()} == {".png", ".pdf"}


class TestCommand:
    @pytest.fixture
    def main(self, monkeypatch):
        def call(name, *arguments):
            monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
            FIGURES[name].command_line(name, FIGURES[name].build)

        return call

    @every_figure
    def test_missing_table(self, name, main, tmp_path, capsys):
        with pytest.raises(SystemExit) as stop:
            main(name, tmp_path / "none.csv")
        assert stop.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.endswith(f"csv must be an existing file, got {tmp_path / 'none.csv'}")

    def test_folder_that_cannot_be_written(self, main, tmp_path, capsys):
        table(["grpo"], PANELS[:1]).to_csv(tmp_path / "data.csv", index=False)
        (tmp_path / "file").write_text("mine")
        with pytest.raises(SystemExit) as stop:
            main("gradient_mse", tmp_path / "data.csv", "--folder", tmp_path / "file")
        assert stop.value.code == 2
        assert f"folder must be writable, got {tmp_path / 'file'}" in capsys.readouterr().err

    def test_table_of_another_kind(self, main, tmp_path, capsys):
        """Would catch: a traceback for a user who gives the wrong file."""
        (tmp_path / "data.csv").write_text("a,b\n1,2\n")
        with pytest.raises(SystemExit) as stop:
            main("gradient_mse", tmp_path / "data.csv", "--folder", tmp_path)
        assert stop.value.code == 2
        assert "csv must " in capsys.readouterr().err

    def test_in_a_process_of_its_own(self, tmp_path):
        """The figure is the same, byte for byte, in another process."""
        table(["grpo"], PANELS[:1]).to_csv(tmp_path / "data.csv", index=False)
        arguments = [str(tmp_path / "data.csv"), "--folder", str(tmp_path / "there")]
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "figures.gradient_mse", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert (done.returncode, done.stderr) == (0, "")
        there = Path(done.stdout.strip())
        assert there == tmp_path / "there" / "gradient_mse_bandit.png"
        (here,) = draw_tasks(
            tmp_path / "data.csv", tmp_path / "here", "gradient_mse", gradient_mse.build
        )
        assert there.read_bytes() == here.read_bytes()
        assert there.with_suffix(".pdf").read_bytes() == here.with_suffix(".pdf").read_bytes()


def test_figures_import_nothing_of_ours():
    """Would catch: a figure that computes what it should read."""
    roots = set()
    for path in (ROOT / "figures").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots.add("figures" if node.level else (node.module or "").split(".")[0])
    assert {"figures", "matplotlib", "pandas"} <= roots
    assert not roots & {"ustat_grpo", "theory", "experiments", "benchmarks"}


class TestTurning:
    """Where a line does not turn, rounding would decide how its strokes are joined."""

    def test_ends_and_turns_are_kept(self):
        places = np.array([[0, 0], [0.25, 0.25], [0.5, 0.5], [0.75, 0.5], [1, 0.5]])
        assert turning(places) == [0, 2, 4]
        assert turning(places[:2]) == [0, 1]

    def test_digits_of_a_table_are_no_turns(self):
        """Would catch: a tolerance of rounding errors only; tables have ten digits."""
        x = np.linspace(0, 1, 9)
        assert turning(np.column_stack([x, x + 1e-10 * np.cos(7 * x)])) == [0, 8]

    @pytest.mark.parametrize("turn", [1e-3, 7e-5])
    def test_what_an_eye_can_see_is_kept(self, turn):
        """A slow curve, none of whose points turns much."""
        x = np.linspace(0, 1, 101)
        places = np.column_stack([x, turn * x**2])
        kept = places[turning(places)]
        drawn = np.interp(x, *kept.T)
        np.testing.assert_allclose(drawn, places[:, 1], rtol=0, atol=1e-6)

    def test_a_line_that_turns_back_and_one_with_a_hole(self):
        back = np.array([[0, 0], [1, 0], [0.5, 0]])
        assert turning(back) == [0, 1, 2]
        assert turning(np.array([[0, 0], [0.5, np.nan], [1, 1]])) == [0, 1, 2]

    @pytest.mark.parametrize("marker", ["None", "o"])
    def test_a_power_of_the_group_size_is_one_stroke(self, marker, tmp_path):
        """Would catch: markers that vanish with the points at which the line does not turn."""
        figure, axes = plt.subplots()
        sizes = np.array([2, 4, 8, 16, 32])
        (line,) = axes.plot(sizes, 0.1 / sizes, marker=marker)
        axes.set_xscale("log")
        axes.set_yscale("log")
        save(figure, tmp_path / "power.png")
        strokes = [each for each in axes.lines if each.get_linestyle() != "None"]
        assert [len(each.get_xydata()) for each in strokes] == [2]
        assert len(line.get_xydata()) == (2 if marker == "None" else 5)
