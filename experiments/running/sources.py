"""Which of our source files compute an app's numbers: those that it imports, directly or not.

Imports inside of functions count. A name that a package only passes on leads to the module that
defines it, so an edit of the planner leaves alone what imports an estimator. The packages on the
way count by their own text.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("ustat_grpo", "experiments")

_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n(]+)|import[ \t]+([\w.]+))", re.M
)
_COMMENT = re.compile(r"#.*")


class Source(NamedTuple):
    """A module as it lay on the disk when this process first asked for any."""

    file: str
    text: str
    digest: str

    @property
    def is_package(self) -> bool:
        """Whether it is the file of a package."""
        return self.file.endswith("/__init__.py")


class _Name(NamedTuple):
    """A name in a statement `from module import name as alias`; empty ones of `import module`."""

    module: str
    name: str = ""
    alias: str = ""


@cache
def code_of(module: str) -> Mapping[str, str]:
    """Return the digests of the files that compute a module's numbers, by file.

    All sources are read once a process, when the first app asks: later edits are not what runs.

    Args:
        module: of the app, or of what computes a part of its table.
    """
    sources = _sources()
    followed: set[str] = set()
    passed: set[str] = set()
    left = [module]
    while left:
        current = left.pop()
        if current in followed or current not in sources:
            continue
        followed.add(current)
        for name in _names(current):
            for used, is_passed_on in _defined_in(name):
                (passed.add if is_passed_on else left.append)(used)
    parents = {each.rpartition(".")[0] for each in followed} - {""}
    counted = sorted(followed | passed | parents)
    return {sources[each].file: sources[each].digest for each in counted}


def code_now(file: str) -> str:
    """Return the digest of a file that `code_of` named, or nothing if it is gone."""
    return _digests().get(file, "")


@cache
def _digests() -> Mapping[str, str]:
    return {source.file: source.digest for source in _sources().values()}


@cache
def _sources() -> Mapping[str, Source]:
    found = {}
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None and spec.submodule_search_locations is not None
        (root,) = map(Path, spec.submodule_search_locations)
        for path in sorted(root.rglob("[!.]*.py")):  # editors keep locks under dotted names
            inside = path.relative_to(root.parent)
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            module = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
            found[module] = Source(inside.as_posix(), content.decode(errors="replace"), digest)
    return found


@cache
def _names(module: str) -> tuple[_Name, ...]:
    """Return what a module imports; a line of a docstring that looks alike is one file too many."""
    source, found = _sources()[module], []
    for origin, names, plain in _IMPORT.findall(_COMMENT.sub("", source.text)):
        if plain:
            found.append(_Name(plain))
            continue
        absolute = _absolute(origin, module, source.is_package)
        for each in names.strip("() \t\n").split(","):
            words = each.split()
            if words:
                found.append(_Name(absolute, words[0], words[-1]))
    return tuple(found)


def _absolute(origin: str, module: str, is_package: bool) -> str:
    """Return the full name of a module, which may begin with dots."""
    name = origin.lstrip(".")
    level = len(origin) - len(name) - is_package
    if origin == name:
        return origin
    base = module.split(".")[: len(module.split(".")) - level]
    return ".".join([*base, *([name] if name else [])])


def _defined_in(wanted: _Name) -> Iterator[tuple[str, bool]]:
    """Yield the modules that an imported name stands for, and whether each only passes it on."""
    sources, module = _sources(), wanted.module
    if module not in sources:
        return
    part = f"{module}.{wanted.name}"
    if part in sources:
        yield part, False
    if not (wanted.name and sources[module].is_package):
        yield module, False
        return
    passed_on = [
        each for each in _names(module) if each.alias == wanted.name and each.module != module
    ]
    for each in passed_on:
        yield module, True
        yield from _defined_in(each)
    if not passed_on and part not in sources:  # it is made there, or found at its first use
        yield module, False
        if "__getattr__" in sources[module].text:
            yield from ((each, False) for each in sources if each.startswith(f"{module}."))
