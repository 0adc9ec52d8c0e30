"""Ctrl-C in our commands: one line and exit code 130, once Python has imported them."""

from __future__ import annotations

from experiments.gradient_error import gradient_mse
from experiments.running.commands import TOLD
from support.apps import app_with, call_main


def test_in_an_app_that_works(tmp_path, monkeypatch):
    """Would catch: a traceback, and no word of how to go on."""

    def run(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gradient_mse, "APP", app_with(run))
    for sweep in ((), ("-m",)):
        code, _, error = call_main(gradient_mse, *sweep, "task=tug_of_war", f"output={tmp_path}")
        assert (code, error) == (130, TOLD + "\n")
