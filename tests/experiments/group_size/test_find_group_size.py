"""The sweep that a user asks for: its table, its conclusions, and what a finished job prints."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from experiments.group_size import find_group_size
from experiments.group_size.find_group_size import conclusions, gradient_optimal, show
from experiments.running.estimators import resolve
from support.apps import call_main, checked, refuses
from ustat_grpo import laws

TINY = ("task=tug_of_war", "budget=64", "iterations=[20]", "scale.runs=100")
COLUMNS = (
    "task estimator budget iteration group_size batch_size runs gap std_error law excess "
    "excess_std_error law_excess in_confidence_set near_best_by_law optimal gradient_optimal"
)


@pytest.fixture(scope="module")
def data():
    """What `run` computes."""
    return find_group_size.run(checked("find_group_size", *TINY))


def printed(data, width=80):
    """Return the lines that `show` prints on a terminal of some width."""
    console = Console(width=width, file=StringIO())
    show(data, console)
    return console.file.getvalue().splitlines()


class TestTable:
    def test_columns_and_rows(self, data):
        assert list(data) == COLUMNS.split()
        assert list(data["group_size"]) == [2, 4, 8, 16, 32]
        assert (data["group_size"] * data["batch_size"] == 64).all()
        assert set(data["runs"]) == {100} and set(data["estimator"]) == {"grpo"}

    def test_one_part_a_panel_estimator_and_iteration(self):
        overrides = ("estimator=paper", "iterations=[5,20]", "group_size=[2,8]", "scale.runs=3")
        data = find_group_size.run(checked("find_group_size", *TINY, *overrides))
        parts = [tuple(each) for each in data[["estimator", "iteration"]].drop_duplicates().values]
        assert parts == [(name, n) for name in ("vanilla", "grpo", "oracle") for n in (5, 20)]
        assert len(data) == 12

    def test_law_and_measurement_agree(self, data):
        z = (data["gap"] - data["law"]) / data["std_error"]
        assert z.abs().max() <= 4
        best = data.loc[data["law"].idxmin()]
        assert best["law_excess"] == 0 and (data["law_excess"] >= 0).all()
        np.testing.assert_allclose(data["law"] - best["law"], data["law_excess"], atol=1e-18)

    def test_near_the_best_is_within_a_twentieth_of_the_noise_effect(self, data):
        """Not of the gap: early on, exact ascent has a gap that would let many sizes pass."""
        assert list(data["group_size"][data["near_best_by_law"]]) == [2, 4]
        early = find_group_size.run(checked("find_group_size", *TINY, "iterations=[5]"))
        assert list(early["group_size"][early["near_best_by_law"]]) == [4]
        assert list(early["group_size"][early["law_excess"] < 0.05 * early["law"]]) == [
            2,
            4,
            8,
            16,
            32,
        ]

    def test_gradient_optimal_is_the_law_of_the_error(self):
        config = checked("find_group_size", "task=bandit")
        compared = resolve({"grpo": {}, "vanilla": {}, "shrinkage": {"weight": 0.5}})
        for panel, start in config.task.starts.items():
            noise = config.task.snapshots[panel].noise
            exact = laws.group_size.optimal(noise)
            assert gradient_optimal(start, compared["grpo"]) == pytest.approx(exact, rel=1e-10)
            assert gradient_optimal(start, compared["vanilla"]) == 1
            half = 1 + (exact - 1) / 2  # c₃ is (1−λ)² of GRPO's
            assert gradient_optimal(start, compared["shrinkage"]) == pytest.approx(half)


class TestShow:
    def test_fits_eighty_columns(self, data):
        lines = printed(data)
        assert lines == printed(data, width=200)
        assert len(lines) > 10 and max(map(len, lines)) <= 80

    def test_says_what_the_table_says(self, data):
        best = data.loc[data["gap"].idxmin()]
        chosen = ", ".join(map(str, data["group_size"][data["in_confidence_set"]]))
        lines = printed(data)
        for line in (
            "tug_of_war: t = -1: grpo, N = 64, 100 runs of 20 iterations",
            f"measured best G = {best['group_size']}, 95 % confidence set {{{chosen}}}",
            f"predicted G* = {best['optimal']:.3g} (gap), least noise effect or within "
            "5 %: {2, 4}",
            f"G* for the gradient's error = {best['gradient_optimal']:.3g}",
        ):
            assert line in lines

    def test_what_the_usual_defaults_lose(self, data):
        """Of 2, 8, 16 and 64, the last does not leave two prompts."""
        best = data.loc[data["gap"].idxmin()]
        found = {
            int(line.split(":")[0].split("=")[1]): line.split(": ")[1]
            for line in printed(data)
            if line.startswith("  G = ")
        }
        assert list(found) == [2, 8, 16]
        for row in data[data["group_size"].isin([8, 16])].to_dict(orient="records"):
            assert found[row["group_size"]] == (
                f"{row['excess']:.2e} ± {row['excess_std_error']:.0e} ({row['law_excess']:.2e}), "
                f"{100 * row['excess'] / best['gap']:.1f} %"
            )
        assert best["group_size"] in (2, 4)
        nothing = conclusions(
            data.query("group_size == 8").assign(excess=0.0, excess_std_error=0.0)
        )
        assert nothing[-1].startswith("  G = 8: none (")

    @pytest.mark.parametrize(
        ("optimal", "text"), [(np.nan, "→ 1"), (np.inf, "→ ∞"), (3.14159, "= 3.14")]
    )
    def test_a_law_without_best_group_size(self, data, optimal, text):
        assert f"predicted G* {text} (gap)" in conclusions(data.assign(optimal=optimal))[1]

    def test_a_law_that_is_refuted_is_said_to_be(self, data):
        """Would catch: silence, a law refuted by noise, or by less than moves its best G."""
        right = data.assign(gap=data["law"], std_error=1e-9)
        here, spread = right["group_size"] == 16, data["law_excess"].max()
        cases = (0.11, 0.02, True), (0.11, 0.03, False), (0.09, 0.0, False)
        for gap, std_error, is_said in cases:
            shifted = right["law"] + gap * spread * here
            rows = right.assign(gap=shifted, std_error=std_error * spread)
            said = [each for each in conclusions(rows) if "does not hold at G = 16:" in each]
            assert len(said) == is_said

    def test_no_usual_default_among_the_sizes(self, data):
        lines = conclusions(data.query("group_size in [4, 32]"))
        assert len(lines) == 3


class TestCommand:
    def test_a_finished_job_prints_its_table_again(self, tmp_path, monkeypatch):
        code, first, _ = call_main(find_group_size, *TINY, f"output={tmp_path}")
        assert code == 0
        monkeypatch.setattr(find_group_size, "measured_gaps", None)  # nothing is measured twice
        code, again, _ = call_main(find_group_size, *TINY, f"output={tmp_path}")
        assert code == 0
        (path,) = tmp_path.rglob("data.csv")
        assert again.startswith(f"find_group_size: {path} exists, skipped\n")
        shown = again.split("skipped\n")[1]
        assert "measured best G" in shown and first.endswith(shown)
        assert list(pd.read_csv(path)) == COLUMNS.split()

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["group_size=[2,3]"], "group_size must divide the budget 64, got 3"),
            (["budget=13"], "budget must have a divisor from 2 on, got 13"),
        ],
    )
    def test_mistakes(self, overrides, message, tmp_path):
        refuses(find_group_size, message, tmp_path / "results", *TINY, *overrides)
