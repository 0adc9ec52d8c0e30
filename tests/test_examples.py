"""The examples of docstrings run as a reader would type them."""

from __future__ import annotations

import ast
import doctest
import importlib
import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import ustat_grpo

LIBRARY = Path(ustat_grpo.__file__).parent
ROOT = LIBRARY.parent
OPTIONAL = ("gymnasium", "torch", "transformers", "trl")
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


def imported(name: str) -> ModuleType:
    """Return a module; skip the test if it needs a library that is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        absent = [library for library in OPTIONAL if find_spec(library) is None]
        if not absent:
            raise
        pytest.skip(f"{name} needs one of {absent}")


FILES = [path for path in sorted(LIBRARY.rglob("*.py")) if examples_of(path)]


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
