import pytest

from ustat_grpo import compiled, draws, kernels, rng


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


@pytest.mark.parametrize("module", [rng, draws, kernels])
def test_the_digest_covers_every_file_of_the_loops(module, tmp_path, monkeypatch):
    (tmp_path / "environments").mkdir()
    for name in compiled._SOURCES:
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    before = compiled._digest()
    (tmp_path / f"{module.__name__.split('.')[-1]}.py").write_text("new")
    assert compiled._digest() != before
