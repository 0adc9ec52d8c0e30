"""Every command ends in its numbers, or in one line: full disks, locked folders, closed outputs."""

from __future__ import annotations

import os
import pickle
import resource
import sys
import traceback
import warnings
from io import BytesIO, StringIO, TextIOWrapper
from types import SimpleNamespace
from unittest import mock

import pandas as pd
import pytest

from experiments import jobs
from experiments.gradient_error import gradient_mse
from experiments.running.commands import ends_in_one_line
from support.apps import app_with, call_main

APPS = sorted(jobs.APPS)
TASKS = {app: f"task={jobs.EXPERIMENTS[app].tasks[0]}" for app in APPS if app in jobs.EXPERIMENTS}
ASKED = ("task=tug_of_war",)
ROOM = 24_000
"""Bytes of a disk that holds a job's record, which names some 200 files of code, but no data."""


def instead(*_asked):
    """Work that takes no time, with a table of more bytes than a full disk has."""
    return pd.DataFrame({"mse": [1 / 3] * 2000})


def call_with_room(size, module, *overrides):
    """Call an app where no file may grow beyond some bytes, as on a disk that is full.

    In a fork: the limit is one of the process, and pytest's own log may be longer.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which are idle
        child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
            )
            answer = call_main(module, *overrides)
        except BaseException:
            answer = traceback.format_exc()
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pickle.load(pipe)
    os.waitpid(child, 0)
    assert isinstance(answer, tuple), answer
    return answer


# All apps are written by `App.execute`: one that keeps parts and one that does not are asked fast.
@pytest.mark.parametrize(
    "app",
    [each if each in ("critic", "gradient_mse") else pytest.param(each, marks=pytest.mark.slow)
     for each in APPS],
)  # fmt: skip
def test_a_full_disk(app, tmp_path, monkeypatch):
    """Full by its data. Would catch: a traceback, or half a table left behind.

    Configuration and provenance, which come before the data, are in no one's way.
    """
    module = SimpleNamespace(APP=app_with(instead, app=jobs.APPS[app]))
    command = ([] if TASKS.get(app, "task=") == "task=" else [TASKS[app]]) + [f"output={tmp_path}"]
    code, _, error = call_with_room(ROOM, module, *command)
    assert code == 1 and error.endswith("data.csv: File too large\n") and error.count("\n") == 1
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {"config.yaml", "provenance.json"}


class TestDisk:
    def test_is_no_smaller_for_pytest(self, tmp_path, monkeypatch):
        """Would catch: `pytest > log` that ends in silence when its log reaches the limit."""
        monkeypatch.setattr(gradient_mse, "APP", app_with(instead))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        with mock.patch.object(resource, "setrlimit", wraps=resource.setrlimit) as limited:
            call_with_room(10, gradient_mse, *ASKED, f"output={tmp_path}")
        assert not limited.called and resource.getrlimit(resource.RLIMIT_FSIZE) == before

    def test_full_before_the_work(self, tmp_path, monkeypatch):
        """Would catch: hours of work before anybody looks whether its data have a place."""
        monkeypatch.setattr(gradient_mse, "APP", app_with(None))
        code, _, error = call_with_room(10, gradient_mse, *ASKED, f"output={tmp_path}")
        assert code == 2 and error.count("\n") == 1 and not list(tmp_path.iterdir())
        assert error.startswith(f"error: output must be a writable folder, got {tmp_path}")

    def test_in_a_sweep(self, tmp_path, monkeypatch):
        """Would catch: Hydra's traceback, at its own notes or at a job."""
        monkeypatch.setattr(gradient_mse, "APP", app_with(instead))
        blocked = tmp_path / "file"
        blocked.write_text("mine")
        code, _, error = call_main(gradient_mse, "-m", *ASKED, f"output={blocked / 'out'}")
        assert (
            code == 1 and error.startswith(f"error: {blocked / 'out'}") and error.count("\n") == 1
        )
        sweep = ("-m", *ASKED, f"output={tmp_path}")
        code, _, error = call_with_room(ROOM, gradient_mse, *sweep)
        assert code == 1 and "\nerror: " in error and "Traceback" not in error
        assert error.endswith("data.csv: File too large\n")

    def test_data_that_nobody_may_read(self, tmp_path, monkeypatch):
        """Root may read everything: what anybody else is told is told here."""
        monkeypatch.setattr(gradient_mse, "APP", app_with(instead))
        assert call_main(gradient_mse, *ASKED, f"output={tmp_path}")[0] == 0
        (path,) = tmp_path.rglob("data.csv")
        genuine = type(path).read_bytes

        def locked(asked):
            if asked.name == "data.csv":
                raise PermissionError(13, "Permission denied", str(asked))
            return genuine(asked)

        monkeypatch.setattr(type(path), "read_bytes", locked)
        found = call_main(gradient_mse, *ASKED, f"output={tmp_path}")
        assert found == (1, "", f"error: {path}: Permission denied\n")


class Refusing(StringIO):
    """An output that takes nothing."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def flush(self):
        raise self.error


class TestOutput:
    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (BrokenPipeError(32, "Broken pipe"), ""),
            (OSError(28, "No space left on device"),
             "error: files must be writable, got: No space left on device\n"),
        ],
    )  # fmt: skip
    def test_that_takes_nothing(self, monkeypatch, capsys, error, line):
        """As of `| head` and `> /dev/full`. Would catch: a traceback when the interpreter ends."""
        monkeypatch.setattr(sys, "stdout", Refusing(error))
        with pytest.raises(SystemExit) as stop, ends_in_one_line():
            print("numbers")
        assert stop.value.code == 1 and capsys.readouterr().err == line

    def test_that_is_closed(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", None)
        with ends_in_one_line():
            print("numbers")

    def test_that_knows_few_letters(self, monkeypatch):
        """Would catch: hours of work that end at a ± in their table."""
        taken = BytesIO()
        monkeypatch.setattr(sys, "stdout", TextIOWrapper(taken, encoding="ascii"))
        with ends_in_one_line():
            print("1.0 ± 0.1")
        assert taken.getvalue() == b"1.0 ? 0.1\n"
