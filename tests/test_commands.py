"""Every command says how it is used, and does nothing else, where it is asked or misunderstood."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

import experiments.jobs
import figures.palette
from experiments.group_size import group_size

ROOT = Path(__file__).parents[1]
PLAIN = (
    "experiments",
    "experiments.ledger",
    "experiments.rerun",
    "figures",
    "figures.gradient_mse",
    "theory",
    "benchmarks",
    "benchmarks.score_norms",
)


def call(command: str, argument: str, monkeypatch) -> int:
    """Run a command as `python -m` does; return its exit code."""
    monkeypatch.setattr(sys, "argv", [command, argument])
    inside = ROOT.joinpath(*command.split("."), "__main__.py")
    file = inside if inside.exists() else inside.parent.with_suffix(".py")
    try:
        runpy.run_path(str(file), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def nothing_runs(monkeypatch, tmp_path):
    """Work in an empty folder, where no experiment runs and no figure is drawn."""

    def work(*_args, **_options):
        raise AssertionError("must run nothing")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments.jobs, "run_each", work)
    monkeypatch.setattr(figures.palette, "draw_tasks", work)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("command", PLAIN)
def test_help_and_unknown_options_run_nothing(command, monkeypatch, capsys):
    """Would catch: a run of all experiments into a folder `--help/`, or figures drawn anew."""
    assert call(command, "--help", monkeypatch) == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m {command}")
    for wrong in ("--no-such-option", "-x"):
        assert call(command, wrong, monkeypatch) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"usage: python -m {command}") and "error: " in error


@pytest.mark.usefixtures("nothing_runs")
def test_apps_have_the_help_of_hydra(monkeypatch, capsys):
    """Would catch: an app that does work of its own before Hydra reads the command line."""
    for app, option, code in ((group_size, "--help", 0), (group_size, "--no-such-option", 2)):
        try:
            app.APP.main([option])
            left = 0
        except SystemExit as stop:
            left = stop.code
        assert left == code
        shown = capsys.readouterr()
        assert "powered by Hydra" in shown.out if code == 0 else "usage" in shown.err
