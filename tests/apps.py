"""How tests meet an experiment: its composed configuration, its `main`, mistakes and kills."""

from __future__ import annotations

import logging
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from unittest import mock

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from experiments.gradient_error import gradient_mse
from experiments.running.commands import INTERRUPTED


def configuration(app, *overrides):
    """Return the composed configuration of an app."""
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(app, list(overrides))


def checked(app, *overrides):
    """Return the configuration object of an app, after its range checks."""
    return OmegaConf.to_object(configuration(app, *overrides))


def app_with(run, prepare=lambda _config: None, app=gradient_mse.APP):
    """Return an app with another work, for which the same code is responsible."""

    def work(*arguments):
        return run(*arguments)

    work.__module__ = app.module
    return replace(app, run=work, prepare=prepare)


def call_main(module, *overrides):
    """Run an app as `python -m experiments` would; return exit code, stdout and stderr."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out, err, code = StringIO(), StringIO(), 0
    with (
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            module.APP.main(overrides)
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            root.handlers[:], root.level = handlers, level  # Hydra makes them its own
    return code, out.getvalue(), err.getvalue()


class InThisProcess:
    """Stands in for a pool of processes, where starting them takes longer than the work."""

    def __init__(self, *_args, **_kwargs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    map = staticmethod(map)


def refuses(module, message, folder, *overrides):
    """Check that a mistake of the user takes one line, exit code 2 and no folder of results."""
    code, _, error = call_main(module, *overrides, f"output={folder}")
    assert (code, error) == (2, f"error: {message}\n")
    assert not folder.exists()


def resumes(module, killed_in, is_second, folder, *sweep):
    """Kill a sweep of two jobs in the second one; the same command must run that one only.

    Args:
        module: the app.
        killed_in: name of the function that the kill interrupts.
        is_second: tells the second job by its configuration.
        folder: where the results go.
        sweep: the overrides.
    """
    genuine = module.APP.run if killed_in == "run" else getattr(module, killed_in)

    def kill(config, *arguments):
        if is_second(config):
            raise KeyboardInterrupt
        return genuine(config, *arguments)

    command = ("-m", *sweep, f"output={folder}")
    killed = app_with(kill, module.APP.prepare, module.APP) if killed_in == "run" else None
    where = ("APP", killed) if killed else (killed_in, kill)
    with mock.patch.object(module, *where):
        assert call_main(module, *command)[0] == INTERRUPTED
    (first,) = folder.rglob("data.csv")
    written = first.stat().st_mtime_ns
    code, out, _ = call_main(module, *command)
    assert code == 0 and out.count("exists, skipped") == 1
    assert first.stat().st_mtime_ns == written
    assert len(list(folder.rglob("data.csv"))) == 2
