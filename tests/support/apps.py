"""How tests meet an experiment: its composed configuration, its `main`, mistakes and kills."""

from __future__ import annotations

import copy
import logging
import re
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
from io import StringIO
from unittest import mock

import pytest
from hydra import compose, initialize_config_module
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.gradient_error import gradient_mse
from experiments.group_size import language_group_size
from experiments.tasks import sequential_training

GROUPS = ("task", "policy", "estimator", "scale")
_CHOICE = re.compile(rf"({'|'.join(GROUPS)})=\w+")


def configuration(app, *overrides):
    """Return the composed configuration of an app.

    Composing takes a tenth of a second and hundreds of tests ask, so what follows from the chosen
    files is kept, and values are set in a copy of it; what cannot be set is left to Hydra to judge.
    """
    choices = tuple(each for each in overrides if _CHOICE.fullmatch(each) or each[0] in "+~")
    values = [each for each in overrides if each not in choices]
    try:
        found = copy.deepcopy(_composed(app, choices))
        for each in OverridesParser.create().parse_overrides(values):
            if each.type is not OverrideType.CHANGE or each.is_sweep_override():
                return _composed.__wrapped__(app, overrides)
            OmegaConf.update(found, each.key_or_group, each.value(), merge=True)
    except (HydraException, OmegaConfBaseException):
        return _composed.__wrapped__(app, overrides)
    return found


@cache
def _composed(app, overrides):
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
    # Hydra would compose the whole configuration once more to find hydra.mode, which is never set.
    once = mock.patch.object(Hydra, "get_mode", return_value=None)
    with redirect_stdout(out), redirect_stderr(err), once:
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


@contextmanager
def in_this_process():
    """Let the runs of apps train in this process: seconds less for each sweep."""
    with ExitStack() as patched:
        for module in (language_group_size, sequential_training):
            patched.enter_context(mock.patch.object(module, "ProcessPoolExecutor", InThisProcess))
        yield


def refusal(app, folder, *overrides):
    """Return the line that a mistake of the user takes, with exit code 2 and no folder of results.

    As `main` does it after Hydra has composed, which it does alike for right and wrong values.
    """

    def work(*_):
        raise AssertionError(f"{overrides} must be refused")

    error = StringIO()
    config = configuration(app.name, *overrides, f"output={folder}")
    with redirect_stderr(error), pytest.raises(SystemExit) as stop:
        app_with(work, app.prepare, app).job(config)
    assert stop.value.code == 2 and not folder.exists()
    return error.getvalue()


def refuses(module, message, folder, *overrides):
    """Check what a mistake of the user says, see `refusal`."""
    assert refusal(module.APP, folder, *overrides) == f"error: {message}\n"
