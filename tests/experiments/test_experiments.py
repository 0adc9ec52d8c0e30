"""The apps as a user meets them: columns, laws, sweeps, a kill half-way, and mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose
from omegaconf import OmegaConf

import experiments.smoke
from experiments import jobs
from experiments import rerun as reference
from experiments.gradient_error import fixed_budget, gradient_mse
from experiments.running import collect, runner
from experiments.running.estimators import _COMPARED
from figures.__main__ import FIGURES
from figures.tables import TABLES
from support import tiny_policies
from support.apps import call_main, configuration, refusal

ROOT = Path(__file__).parents[2]
APPS = {"gradient_mse": gradient_mse, "fixed_budget": fixed_budget}
ESTIMATORS = ["vanilla", "grpo", "oracle"]
TINY = ("task=tug_of_war", "scale.precision=0.2")

COLUMNS = {
    "gradient_mse": "task estimator batch_size group_size replications mse std_error bias_norm law "
    "law_std_error evidence",
    "fixed_budget": "task estimator budget batch_size group_size replications mse std_error "
    "bias_norm law optimal near_optimal_low near_optimal_high paper_optimal",
}


def measure(app, *overrides):
    """Return what `run` of an app computes."""
    config = OmegaConf.to_object(configuration(app, *overrides))
    return APPS[app].APP.compute(config, Path("none"))


def command(app, *overrides):
    """Return the command line of an app on the smallest task, on one thread."""
    return [sys.executable, "-m", "experiments", app, *overrides, *TINY, "threads=1"]


def call(arguments, **options):
    """Run a command in the repository and return what it did."""
    return subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, **options)


def data_files(folder):
    """Return the data of finished jobs by the name of the job."""
    return {path.parent.name: path.read_bytes() for path in folder.rglob("data.csv")}


@pytest.fixture
def main():
    """Run an app's `main` in this process, as `python -m` would; return exit code and stderr."""

    def call(app, *overrides):
        code, _, err = call_main(APPS[app], *overrides)
        return code, err

    return call


