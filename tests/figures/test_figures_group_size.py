"""The figures against group size draw the numbers of their tables, and the law's best G."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from figures import (
    finite_prompts,
    group_size,
    group_size_by_budget,
    group_size_rules,
    scaling_law,
)
from figures.palette import LOOKS
from support.optimisation_tables import (
    ESTIMATORS,
    RULES,
    finite_prompts_table,
    group_size_table,
    intervals,
    legend_names,
    lines,
    rules_table,
)

NORMAL = statistics.NormalDist().inv_cdf(0.975)


pytestmark = pytest.mark.usefixtures("house_style")


class TestGaps:
    """Figures group_size and group_size_by_budget."""

    @pytest.mark.parametrize(
        ("module", "column"), [(group_size, "iteration"), (group_size_by_budget, "budget")]
    )
    def test_laws_and_measurements(self, module, column):
        data = group_size_table()
        if column == "iteration":
            data = data[data["budget"] == 64]
            cells = list(data.groupby("iteration"))
        else:
            cells = list(data[data["iteration"] == 100].groupby("budget"))
        figure = module.build(data)
        for axes, (value, cell) in zip(figure.axes, cells, strict=True):
            assert f"= {value}$" in axes.get_title()
            laws = lines(axes)
            assert len(laws) == len(axes.containers) == 3
            for law, drawn, name in zip(laws, axes.containers, ESTIMATORS, strict=True):
                rows = cell[cell["estimator"] == name].sort_values("group_size")
                np.testing.assert_array_equal(law.get_xdata(), rows["group_size"])
                np.testing.assert_array_equal(law.get_ydata(), rows["law"])
                assert to_hex(law.get_color()) == LOOKS[name][0].lower()
                x, y, ends = intervals(drawn)
                np.testing.assert_allclose(x, rows["group_size"], rtol=0.1)  # beside each other
                np.testing.assert_array_equal(y, rows["gap"])
                half = NORMAL * rows["std_error"]
                np.testing.assert_allclose(ends[:, 1] - rows["gap"], half, rtol=1e-5)
                np.testing.assert_allclose(rows["gap"] - ends[:, 0], half, rtol=1e-5)

    @pytest.mark.parametrize(
        ("optimal", "marked"), [(5.0, True), (1.5, True), (math.inf, False), (math.nan, False)]
    )
    def test_the_laws_best_is_marked_where_there_is_one(self, optimal, marked):
        data = group_size_table(budgets=(64,))
        data.loc[data["estimator"] == "grpo", "optimal"] = optimal
        figure = group_size.build(data.assign(optimal=data["optimal"]))
        for axes in figure.axes:
            marks = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
            assert marks == ([optimal] if marked else [])
        assert ("first-order law's best $G$ for GRPO" in legend_names(figure)) == marked

    def test_several_budgets_are_refused(self):
        with pytest.raises(ValueError, match=r"^budget must .*64.*256"):
            group_size.build(group_size_table())

    @pytest.mark.parametrize(("spread", "scale"), [(1.5, "linear"), (50.0, "log"), (500.0, "log")])
    def test_axis_has_ticks_whatever_the_range(self, spread, scale):
        """Would catch: no tick where gaps differ by a few per cent, or one for fifty-fold."""
        data = group_size_table(budgets=(64,), iterations=(25,))
        gap = 0.04 * spread ** ((data["group_size"] - 2) / 14)
        data = data.assign(gap=gap, law=gap, std_error=1e-3 * gap)
        figure = group_size.build(data)
        figure.draw_without_rendering()
        (axes,) = figure.axes
        assert axes.get_yscale() == scale
        low, high = axes.get_ylim()
        assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 2
        assert all(text.get_text() for text in axes.get_yticklabels())


class TestScalingLaw:
    def test_best_and_all_within_two_standard_errors(self):
        rows = pd.DataFrame(
            {
                "group_size": [2, 4, 8, 16, 32],
                "gap": [2.0, 1.27, 1.0, 1.29, 1.1],
                "std_error": [0.1, 0.1, 0.1, 0.1, 0.001],
            }
        )
        # Allowances: 2·√2·0.1 = 0.283 where both err by 0.1.
        assert scaling_law.measured_best(rows) == (4, 8, 32)

    def test_panels_against_budget_and_iteration(self):
        data = group_size_table(budgets=(64, 256, 1024))
        figure = scaling_law.build(data)
        by_budget, by_iteration = figure.axes
        grpo = data[data["estimator"] == "grpo"]
        for axes, column, rows in (
            (by_budget, "budget", grpo[grpo["iteration"] == 100]),
            (by_iteration, "iteration", grpo[grpo["budget"] == 256]),
        ):
            x, best, ends = intervals(axes.containers[0])
            expected = [scaling_law.measured_best(cell) for _, cell in rows.groupby(column)]
            np.testing.assert_array_equal(x, sorted(set(rows[column])))
            got = np.column_stack([ends[:, 0], best, ends[:, 1]])
            np.testing.assert_allclose(got, expected)
            (law,) = lines(axes, "first-order law")
            assert set(law.get_ydata()) == {5.0}
        assert "n = 100" in by_budget.get_title() and "N = 256" in by_iteration.get_title()

    def test_rival_rules(self):
        figure = scaling_law.build(group_size_table(budgets=(64, 256, 512)))
        by_budget, by_iteration = figure.axes
        (cube,), (root,), (two,) = (lines(by_budget, name) for name in scaling_law.RULES)
        np.testing.assert_allclose(cube.get_ydata(), [4, 256 ** (1 / 3), 8])
        np.testing.assert_allclose(root.get_ydata(), [5, 10, 5 * math.sqrt(8)])
        np.testing.assert_array_equal(two.get_ydata(), [2, 2, 2])
        (root,) = lines(by_iteration, list(scaling_law.RULES)[1])
        np.testing.assert_allclose(root.get_ydata(), [10, 10, 10])

    @pytest.mark.parametrize(("optimal", "better"), [(math.inf, "larger"), (math.nan, "smaller")])
    def test_a_law_without_a_best(self, optimal, better):
        data = group_size_table()
        names = legend_names(scaling_law.build(data.assign(optimal=optimal)))
        assert f"first-order law: the {better} $G$ the better" in names


class TestFinitePrompts:
    def test_last_iteration_in_colours_of_its_own(self):
        data = finite_prompts_table()
        figure = finite_prompts.build(data)
        assert not {look[0] for look in finite_prompts.LOOKS.values()} & {
            LOOKS[name][0] for name in ESTIMATORS
        }
        last = data[data["iteration"] == 100]
        for axes, (_, panel) in zip(figure.axes, last.groupby("budget"), strict=True):
            for drawn, (name, rows) in zip(
                axes.containers, panel.groupby("prompt_sampling", sort=False), strict=True
            ):
                _, y, _ = intervals(drawn)
                np.testing.assert_array_equal(y, rows.sort_values("group_size")["gap"])
                look = finite_prompts.LOOKS[name]
                assert to_hex(drawn[0].get_color()) == look[0].lower()
        assert "100" in figure.axes[0].get_ylabel()

    def test_every_sampling_of_the_library_can_be_drawn(self):
        from ustat_grpo.optimization.training_config import PROMPT_SAMPLING

        assert set(finite_prompts.LOOKS) == set(finite_prompts.NAMES) == set(PROMPT_SAMPLING)


class TestRules:
    def test_excess_with_paired_intervals(self):
        figure = group_size_rules.build(rules_table())
        figure.draw_without_rendering()
        assert "paired" in figure.legends[0].get_title().get_text()
        data = rules_table()
        last = data[data["iteration"] == 100]
        for axes, (_, panel) in zip(figure.axes, last.groupby("budget"), strict=True):
            assert any(text.get_text() for text in axes.get_xticklabels())
            labels = [text.get_text() for text in axes.get_yticklabels()]
            shown_rules = ["law (gap), first order", *RULES[1:]]
            assert labels == shown_rules or not any(labels)  # inner panels show none
            maybe, worse = axes.containers
            assert list(maybe[0].get_ydata()) == [3, 2] and list(worse[0].get_ydata()) == [1]
            np.testing.assert_allclose(maybe[0].get_xdata().astype(float), [0, 10])  # per cent
            np.testing.assert_allclose(worse[0].get_xdata().astype(float), [20])
            (segment,) = worse[2][0].get_segments()
            half = 100 * NORMAL * panel["std_error"].iloc[2] / 1e-3
            np.testing.assert_allclose(segment[:, 0], [20 - half, 20 + half], rtol=1e-5)
            law = next(line for line in axes.lines if line.get_label() == "first-order law")
            np.testing.assert_allclose(law.get_xdata(), [0, 9, 18])
            shown = {round(text.get_position()[1]): text.get_text() for text in axes.texts}
            assert [shown[height] for height in (3, 2, 1)] == ["4", "8", "2"]
