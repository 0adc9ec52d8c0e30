"""No figure has what a reader stumbles over: legends, looks, points, ticks, letters."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from figures import group_size_by_budget
from figures.__main__ import FIGURES
from figures.legends import MOST, Own, foot_legends, labelled, legend, side_legends, wrapped
from figures.palette import mark_beyond, panel_grid
from figures.tables import REFERENCE, TABLES, pictures
from support.optimisation_tables import POLICY, group_size_table
from support.readable_figures import stumbles

pytestmark = pytest.mark.usefixtures("house_style")


def said(figure) -> str:
    """Return what is wrong with a figure."""
    figure.draw_without_rendering()
    return "; ".join(stumbles(figure))


def lines(axes, count):
    """Draw so many lines, in looks of their own."""
    for place in range(count):
        colour, marker = f"C{place % 10}", "os^vD"[place // 10]
        axes.plot([1, 2, 3], [place, 1, 2], color=colour, marker=marker, label=f"line {place}")


class TestWhatIsSeen:
    """The checks see what they look for."""

    def test_a_plain_figure_has_nothing(self):
        figure, (left, _) = panel_grid(2, 2)
        lines(left, 3)
        legend(figure, "note")
        assert said(figure) == ""

    def test_too_many_entries(self):
        figure, (axes, _) = panel_grid(2, 2)
        lines(axes, MOST + 1)
        legend(figure, "note")
        assert f"more than {MOST} entries" in said(figure)

    def test_a_legend_over_data_or_larger_than_its_panel(self):
        figure, (axes, *_) = panel_grid(2, 2)
        lines(axes, 10)
        axes.legend(loc="upper left", fontsize=12)
        assert "over a panel" in said(figure)
        figure, axes = plt.subplots(figsize=(3, 1.5), layout="constrained")
        lines(axes, 10)
        figure.legend(loc="outside lower center", ncols=1)
        with pytest.warns(UserWarning, match="constrained_layout not applied"):
            wrong = said(figure)
        assert "larger than the panels" in wrong

    def test_a_point_outside(self):
        figure, (axes, _) = panel_grid(2, 2)
        axes.plot([1, 2, 3], [1, 9, -9], marker="o")
        axes.set_ylim(0, 5)
        assert said(figure).count("point outside") == 2
        mark_beyond(axes)
        assert said(figure) == ""

    def test_one_look_twice(self):
        figure, (axes, _) = panel_grid(2, 2)
        axes.plot([1, 2], [1, 2], "k--", label="one")
        axes.plot([1, 2], [2, 2], "k:", label="other")
        assert said(figure) == ""
        axes.plot([1, 2], [1, 1], "k--", label="another")
        assert "one look of several series: ['another', 'one']" in said(figure)

    def test_ticks_and_letters(self):
        figure, (axes, _) = panel_grid(2, 2)
        axes.set_xticks([0.5, 0.52], ["a long label", "another"])
        axes.text(0.5, 0.5, "fine print", fontsize=5)
        wrong = said(figure)
        assert "tick labels over each other" in wrong and "too small: fine print" in wrong


class TestLegends:
    def test_rows_are_read_one_after_the_other(self):
        """Would catch: names down the columns, the last of them half empty."""
        figure, (axes, _) = panel_grid(2, 2)
        for name in ("first", "second, of a long name", "third, of a long name", "fourth", "fifth"):
            axes.plot([1, 2], label=name)
        legend(figure, "note")
        figure.draw_without_rendering()
        (drawn,) = figure.legends
        texts = sorted(drawn.get_texts(), key=lambda text: (
            -round(text.get_window_extent().y0), text.get_window_extent().x0))  # fmt: skip
        words = [text.get_text().split(",")[0] for text in texts]
        assert words == ["first", "second", "third", "fourth", "fifth"]

    @pytest.mark.parametrize("place", [side_legends, foot_legends])
    def test_a_panels_own_is_beside_it_and_the_panels_stay(self, place):
        figure, grid = panel_grid(2, 2)
        lines(grid[1], 4)
        figure.draw_without_rendering()
        before = grid[1].bbox.width * grid[1].bbox.height
        place(figure, [Own(grid[1], "title", labelled([grid[1]]))])
        assert said(figure) == ""
        assert grid[1].bbox.width * grid[1].bbox.height > 0.8 * before

    def test_formulas_are_not_broken(self):
        assert wrapped("a note on $N = B G$ and more", 12) == "a note on\n$N = B G$\nand more"


@pytest.mark.parametrize("budgets", [(64,), (64, 256)])
def test_one_estimator_alone(budgets):
    """Would catch: a legend of two rows over the data."""
    data = group_size_table([POLICY], budgets).query("estimator == 'grpo'")
    assert said(group_size_by_budget.build(data)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("figure", FIGURES, ids=lambda each: each.NAME)
def test_figures_of_the_references(figure):
    csv = REFERENCE / f"{TABLES.get(figure.NAME, figure.NAME)}.csv"
    for stem, rows in pictures(pd.read_csv(csv), figure.NAME):
        built = figure.build(rows)
        assert said(built) == "", stem
        plt.close(built)