class TestTables:
    def test_one_row_a_panel_size_and_estimator(self):
        data = measure("gradient_mse", *TINY, "group_size=[4,2]", "batch_size=5")
        panels = [f"tug_of_war: t = {t}" for t in (-1, 0, 1)]
        keys = [(p, size, e) for p in panels for size in (2, 4) for e in ESTIMATORS]
        assert list(zip(data["task"], data["group_size"], data["estimator"], strict=True)) == keys
        assert set(data["batch_size"]) == {5}

    def test_every_prompt_once_by_default(self):
        assert set(measure("gradient_mse", *TINY, "group_size=2")["batch_size"]) == {2}

    @pytest.mark.parametrize("scale", ["smoke", "paper"])
    def test_scale_is_the_relative_standard_error(self, scale):
        """Would catch: a precision that is read but not reached."""
        task = ("task=tug_of_war", "task.coordinates=[1]")
        config = configuration("gradient_mse", *task, f"scale={scale}", "group_size=4")
        reached = gradient_mse.run(OmegaConf.to_object(config)).eval("std_error / mse").max()
        assert config.scale.precision / 2 < reached <= config.scale.precision

    def test_budget_is_divided_completely(self):
        data = measure("fixed_budget", *TINY, "budget=12", "task.coordinates=[0]")
        assert list(data["group_size"].unique()) == [2, 3, 4, 6]
        assert set(data["budget"]) == {12}
        assert (data["batch_size"] * data["group_size"] == 12).all()

    def test_predictions_of_the_best_group_size(self):
        config = OmegaConf.to_object(configuration("fixed_budget", *TINY, "budget=8"))
        noise = {panel: each.noise for panel, each in config.task.snapshots.items()}
        for task, rows in fixed_budget.run(config).groupby("task"):
            ratio = np.sqrt(noise[task].residual / noise[task].prompt)
            np.testing.assert_allclose(rows["optimal"], 1 + ratio, rtol=1e-12)
            np.testing.assert_allclose(rows["paper_optimal"], ratio, rtol=1e-12)
            assert (rows["near_optimal_low"] < 1 + ratio).all()
            assert (rows["near_optimal_high"] > 1 + ratio).all()

    @pytest.mark.parametrize("app", APPS)
    @pytest.mark.parametrize("batch", ["all", "minibatch"])
    def test_measurements_against_the_laws(self, app, batch):
        """Every estimator, |z| ≤ 4. Would catch a law that is off by a fifth, see below."""
        overrides = ["task=tug_of_war", "estimator=all", "scale.precision=0.02"]
        if app == "gradient_mse":
            overrides.append(f"batch_size={'null' if batch == 'all' else 6}")
        else:
            overrides.append(f"budget={24 if batch == 'all' else 36}")
        data = measure(app, *overrides, "group_size=[2,4,12]")
        z = (data["mse"] - data["law"]) / data["std_error"]
        assert len(data) == 3 * 3 * 7
        assert z.abs().max() <= 4
        for wrong in (0.8, 1.2):
            assert (((data["mse"] - wrong * data["law"]) / data["std_error"]).abs() > 4).all()

    def test_a_wrong_law_would_be_noticed(self, monkeypatch):
        """G for G − 1 in GRPO's second term, the nearest mistake."""

        def wrong(moments, *, group_size):
            norm, gradient = moments.score_norm_squared, moments.gradient_norm_squared
            second = norm * moments.reward_variance + gradient
            return (moments.oracle_norm_squared - gradient) / group_size + second / group_size**2

        data = measure("gradient_mse", "task=tug_of_war", "group_size=4", "scale.precision=0.01")
        monkeypatch.setitem(_COMPARED, "grpo", _COMPARED["grpo"]._replace(errors=wrong))
        config = OmegaConf.to_object(configuration("gradient_mse", "task=tug_of_war"))
        for (panel, snapshot), (_, rows) in zip(
            config.task.snapshots.items(), data.groupby("task", sort=False), strict=True
        ):
            row = rows.set_index("estimator").loc["grpo"]
            exact = config.compared["grpo"].law(snapshot.moments, 4, None)
            assert abs(row["mse"] - row["law"]) <= 4 * row["std_error"], panel
            assert abs(row["mse"] - exact) > 4 * row["std_error"], panel

    def test_neither_threads_nor_other_sizes_change_a_row(self):
        both = measure("gradient_mse", *TINY, "group_size=[2,4]", "threads=2")
        pd.testing.assert_frame_equal(
            both, measure("gradient_mse", *TINY, "group_size=[2,4]", "threads=1")
        )
        other = measure("gradient_mse", *TINY, "group_size=[2,4]", "seed=1")
        assert (both["mse"] != other["mse"]).all()

    def test_leaving_a_panel_out_does_not_change_the_others(self):
        """Would catch: streams keyed by a panel's place in the list."""
        all_three = measure("gradient_mse", *TINY, "group_size=2")
        one = measure("gradient_mse", *TINY, "group_size=2", "task.coordinates=[1]")
        same = all_three[all_three["task"] == "tug_of_war: t = 1"]
        pd.testing.assert_frame_equal(one, same.reset_index(drop=True))


class TestCommands:
    @pytest.mark.slow  # its processes are slow to start; that no row depends on others is tested
    def test_joblib_gives_what_one_after_the_other_gives(self, main, tmp_path):
        launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
        sweep = ("-m", "group_size=2,4")
        done = call(command("gradient_mse", *sweep, *launcher, f"output={tmp_path / 'two'}"))
        assert done.returncode == 0, done.stderr
        assert main("gradient_mse", *sweep, *TINY, f"output={tmp_path / 'one'}")[0] == 0
        assert data_files(tmp_path / "two") == data_files(tmp_path / "one")
        assert len(data_files(tmp_path / "one")) == 2


