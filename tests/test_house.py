"""The house is as CONTRIBUTING draws it: tests lie where what they test lies."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
CHAPTERS = ("theory", "experiments", "figures", "benchmarks")


def test_tests_mirror_the_rooms():
    """Would catch: tests of a room that was renamed, or a helper among the tests."""
    for folder in sorted(path for path in TESTS.rglob("*") if path.is_dir()):
        place = folder.relative_to(TESTS)
        if "__pycache__" in place.parts or place.parts[0] == "support":
            continue
        room = ROOT / place if place.parts[0] in CHAPTERS else ROOT / "ustat_grpo" / place
        assert (room / "__init__.py").is_file(), f"{place} has tests, but is no room"
        others = [path.name for path in folder.glob("*.py") if not path.name.startswith("test_")]
        assert others == [], f"{place} holds helpers, which belong into tests/support: {others}"


def test_every_test_has_a_name_of_its_own():
    """Pytest imports files by their names alone. Would catch: one that hides another."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert len(names) > 150 and len(set(names)) == len(names)


def test_no_test_imports_one_of_another_room():
    """Would catch: a file that can be run only after the one that it imports."""
    for path in TESTS.rglob("test_*.py"):
        imported = re.findall(r"^from (test_\w+) import", path.read_text(encoding="utf-8"), re.M)
        assert all((path.parent / f"{name}.py").is_file() for name in imported), path
