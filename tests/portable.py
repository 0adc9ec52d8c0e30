"""The same verdicts and the same documents on every processor: `make portable`.

NumPy, OpenBLAS and numba choose their loops by processor, and their roundings differ. Here one
machine plays several: each row of the table is a setting of the environment, under which the theory
chapters and the documents made of them, the tests of the laws, and the figures are made anew and
compared with what is committed, to the byte.

    python tests/portable.py            every setting
    python tests/portable.py --quick    the settings that have differed, without figures
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
DRAWN = ROOT / "figures" / "drawn"
SAMPLE = ROOT / "docs" / "sample_outputs.csv"
DOCUMENTS = (
    "paper_repro.md", "README.md", "docs/planner.md",
    *sorted(f"docs/repro/{path.name}" for path in (ROOT / "docs" / "repro").iterdir()),
)  # fmt: skip
LAWS = ("tests/laws", "tests/theory", "tests/compiled/test_draws.py", "tests/test_rounding.py")

# What OpenBLAS needs of the processor to run the kernels of another.
CORE_TYPES = {
    "Prescott": (), "Haswell": ("AVX2", "FMA3"), "Zen": ("AVX2", "FMA3"),
    "SkylakeX": ("AVX512F", "AVX512BW"), "Sapphirerapids": ("AVX512F", "AVX512_SPR"),
}  # fmt: skip
COMMA_LOCALES = ("de_DE.utf8", "fr_FR.utf8", "de_AT.utf8", "it_IT.utf8")
QUICK = ("OPENBLAS_CORETYPE=SkylakeX", "OPENBLAS_CORETYPE=Haswell", "NumPy without extensions")


class Setting(NamedTuple):
    """A row of the table: its name, what it sets, and why it cannot be tried here, if so."""

    name: str
    variables: dict[str, str]
    missing: str = ""


def settings(folder: Path) -> Iterator[Setting]:
    """Yield every setting; caches of compiled loops go into a folder where they must differ."""
    features = _features()
    running: dict[str, str] = {}
    for core, needs in CORE_TYPES.items():
        lacking = [need for need in needs if not features.get(need, False)]
        missing = f"this processor has no {', '.join(lacking)}" if lacking else ""
        runs = "" if lacking else _kernels(core)
        first = running.setdefault(runs or core, core)
        if first != core:
            missing = f"runs {runs}, as {first} does"
        name = f"OPENBLAS_CORETYPE={core}"
        shown = name if runs in (core, "") else f"{name} (runs {runs})"
        yield Setting(shown, {"OPENBLAS_CORETYPE": core}, missing)
    wide = [name for name in _dispatched() if "512" in name or name == "X86_V4"]
    for name, disabled in (("512-bit vectors", wide), ("extensions", _dispatched())):
        missing = "" if disabled else "NumPy uses none here"
        variables = {"NPY_DISABLE_CPU_FEATURES": " ".join(disabled)}
        yield Setting(f"NumPy without {name}", variables, missing)
    yield Setting("torch without extensions", {"ATEN_CPU_CAPABILITY": "default"})
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    yield Setting("NUMBA_CPU_NAME=generic", generic | {"NUMBA_CACHE_DIR": str(folder / "generic")})
    yield from surroundings()


def surroundings() -> Iterator[Setting]:
    """Yield threads, hash seeds, locales and time zones, two values of each at once.

    What differs under one of these rows is looked into by `parts`, one variable at a time.
    """
    installed = subprocess.run(["locale", "-a"], capture_output=True, text=True).stdout.split()
    comma = next((name for name in COMMA_LOCALES if name in installed), "")
    for threads, seed, locale, zone in (
        ("1", "0", "C", "Pacific/Kiritimati"),
        ("2", "random", comma, "America/St_Johns"),
    ):
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
        others = {"PYTHONHASHSEED": seed, "LC_ALL": locale or "C", "TZ": zone}
        shown = locale or "C, none with commas is installed"
        name = f"threads {threads}, hash seed {seed}, {zone}, locale {shown}"
        yield Setting(name, dict.fromkeys(names, threads) | others)


def parts(setting: Setting) -> Iterator[Setting]:
    """Yield each variable of a setting alone."""
    for name, value in setting.variables.items():
        yield Setting(f"{name}={value}", {name: value})


def theory_and_ledger(environment: dict[str, str], folder: Path) -> str:
    """Make the documents, of which one table holds every claim of every chapter."""
    if wrong := _failure(["-m", "experiments.ledger", str(folder)], environment):
        return wrong
    return _differing({ROOT / name: folder / name for name in DOCUMENTS})


def sample(environment: dict[str, str], folder: Path) -> str:
    """Measure the batch of docs/planner.md, by the command that stands there."""
    made = folder / SAMPLE.name
    policy = ["measure", "--policy", "intermediate", "--prompts", "64", "--outputs", "8"]
    options = ["--seed", "0", "--budget", "512", "--save", str(made)]
    program = "import sys; from ustat_grpo.command_line import main; sys.exit(main(sys.argv[1:]))"
    if wrong := _failure(["-c", program, *policy, *options], environment):
        return wrong
    return _differing({SAMPLE: made})


def laws(environment: dict[str, str], folder: Path) -> str:
    """Run the tests of the laws."""
    options = ["-q", "-p", "no:cacheprovider", "-n", "2", f"--basetemp={folder / 'tests'}"]
    return _failure(["-m", "pytest", *options, *LAWS], environment)


def figures(environment: dict[str, str], folder: Path) -> str:
    """Draw every figure."""
    program = (
        "import sys; from pathlib import Path; from figures.__main__ import draw_all; "
        "from figures.tables import REFERENCE; "
        "draw_all(sorted(REFERENCE.glob('*.csv')), Path(sys.argv[1]))"
    )
    if wrong := _failure(["-c", program, str(folder / "drawn")], environment):
        return wrong
    return _differing({path: folder / "drawn" / path.name for path in sorted(DRAWN.iterdir())})


CHECKS: dict[str, Callable[[dict[str, str], Path], str]] = {
    "theory and ledger": theory_and_ledger, "sample": sample, "laws": laws, "figures": figures,
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Try every setting and print the table; return 1 if anything differs, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="what CI has time for")
    quick = parser.parse_args(arguments).quick
    checks = [name for name in CHECKS if not (quick and name == "figures")]
    print(f"{'setting':80}" + "".join(f"{name:>24}" for name in checks), flush=True)
    failures = []
    with tempfile.TemporaryDirectory() as place:
        for setting in settings(Path(place)):
            if quick and not setting.name.startswith(QUICK):
                continue
            row = _row(setting, checks, Path(place))
            print(f"{setting.name:80}" + row.text, flush=True)
            failures += row.failures
    print("\n".join([*failures, f"{len(failures)} checks differ"]))
    return int(bool(failures))


class _Row(NamedTuple):
    text: str
    failures: list[str]


def _row(setting: Setting, checks: list[str], place: Path) -> _Row:
    """Run the checks of one setting."""
    if setting.missing:
        return _Row(f"  not tried: {setting.missing}", [])
    cells, failures = [], []
    for name in checks:
        folder = Path(tempfile.mkdtemp(dir=place))
        start = time.perf_counter()
        wrong = CHECKS[name](os.environ | setting.variables, folder)
        seconds = time.perf_counter() - start
        cells.append(f"{'DIFFERS' if wrong else 'same'} ({seconds:.0f} s)")
        if wrong and setting in surroundings():
            alone = {each.name: each.variables for each in parts(setting)}
            culprits = [each for each in alone if CHECKS[name](os.environ | alone[each], folder)]
            wrong = f"by {' or '.join(culprits) or 'all of it together'}: {wrong}"
        failures += [f"{setting.name}, {name}: {wrong}"] if wrong else []
    return _Row("".join(f"{cell:>24}" for cell in cells), failures)


def _kernels(core: str) -> str:
    """Return the kernels that NumPy's OpenBLAS runs where it is asked for those of `core`."""
    command = [sys.executable, __file__, "--core"]
    environment = os.environ | {"OPENBLAS_CORETYPE": core}
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip()


