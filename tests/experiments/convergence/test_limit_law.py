"""The app `limit_law`: Theorem 8's law against runs, mutants, mistakes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.convergence import limit_law
from experiments.running.estimators import resolve
from support.apps import checked, refuses
from support.training_options import optimized
from ustat_grpo import Constant, SideInformation, Vanilla
from ustat_grpo.laws.weighted_chi_squared import WeightedChiSquared

TINY = ("scale.runs=10", "iterations=[20,80]", "task.coordinates=[0]", "threads=1")
LAW = ["law", "law_density", "law_without_beta_squared", "law_mean", "ks_distance", "ks_p_value"]
RANKS = {"tug_of_war": 1, "tug_of_war_rank3": 3}


def measure(*overrides):
    """Return what `run` computes."""
    return limit_law.APP.compute(checked("limit_law", *TINY, *overrides), Path("none"))


def predicted(task, name="grpo", *overrides):
    """Return the law and β."""
    config = checked("limit_law", f"task={task}", "estimator=all", *TINY, *overrides)
    return limit_law.predicted(config, config.compared[name])


def medians(data):
    """Return one row a sample."""
    return data[data["probability"] == 0.5].set_index(["estimator", "iteration"])


@pytest.fixture(scope="module", params=RANKS)
def compared_with_law(request):
    """1000 runs of every estimator of the paper, and the rank of the problem."""
    data = measure(f"task={request.param}", "scale.runs=100", "iterations=[100,400]", "offset=10")
    return data, request.param


class TestTable:
    def test_rows(self):
        data = measure()
        assert not data.isna().any(axis=None)
        keys = itertools.product(("vanilla", "grpo", "oracle"), (20, 80), np.arange(1, 100) / 100)
        found = zip(data["estimator"], data["iteration"], data["probability"], strict=True)
        assert list(found) == list(keys)
        assert set(data["task"]) == {"tug_of_war: t = 0"}
        assert set(data["runs"]) == {10 * limit_law.RUNS}

    def test_more_runs_take_more_iterations(self):
        for runs, last in {10: 1000, 999: 1000, 1000: 4000}.items():
            config = checked("limit_law", f"scale.runs={runs}", "iterations=null")
            assert config.iterations[-1] == last

    def test_neither_threads_nor_other_estimators_nor_later_iterations_change_a_row(self):
        both = measure("threads=2")
        pd.testing.assert_frame_equal(both, measure())
        one = measure("~estimators.vanilla", "iterations=[20]")
        same = both.query("estimator != 'vanilla' and iteration == 20").reset_index(drop=True)
        pd.testing.assert_frame_equal(one, same)
        assert (one["mean"] != measure("seed=1", "~estimators.vanilla")["mean"][0]).all()


class TestLaw:
    def test_mean_and_distribution(self, compared_with_law):
        """|z| ≤ 4, p > 10⁻³. Would catch, as shown: no β², 2βλ for 2βλ − 1, ½ forgotten."""
        data, task = compared_with_law
        rows = medians(data).xs(400, level="iteration")
        assert len(rows) == 3 and rows["ks_p_value"].min() > 1e-3
        assert ((rows["mean"] - rows["law_mean"]) / rows["mean_std_error"]).abs().max() <= 4
        beta = predicted(task, "grpo", "offset=10")[1]
        for wrong in (beta**-2, 2 / 3, 2.0):
            z = (rows["mean"] - wrong * rows["law_mean"]) / rows["mean_std_error"]
            assert z.abs().min() > 4, wrong

    def test_quantiles(self, compared_with_law):
        """Empirical quantiles lie where the law has them, up to 4 s.e.; not those without β²."""
        data, _ = compared_with_law
        rows = data.query("iteration == 400")
        p = rows["probability"]
        z = (rows["quantile"] - rows["law"]) * rows["law_density"] / np.sqrt(p * (1 - p) / 1000)
        # Quantiles next to 0 of a law with an infinite density there are not yet normal.
        assert z[p >= 0.1].abs().max() <= 4.5
        low, high = (np.interp(p, p, rows["quantile"] * factor) for factor in (0.5, 2))
        assert ((low < rows["law"]) & (rows["law"] < high))[p >= 0.1].all()
        assert (rows["law_without_beta_squared"] < low).all()

    def test_a_single_chi_squared_does_not_do_at_rank_three(self):
        data = measure(
            "task=tug_of_war_rank3", "scale.runs=50", "iterations=[300]", "~estimators.oracle"
        )
        rows = data.query("estimator == 'grpo'")
        (mean,) = set(rows["law_mean"])
        mutant = WeightedChiSquared(np.array([mean]))
        distance = np.abs(mutant.cdf(rows["quantile"]) - rows["probability"]).max()
        assert stats.kstwo.sf(distance, 500) < 1e-6 < rows["ks_p_value"].iloc[0]

    def test_weights_have_the_rank_of_the_problem(self):
        for task, rank in RANKS.items():
            law, _ = predicted(task)
            assert len(law.weights) == rank
        assert 3 < law.weights[0] / law.weights[-1] < 4

    def test_every_estimator_has_its_own_law(self):
        """Would catch: the group mean at GRPO's rate, which at G = 2 is twice its own."""
        data = measure(
            "estimator=all", "scale.runs=100", "iterations=[300]", "rate_factor=3", "group_size=2"
        )
        rows = medians(data)
        assert len(rows) == 7
        assert ((rows["mean"] - rows["law_mean"]) / rows["mean_std_error"]).abs().max() <= 4
        grpo, group_mean = rows.loc["grpo"].iloc[0], rows.loc["group_mean"].iloc[0]
        assert abs(group_mean["mean"] - grpo["law_mean"]) > 4 * group_mean["mean_std_error"]

    def test_without_a_law_there_are_runs_and_a_warning(self):
        with pytest.warns(UserWarning, match=r"above 0.5 for grpo .* got 0.5"):
            data = measure("rate_factor=0.5", "~estimators.vanilla", "~estimators.oracle")
        assert data[LAW].isna().all(axis=None)
        assert not data.drop(columns=LAW).isna().any(axis=None)

    def test_the_group_mean_needs_a_higher_rate(self):
        with pytest.warns(UserWarning, match=r"above 0.666667 for group_mean .* got 0.6"):
            assert predicted("tug_of_war", "group_mean", "rate_factor=0.6")[0] is None
        assert predicted("tug_of_war", "grpo", "rate_factor=0.6")[0] is not None


