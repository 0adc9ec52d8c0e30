"""The wheel where users install it: `make newest`, `make oldest`.

    python tests/installations.py newest python3.11 python3.12 python3.13
    python tests/installations.py oldest python3.11

For each Python that can be had: a fresh environment with our wheel and the newest versions, or the
lowest that pyproject.toml allows, of what it depends on. In a folder without our sources every
module is imported that needs no extra, and the sample of the documents is planned for. Then the
extra `environments` comes in, and the tests are run that need no other.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTED_EXTRAS = ("environments",)
MISSING = ("torch", "safetensors", "gymnasium", "transformers", "trl")
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "beartype", "filelock")
NEEDS_MORE = r"torch|transformers|trl|hydra|omegaconf|matplotlib|experiments|figures|benchmarks"
ROOMS = r"ustat_grpo\.(?:lm|integrations)"
IMPORTS = re.compile(rf"^\s*(?:import|from) (?:{NEEDS_MORE}|{ROOMS})\b", re.M)
OWN_IMPORTS = re.compile(r"^\s*from support(?:\.| import )(\w+)", re.M)

IMPORT_ALL = """
import importlib, pkgutil, sys, ustat_grpo
assert "site-packages" in ustat_grpo.__file__, ustat_grpo.__file__
for module in pkgutil.walk_packages(ustat_grpo.__path__, "ustat_grpo."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name not in sys.argv[1:]:
            raise
"""


def main(which: str, pythons: list[str]) -> int:
    """Try every Python; return 1 if one fails or none was there."""
    verdicts = {python: _verdict(which, python) for python in pythons}
    for python, verdict in verdicts.items():
        print(f"{which} on {python}: {verdict or 'imports, plans and passes'}")
    tried = [verdict for verdict in verdicts.values() if verdict != NOT_THERE]
    return int(not tried or any(tried))


NOT_THERE = "not tried, there is none"


def _verdict(which: str, python: str) -> str:
    found = shutil.which(python)
    if found is None:
        return NOT_THERE
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            _try(which, found, folder)
        except subprocess.CalledProcessError as error:
            return f"FAILED: {' '.join(map(str, error.cmd[:6]))} …"
    return ""


def _try(which: str, python: str, folder: Path) -> None:
    """Install, import, plan and test; raise if one of these fails."""
    _run([python, "-m", "venv", str(folder / "venv")])
    inside = str(folder / "venv" / "bin" / "python")
    pip = [inside, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "install", *requirements(which)])
    _run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)])
    (wheel,) = folder.glob("*.whl")
    _run([*pip, "install", "--no-deps", str(wheel)])
    away = folder / "away"
    for name in ("tests", "theory", "docs"):
        shutil.copytree(ROOT / name, away / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", away)
    _run([inside, "-c", IMPORT_ALL, *MISSING], away)
    plan = ["plan", "docs/sample_outputs.csv", "--budget", "512"]
    _run([str(folder / "venv" / "bin" / "ustat-grpo"), *plan], away)
    _run([*pip, "install", *requirements(which, *TESTED_EXTRAS), *TOOLS])
    tests = [str(path.relative_to(ROOT)) for path in light_tests()]
    _run([inside, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *tests], away)


def requirements(which: str, *extras: str) -> list[str]:
    """Return what to install: as pyproject.toml has it, or pinned to the lowest it allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    wanted = sum((optional[extra] for extra in extras), start=project["dependencies"])
    if which == "newest":
        return wanted
    return [re.sub(r">=([^,]+).*", r"==\1", each) for each in wanted]


def light_tests() -> Iterator[Path]:
    """Yield the test files that import nothing, themselves or by a helper, that is left out."""
    helpers = {path.stem: path for path in (ROOT / "tests" / "support").glob("*.py")}

    def is_light(path: Path, seen: frozenset[str] = frozenset()) -> bool:
        text = path.read_text(encoding="utf-8")
        if IMPORTS.search(text):
            return False
        own = {name for name in OWN_IMPORTS.findall(text) if name in helpers} - seen
        return all(is_light(helpers[name], seen | own) for name in own)

    # Those that need our sources, or run what needs an extra.
    sources = {
        "test_compiled", "test_extras", "test_planner_document", "test_planner_page", "test_theory",
    }  # fmt: skip
    of_the_house = {"test_examples", "test_house", "test_imports", "test_user_script"}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path.stem not in sources | of_the_house and is_light(path):
            yield path


def _run(command: list[str], folder: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        print((done.stdout + done.stderr)[-4000:])
        raise subprocess.CalledProcessError(done.returncode, command)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("newest", "oldest"):
        sys.exit("usage: python tests/installations.py newest|oldest PYTHON [PYTHON ...]")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