class TestSweeps:
    def test_one_folder_a_job_and_one_table_of_all(self, main, tmp_path, monkeypatch, capsys):
        output = tmp_path / "results"
        assert main("gradient_mse", "-m", "group_size=2,4", *TINY, f"output={output}")[0] == 0
        assert len(data_files(output)) == 2
        target = tmp_path / "sweep.csv"
        collect.main(["gradient_mse", "--results", str(output), "--to", str(target)])
        assert capsys.readouterr().out.endswith(f"18 rows in {target}\n")
        data = pd.read_csv(target)
        assert list(data) == COLUMNS["gradient_mse"].split()
        assert data.groupby("group_size").size().to_dict() == {2: 9, 4: 9}
        rows = b"".join(data.split(b"\n", 1)[1] for data in data_files(output).values())
        assert sorted(target.read_bytes().splitlines()[1:]) == sorted(rows.splitlines())

    def test_overlapping_jobs_give_each_row_once(self, tmp_path):
        one, other = tmp_path / "one.csv", tmp_path / "other.csv"
        one.write_text("task,mse\na,1\nb,2\n")
        other.write_text("task,mse\nb,2\nc,3\n")
        assert collect.merge([one, other])["task"].tolist() == ["a", "b", "c"]

    def test_several_rows_of_a_job_at_one_point(self, tmp_path):
        """Seeds, steps or questions of one job. Would catch: a job refused as if it were two."""
        one, other = tmp_path / "one.csv", tmp_path / "other.csv"
        one.write_text("task,group_size,kind,ratio\na,2,sum,1\na,2,product,2\n")
        other.write_text("task,group_size,kind,ratio\na,4,sum,3\na,4,product,4\n")
        assert collect.merge([one, other])["ratio"].tolist() == [1, 2, 3, 4]

    @pytest.mark.parametrize("column", ["seed", "optimizer", "evidence", "budget"])
    def test_jobs_that_share_no_point(self, tmp_path, column):
        """Would catch: SGD and AdamW at one budget taken for the same measurement."""
        for place in (0, 1):
            (tmp_path / f"{place}.csv").write_text(f"task,{column},accuracy\na,{place},0.{place}\n")
        merged = collect.merge([tmp_path / "0.csv", tmp_path / "1.csv"])
        assert merged["accuracy"].tolist() == [0.0, 0.1]

    def test_two_jobs_at_one_point(self, tmp_path):
        one, other = tmp_path / "one.csv", tmp_path / "other.csv"
        one.write_text("task,group_size,mse\na,2,1\na,4,2\n")
        other.write_text("task,group_size,mse\na,4,2.5\n")
        with pytest.raises(ValueError, match=r"^results must hold each point once, .*4"):
            collect.merge([one, other])

    def test_jobs_that_differ_in_what_their_tables_do_not_hold(self, tmp_path):
        """Would catch: a sweep over the seed or the rate that cannot be collected, unexplained."""
        for seed, rate in ((0, 0.5), (1, 0.5), (1, 2.0)):
            job = tmp_path / "group_size" / "smoke" / f"{seed}_{rate}"
            job.mkdir(parents=True)
            (job / "data.csv").write_text(f"task,gap\na,{10 * seed + rate}\n")
            config = {
                "seed": seed,
                "schedule": {"rate": rate},
                "task": {"name": "a"},
                "output": "x",
            }
            (job / "config.yaml").write_text(OmegaConf.to_yaml(config))
        wanted = partial(collect.collect, "group_size", "smoke", tmp_path, keep_stale=True)
        advice = (
            r"for {'task': 'a'}: they differ in seed \(0, 1\); schedule.rate \(0.5, 2.0\); "
            "choose by --where seed=0, or keep all by --column seed"
        )
        with pytest.raises(ValueError, match=advice):
            wanted()
        with pytest.raises(ValueError, match=r"they differ in schedule.rate \(0.5, 2.0\); choose"):
            wanted(columns=["seed"])
        everything = wanted(columns=["seed", "schedule.rate"])
        assert everything["gap"].tolist() == [0.5, 10.5, 12.0]
        assert everything["schedule.rate"].tolist() == [0.5, 0.5, 2.0]
        one = collect._chosen(["seed=1", "schedule.rate=2.0", "task=a"])
        assert wanted(where=one)["gap"].tolist() == [12.0]
        for options, message in (
            ({"where": {"seed": 7}}, "where must be met by a job, got seed=7, not 0, 1"),
            (
                {"where": {"sed": 1}},
                r"where must name a parameter of the jobs \(.*seed, .*\), got sed",
            ),
            ({"columns": ["task"]}, "column must not be in the table already, got task"),
        ):
            with pytest.raises(ValueError, match=message):
                wanted(**options)
        with pytest.raises(ValueError, match="where must be PARAMETER=VALUE, got seed"):
            collect._chosen(["seed"])

    def test_nothing_to_collect(self, tmp_path, monkeypatch, capsys):
        target = tmp_path / "sweep.csv"
        arguments = ["gradient_mse", "--results", str(tmp_path), "--to", str(target)]
        with pytest.raises(SystemExit) as stop:
            collect.main(arguments)
        assert stop.value.code == 2
        assert capsys.readouterr().err == (
            "error: results must hold finished jobs, got none under "
            f"{tmp_path / 'gradient_mse' / 'smoke'}\n"
        )
        assert not target.exists()

    def test_a_target_that_cannot_be_written(self, main, tmp_path, monkeypatch, capsys):
        assert main("gradient_mse", "group_size=2", *TINY, f"output={tmp_path}")[0] == 0
        blocked = tmp_path / "file"
        blocked.write_text("mine")
        arguments = ["gradient_mse", "--results", str(tmp_path), "--to", str(blocked / "a.csv")]
        with pytest.raises(SystemExit) as stop:
            collect.main(arguments)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: to must be ") and error.count("\n") == 1

    def test_a_failing_job_leaves_the_others(self, main, tmp_path):
        code, error = main("gradient_mse", "-m", "group_size=1,2,4", *TINY, f"output={tmp_path}")
        assert code == 1
        assert "group_size must be at least 2 for a leave-one-out baseline, got 1" in error
        assert sorted(name.split("_")[-2] for name in data_files(tmp_path)) == ["G2", "G4"]

    @pytest.mark.slow  # test_records kills a job at every moment, and apps resume in their tests
    def test_a_killed_sweep_is_resumed_by_the_same_command(self, main, tmp_path):
        """SIGKILL to the whole process group as soon as the first job is done."""
        sizes = (2, 3, 4)
        sweep = ("-m", f"group_size={','.join(map(str, sizes))}", "task=bandit")
        heavy = "scale.precision=0.001"  # a quarter of a second a job: one ends before the kill
        killed, whole = tmp_path / "killed", tmp_path / "whole"
        arguments = (*sweep, "task.group_size_targets=[4]", "threads=1")
        # With one precision both are the same jobs.
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments", "gradient_mse", *arguments, heavy,
             f"output={killed}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip
        try:
            _wait_for(lambda: data_files(killed), process, seconds=60)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        finished = {path: path.stat().st_mtime_ns for path in killed.rglob("data.csv")}
        assert 1 <= len(finished) < len(sizes)
        for path in finished:  # whole, not the beginning of a table
            assert len(pd.read_csv(path)) == len(ESTIMATORS)
            assert path.read_text().endswith("\n")
        assert set(killed.rglob("*.csv")) == set(finished)

        assert main("gradient_mse", *arguments, heavy, f"output={killed}")[0] == 0
        assert {path: path.stat().st_mtime_ns for path in finished} == finished
        assert len(data_files(killed)) == len(sizes)
        assert main("gradient_mse", *arguments, heavy, f"output={whole}")[0] == 0
        assert data_files(killed) == data_files(whole)
        pd.testing.assert_frame_equal(
            collect.collect("gradient_mse", "smoke", killed),
            collect.collect("gradient_mse", "smoke", whole),
        )


