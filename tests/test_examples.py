"""The examples of docstrings run as a reader would type them, and every public name has one."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import ustat_grpo

LIBRARY = Path(ustat_grpo.__file__).parent
ROOT = LIBRARY.parent
OPTIONAL = ("accelerate", "gymnasium", "safetensors", "torch", "transformers", "trl")
"""What some rooms need: where one of them is not installed, these rooms cannot be imported."""


def dotted(path: Path) -> str:
    """Return the name of the module in a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def documented(tree: ast.Module) -> Iterator[tuple[str, str, int]]:
    """Yield name, docstring and line of all that a file documents."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield getattr(node, "name", "module"), docstring, node.body[0].lineno - 1


def examples_of(path: Path) -> list[doctest.DocTest]:
    """Return the examples in a file; nothing but what they import is known to them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [
        doctest.DocTestParser().get_doctest(docstring, {}, name, str(path), line)
        for name, docstring, line in documented(tree)
    ]
    return [test for test in found if test.examples]


@contextmanager
def libraries_of(name: str) -> Iterator[None]:
    """Skip the test if what is named needs a library that is not installed."""
    try:
        yield
    except ImportError as error:
        asked_for, cause = set[str](), error
        while isinstance(cause, ImportError):  # ours says what it was that Python did not find
            asked_for.add((cause.name or "").split(".")[0])
            cause = cause.__cause__ or cause.__context__
        absent = [each for each in OPTIONAL if each in asked_for and find_spec(each) is None]
        if not absent:
            raise
        pytest.skip(f"{name} needs {absent}")


def imported(name: str) -> ModuleType:
    """Return a module; skip the test if it needs a library that is not installed."""
    with libraries_of(name):
        return importlib.import_module(name)


def public_rooms() -> list[str]:
    """The packages that say what is public."""
    files = sorted(LIBRARY.rglob("__init__.py"))
    return [dotted(path) for path in files if "__all__" in path.read_text(encoding="utf-8")]


def public_names(module: ModuleType) -> dict[str, object]:
    """Return what a module makes public, and what the modules among that do, too."""
    names = getattr(module, "__all__", None)
    if names is None:  # a module that its room hands on whole, such as `laws.mse`
        things = {
            name: thing
            for name, thing in vars(module).items()
            if name[0] != "_" and getattr(thing, "__module__", None) == module.__name__
        }
    else:
        things = {name: getattr(module, name) for name in names}
    found: dict[str, object] = {}
    for name, thing in things.items():
        if isinstance(thing, ModuleType):
            inner = public_names(thing)
            found |= {f"{name}.{below}": below_it for below, below_it in inner.items()}
        else:
            found[name] = thing
    return found


def names_in_documents() -> dict[str, list[str]]:
    """By module, what documents import of it or name in full."""
    found: set[tuple[str, str]] = set()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        imports = re.findall(r"from (ustat_grpo[\w.]*) import (\([^)]*\)|[\w, ]+)", text)
        found |= {(module, name) for module, names in imports for name in re.findall(r"\w+", names)}
        found |= set(re.findall(r"`(ustat_grpo[\w.]*)\.(\w+)`", text))
    modules = sorted({module for module, _ in found})
    return {module: sorted(name for each, name in found if each == module) for module in modules}


def needs_example(thing: object) -> bool:
    """Classes and functions do; protocols, aliases and constants have nothing to be called."""
    if inspect.isclass(thing):
        return not getattr(thing, "_is_protocol", False)
    return inspect.isroutine(thing)


def has_example(thing: object) -> bool:
    """Return whether a docstring has an example; that of a method counts for its class."""
    docstrings = [thing.__doc__]
    if inspect.isclass(thing):  # a default, an integer say, has a docstring that is not ours
        members = [member for member in vars(thing).values() if hasattr(member, "__get__")]
        docstrings += [member.__doc__ for member in members]
    return any(">>>" in (docstring or "") for docstring in docstrings)


FILES = [path for path in sorted(LIBRARY.rglob("*.py")) if examples_of(path)]


# TRL switches gradient checkpointing by a name that transformers has replaced.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_examples_say_what_they_print(path):
    imported(dotted(path))
    for test in examples_of(path):
        complaints = io.StringIO()
        result = doctest.DocTestRunner().run(test, out=complaints.write)
        assert not result.failed, complaints.getvalue()


def test_a_wrong_example_fails(tmp_path):
    """Would catch: examples that are found and not run, or run with names of their module."""
    file = tmp_path / "wrong.py"
    source = [">>> 1 + 1", "3", ">>> two()", "2"]
    file.write_text("\n    ".join(["def two():", '"""Say two.', "", *source, '"""']))
    (test,) = examples_of(file)
    result = doctest.DocTestRunner().run(test, out=io.StringIO().write)
    assert (result.failed, result.attempted) == (2, 2)


@pytest.mark.parametrize("room", public_rooms())
def test_public_names_have_examples(room):
    """Would catch: a new public function or class that nobody shows how to call."""
    with libraries_of(room):  # some names are imported at first use
        things = public_names(importlib.import_module(room))
    assert things
    without = [name for name, it in things.items() if needs_example(it) and not has_example(it)]
    assert without == []


@pytest.mark.parametrize("module", names_in_documents())
def test_names_in_documents_have_examples(module):
    """Would catch: what a user is told to take from a room that does not make it public."""
    room = imported(module)
    with libraries_of(module):
        things = {name: getattr(room, name, None) for name in names_in_documents()[module]}
    without = [name for name, it in things.items() if needs_example(it) and not has_example(it)]
    assert without == []


def test_rooms_and_documents_are_seen():
    """Would catch: a pattern that finds nothing to ask."""
    rooms, documents = set(public_rooms()), names_in_documents()
    assert {"ustat_grpo", "ustat_grpo.laws.binary", "ustat_grpo.lm"} <= rooms
    assert "NoiseGRPOTrainer" in documents["ustat_grpo.integrations.trl"]
    assert "tabulate" in documents["ustat_grpo.estimators.probing"]
    names = public_names(importlib.import_module("ustat_grpo"))
    assert {"Grpo", "laws.mse.grpo", "laws.binary.gain", "ustatistics.hoeffding"} <= set(names)


def test_exceptions_are_by_kind():
    """Would catch: a rule that excepts what can be called."""
    from ustat_grpo import Estimator, Grpo, gradient
    from ustat_grpo.estimators import LIBRARIES, NOTHING
    from ustat_grpo.laws.group_size import GroupSizeRange

    assert [needs_example(thing) for thing in (Grpo, gradient, GroupSizeRange)] == [True] * 3
    assert [needs_example(thing) for thing in (Estimator, LIBRARIES, NOTHING)] == [False] * 3


def test_an_example_is_one_of_the_class_or_of_its_methods():
    """Would catch: the docstring of `int`, which has an example, taken for one of the class."""

    class Without:
        default = 1

        def method(self):
            """Say nothing."""

    class With(Without):
        @property
        def two(self):
            """Two.

            >>> 1 + 1
            2
            """

    assert (has_example(Without), has_example(With)) == (False, True)
