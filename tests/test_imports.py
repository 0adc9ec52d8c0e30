"""`import ustat_grpo` is light, and its names are what they say."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import ustat_grpo

HEAVY = {"gymnasium", "hydra", "matplotlib", "pandas", "scipy.stats", "torch", "transformers"}


def imported_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(result.stdout.split())


def test_import_is_light():
    """Would catch: a module-level `import torch`, which costs a second and 200 MB."""
    modules = imported_by("import ustat_grpo")
    assert "ustat_grpo.estimators" in modules
    assert sorted(HEAVY & modules) == []


@pytest.mark.parametrize("name", sorted(HEAVY - {"torch", "transformers", "hydra", "gymnasium"}))
def test_the_look_at_modules_sees_what_is_imported(name):
    """Would catch: a list of modules that is empty or shows top-level packages only."""
    assert name in imported_by(f"import {name}")


def test_public_names_are_sorted_and_unique():
    assert ustat_grpo.__all__ == sorted(set(ustat_grpo.__all__))


@pytest.mark.parametrize("name", ustat_grpo.__all__)
def test_public_names_exist_and_are_documented(name):
    """Would catch: a name without docstring (a dataclass makes itself one of its signature)."""
    thing = getattr(ustat_grpo, name)
    documentation = inspect.getdoc(thing)
    assert documentation
    assert not documentation.startswith(f"{name}(")
    assert documentation.splitlines()[0].endswith((".", ")", "?"))


def test_star_import_gives_the_public_names():
    namespace: dict[str, object] = {}
    exec("from ustat_grpo import *", namespace)
    assert sorted(namespace.keys() - {"__builtins__"}) == sorted(ustat_grpo.__all__)
