import os
import subprocess
import sys

import pytest

from ustat_grpo.compiled import cache as compiled
from ustat_grpo.compiled import draws, rng
from ustat_grpo.environments import mdp_kernels
from ustat_grpo.monte_carlo import kernels
from ustat_grpo.optimization import ascent


def double(number):
    return 2.0 * number


def compiled_and_called():
    dispatcher = compiled.compiled(double)
    assert dispatcher(4.0) == 8.0
    return dispatcher


def test_a_compiled_loop_is_found_on_disk_until_a_source_changes(monkeypatch):
    """Would catch numba's own key, which misses a change in an inlined function's file."""
    compiled_and_called()
    (hits,) = compiled_and_called().stats.cache_hits.values()
    assert hits == 1
    monkeypatch.setattr(compiled, "_digest", lambda: "another source")
    changed = compiled.compiled(double)
    changed._cache.flush()
    changed(4.0)
    assert not changed.stats.cache_hits


@pytest.mark.parametrize("module", [rng, draws, kernels, ascent, mdp_kernels])
def test_the_digest_covers_every_file_of_the_loops(module, tmp_path, monkeypatch):
    path = tmp_path.joinpath(*module.__name__.split(".")[1:]).with_suffix(".py")
    path.parent.mkdir()
    path.write_text("old")
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled" / "cache.py"))
    before = compiled._digest()
    path.write_text("new")
    assert compiled._digest() != before


PROGRAM = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(name)s %(message)s")
logging.getLogger("numba").setLevel(logging.WARNING)
import numpy as np
from ustat_grpo.compiled.draws import alias_table
print("table", alias_table(np.array([0.25, 0.75])).tolist())
"""


NOWHERE = """
from numba.core.caching import CompileResultCacheImpl
CompileResultCacheImpl._locator_classes = []
"""


def run_with(folder: str, before: str = "") -> list[str]:
    """Compile a loop in a fresh process that keeps its caches in a folder; return its lines."""
    environment = os.environ | {"NUMBA_CACHE_DIR": folder}
    command = [sys.executable, "-W", "error", "-c", before + PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


TABLE = "table [4611686018427387905, 9223372036854775808]"  # ½·2⁶³ and the alias 1; full


def test_where_nothing_can_be_written_loops_are_compiled_all_the_same():
    """Would catch: "cannot cache function" at import, for whoever did not install the package.

    The tests may run as root, who can write everywhere, so numba is told of no place to try.
    """
    *said, table = run_with("/dev/null/no_folder", NOWHERE)
    assert table == TABLE
    assert said and all(line.startswith("ustat_grpo.compiled.cache ") for line in said)
    assert any("alias_table is compiled in every process" in line for line in said)


@pytest.mark.parametrize("damage", [
    pytest.param(lambda whole: b"", id="empty", marks=pytest.mark.slow),
    pytest.param(lambda whole: whole[: len(whole) // 2], id="truncated"),
    pytest.param(lambda whole: b"\x80\x04no pickle" * 9, id="other bytes", marks=pytest.mark.slow),
])  # fmt: skip
def test_damaged_caches_are_made_anew(damage, tmp_path):
    """Would catch: an EOFError or UnpicklingError at every start, until somebody finds the file."""
    assert run_with(str(tmp_path)) == [TABLE]
    kept = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".nbi", ".nbc"))
    assert {path.suffix for path in kept} == {".nbi", ".nbc"}
    for path in kept:
        path.write_bytes(damage(path.read_bytes()))
    *said, table = run_with(str(tmp_path))
    assert table == TABLE and any("is compiled anew" in line for line in said)
    assert run_with(str(tmp_path)) == [TABLE]