def _wait_for(ready, process, seconds):
    """Look every few milliseconds until it is ready, or fail."""
    end = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, "the sweep ended before its first job"
        assert time.monotonic() < end, "no job was done in time"
        time.sleep(0.005)


# (app, overrides, what the error says: parameter, requirement, value)
MISTAKES = {
    "unknown estimator": (
        "gradient_mse",
        ["+estimators.foo={}"],
        "estimators must be among vanilla, grpo, oracle, group_mean, constant_baseline, "
        "optimal_baseline, shrinkage, got 'foo'",
    ),
    "wrong estimator parameter": (
        "gradient_mse",
        ["+estimators.grpo.weight=1"],
        "parameters of grpo must be among [], got ['weight']",
    ),
    "missing estimator parameter": (
        "gradient_mse",
        ["+estimators.shrinkage.target=1"],
        "shrinkage must be given ['weight'], got {'target': 1.0}",
    ),
    "estimator parameter out of range": (
        "gradient_mse",
        ["+estimators.shrinkage.weight=2"],
        "weight must lie in [0, 1], got 2.0",
    ),
    "single outputs": (
        "gradient_mse",
        ["group_size=1"],
        "group_size must be at least 2 for a leave-one-out baseline, got 1",
    ),
    "a single output among others": (
        "gradient_mse",
        ["group_size=[4,1]"],
        "group_size must be at least 2 for a leave-one-out baseline, got 1",
    ),
    "no group": ("gradient_mse", ["group_size=0"], "group_size must be an integer of at least 1, "
                 "got 0"),
    "fractional group": ("gradient_mse", ["group_size=2.5"], "group_size must be an integer of at "
                         "least 1, got 2.5"),
    "group size in words": ("gradient_mse", ["group_size=[2,four]"], "group_size must be an "
                            "integer of at least 1, got 'four'"),
    "task parameter": ("gradient_mse", ["task.signal=2"], "signal must be at most 1, got 2.0"),
    "task without policies": ("gradient_mse", ["task.coordinates=[]"], "task.coordinates must "),
    "accuracy": ("gradient_mse", ["task=arithmetic_choice", "task.accuracies=[1.5]"],
                 "task.accuracies must be a finite number and above 0 and below 1, got 1.5"),
    "number of problems": ("gradient_mse", ["task=arithmetic_choice", "task.num_problems=7"],
                           "num_problems must be a multiple of 5 for equal shares, got 7"),
    "number of prompts": ("fixed_budget", ["task=bandit", "task.num_prompts=1"],
                          "task.num_prompts must be an integer of at least 2, got 1"),
    "unreachable target": ("fixed_budget", ["task=bandit", "task.group_size_targets=[1]"],
                           "group_size_target must be at least 2, "),
    "size does not divide": ("fixed_budget", ["group_size=3"], "group_size must divide the budget "
                             "1024, got 3"),
    "budget too small": ("fixed_budget", ["budget=3"], "budget must be an integer of at least 4, "
                         "got 3"),
    "prime budget": ("fixed_budget", ["budget=7"], "budget must "),
}  # fmt: skip

