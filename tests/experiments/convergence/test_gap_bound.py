"""The app `gap_bound`: Lemma 6 and the law of the gap against runs, mutants, mistakes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.convergence import gap_bound
from support.apps import checked, refuses
from ustat_grpo import TugOfWar
from ustat_grpo.laws.gap import constant_rate_bound, decaying_rate_bound

TINY = (
    "scale.runs=40", "batch_size=8", "group_size=8", "iterations=[1,5,20]", "cells=50",
    "task.coordinates=[0]", "threads=1",
)  # fmt: skip
BOUNDS = ["bound", "recursive_bound"]


def measure(*overrides):
    """Return what `run` computes."""
    return gap_bound.APP.compute(checked("gap_bound", *TINY, *overrides), Path("none"))


@pytest.fixture(scope="module", params=["tug_of_war", "weak_tug_of_war"])
def measured(request):
    """Every estimator, with noise small enough for the law."""
    return measure(
        f"task={request.param}",
        "estimator=all",
        "batch_size=32",
        "scale.runs=100",
        "iterations=[1,3,10,30,100]",
    )


class TestTable:
    def test_rows(self):
        data = measure()
        assert not data.isna().any(axis=None) and np.isfinite(data[BOUNDS]).all(axis=None)
        keys = itertools.product(("vanilla", "grpo", "oracle"), ("constant", "decay"), (1, 5, 20))
        found = zip(data["estimator"], data["schedule"], data["iteration"], strict=True)
        assert list(found) == list(keys)
        assert set(data["task"]) == {"tug_of_war: t = 0"} and set(data["runs"]) == {40}

    def test_neither_threads_nor_other_estimators_nor_later_iterations_change_a_row(self):
        both = measure("threads=2")
        pd.testing.assert_frame_equal(both, measure())
        one = measure("~estimators.vanilla", "iterations=[5]")
        same = both.query("estimator != 'vanilla' and iteration == 5").reset_index(drop=True)
        pd.testing.assert_frame_equal(one, same)
        assert (
            one["gap"] != measure("seed=1", "~estimators.vanilla", "iterations=[5]")["gap"]
        ).all()


class TestBound:
    def test_it_holds_everywhere(self, measured):
        """The gap is at most 4 s.e. above; also above the recursion, which is the sharper bound."""
        for bound in BOUNDS:
            assert (measured["gap"] <= measured[bound] + 4 * measured["std_error"]).all()
        assert (measured["recursive_bound"] <= measured["bound"] * (1 + 1e-9)).all()

    def test_its_noise_cannot_be_far_off(self, measured):
        """The long run decides: M/20 in place of M fails for every estimator."""
        late = measured.query("schedule == 'constant' and iteration == 100")
        assert (late["gap"] > late["bound"] / 20 + 4 * late["std_error"]).all()

    def test_its_progress_cannot_be_far_off(self):
        """The first steps decide: four times μ fails where there is little noise."""
        config = checked("gap_bound", *TINY, "batch_size=64", "iterations=[3]")
        known = gap_bound.certified(config.task, config.cells)
        mutant = known._replace(pl_constant=4 * known.pl_constant)
        assert mutant.pl_constant < mutant.smoothness
        problem = config.task.problem
        initial_gap = problem.bandit.best_objective - problem.at(problem.theta(0)).objective
        for row in gap_bound.run(config).query("schedule == 'constant'").itertuples():
            bound, low = (
                constant_rate_bound(
                    3, initial_gap=initial_gap, smoothness=constants.smoothness, noise=row.noise,
                    pl_constant=constants.pl_constant, rate=row.rate,
                )
                for constants in (known, mutant)
            )  # fmt: skip
            assert row.bound == pytest.approx(float(bound))
            assert low + 4 * row.std_error < row.gap < row.bound

    def test_closed_forms_are_those_of_the_lemma(self):
        """At offset 0; an offset of i₀ reads the lemma at n + i₀."""
        points = np.array([1, 5, 20])
        for offset in (0, 4):
            config = checked("gap_bound", *TINY, f"offset={offset}")
            known = gap_bound.certified(config.task, config.cells)
            rows = gap_bound.run(config).query("estimator == 'grpo' and schedule == 'decay'")
            (noise,), (rate,) = set(rows["noise"]), set(rows["rate"])
            lemma = decaying_rate_bound(points + offset, rate=rate, noise=noise, **known._asdict())
            np.testing.assert_allclose(rows["bound"], lemma, rtol=1e-12)
            assert set(rows["offset"]) == {offset}

    def test_a_large_offset_keeps_the_bound_above_the_largest_gap_at_the_start(self):
        """Would catch: the lemma's bound read at n + i₀ where i₀ is beyond its n₀."""
        rows = measure("offset=500").query("schedule == 'decay'")
        config = checked("gap_bound", *TINY)
        largest = gap_bound.certified(config.task, config.cells).largest_gap
        np.testing.assert_allclose(rows["bound"], largest * 500 / (500 + rows["iteration"]))

    def test_rates_and_offset_by_default(self):
        config = checked("gap_bound", *TINY)
        known = gap_bound.certified(config.task, config.cells)
        schedules = gap_bound.build_schedules(config, known)
        highest, lowest = 1 / (2 * known.smoothness), 1 / (2 * known.pl_constant)
        assert schedules["constant"].rate == pytest.approx(highest / 2)
        decay = schedules["decay"]
        assert decay.rate == pytest.approx(1.5 * lowest)
        assert decay.rate / (1 + decay.offset) < highest <= decay.rate / decay.offset

    def test_the_noise_is_the_largest_error(self):
        """laws.mse on a grid of its own: within what the certificate adds, 1 % here."""
        config = checked("gap_bound", *TINY, "cells=400")
        problem = config.task.problem
        snapshots = [problem.at(problem.theta(t)) for t in np.linspace(-1, 3, 81)]
        for compared in config.compared.values():
            largest = max(compared.law(s.moments, 8, 8) for s in snapshots)
            found = gap_bound.largest_noise(config, compared)
            assert largest * (1 - 1e-9) <= found <= 1.01 * largest

    def test_smoothness_holds_for_all_parameters_and_axes(self):
        config = checked("gap_bound", "task=tug_of_war_rank3")
        problem, smoothness = config.task.problem, gap_bound.certified(config.task, 400).smoothness
        step = 0.02
        for separation in problem.separations:
            single = TugOfWar(problem.signal, 1, 0, separation)
            gradient = [single.at([x]).gradient[0] for x in np.arange(-8, 8, step)]  # θ = t/√2
            steepest = np.abs(np.diff(gradient)).max() / step / problem.num_axes
            assert 0.5 * smoothness < steepest <= smoothness


