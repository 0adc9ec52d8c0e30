"""Training on sequential tasks: the table, paired runs, exact objectives, mistakes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.gradient_error.gradient_mse import run as gradient_errors
from experiments.group_size import group_size
from experiments.group_size.confidence import compare
from experiments.running import options as schedule
from experiments.running.estimators import _COMPARED, algorithms
from experiments.running.runner import to_csv
from experiments.tasks import sequential_training
from experiments.tasks.sequential_training import EnvironmentRun
from support.apps import InThisProcess, call_main, checked, configuration, refuses
from ustat_grpo import Constant, Decay
from ustat_grpo.environments import objective, policies, snapshot
from ustat_grpo.laws import group_size as law

ROOT = Path(__file__).parents[3]
LAKE = ("task=frozenlake", "task.objectives=[0.1]", "budget=32", "group_size=[2,4,16]",
        "iterations=[5,20]", "scale.runs=50", "threads=2")  # fmt: skip
CART = ("task=cartpole", "budget=4", "group_size=[2,4]", "task.iterations=[1,2]",
        "task.num_prompts=2", "task.num_outputs=32", "task.num_copies=4", "task.trained=[0]",
        "scale.runs=100", "task.share_of_runs=0.02")  # fmt: skip
CELLS = [
    EnvironmentRun(name, size, run)
    for name in ("vanilla", "grpo")
    for size in (2, 4)
    for run in (0, 1)
]


def measure(*overrides, parts=Path("none")):
    """Return what the app computes."""
    return group_size.APP.compute(checked("group_size", *overrides), parts)


@pytest.fixture(scope="module")
def lake():
    """FrozenLake, all known exactly."""
    return measure(*LAKE)


@pytest.fixture
def in_process(monkeypatch):
    """Let runs train in this process: four seconds less for each sweep."""
    monkeypatch.setattr(sequential_training, "ProcessPoolExecutor", InThisProcess)


class Posted(InThisProcess):
    """Hands on work and results as bytes, as a pool of processes does, but to this process."""

    @staticmethod
    def map(work, *columns):
        for arguments in zip(*columns, strict=False):
            function, given = pickle.loads(pickle.dumps((work, arguments)))
            yield pickle.loads(pickle.dumps(function(*given)))


class TestFrozenLake:
    def test_rows(self, lake):
        assert not lake.isna().any(axis=None)
        keys = lake[["estimator", "iteration", "group_size"]].itertuples(index=False, name=None)
        names = ("vanilla", "grpo", "oracle")
        assert list(keys) == [(e, n, size) for e in names for n in (5, 20) for size in (2, 4, 16)]
        assert set(lake["task"]) == {"frozenlake: J = 0.1"} and set(lake["runs"]) == {50}
        assert (lake["batch_size"] * lake["group_size"] == 32).all()
        assert not lake["prompt_std_error"].any()

    def test_objectives_rise(self, lake):
        """Would catch: a step downhill."""
        wide = lake.pivot(index=["estimator", "group_size"], columns="iteration")["objective"]
        assert (wide[5] > 0.1).all() and (wide[20] > wide[5]).all()

    def test_objectives_are_exact_and_compared_run_by_run(self, monkeypatch):
        """J by dynamic programming at θ of every run.

        Would catch: J one iteration late, the worst size taken for the best, unpaired error bars.
        """
        runs = []

        def look(mdp, training, **named):
            runs.append(genuine(mdp, replace(training, keep_theta=True), **named))
            return runs[-1]

        genuine = sequential_training.optimize_mdp
        monkeypatch.setattr(sequential_training, "optimize_mdp", look)
        data = measure(*LAKE, "scale.runs=5", "estimator=grpo")
        ((_, panel),) = checked("group_size", *LAKE).task.snapshots.items()
        exact = np.array(
            [[[reached(panel, at) for at in run] for run in each.theta] for each in runs]
        )
        for place, (_, rows) in enumerate(data.groupby("iteration")):
            found = exact[:, :, place].T
            best = int(found.mean(axis=0).argmax())
            lost = found[:, [best]] - found
            for column, values in (("objective", found), ("excess", lost)):
                error = "std_error" if column == "objective" else "excess_std_error"
                np.testing.assert_allclose(rows[column], values.mean(axis=0), atol=1e-12)
                spread = values.std(axis=0, ddof=1) / np.sqrt(5)
                np.testing.assert_allclose(rows[error], spread, atol=1e-12)
            expected = compare(-found, [2, 4, 16])["in_confidence_set"]
            assert list(rows["in_confidence_set"]) == list(expected) and expected.iloc[best]

    def test_predictions(self, lake):
        """Exact moments where runs begin; the same numbers as the app of gradient errors."""
        ((_, panel),) = checked("group_size", *LAKE).task.snapshots.items()
        noise = snapshot(*panel).moments.noise
        for name in ("prompt", "oracle", "residual"):
            np.testing.assert_allclose(lake[name], getattr(noise, name), rtol=1e-12)
        grpo = lake[lake["estimator"] == "grpo"]
        exact = [law.error_at_budget(noise, group_size=G, budget=32) for G in grpo["group_size"]]
        np.testing.assert_allclose(grpo["predicted_mse"], exact, rtol=1e-10)
        few = ("task=frozenlake", "task.objectives=[0.1]", "batch_size=8", "group_size=4")
        errors = gradient_errors(checked("gradient_mse", *few, "scale.precision=0.2"))
        at_four = lake.query("group_size == 4 and iteration == 5")
        np.testing.assert_allclose(errors["law"], at_four["predicted_mse"], rtol=1e-10)

    def test_neither_threads_nor_other_sizes_nor_estimators_change_a_row(self, lake):
        few = measure(*LAKE, "group_size=[2,4]", "threads=1", "estimator=grpo")
        same = lake.query("estimator == 'grpo' and group_size < 16").reset_index(drop=True)
        compared_within = ["excess", "excess_std_error", "in_confidence_set"]
        pd.testing.assert_frame_equal(
            few.drop(columns=compared_within), same.drop(columns=compared_within)
        )
        other = measure(*LAKE, "group_size=[2,4]", "seed=1", "estimator=grpo")
        assert (other["objective"] != few["objective"]).all()

    def test_runs_are_paired(self):
        """Four standard errors above 0. Would catch: a stream for each size or estimator."""
        config = checked("group_size", *LAKE, "scale.runs=2000")
        ((panel, start),) = config.task.snapshots.items()
        estimators = algorithms(config.compared)
        one, *others = (
            sequential_training.train_on_table(
                config.asked(), config.task, panel, start, estimators[name], size
            ).objective
            for name, size in (("grpo", 4), ("oracle", 4), ("grpo", 16))
        )
        for other in others:
            assert np.corrcoef(one[:, -1], other[:, -1])[0, 1] > 4 / np.sqrt(2000)


def trained(config, cell):
    return sequential_training.train_on_environment(config.task, config.asked(), cell)


def reached(panel, theta):
    """Return J of the policy of a panel at θ."""
    states = np.arange(panel.mdp.num_states)
    return objective(panel.mdp, policies.action_probs(panel.policy, theta, states))


class TestCartPole:
    def test_runs_are_the_same_whatever_else_is_asked(self):
        """Would catch: streams keyed by the place of a size, or that all runs share."""
        config = checked("group_size", *CART)
        wider = checked("group_size", *CART, "group_size=[4,2]", "scale.runs=500", "threads=7")
        found = {cell: trained(config, cell) for cell in CELLS}
        assert all(objectives.shape == (2,) for objectives in found.values())
        for cell in CELLS[4:]:
            again = trained(wider, cell)
            np.testing.assert_array_equal(again, found[cell])
        assert len({tuple(objectives) for objectives in found.values()}) > 4
        other = checked("group_size", *CART, "seed=1")
        assert (trained(other, CELLS[4]) != found[CELLS[4]]).any()

    def test_runs_share_starts_and_episodes(self, monkeypatch):
        """One stream for all sizes of a run. Would catch: sizes compared on starts of their own."""
        seen = {}

        def look(copies, policy, training, **named):
            seen[cell] = training, named["rng"].bit_generator.state
            return genuine(copies, policy, training, **named)

        genuine = sequential_training.train
        monkeypatch.setattr(sequential_training, "train", look)
        for cell in CELLS[4:]:
            trained(checked("group_size", *CART), cell)
        states = {0: set(), 1: set()}
        for cell, (training, state) in seen.items():
            assert training.group_size == cell.group_size and training.budget == 4
            assert (training.num_iterations, training.checkpoints) == (2, (1, 2))
            assert training.schedule == Constant(0.001)
            states[cell.run].add(str(state))
        assert [len(each) for each in states.values()] == [1, 1] and states[0] != states[1]

    def test_rates_may_fall(self, monkeypatch):
        """Would catch: a constant rate whatever the schedule."""
        seen = []

        def look(copies, policy, training, **named):
            seen.append(training.schedule)
            return genuine(copies, policy, training, **named)

        genuine = sequential_training.train
        monkeypatch.setattr(sequential_training, "train", look)
        trained(checked("group_size", *CART, "schedule.kind=decay"), CELLS[4])
        assert seen == [Decay(0.001)]

    def test_objectives_are_mean_returns_of_the_policy_reached(self, monkeypatch):
        """Would catch: J at the start, or at the last checkpoint for all."""
        played = []

        def look(copies, policy, theta, seeds, size, **named):
            episodes = genuine(copies, policy, theta, seeds, size, **named)
            played.append((theta, list(seeds), episodes.returns))
            return episodes

        genuine = sequential_training.group_rollouts
        monkeypatch.setattr(sequential_training, "group_rollouts", look)
        objectives = trained(checked("group_size", *CART), CELLS[4])
        assert [list(seeds) for _, seeds, _ in played] == [[0, 1]] * 2
        assert (played[0][0] != played[1][0]).any() and (played[0][0] != 0).any()
        assert objectives.tolist() == [returns.mean() for _, _, returns in played]
        assert all(returns.shape == (2, 4) for _, _, returns in played)

    def test_rows(self, tmp_path, in_process):
        data = measure(*CART, parts=tmp_path)
        assert not data.isna().any(axis=None)
        keys = data[["estimator", "iteration", "group_size"]].itertuples(index=False, name=None)
        assert list(keys) == [
            (e, n, G) for e in ("vanilla", "grpo") for n in (1, 2) for G in (2, 4)
        ]
        assert set(data["runs"]) == {2} and (data["prompt_std_error"] > 0).all()

    def test_what_is_sent_to_processes_can_be(self, tmp_path, monkeypatch):
        """Would catch: what cannot be sent to another process, or arrives as something else."""
        few = (*CART, "estimator=grpo", "task.iterations=[1]")
        tables = []
        for pool in (InThisProcess, Posted):
            monkeypatch.setattr(sequential_training, "ProcessPoolExecutor", pool)
            tables.append(measure(*few, parts=tmp_path / pool.__name__))
        assert to_csv(tables[0]) == to_csv(tables[1])

    @pytest.mark.slow  # without processes of their own, the test above asks the same
    def test_processes_change_nothing(self, tmp_path, monkeypatch, in_process):
        """In workers as a user has it. Would catch: what cannot be sent to another process."""
        few = (*CART, "estimator=grpo", "threads=2")
        here = measure(*few, parts=tmp_path / "here")
        monkeypatch.undo()
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        code, _, error = call_main(group_size, *few, f"output={tmp_path / 'there'}")
        (path,) = tmp_path.rglob("data.csv")
        assert (code, error) == (0, "") and path.read_text() == to_csv(here)

    def test_what_needs_values_is_left_out(self, tmp_path, in_process):
        """And said once. Would catch: oracles that are handed a value nobody knows."""
        few = ("task.num_outputs=48", "task.iterations=[1]")
        overrides = ("estimator=all", *few, f"output={tmp_path}")
        code, out, _ = call_main(group_size, *CART, *overrides)
        assert code == 0
        for name in ("oracle", "optimal_baseline"):
            assert out.count(f"{name}: V(x) is not known on cartpole, left out") == 1
        (path,) = tmp_path.rglob("data.csv")
        kept = ["vanilla", "grpo", "group_mean", "constant_baseline", "shrinkage"]
        assert list(pd.read_csv(path)["estimator"].unique()) == kept

    @pytest.mark.parametrize("seed", [0, 1])
    def test_noise_is_not_negative_where_it_is_used(self, seed, tmp_path, in_process):
        """The unbiased estimate of c₁ is below 0 at one of these seeds; predictions take 0."""
        noise = measure(*CART, f"seed={seed}", "estimator=grpo", parts=tmp_path).iloc[0]
        assert (noise["prompt"] < 0) == (seed == 0)
        expected = max(noise["prompt"], 0) * 2 + noise["oracle"] + noise["residual"]
        assert noise["predicted_mse"] == pytest.approx(expected / 4, rel=1e-9)

    def test_threads_do_not_name_the_job(self):
        def name(*more):
            made = configuration("group_size", *CART, *more)
            return group_size.APP.folder(made).name

        assert name() == name("threads=1") and name().startswith("cartpole_N4_2sizes_")
        assert len({name(), name("task.iterations=[1,3]"), name("seed=1")}) == 3


ONE_SIZE = "group_size must hold at least two sizes to compare, got"
MISTAKES = {
    "one size": ([*LAKE, "group_size=[4]"], f"{ONE_SIZE} [4]"),
    "the same size": ([*CART, "group_size=[2,2]"], f"{ONE_SIZE} [2, 2]"),
    "unknown baseline": (
        [*LAKE, "estimator=all"],
        f"estimators must not hold optimal_baseline on sequential tasks, got {list(_COMPARED)}",
    ),
    "unknown value": (
        [*CART, "estimator=grpo", "~estimators.grpo", "+estimators.oracle={}"],
        "estimators must hold one that needs no V(x) on cartpole, got ['oracle']",
    ),
    "few outputs": (
        [*CART, "task.num_outputs=40"],
        "task.num_outputs must be a multiple of 16, got 40",
    ),
}


class TestMistakes:
    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_one_line_before_any_work(self, mistake, tmp_path):
        overrides, message = MISTAKES[mistake]
        refuses(group_size, message, tmp_path / "results", *overrides)

    def test_divergence_is_one_line(self, tmp_path, in_process, monkeypatch):
        monkeypatch.setattr(schedule, "LARGEST_RATE", np.inf)
        command = (*CART, "schedule.rate=1e308", "task.iterations=[9]", f"output={tmp_path}")
        code, _, error = call_main(group_size, *command)
        assert code == 2 and error.count("\n") == 1
        assert error.startswith("error: training diverged at iteration ")