# What Hydra itself refuses takes it more than a line; the first must say what is wrong.
REFUSED_BY_HYDRA = {
    "unknown task": (["task=nope"], ["'task/nope'"], ["arithmetic_choice", "bandit", "tug_of_war"]),
    "unknown scale": (["scale=huge"], ["'scale/huge'"], ["paper", "smoke"]),
    "unknown parameter": (["grup_size=2"], ["'grup_size'"], ["not in 'GradientMse'"]),
    "unknown task parameter": (["task.foo=1"], ["'task.foo'"], ["not in 'TugOfWarTask'"]),
    "number in words": (["batch_size=many"], ["batch_size=many"], ["Integer"]),
    "fraction": (["batch_size=2.5"], ["batch_size=2.5"], ["Integer"]),
}


class TestMistakes:
    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_one_line_before_any_work(self, mistake, tmp_path):
        app, overrides, message = MISTAKES[mistake]
        error = refusal(APPS[app].APP, tmp_path / "results", *TINY, *overrides)
        assert error.startswith("error: ") and error.count("\n") == 1
        assert message in error and ", got " in error

    @pytest.mark.parametrize("mistake", REFUSED_BY_HYDRA)
    def test_what_hydra_refuses(self, mistake, main, tmp_path):
        overrides, first, rest = REFUSED_BY_HYDRA[mistake]
        code, error = main("gradient_mse", *TINY, *overrides, f"output={tmp_path / 'results'}")
        assert code not in (0, None)
        assert all(word in error.splitlines()[0] for word in first)
        assert all(word in error for word in rest)
        assert "Traceback" not in error
        assert not (tmp_path / "results").exists()

    def test_output_that_cannot_be_written(self, main, tmp_path):
        blocked = tmp_path / "file"
        blocked.write_text("mine")
        code, error = main("gradient_mse", *TINY, "group_size=2", f"output={blocked}")
        assert code == 2
        assert error.startswith(f"error: output must be a writable folder, got {blocked}")
        assert error.count("\n") == 1
        assert blocked.read_text() == "mine"

    def test_in_a_process_of_its_own(self, tmp_path):
        done = call(command("gradient_mse", "group_size=1", f"output={tmp_path / 'results'}"))
        assert done.returncode == 2
        assert done.stderr == (
            "error: group_size must be at least 2 for a leave-one-out baseline, got 1\n"
        )
        assert not (tmp_path / "results").exists()