class TestLaw:
    def test_against_runs(self, measured):
        """|z| ≤ 4. Would catch twice the noise or half of it, which a path without noise is not."""
        z = (measured["gap"] - measured["law"]) / measured["std_error"]
        assert z.abs().max() <= 4
        late = measured.query("iteration >= 100")
        for wrong in (0.25, 2.5):
            mutant = (late["gap"] - wrong * late["law"]) / late["std_error"]
            assert mutant.abs().min() > 2.5, wrong


class TestRates:
    def test_a_violated_assumption_warns(self):
        with pytest.warns(UserWarning) as warnings:
            data = measure("constant_factor=1.5", "decay_factor=0.5")
        messages = {str(warning.message).split(" = ")[0] for warning in warnings}
        assert messages == {"rate must be below 1/(2L)", "rate must be above 1/(2μ)"}
        assert all(", got " in str(warning.message) for warning in warnings)
        by_schedule = data.groupby("schedule")["bound"]
        assert np.isfinite(by_schedule.max()["constant"]) and by_schedule.min()["decay"] == np.inf
        assert (data["gap"] <= data["recursive_bound"] + 4 * data["std_error"]).all()

    def test_runs_that_cannot_leave_need_no_projection(self):
        """A slow rate and few iterations; the same runs as with a projection that never acts."""
        slow = ("constant_factor=0.05", "decay_factor=0.001", "offset=3", "iterations=[1,2]")
        with pytest.warns(UserWarning, match="rate must be above"):
            free = measure(*slow, "project=false")
        with pytest.warns(UserWarning, match="rate must be above"):
            pd.testing.assert_frame_equal(free, measure(*slow))


MISTAKES = {
    "optimum outside": (
        ["task.high=1"],
        "task.low and task.high must enclose the optimum t = [1.0], got -1.0 and 1.0",
    ),
    "leaves the region": (
        ["project=false"],
        "project must be true where runs can leave Θ, got false for a travel of up to 45.93 and a "
        "boundary at a distance of 0.7071",
    ),
    "coarse grid": (
        ["cells=3"],
        "cells must be enough to certify a PL constant for -1.0 ≤ t ≤ 3.0, got 3",
    ),
    "too many axes": (
        ["task.num_axes=4"],
        "task.num_axes must be at most 3 for a grid over Θ, got 4",
    ),
    "offset": (["offset=-1"], "offset must not be negative, got -1.0"),
    "single outputs": (
        ["group_size=1"],
        "group_size must be at least 2 for a leave-one-out baseline, got 1",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_take_one_line_before_any_work(mistake, tmp_path):
    overrides, message = MISTAKES[mistake]
    folder = tmp_path / "results"
    refuses(gap_bound, message, folder, *TINY, *overrides)
