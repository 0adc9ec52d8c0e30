"""The benchmark: rivals that are right, and a table that says what was missed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from benchmarks import __main__ as benchmark
from benchmarks import agreement, measure, plain
from benchmarks.settings import SPEED_UPS, Settings
from problems import random_snapshot

TINY = Settings(
    num_prompts=3,
    num_actions=3,
    speed_ups={2: 1e9, 300: 0.0},
    chunks=(4, 16),
    repetitions=2,
    seconds=0.002,
    memory_replicates=1000,
)


@pytest.mark.parametrize("group_size", [2, 16])
@pytest.mark.parametrize("name", plain.WAYS)
def test_plain_ways_agree_with_the_laws(name, group_size):
    """In standard errors; would see an error that is 30 % off for torch, 6 % for NumPy."""
    snapshot = random_snapshot(np.random.default_rng(2), 4, 5)
    replications = 300 if name == "torch_backward" else 8000
    errors = plain.WAYS[name](snapshot, group_size, replications, np.random.default_rng(0))
    assert errors.shape == (replications, 3)
    law = agreement.exact_errors(snapshot, group_size)
    scores = (errors.mean(axis=0) - law) / errors.std(axis=0) * np.sqrt(replications)
    assert abs(scores).max() <= 4


def test_numpy_ways_know_other_reward_levels():
    snapshot = random_snapshot(np.random.default_rng(2), 2, 3, reward_levels=(-1.0, 0.0, 2.0))
    law = agreement.exact_errors(snapshot, 4)
    for way in (plain.numpy_bincount, plain.numpy_multinomial):
        errors = way(snapshot, 4, 8000, np.random.default_rng(0))
        scores = (errors.mean(axis=0) - law) / errors.std(axis=0) * np.sqrt(8000)
        assert abs(scores).max() <= 4


def test_the_table_builds_and_says_what_was_missed():
    console = Console(record=True, width=200)
    results = benchmark.run(TINY, console)
    assert list(results.columns) == measure.COLUMNS
    speed_ups = results[results["quantity"] == "speed-up"]
    assert list(speed_ups["verdict"]) == ["missed", "met"]
    assert set(results["quantity"]) == {
        "throughput", "speed-up", "exact moments", "law of one G", "peak memory",
    }  # fmt: skip
    assert (results["value"] > 0).all()
    console.print(benchmark.speed_table(results, TINY), benchmark.limit_table(results))
    shown = console.export_text()
    assert "missed" in shown and "peak memory" in shown


def test_a_way_that_is_wrong_is_not_timed(monkeypatch):
    def biased(snapshot, group_size, replications, rng):
        return 1.3 * plain.numpy_multinomial(snapshot, group_size, replications, rng)

    monkeypatch.setitem(plain.WAYS, "numpy_multinomial", biased)
    monkeypatch.setattr(measure, "throughput", pytest.fail)
    with pytest.raises(SystemExit, match="numpy_multinomial, G = 2, vanilla:"):
        benchmark.run(TINY, Console(quiet=True))


def test_saving_writes_the_table_and_a_miss_does_not_fail(monkeypatch, tmp_path):
    rows = [
        measure._row("throughput", size, way, "replicates/s", 100.0)
        for way in (*plain.WAYS, "gradient_mse")
        for size in SPEED_UPS
    ]
    for size, required in SPEED_UPS.items():
        row = measure._row("speed-up", size, "over numpy_bincount", "×", 6.0, at_least=required)
        rows.append(row)
    rows.append(measure._row("peak memory", 4, "9 replicates", "MB", 300.0, 400.0))
    monkeypatch.setattr(benchmark, "run", lambda *_: pd.DataFrame(rows))
    monkeypatch.setattr(benchmark, "REFERENCE", tmp_path / "reference.csv")
    benchmark.main([])
    assert not benchmark.REFERENCE.exists()
    benchmark.main(["--save"])
    saved = pd.read_csv(benchmark.REFERENCE)
    assert list(saved.columns) == measure.COLUMNS
    assert list(saved["verdict"].dropna()) == ["missed"] * 3 + ["met"] * 4


def test_the_real_settings_are_those_of_the_issue():
    assert SPEED_UPS == {4: 30, 16: 15, 64: 8, 128: 5, 1024: 4, 4096: 4}
    settings = Settings()
    assert (settings.num_prompts, settings.num_actions) == (64, 16)
    assert settings.memory_replicates == 2_000_000