class TestEverything:
    @pytest.fixture
    def small(self, monkeypatch, tmp_path_factory):
        """Let the main job be about the smallest task and the smallest policies, less precise."""
        asked = tiny_policies.asked(tiny_policies.save_all(tmp_path_factory.mktemp("policies")))
        stand_in = {task: task for task in ("", "arithmetic", "token_bandit", "frozenlake")}
        stand_in["cartpole"] = "frozenlake"
        only = {"noise_coverage": {"bandit": "bandit"}}  # no tug of war
        small = {
            name: experiment._replace(
                tasks=tuple(
                    dict.fromkeys(
                        (stand_in | only.get(name, {})).get(task, "tug_of_war")
                        for task in experiment.tasks
                    )
                )
            )
            for name, experiment in jobs.EXPERIMENTS.items()
        }

        def smaller(name, overrides):
            few = asked[1:] if asked[0] in overrides else ()
            return compose(name, [*overrides, *few, TINY[1], "scale.runs=4"])

        monkeypatch.setattr(jobs, "EXPERIMENTS", small)
        monkeypatch.setattr(jobs, "compose", smaller)

    @pytest.mark.slow  # `make run` itself; its experiments and figures have fast tests of their own
    def test_main_job_ends_with_tables_and_paths(self, small, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "150")
        experiments.smoke.main(tmp_path)
        printed = capsys.readouterr().out
        for word in ("vanilla", "grpo", "oracle", "tug_of_war", "t = -1", "G* = 1", "arithmetic"):
            assert word in printed
        last = printed[printed.index("done in ") :]
        paths = [Path(word) for word in last.split() if word.endswith((".png", ".md"))]
        measured = {
            figure.NAME: jobs.EXPERIMENTS[TABLES.get(figure.NAME, figure.NAME)]
            for figure in FIGURES
        }
        drawn = {
            f"{name}_{task or 'two_prompts'}.png"  # the one app without tasks has one of its own
            for name, experiment in measured.items()
            for task in experiment.tasks
            if experiment.variants["smoke"]
        }
        assert {path.name for path in paths} == drawn | {"paper_repro.md"}
        assert all(path.is_file() for path in paths)
        assert all(path.with_suffix(".pdf").is_file() for path in paths if path.suffix == ".png")

        written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("data.csv")}
        again = jobs.run_all("smoke", str(tmp_path), tmp_path / "again")
        assert again.keys() == jobs.EXPERIMENTS.keys()
        assert {path for done in again.values() for path in done} == written.keys()
        assert all(path.stat().st_mtime_ns == when for path, when in written.items())
        assert [app for app, done in again.items() if not done] == ["pretrain", "pretrained_errors"]
        for app in (app for app, done in again.items() if done):
            table = (tmp_path / "again" / f"{app}.csv").read_bytes()
            assert table == (tmp_path / "smoke" / f"{app}.csv").read_bytes()
            if app in COLUMNS:
                assert table.decode().split("\n")[0] == COLUMNS[app].replace(" ", ",")

    @pytest.mark.slow  # an app is asked the same in test_runner
    def test_main_job_into_a_folder_that_cannot_be_written(self, small, tmp_path):
        """Would catch: a traceback for `python -m experiments --folder FOLDER`."""
        blocked = tmp_path / "file"
        blocked.write_text("mine")
        done = call([sys.executable, "-m", "experiments", "--folder", str(blocked)])
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: output must be a writable folder, got {blocked}")
        assert done.stderr.count("\n") == 1

    @pytest.mark.slow  # what documents and jobs ask for is composed in their tests
    def test_every_app_and_task_has_a_configuration(self):
        """Some need files, a model or an environment that the user has, or names."""
        folder = ROOT / "experiments" / "conf"
        used = {task for experiment in jobs.EXPERIMENTS.values() for task in experiment.tasks}
        found = {path.stem for path in (folder / "task").glob("*.yaml")}
        assert found - {"gsm8k", "math", "gym", "reasoning_gym"} == used - {""}
        scales = {path.stem for path in (folder / "scale").glob("*.yaml")}
        for experiment in jobs.EXPERIMENTS.values():
            assert experiment.variants.keys() == scales
            for scale in scales:
                for overrides in experiment.overrides(scale):
                    config = configuration(experiment.app.name, *overrides, f"scale={scale}")
                    checked = OmegaConf.to_object(config)
                    assert checked.scale.name == scale
                    if any(experiment.tasks):
                        assert f"task={checked.task.name}" == overrides[0]


