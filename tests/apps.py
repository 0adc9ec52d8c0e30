"""How tests meet an experiment: its composed configuration, and its `main` in this process."""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest import mock

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf


def configuration(app, *overrides):
    """Return the composed configuration of an app."""
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(app, list(overrides))


def checked(app, *overrides):
    """Return the configuration object of an app, after its range checks."""
    return OmegaConf.to_object(configuration(app, *overrides))


def call_main(module, *overrides):
    """Run an app's `main` as `python -m` would; return exit code, stdout and stderr."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out, err, code = StringIO(), StringIO(), 0
    with (
        mock.patch.object(sys, "argv", [module.__file__, *overrides]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            module.main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            root.handlers[:], root.level = handlers, level  # Hydra makes them its own
    return code, out.getvalue(), err.getvalue()
