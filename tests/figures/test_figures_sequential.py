"""The figure of sequential tasks draws its table: objectives, and the law's best group sizes."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from matplotlib.colors import to_hex

from figures import palette, sequential_group_size
from figures.palette import LOOKS, draw_tasks
from support.optimisation_tables import ESTIMATORS, assert_apart, crossed, intervals, legend_names

NORMAL = statistics.NormalDist().inv_cdf(0.975)
SIZES = [8, 2, 4, 16, 32]
TASK = "frozenlake: J = 0.1"


pytestmark = pytest.mark.usefixtures("house_style")


def table(tasks=(TASK,), budgets=(64, 256), sizes=SIZES, iterations=(25, 50, 100), **columns):
    """Return a sweep whose law has G* = 1 + √(49/1) = 8."""
    data = crossed(
        task=tasks, budget=budgets, estimator=ESTIMATORS, iteration=iterations, group_size=sizes
    )
    noise = {"prompt": 1.0, "oracle": 1.0, "residual": 49.0, "prompt_std_error": 0.0}
    return data.assign(objective=100 * data["gap"], runs=50, **(noise | columns))


def shaded(axes):
    """Return the ends of the band."""
    (band,) = axes.patches
    return band.get_x(), band.get_x() + band.get_width()


def marked(axes):
    """Return the group size that is marked as the law's best."""
    (line,) = (each for each in axes.lines if each.get_label().startswith("law's best"))
    return line.get_xdata()[0]


def drawn(axes):
    """Return the points of every series by its name, abscissae rounded to the sizes."""
    found = {}
    for container in axes.containers:
        x, y, ends = intervals(container)
        found[container.get_label()] = 2 ** np.round(np.log2(x)), y, ends
    return found


class TestPoints:
    def test_checkpoints_of_grpo_on_the_left(self):
        """Would catch: lines that go back and forth, other estimators, one standard error."""
        data = table()
        axes = sequential_group_size.build(data).axes
        for panel, (budget, rows) in zip(axes[::2], data.groupby("budget"), strict=True):
            assert f"= {budget}$" in panel.get_title()
            found = drawn(panel)
            assert list(found) == ["$n = 25$", "$n = 50$", "$n = 100$"]
            for iteration, (x, y, ends) in zip((25, 50, 100), found.values(), strict=True):
                expected = rows[(rows["estimator"] == "grpo") & (rows["iteration"] == iteration)]
                expected = expected.sort_values("group_size")
                np.testing.assert_array_equal(x, sorted(SIZES))
                np.testing.assert_array_equal(y, expected["objective"])
                half = NORMAL * expected["std_error"]
                np.testing.assert_allclose(ends[:, 1] - y, half, rtol=1e-5)
                np.testing.assert_allclose(y - ends[:, 0], half, rtol=1e-5)

    def test_estimators_at_the_last_checkpoint_on_the_right(self):
        data = table()
        axes = sequential_group_size.build(data).axes
        for panel, (budget, rows) in zip(axes[1::2], data.groupby("budget"), strict=True):
            assert f"= {budget}$" in panel.get_title() and "n = 100" in panel.get_title()
            found = drawn(panel)
            assert list(found) == ["vanilla", "GRPO", "oracle"]
            for name, (x, y, _) in zip(ESTIMATORS, found.values(), strict=True):
                expected = rows[(rows["estimator"] == name) & (rows["iteration"] == 100)]
                np.testing.assert_array_equal(x, sorted(SIZES))
                np.testing.assert_array_equal(y, expected.sort_values("group_size")["objective"])
            for name, container in zip(ESTIMATORS, panel.containers, strict=True):
                assert to_hex(container[0].get_color()) == LOOKS[name][0].lower()
                assert container[0].get_marker() == LOOKS[name][1]

    def test_estimators_that_need_a_value_may_be_missing(self):
        data = table().query("estimator != 'oracle'")
        for panel in sequential_group_size.build(data).axes[1::2]:
            assert list(drawn(panel)) == ["vanilla", "GRPO"]

    def test_intervals_lie_beside_each_other(self):
        for panel in sequential_group_size.build(table()).axes:
            places = np.concatenate([intervals(each)[0] for each in panel.containers])
            assert len(np.unique(places.round(6))) == len(places)


class TestLaw:
    def test_best_group_size_and_the_band_around_it(self):
        """u + 49/u ≤ 1.05·16 − 2 for u = G − 1 is u in 7.4 ± √5.76: G in 6 … 10.8."""
        for panel in sequential_group_size.build(table()).axes:
            assert marked(panel) == pytest.approx(8.0, rel=0.01)
            assert shaded(panel) == pytest.approx((6.0, 10.8), rel=0.01)

    @pytest.mark.parametrize(
        ("noise", "at"),
        [({"prompt": -0.5}, 32), ({"prompt": 0.001}, 32), ({"residual": 0.5}, 2)],
        ids=["no prompt noise", "beyond the sizes", "below the sizes"],
    )
    def test_beyond_the_sizes_the_end_is_marked(self, noise, at):
        """Would catch: a warning, an axis without end, a band that turns round."""
        figure = sequential_group_size.build(table(**noise))
        figure.draw_without_rendering()
        for panel in figure.axes:
            low, high = shaded(panel)
            assert marked(panel) == pytest.approx(at) and low <= at * 1.0001 and at <= high * 1.0001
            assert low < high
            assert panel.get_xlim()[0] > 1 and panel.get_xlim()[1] < 64


class TestLayout:
    @pytest.mark.parametrize(
        ("budgets", "sizes", "iterations"),
        [((64,), (2, 8, 32), (5, 10)), ((64, 256), (2, 4, 8, 16, 32, 64, 128), (25, 50, 100, 200))],
        ids=["smoke", "paper"],
    )
    def test_nothing_is_drawn_over_anything(self, budgets, sizes, iterations):
        assert_apart(sequential_group_size.build(table((TASK,), budgets, sizes, iterations)))

    def test_axes_are_labelled(self):
        for place, panel in enumerate(sequential_group_size.build(table()).axes):
            assert "group size" in panel.get_xlabel()
            assert bool(panel.get_ylabel()) == (place % 2 == 0)

    def test_legend_names_everything_once(self):
        names = legend_names(sequential_group_size.build(table()))
        assert len(names) == len(set(names)) == 3 + 3 + 1

    def test_one_figure_a_task(self, tmp_path, monkeypatch):
        stems = []
        monkeypatch.setattr(palette, "save", lambda _, path: stems.append(path.stem))
        table(tasks=(TASK, "cartpole: 0 iterations")).to_csv(tmp_path / "data.csv", index=False)
        draw_tasks(
            tmp_path / "data.csv", tmp_path, "sequential_group_size", sequential_group_size.build
        )
        assert stems == ["sequential_group_size_frozenlake", "sequential_group_size_cartpole"]