class TestReference:
    """`make reference`, with its hours of work left out."""

    @pytest.fixture
    def job(self, tmp_path):
        """Return a finished job, of a clean commit unless told otherwise."""

        def make(name, **record):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "data.csv").write_text("mse\n1\n")
            found = runner.provenance(60.0) | {"commit": "0" * 40, "dirty": False} | record
            (folder / "provenance.json").write_text(json.dumps(found))
            return folder / "data.csv"

        return make

    @pytest.fixture
    def finished(self, monkeypatch, tmp_path, job):
        """Let all jobs be done already, by the code of another commit."""
        done = {app: [job(app)] for app in APPS}
        monkeypatch.setattr(reference, "run_all", lambda *args: done)
        monkeypatch.setattr(reference, "REFERENCE", tmp_path)
        return tmp_path

    @pytest.fixture
    def timed(self, monkeypatch):
        """Leave the two commands out."""
        monkeypatch.setattr(reference, "_commands", lambda: {"run": 30.0, "test": 20.0})

    def test_minutes_of_jobs_and_commands(self, finished, timed):
        reference.main()
        record = json.loads((finished / "provenance.json").read_text())
        assert record.keys() == {"commits", "python", "versions", "cores", "seconds"}
        assert record["seconds"] == {
            "gradient_mse": 60.0,
            "fixed_budget": 60.0,
            "run": 30.0,
            "test": 20.0,
        }

    def test_only_what_is_named_is_replaced(self, finished, monkeypatch, job):
        """Would catch: a reference made anew that takes the others' provenance away."""
        before = {"commits": {"gradient_mse": "1" * 40, "critic": "2" * 40}, "cores": 7,
                  "seconds": {"gradient_mse": 5.0, "critic": 1.0, "run": 30.0}}  # fmt: skip
        (finished / "provenance.json").write_text(json.dumps(before))
        asked = []
        done = {"critic": [job("again")]}
        monkeypatch.setattr(reference, "run_all", lambda *args: asked.append(args[-1]) or done)
        reference.main(names=["critic"])
        assert asked == [["critic"]]
        record = json.loads((finished / "provenance.json").read_text())
        assert record["commits"] == {"gradient_mse": "1" * 40, "critic": "0" * 40}
        assert record["seconds"] == {"gradient_mse": 5.0, "critic": 60.0, "run": 30.0}
        assert record["cores"] == 7

    def test_names_that_are_none(self):
        with pytest.raises(ValueError, match=r"NAME must be one of .*, commands; got 'critics'"):
            reference.main(names=["critics"])

    def test_a_ledger_that_is_stale_by_now_does_not_stop_it(self, finished, monkeypatch):
        """The tests fail until `make ledger`, which needs what is written here."""

        def run(arguments, *, check=False, **options):
            if "pytest" in arguments:
                if check:
                    raise subprocess.CalledProcessError(1, arguments)
                return subprocess.CompletedProcess(arguments, 1, "", "")
            return subprocess.CompletedProcess(arguments, 0, "", "")

        monkeypatch.setattr(reference.subprocess, "run", run)
        reference.main()
        assert (finished / "provenance.json").exists()

    def test_the_commits_are_those_of_the_jobs(self, finished, timed, job, monkeypatch):
        """Would catch: numbers of finished jobs published as those of today's code."""
        done = {"gradient_mse": [job("a")], "fixed_budget": [job("b", commit="1" * 40)]}
        monkeypatch.setattr(reference, "run_all", lambda *args: done)
        reference.main()
        commits = json.loads((finished / "provenance.json").read_text())["commits"]
        assert commits == {"gradient_mse": "0" * 40, "fixed_budget": "1" * 40}

    @pytest.mark.parametrize("other", [{"commit": "1" * 40}, {"dirty": True}])
    def test_jobs_of_several_commits_or_of_changed_files(
        self, finished, timed, job, monkeypatch, other
    ):
        """Would catch: a table half of which no commit gives."""
        done = {"gradient_mse": [job("a"), job("b", **other)]}
        monkeypatch.setattr(reference, "run_all", lambda *args: done)
        with pytest.raises(SystemExit, match=r"^error: jobs of gradient_mse must be of one clean "):
            reference.main()
        assert not (finished / "provenance.json").exists()