class TestSet:
    def test_runs_converge_to_a_set_not_to_a_point(self, compared_with_law):
        rows = medians(compared_with_law[0])
        for _, each in rows.groupby(level="estimator"):
            early, late = each["largest_distance"]
            assert late < 0.7 * early
        np.testing.assert_allclose(rows["flat_spread"], 1, rtol=1e-12)

    def test_without_a_flat_direction(self):
        data = measure("task.num_flat=0")
        assert data["flat_spread"].isna().all()
        flat = measure()  # the policies are the same, but half the runs use other random numbers
        np.testing.assert_allclose(flat["law"], data["law"], rtol=1e-9)


class TestProjection:
    def test_runs_that_cannot_leave_need_none(self):
        wide = ("task.low=-100", "task.high=100")
        pd.testing.assert_frame_equal(measure(*wide), measure(*wide, "project=false"))

    def test_no_group_has_a_larger_advantage(self):
        config = checked("limit_law", "estimator=all", *TINY)
        levels = np.array([-1.0, 0.5, 2.0])
        groups = np.array(list(itertools.product(levels, repeat=3)))
        for name, compared in config.compared.items():
            baselines = [np.full(len(groups), b) for b in np.linspace(-1, 2, 4)]
            every = [
                compared.estimator.advantages(groups, SideInformation(b, b)) for b in baselines
            ]
            found = limit_law.largest_advantage({name: compared}, 3, levels)
            assert found == pytest.approx(np.abs(every).max())

    def test_no_run_travels_farther_than_the_bound(self):
        """Single outputs come close: would catch a bound that is half of what it should be."""
        ((_, start),) = checked("limit_law", *TINY).task.starts.items()
        runs = optimized(
            start.bandit, Vanilla(), batch_size=1, group_size=1, num_iterations=1,
            schedule=Constant(5.0), num_runs=500, theta0=-3 * start.bandit.features[0, 1],
            rng=np.random.default_rng(0),
        )  # fmt: skip
        travelled = np.linalg.norm(runs.theta[:, 0] + 3 * start.bandit.features[0, 1], axis=1)
        bound = limit_law.farthest_travel(
            start.bandit, resolve({"vanilla": {}}), 1, np.array([5.0])
        )
        assert 0.6 * bound < travelled.max() <= bound


MISTAKES = {
    "no optimum": (
        ["task=bandit"],
        "task must be a tug of war, with its optimum inside Θ, got bandit",
    ),
    "optimum outside": (
        ["task.high=1"],
        "task.low and task.high must enclose the optimum t = [1.0], got -1.0 and 1.0",
    ),
    "start outside": (
        ["task.coordinates=[4]"],
        "task.coordinates must begin between -1.0 and 3.0, where runs start, got 4.0",
    ),
    "leaves the region": (
        ["project=false"],
        "project must be true where runs can leave Θ, got false for a travel of up to 26.53 and a "
        "boundary at a distance of 0.7071",
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
    tiny = TINY if mistake != "no optimum" else ()
    refuses(limit_law, message, folder, *tiny, *overrides)
