"""`import ustat_grpo` is light, and its names are what they say."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import ustat_grpo
import ustat_grpo.environments
import ustat_grpo.lm

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


def test_import_of_environments_needs_gymnasium_only():
    """Would catch: the one policy of torch that is imported before it is used."""
    modules = imported_by("import ustat_grpo.environments")
    assert {"gymnasium", "ustat_grpo.environments.copies"} <= modules
    assert not {"torch", "pandas", "matplotlib", "hydra"} & modules


def test_public_names_of_environments_are_sorted_and_documented():
    names = ustat_grpo.environments.__all__
    assert sorted(set(names)) == names
    for name in names:
        thing = getattr(ustat_grpo.environments, name)
        assert thing.__name__ == name and thing.__module__.startswith("ustat_grpo.environments.")
        documentation = inspect.getdoc(thing)
        assert documentation and not documentation.startswith(f"{name}(")


def test_arithmetic_is_light():
    """Would catch: problems that can be posed by those alone who have torch."""
    modules = imported_by("import ustat_grpo.arithmetic")
    assert "ustat_grpo.arithmetic.problems" in modules
    assert sorted(HEAVY & modules) == []


def test_a_public_name_of_language_models_needs_no_extra():
    """The policies that are shipped need torch, but neither transformers nor an app's libraries."""
    modules = imported_by("from ustat_grpo.lm import *")
    assert "torch" in modules
    assert not {"transformers", "hydra", "gymnasium", "matplotlib"} & modules


def test_the_door_of_the_experiments_opens_without_what_few_of_them_need():
    """Would catch: `--help`, or the word about a mistake, that waits for torch and a canvas."""
    modules = imported_by("import experiments.__main__")
    assert {"hydra", "experiments.tasks.pretrain"} <= modules
    assert not {"torch", "transformers", "gymnasium", "matplotlib"} & modules


def test_public_names_of_language_models_are_sorted_and_shown():
    names = ustat_grpo.lm.__all__
    assert sorted(names) == sorted(set(names))
    assert set(names) <= set(dir(ustat_grpo.lm))


@pytest.mark.parametrize("name", ustat_grpo.lm.__all__)
def test_public_names_of_language_models_exist_and_are_documented(name):
    """Would catch: a name that its module does not have, or that is also that of a module.

    The latter would be the one or the other, as the module was imported before or not.
    """
    thing = getattr(ustat_grpo.lm, name)
    assert thing.__name__ == name
    assert thing.__module__.startswith("ustat_grpo.lm.")
    assert find_spec(f"ustat_grpo.lm.{name}") is None
    documentation = inspect.getdoc(thing)
    assert documentation and not documentation.startswith(f"{name}(")


def test_names_that_there_are_not_are_no_attributes():
    with pytest.raises(AttributeError, match=r"'ustat_grpo\.lm' has no attribute 'nothing'"):
        ustat_grpo.lm.nothing  # noqa: B018
    name = r"'ustat_grpo\.environments' has no attribute 'nothing'"
    with pytest.raises(AttributeError, match=name):
        ustat_grpo.environments.nothing  # noqa: B018


def test_no_shape_is_given_to_an_alias_that_new_numpy_makes_no_class():
    """Would catch: `Float[NDArray[np.float64], "n"]`, which fails at import from NumPy 2.5 on."""
    root = Path(ustat_grpo.__file__).parents[1]
    sources = [
        path
        for room in ("ustat_grpo", "theory", "experiments", "benchmarks")
        for path in (root / room).rglob("*.py")
    ]
    assert len(sources) > 100
    aliased = re.compile(r"^(\w+) = NDArray\b", re.MULTILINE)
    for path in sources:
        text = path.read_text(encoding="utf-8")
        names = "|".join(["NDArray", *aliased.findall(text)])
        assert not re.search(rf"\b(Float|Int|Bool|Num|Shaped)\[({names})\b", text), path
