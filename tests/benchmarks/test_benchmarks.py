"""The benchmark: rivals that are right, and a table that says what was missed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from benchmarks import __main__ as benchmark
from benchmarks import (
    agreement,
    gradient_error,
    measure,
    measure_optimization,
    noise,
    plain,
    plain_optimization,
)
from benchmarks.plain_optimization import Ascent
from benchmarks.settings import OPTIMIZATION_SPEED_UPS, SPEED_UPS, Settings
from benchmarks.timing import COLUMNS, AtLeast, AtMost, row
from experiments.ledger import documents as readme
from support.problems import random_snapshot
from ustat_grpo import laws
from ustat_grpo.lm import TransformerShape

TINY = Settings(
    num_prompts=3,
    num_actions=3,
    speed_ups={2: 1e9, 300: 0.0},
    chunks=(4, 16),
    repetitions=2,
    seconds=0.002,
    checked_replicates=400,
    checked_runs=40,
    memory_replicates=1000,
    budget=64,
    optimization_group_sizes=(2, 32),
    optimization_speed_ups={"torch_runs": 0.0, "numpy_search": 0.0, "numpy_compare": 1e9},
    runs_at_once=(4, 16),
    memory_runs=(10, 20),
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


@pytest.mark.parametrize(("batch_size", "group_size"), [(8, 2), (2, 16)])
@pytest.mark.parametrize("name", plain_optimization.WAYS)
def test_first_step_of_plain_runs_has_the_mean_and_error_of_the_law(name, batch_size, group_size):
    """Would see an error that is 25 % off for torch, 4 % for NumPy; minibatches of both sizes."""
    bandit = TINY.bandit()
    num_runs = 200 if name == "torch_runs" else 8000
    ascent = Ascent(bandit, batch_size, group_size, rate=0.5)
    ends = plain_optimization.WAYS[name](ascent, num_runs, 1, np.random.default_rng(0))
    assert ends.shape == (num_runs, bandit.dimension)
    start = bandit.at(np.zeros(bandit.dimension))
    deviations = ends / ascent.rate - start.gradient
    scores = deviations.mean(axis=0) / deviations.std(axis=0) * np.sqrt(num_runs)
    assert abs(scores).max() <= 4
    law = laws.mse.grpo(start.moments, group_size=group_size)
    law = laws.mse.minibatch(law, start.moments, batch_size=batch_size)
    errors = (deviations**2).sum(axis=1)
    assert abs((errors.mean() - law) / errors.std() * np.sqrt(num_runs)) <= 4


@pytest.mark.parametrize("name", plain_optimization.WAYS)
def test_plain_runs_at_a_small_rate_follow_the_exact_gradient(name):
    """Twenty steps; a run that forgot one of them would end 5 % short."""
    bandit = TINY.bandit()
    theta = np.zeros(bandit.dimension)
    for _ in range(20):
        theta = theta + 0.02 * bandit.at(theta).gradient
    ascent = Ascent(bandit, batch_size=64, group_size=64, rate=0.02)
    ends = plain_optimization.WAYS[name](ascent, 36, 20, np.random.default_rng(0))
    along = ends @ theta / (theta @ theta)
    std_error = along.std() / 6
    assert abs(along.mean() - 1) <= 4 * std_error < 1 / 20


def test_the_table_builds_and_says_what_was_missed():
    console = Console(record=True, width=200)
    results = benchmark.run(TINY, console)
    assert list(results.columns) == COLUMNS
    speed_ups = results[results["quantity"] == "speed-up"]
    assert list(speed_ups["verdict"]) == ["missed", "met"]
    assert set(results["quantity"]) == {
        "throughput", "speed-up", "exact moments", "law of one G", "peak memory",
        "optimisation throughput", "optimisation speed-up", "optimisation cost per output",
        "optimisation peak memory",
    }  # fmt: skip
    optimisation = results[results["quantity"] == "optimisation speed-up"]
    assert list(optimisation["verdict"]) == ["met", "met", "missed"] * 2
    assert (results["value"] > 0).all()
    console.print(benchmark.speed_table(results, TINY), benchmark.limit_table(results))
    console.print(benchmark.optimization_table(results, TINY))
    shown = console.export_text()
    assert "missed" in shown and "peak memory" in shown and "10 runs × 20 iterations" in shown


def test_a_way_that_is_wrong_is_not_timed(monkeypatch):
    def biased(snapshot, group_size, replications, rng):
        return 1.3 * plain.numpy_multinomial(snapshot, group_size, replications, rng)

    monkeypatch.setitem(plain.WAYS, "numpy_multinomial", biased)
    monkeypatch.setattr(measure, "throughput", pytest.fail)
    with pytest.raises(SystemExit, match="numpy_multinomial, G = 2, vanilla:"):
        benchmark.run(TINY, Console(quiet=True))


@pytest.mark.slow  # the test above asks the same of another way
@pytest.mark.parametrize("name", ["torch_runs", "numpy_compare"])
def test_runs_that_are_wrong_are_not_timed(name, monkeypatch):
    way = plain_optimization.WAYS[name]

    def slow(ascent, num_runs, num_iterations, rng):
        return 0.9 * way(ascent, num_runs, num_iterations, rng)

    monkeypatch.setitem(plain_optimization.WAYS, name, slow)
    monkeypatch.setattr(measure, "throughput", pytest.fail)
    monkeypatch.setattr(measure_optimization, "throughput", pytest.fail)
    with pytest.raises(SystemExit, match=rf"{name}.*standard errors off .* after 20 iterations"):
        benchmark.run(replace(TINY, budget=1024, checked_runs=256), Console(quiet=True))


def test_saving_writes_the_table_and_a_miss_does_not_fail(monkeypatch, tmp_path):
    rows = [
        row("throughput", size, way, "replicates/s", 100.0)
        for way in (*plain.WAYS, "gradient_mse")
        for size in SPEED_UPS
    ]
    for size, required in SPEED_UPS.items():
        way = "over numpy_bincount"
        rows.append(row("speed-up", size, way, "×", 6.0, AtLeast(required)))
    rows.append(row("peak memory", 4, "9 replicates", "MB", 300.0, AtMost(400.0)))
    rows += [
        row("optimisation throughput", size, way, "run-iterations/s", 100.0)
        for way in (*plain_optimization.WAYS, "optimize")
        for size in Settings().optimization_group_sizes
    ]
    for size in Settings().optimization_group_sizes:
        for way, required in OPTIMIZATION_SPEED_UPS.items():
            over = f"over {way}"
            rows.append(row("optimisation speed-up", size, over, "×", 50.0, AtLeast(required)))
    spoken = [row("language speed-up", None, "over brute force", "×", 30.0, AtLeast(20.0))]
    spoken.append(row("time", None, "score_norms, tied", "ms", 70.0))
    monkeypatch.setattr(benchmark, "run", lambda *_: pd.DataFrame(rows))
    monkeypatch.setattr(benchmark, "language", lambda *_: pd.DataFrame(spoken))
    monkeypatch.setattr(benchmark, "REFERENCE", tmp_path / "reference.csv")
    benchmark.main([])
    assert not benchmark.REFERENCE.exists()
    benchmark.main(["--save"])
    saved = pd.read_csv(benchmark.REFERENCE)
    assert list(saved.columns) == COLUMNS
    wanted = ["missed"] * 3 + ["met"] * 4 + ["missed", "met", "met"] * 3 + ["met"]
    assert list(saved["verdict"].dropna()) == wanted


def test_the_real_settings_are_those_of_the_issue():
    assert SPEED_UPS == {4: 30, 16: 15, 64: 8, 128: 5, 1024: 4, 4096: 4}
    settings = Settings()
    assert (settings.num_prompts, settings.num_actions) == (64, 16)
    assert settings.memory_replicates == 2_000_000
    assert OPTIMIZATION_SPEED_UPS == {"torch_runs": 100, "numpy_search": 10, "numpy_compare": 10}
    assert (settings.budget, settings.optimization_group_sizes) == (1024, (4, 32, 128))
    assert (settings.memory_runs, settings.memory_group_size) == ((10_000, 1_000), 32)


def test_language_figure_is_timed_both_ways():
    pool, brute, ratio = gradient_error.rows(num_questions=5, num_outputs=32, sizes=(4, 8))
    assert pool["value"] > 0 and brute["value"] > 0
    assert ratio["value"] == pytest.approx(brute["value"] / pool["value"])
    assert ratio["required"] == "≥ 20" and ratio["verdict"] in ("met", "missed")


def test_the_readme_table_knows_gradients_from_optimisation():
    rows = [row("throughput", 4, "gradient_mse", "replicates/s", 1e6)]
    rows.append(row("speed-up", 4, "over numpy_bincount", "×", 33.0, AtLeast(30.0)))
    table = readme._speed(pd.DataFrame(rows))
    rows.append(row("optimisation throughput", 4, "optimize", "run-iterations/s", 2e6))
    rows.append(row("optimisation speed-up", 4, "over numpy_compare", "×", 7.0, AtLeast(10.0)))
    assert readme._speed(pd.DataFrame(rows)) == table


def test_noise_of_a_batch_is_compared_and_timed(monkeypatch):
    """A wrong norm is not an error of rounding: the row says that it is missed."""
    shape = TransformerShape(7, 8, width=4, num_layers=1, num_heads=1, hidden_width=4)
    monkeypatch.setattr(noise, "CASES", {"tiny": noise.Case(shape, 4, prompt=3, output=2)})
    error, *_, ratio = noise.rows(repetitions=1)
    assert error["verdict"] == "met"
    assert ratio["quantity"] == "time ratio" and ratio["value"] > 0
    right = noise.measured_outputs

    def wrong(*arguments):
        sample = right(*arguments)
        return replace(sample, score_norms=sample.score_norms * (1 + 1e-5))

    monkeypatch.setattr(noise, "measured_outputs", wrong)
    assert noise.rows(repetitions=1)[0]["verdict"] == "missed"
