"""Results are written whole or not at all, in a folder named by what determines them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module

import experiments.running.app
from experiments.gradient_error import gradient_mse
from experiments.running import runner
from experiments.running.app import App
from experiments.running.runner import provenance, to_csv, write_atomically
from support.apps import app_with, call_main, refuses

ROOT = Path(__file__).parents[3]
TABLE = pd.DataFrame({"mse": [1 / 3, 2e-300], "group_size": [2, 4]})


def configuration(output, *overrides, experiment="gradient_mse"):
    """Return a composed configuration of the smallest task."""
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(experiment, ["task=tug_of_war", f"output={output}", *overrides])


@pytest.fixture
def counted():
    """A `run` that counts its calls."""

    def run(config):
        run.calls += 1
        return TABLE

    run.calls = 0
    return run


def job(config, run):
    return app_with(run).execute(config)


def folder_of(tmp_path, run, *overrides, output="results"):
    """Return a job's folder below its output."""
    config = configuration(tmp_path / output, *overrides)
    return job(config, run).parent.relative_to(tmp_path / output)


class TestWriteAtomically:
    def test_makes_folders_and_replaces(self, tmp_path):
        path = tmp_path / "a" / "b" / "data.csv"
        write_atomically(path, "old")
        write_atomically(path, "new and longer\n")
        assert path.read_text() == "new and longer\n"
        assert [each.name for each in path.parent.iterdir()] == ["data.csv"]

    @pytest.mark.parametrize("old", [None, "old"])
    def test_is_not_there_before_it_is_whole(self, tmp_path, monkeypatch, old):
        """Would catch: writing to the final name, which a kill leaves half-written."""
        path = tmp_path / "data.csv"
        if old is not None:
            path.write_text(old)
        sources = []

        def killed(source, target):
            sources.append(Path(source))
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                write_atomically(path, "new")
        assert (path.read_text() if path.exists() else None) == old
        # The new text is whole elsewhere: on the same file system, under a name nobody collects.
        (source,) = sources
        assert source.parent == tmp_path and not source.match("*.csv")
        write_atomically(path, "new")
        assert path.read_text() == "new"

    def test_a_text_that_cannot_be_written_keeps_the_old_one(self, tmp_path):
        path = tmp_path / "data.csv"
        write_atomically(path, "old")
        with pytest.raises(UnicodeEncodeError):
            write_atomically(path, "new \ud800")
        assert path.read_text() == "old"

    def test_two_processes_at_once(self, tmp_path):
        """Would catch: one name for everybody's unfinished text, so that one publishes another's.

        The other process stops just before it would put its file in place.
        """
        path = tmp_path / "data.csv"
        program = (
            "import os, sys, pathlib\n"
            "from experiments.running.runner import write_atomically\n"
            "replace = os.replace\n"
            "def wait(source, target):\n"
            "    print('ready', flush=True)\n"
            "    sys.stdin.readline()\n"
            "    replace(source, target)\n"
            "os.replace = wait\n"
            f"write_atomically(pathlib.Path({str(path)!r}), 'other')\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as other:
            assert other.stdout.readline() == "ready\n"
            write_atomically(path, "ours")
            assert path.read_text() == "ours"
            _, complaint = other.communicate("go\n")
        assert other.returncode == 0, complaint
        assert path.read_text() == "other"


class TestExecute:
    def test_writes_data_configuration_and_provenance(self, tmp_path, counted, capsys):
        path = job(configuration(tmp_path, "seed=7"), counted)
        assert sorted(each.name for each in path.parent.iterdir()) == [
            "config.yaml",
            "data.csv",
            "provenance.json",
        ]
        assert path.read_text() == to_csv(TABLE)
        assert re.search(r"^seed: 7$", (path.parent / "config.yaml").read_text(), re.M)
        record = json.loads((path.parent / "provenance.json").read_text())
        made_of = {"data", "inputs", "outputs", "code"}
        assert record.keys() == provenance(0.0).keys() | made_of
        assert re.search(rf"{path} written after \d+\.\d s\n$", capsys.readouterr().out)

    def test_skips_a_finished_job(self, tmp_path, counted, capsys):
        path = job(configuration(tmp_path), counted)
        before = path.stat().st_mtime_ns
        capsys.readouterr()
        assert job(configuration(tmp_path), counted) == path
        assert counted.calls == 1
        assert path.stat().st_mtime_ns == before
        assert capsys.readouterr().out == f"gradient_mse: {path} exists, skipped\n"

    def test_data_come_last(self, tmp_path, counted, monkeypatch):
        """Would catch: data first, so that a kill leaves them without configuration for good."""

        def killed(path, text):
            if path.name != "data.csv":
                raise KeyboardInterrupt
            write_atomically(path, text)

        config = configuration(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(experiments.running.app, "write_atomically", killed)
            with pytest.raises(KeyboardInterrupt):
                job(config, counted)
        assert not list(tmp_path.rglob("data.csv"))
        assert job(config, counted).exists()
        assert counted.calls == 2

    def test_a_job_without_data_is_run_again(self, tmp_path, counted):
        path = job(configuration(tmp_path), counted)
        path.unlink()
        assert job(configuration(tmp_path), counted) == path
        assert counted.calls == 2

    @pytest.mark.parametrize(
        "overrides",
        [
            ["seed=1"],
            ["group_size=[2,4]"],
            ["batch_size=8"],
            ["task.signal=0.7"],
            ["task=bandit"],
            ["estimator=all"],
            ["scale=paper"],
            ["scale.precision=0.5"],
            ["+estimators.shrinkage.weight=0.5"],
        ],
    )
    def test_a_configuration_has_a_folder_of_its_own(self, tmp_path, counted, overrides):
        """Would catch: a parameter that is left out of the name, so that its jobs are skipped."""
        assert folder_of(tmp_path, counted) != folder_of(tmp_path, counted, *overrides)
        assert counted.calls == 2

    def test_where_and_how_fast_do_not_change_the_folder(self, tmp_path, counted):
        here = folder_of(tmp_path, counted)
        assert folder_of(tmp_path, counted, "threads=1") == here
        assert counted.calls == 1
        assert folder_of(tmp_path, counted, output="elsewhere") == here
        assert counted.calls == 2

    def test_the_folder_can_be_read(self, tmp_path, counted):
        folder = folder_of(tmp_path, counted, "group_size=[2,4]", "batch_size=8", "scale=paper")
        assert folder.parts[:2] == ("gradient_mse", "paper")
        assert re.fullmatch("tug_of_war_B8_G2-4_[0-9a-f]{10}", folder.name)

    def test_output_that_is_a_file(self, tmp_path, counted):
        blocked = tmp_path / "file"
        blocked.write_text("mine")
        with pytest.raises(ValueError, match=f"^output must be a writable folder, got {blocked}"):
            job(configuration(blocked), counted)
        assert counted.calls == 0
        assert blocked.read_text() == "mine"

    def test_output_without_permission(self, tmp_path, counted, monkeypatch):
        """Root may write everywhere, so nobody may: however it is asked."""

        def refused(path, *args, **kwargs):
            raise PermissionError(13, "Permission denied", str(path))

        config = configuration(tmp_path)
        monkeypatch.setattr(os, "access", lambda *args, **kwargs: False)
        for name in ("mkdir", "touch", "write_text", "open"):
            monkeypatch.setattr(Path, name, refused)
        with pytest.raises(ValueError, match=r"^output must be a writable folder, got "):
            job(config, counted)
        assert counted.calls == 0


class TestPrepare:
    """What may turn out impossible is built first."""

    def test_comes_before_folder_and_work(self, tmp_path, counted):
        def impossible(checked):
            assert checked.task.name == "tug_of_war" and not list(tmp_path.iterdir())
            raise ValueError("task must be possible, got this one")

        config = configuration(tmp_path / "results")
        with pytest.raises(ValueError, match=r"^task must be possible"):
            app_with(counted, impossible).execute(config)
        assert counted.calls == 0 and not (tmp_path / "results").exists()

    def test_is_not_needed_for_what_is_finished(self, tmp_path, counted):
        config = configuration(tmp_path)
        path = job(config, counted)
        assert app_with(counted, None).execute(config) == path

    def test_folder_of_a_job_is_known_before(self, tmp_path, counted):
        config = configuration(tmp_path, "batch_size=8")
        folder = gradient_mse.APP.folder(config)
        assert not folder.exists() and job(config, counted).parent == folder


class TestMainJob:
    @pytest.mark.parametrize("kind", [ValueError, FloatingPointError])
    def test_a_mistake_is_one_line(self, kind, tmp_path, monkeypatch):
        """Also a run that diverged. Would catch: a traceback."""

        def fails(_config):
            raise kind("training diverged at iteration 3: the norm must be small, got 1e+09")

        monkeypatch.setattr(gradient_mse, "APP", app_with(fails))
        code, _, error = call_main(gradient_mse, "task=tug_of_war", f"output={tmp_path}")
        assert (code, error) == (2, "error: training diverged at iteration 3: the norm must be "
                                    "small, got 1e+09\n")  # fmt: skip
        code, _, error = call_main(gradient_mse, "-m", "task=tug_of_war", f"output={tmp_path}")
        assert code == 1 and "training diverged at iteration 3" in error  # left to Hydra

    def test_what_must_be_given(self, tmp_path):
        """Would catch: OmegaConf's own message, of several lines."""
        refuses(gradient_mse, "task.path must be given", tmp_path / "results", "task=gsm8k")

    def test_a_mistake_of_ours_is_none_of_the_users(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            gradient_mse, "APP", app_with(lambda _config: 1 / 0, app=gradient_mse.APP)
        )
        code, _, error = call_main(gradient_mse, "task=tug_of_war", f"output={tmp_path}")
        assert code == 1 and "ZeroDivisionError" in error


class TestProvenance:
    def test_says_which_code_and_how_long(self):
        record = provenance(12.345)
        assert set(record) == {"commit", "dirty", "python", "versions", "seconds", "cores"}
        assert record["seconds"] == 12.3
        assert record["versions"]["numpy"] == np.__version__
        assert record["python"].startswith("3.")
        assert type(record["dirty"]) is bool
        assert json.loads(json.dumps(record)) == record

    def test_names_the_commit_of_this_code(self, monkeypatch, tmp_path):
        """Would catch: asking git in the user's folder, which is no or another repository."""
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
        assert provenance(0.0)["commit"] == head
        monkeypatch.chdir(tmp_path)
        assert provenance(0.0)["commit"] == head

    def test_numbers_of_other_jobs_make_no_code_dirty(self, monkeypatch, tmp_path):
        """Would catch: a reference written by one experiment that blames the next one's code."""
        code, table = tmp_path / "experiments" / "a.py", tmp_path / "experiments/reference/a.csv"
        table.parent.mkdir(parents=True)
        monkeypatch.setattr(runner, "__file__", str(code))
        for path in (code, table):
            path.write_text("one\n")
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        for command in (["init"], ["add", "."], [*identity, "commit", "-m", "one"]):
            subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
        for path, dirty in ((table, False), (code, True)):
            path.write_text("two\n")
            assert provenance(0.0)["dirty"] is dirty

    def test_outside_a_repository(self, monkeypatch):
        def missing(*args, **kwargs):
            raise FileNotFoundError("git")

        monkeypatch.setattr(subprocess, "run", missing)
        assert provenance(0.0)["commit"] == ""


class TestCsv:
    def test_is_the_same_text_every_time(self):
        assert to_csv(TABLE) == to_csv(TABLE.copy()) == "mse,group_size\n0.3333333333,2\n2e-300,4\n"

    def test_survives_a_round_trip(self, rng, tmp_path):
        """Would catch: a collected table that differs from its jobs' in the last digit."""
        data = pd.DataFrame({"x": rng.lognormal(0, 20, size=1000)})
        path = tmp_path / "data.csv"
        path.write_text(to_csv(data))
        assert to_csv(pd.read_csv(path)) == path.read_text()
        np.testing.assert_allclose(pd.read_csv(path)["x"], data["x"], rtol=1e-9)


@dataclass(frozen=True)
class WithoutTask:
    """The schema of an experiment that has no task."""

    replicates: int = 1


class TestPrepareByDefault:
    def test_builds_the_policies_of_the_task(self):
        config = SimpleNamespace(task=SimpleNamespace(snapshots={"uniform": 1}))
        assert App.prepare(config) == {"uniform": 1}

    @pytest.mark.parametrize("config", [WithoutTask(), SimpleNamespace(task=None)])
    def test_does_nothing_without_a_task(self, config):
        """Would catch: an AttributeError for a schema that says nothing of a task."""
        assert App.prepare(config) is None

    def test_a_task_must_have_policies(self):
        with pytest.raises(AttributeError, match="snapshots"):
            App.prepare(SimpleNamespace(task=SimpleNamespace()))
