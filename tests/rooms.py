"""How the house stands: `python tests/rooms.py` counts loose modules, rooms, arrows and circles.

An arrow leads from a room to one that it imports. Rooms are packages one level below ours; a loose
module counts as a room of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGES = ("ustat_grpo", "experiments", "theory", "figures", "benchmarks")


def house(package: str) -> tuple[set[str], dict[str, set[str]], dict[str, set[str]]]:
    """Return the modules of a package, its arrows between rooms, and those between modules."""
    graph = grimp.build_graph(package, cache_dir=None)
    modules = {each: graph.find_modules_directly_imported_by(each) for each in graph.modules}
    rooms: dict[str, set[str]] = {}
    for importer, imported in modules.items():
        for each in imported:
            pair = _room(importer), _room(each)
            if pair[0] != pair[1] and package not in pair:
                rooms.setdefault(pair[0], set()).add(pair[1])
    return graph.modules, rooms, modules


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Return the names along a circle of arrows, none if there is none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _report() -> Iterator[str]:
    yield f"{'package':12} {'loose modules':>14} {'rooms':>6} {'modules':>8} {'arrows':>7}  circles"
    for package in PACKAGES:
        modules, rooms, imports = house(package)
        inside = {each for each in modules if each != package}
        packages = {_room(each) for each in inside if each.count(".") > 1}
        loose = {each for each in inside if each.count(".") == 1} - packages
        found = circle(rooms) or circle(imports)
        yield (
            f"{package:12} {len(loose):14} {len(packages):6} {len(modules):8} "
            f"{sum(map(len, rooms.values())):7}  {' -> '.join(found) or 'none'}"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    print("\n".join(_report()))
