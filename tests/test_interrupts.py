"""Ctrl-C in our commands: one line and exit code 130, once Python has imported them."""

from __future__ import annotations

from apps import call_main
from experiments import gradient_mse
from experiments.commands import TOLD


def test_in_an_app_that_works(tmp_path, monkeypatch):
    """Would catch: a traceback, and no word of how to go on."""

    def run(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gradient_mse, "run", run)
    for sweep in ((), ("-m",)):
        code, _, error = call_main(gradient_mse, *sweep, "task=tug_of_war", f"output={tmp_path}")
        assert (code, error) == (130, TOLD + "\n")