def core_name() -> str:
    """Return the name of the kernels that NumPy's OpenBLAS runs; "" where it is another library."""
    for path in (Path(np.__file__).parents[1] / "numpy.libs").glob("*openblas*"):
        library = ctypes.CDLL(str(path))
        for name in ("scipy_openblas_get_corename64_", "openblas_get_corename64_"):
            if hasattr(library, name):
                ask = getattr(library, name)
                ask.restype = ctypes.c_char_p
                return ask().decode()
    return ""


def _features() -> dict[str, bool]:
    from numpy._core._multiarray_umath import __cpu_features__

    return dict(__cpu_features__)


def _dispatched() -> list[str]:
    """Return the vector extensions that this NumPy has loops for and this processor runs."""
    from numpy._core._multiarray_umath import __cpu_dispatch__

    return [name for name in __cpu_dispatch__ if _features().get(name, False)]


def _failure(arguments: list[str], environment: dict[str, str]) -> str:
    """Run Python and return the end of what it printed if it fails, else nothing."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]


def _differing(pairs: dict[Path, Path]) -> str:
    """Return the first line that differs of each file that does, else nothing."""
    found = []
    for committed, made in pairs.items():
        before = committed.read_bytes()
        after = made.read_bytes() if made.exists() else b""
        if before == after:
            continue
        lines = zip(before.splitlines(), after.splitlines(), strict=False)
        first = next(((a, b) for a, b in lines if a != b), (b"", b"(another length)"))
        shown = [line.decode("utf-8", "replace")[:160] for line in first]
        text = committed.suffix in (".md", ".csv")
        found.append(committed.name + (f": {shown[0]!r} is {shown[1]!r}" if text else ""))
    return "; ".join(found)


if __name__ == "__main__":
    if sys.argv[1:] == ["--core"]:
        print(core_name())
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
