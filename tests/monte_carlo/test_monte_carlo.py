"""The harness against the exact laws in standard errors, its promises, and its error messages."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest

from support.compared import ESTIMATORS
from support.estimator_contracts import CONTRACTS
from support.problems import random_snapshot
from ustat_grpo import (
    ConstantBaseline,
    GroupMean,
    Grpo,
    Moments,
    Shrinkage,
    Snapshot,
    TugOfWar,
    Vanilla,
    laws,
)
from ustat_grpo.compiled import thread_limit
from ustat_grpo.monte_carlo import Precision, gradient_mse, label
from ustat_grpo.monte_carlo import harness as monte_carlo
from ustat_grpo.monte_carlo.kernels import REPLICATES_PER_BLOCK
from ustat_grpo.monte_carlo.simulation import form_of

NAMED = {name: estimator for name, (estimator, _) in ESTIMATORS.items()}
SIZES = [2, 4, 9, 300]
SEVERAL_BLOCKS = 3 * REPLICATES_PER_BLOCK + 100
COLUMNS = [
    "estimator", "batch_size", "group_size", "replications", "mse", "std_error", "bias_norm",
]  # fmt: skip


def problem(name: str) -> Snapshot:
    rng = np.random.default_rng(42)
    match name:
        case "tabular":
            return random_snapshot(rng, 3, 4)
        case "three levels":
            return random_snapshot(rng, 3, 5, reward_levels=(-1.0, 0.5, 2.0))
        case "dense":
            return random_snapshot(rng, 4, 3, dimension=5)
        case "tug_of_war":
            bandit = TugOfWar()
            return bandit.at(bandit.theta(0.3))
    raise AssertionError(name)


def exact(moments: Moments, name: str, group_size: int, batch_size: int | None) -> float:
    errors = ESTIMATORS[name][1](moments, group_size=group_size)
    gain = laws.mse.group_mean_gain(group_size) if name == "group_mean" else 1.0
    return laws.mse.minibatch(errors, moments, batch_size=batch_size, gain=gain)


def measure(
    snapshot, batch_size, *, seed=0, names=tuple(NAMED), sizes=SIZES, threads=None, **options
):
    options = {"replications": 20_000, "rng": np.random.default_rng(seed)} | options
    chosen = {name: NAMED[name] for name in names}
    with thread_limit(threads):
        return gradient_mse(snapshot, chosen, sizes, batch_size, **options)


def z_scores(table: pd.DataFrame, law: Callable[[str, int], float]) -> pd.Series:
    """(measured − law)/std_error, by (estimator, group size)."""
    known = [law(row.estimator, row.group_size) for row in table.itertuples()]
    scores = (table.mse - known) / table.std_error
    return pd.Series(scores.to_numpy(), index=[table.estimator, table.group_size])


def test_every_estimator_of_the_compiled_loop_is_measured_here():
    """Two more are `Shrinkage` by other names where no group is short of outputs."""
    told = (None, "value", "optimal_baseline")
    affine = {
        name
        for name, contract in CONTRACTS.items()
        if contract.reads in told
        and contract.rewards != "binary"
        and form_of(contract.make(1, 0), 4, problem("three levels")) is not None
    }
    here = {type(estimator).__name__ for estimator in NAMED.values()}
    assert here | {"EmpiricalBayes", "KeepSingletons"} == affine


@pytest.mark.parametrize("batch_size", [None, 1, 5], ids=lambda b: f"B={b}")
@pytest.mark.parametrize("name", ["tabular", "three levels", "dense", "tug_of_war"])
def test_error_agrees_with_the_law(name, batch_size):
    """28 rows a problem; each would see an error that is 4 % off (see the mutants below)."""
    snapshot = problem(name)
    table = measure(snapshot, batch_size)
    scores = z_scores(table, lambda e, size: exact(snapshot.moments, e, size, batch_size))
    assert abs(scores).max() <= 4


def g_for_g_minus_1(moments: Moments, size: int) -> float:
    """The second-order term of GRPO with G² for G(G−1)."""
    wrong = laws.mse.oracle(moments, group_size=size) + moments.residual_norm_squared / size**2
    return laws.mse.minibatch(wrong, moments, batch_size=4)


def scaled_by_size(moments: Moments, size: int) -> float:
    """GRPO's whole error with G − 1 for G."""
    wrong = laws.mse.grpo(moments, group_size=size) * size / (size - 1)
    return laws.mse.minibatch(wrong, moments, batch_size=4)


def without_prompt_noise(moments: Moments, size: int) -> float:
    return float(moments.prompt_probs @ laws.mse.grpo(moments, group_size=size)) / 4


def paper_kernel_factor(moments: Moments, size: int) -> float:
    """Half of the second-order term: erratum 4, both ½ kept."""
    half = moments.residual_norm_squared / (2 * size * (size - 1))
    wrong = laws.mse.oracle(moments, group_size=size) + half
    return laws.mse.minibatch(wrong, moments, batch_size=4)


@pytest.mark.parametrize(
    "mutant", [g_for_g_minus_1, scaled_by_size, without_prompt_noise, paper_kernel_factor]
)
def test_wrong_laws_of_grpo_are_rejected(mutant):
    moments = problem("tabular").moments
    table = measure(problem("tabular"), 4, names=["grpo"], sizes=[2, 4])
    assert abs(z_scores(table, lambda _, size: exact(moments, "grpo", size, 4))).max() <= 4
    assert abs(z_scores(table, lambda _, size: mutant(moments, size))).min() > 4


@pytest.mark.parametrize("batch_size", [None, 4], ids=lambda b: f"B={b}")
def test_a_law_that_forgets_the_bias_of_the_group_mean_is_rejected(batch_size):
    """At G = 2 the mean of ĝ is g/2; its variance alone is GRPO's over four."""
    moments = problem("tug_of_war").moments
    table = measure(problem("tug_of_war"), batch_size, names=["group_mean"], sizes=[2])

    def unbiased(_: str, size: int) -> float:
        gain = laws.mse.group_mean_gain(size)
        return gain**2 * exact(moments, "grpo", size, batch_size)

    assert abs(z_scores(table, unbiased)).min() > 4


@pytest.mark.parametrize("batch_size", [None, 3], ids=lambda b: f"B={b}")
@pytest.mark.parametrize("name", ["tabular", "dense"])
def test_bias_norm_is_noise_or_the_known_bias(name, batch_size):
    """E‖mean ĝ − g‖² = mse/n if unbiased; the group mean adds ‖g‖/G, seen to 4 standard errors."""
    snapshot, size = problem(name), np.linalg.norm(problem(name).gradient)
    for row in measure(snapshot, batch_size).itertuples():
        noise = np.sqrt(row.mse / row.replications)
        bias = size / row.group_size if row.estimator == "group_mean" else 0.0
        assert abs(row.bias_norm - bias) <= 4 * noise
    biased = measure(snapshot, batch_size, names=["group_mean"], sizes=[2]).iloc[0]
    assert biased.bias_norm > 4 * np.sqrt(biased.mse / biased.replications)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 0.85], ids=["as it is", "15 % too small"])
def test_coverage_of_the_95_percent_intervals(factor):
    """1500 independent runs; standard errors that are 10 % too small would leave the band."""
    snapshot, runs = random_snapshot(np.random.default_rng(8), 2, 3), 1500
    known = {
        (name, size): exact(snapshot.moments, name, size, None)
        for name in ("grpo", "vanilla") for size in (3, 16)
    }  # fmt: skip
    covered = np.zeros(4)
    for run in range(runs):
        table = measure(
            snapshot, None, names=["grpo", "vanilla"], sizes=[3, 16], replications=512,
            seed=run, threads=1,
        )  # fmt: skip
        laws_ = [known[key] for key in zip(table.estimator, table.group_size, strict=True)]
        covered += (abs(table.mse - laws_) <= 1.96 * factor * table.std_error).to_numpy()
    band = 4 * np.sqrt(0.95 * 0.05 / runs)
    inside = abs(covered / runs - 0.95) <= band
    assert inside.all() if factor == 1.0 else not inside.any()


def test_differences_between_estimators_are_paired():
    """Over 50 runs var(GRPO − oracle) is under 5 % of what independent draws would give."""
    snapshot = problem("tabular")
    runs = [
        measure(snapshot, 8, names=["grpo", "oracle"], sizes=[16], replications=256, seed=seed).mse
        for seed in range(50)
    ]
    grpo, oracle = np.transpose(runs)
    assert np.var(grpo - oracle) < 0.05 * (np.var(grpo) + np.var(oracle))


@cache
def reference(batch_size: int | None = 3) -> pd.DataFrame:
    return measure(problem("tabular"), batch_size, replications=SEVERAL_BLOCKS, seed=5, threads=1)


@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_threads_change_no_bit(threads):
    table = measure(problem("tabular"), 3, replications=SEVERAL_BLOCKS, seed=5, threads=threads)
    pd.testing.assert_frame_equal(table, reference(), check_exact=True)


@pytest.mark.parametrize("chunk_bytes", [1, 10**5, 2**30])
@pytest.mark.parametrize("threads", [1, 2])
def test_chunks_change_no_bit(monkeypatch, chunk_bytes, threads):
    expected = reference()
    monkeypatch.setattr(monte_carlo, "_CHUNK_BYTES", chunk_bytes)
    table = measure(problem("tabular"), 3, replications=SEVERAL_BLOCKS, seed=5, threads=threads)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)


@pytest.mark.parametrize("batch_size", [None, 3], ids=lambda b: f"B={b}")
@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param((["grpo", "vanilla"], [4, 300]), id="fewer of both"),
        pytest.param((["vanilla", "grpo"], [300, 4]), id="another order"),
        pytest.param((["grpo"], [9, 300]), id="one estimator"),
        pytest.param((["grpo", "shrinkage"], [9]), id="one size"),
        pytest.param((["grpo"], [4]), id="one of both"),
    ],
)
def test_other_estimators_and_sizes_change_no_bit(chosen, batch_size):
    names, sizes = chosen
    some = measure(
        problem("tabular"), batch_size, names=names, sizes=sizes,
        replications=SEVERAL_BLOCKS, seed=5,
    )  # fmt: skip
    key = ["estimator", "group_size"]
    everything = reference(batch_size).set_index(key)
    expected = everything.loc[list(zip(some.estimator, some.group_size, strict=True))]
    pd.testing.assert_frame_equal(some.set_index(key), expected, check_exact=True)


def test_the_generator_decides_and_moves_on():
    rng = np.random.default_rng(3)
    first, second = (measure(problem("dense"), None, replications=300, rng=rng) for _ in range(2))
    again = measure(problem("dense"), None, replications=300, seed=3)
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert (first.mse != second.mse).all()


@pytest.mark.parametrize("replications", [2, *(REPLICATES_PER_BLOCK + i for i in (-1, 0, 1)), 3000])
def test_replications_are_exactly_as_asked(replications):
    """Mean and standard error are those of the single errors, however blocks were merged."""
    table = measure(problem("tabular"), None, replications=replications, names=["grpo"])
    assert (table.replications == replications).all()
    key = monte_carlo.draw_key(np.random.default_rng(0))
    run = monte_carlo.Simulation(problem("tabular"), {"grpo": Grpo()}, SIZES, None, key)
    errors = run.run(0, replications)[0][:, :, 0]
    np.testing.assert_allclose(table.mse, errors.mean(axis=0), rtol=1e-12)
    spread = errors.std(axis=0, ddof=1) / np.sqrt(replications)
    np.testing.assert_allclose(table.std_error, spread, rtol=1e-10)


@pytest.mark.parametrize("precision", [0.03, 0.008])
def test_precision_is_reached_without_waste_and_reproducibly(precision):
    options = {"replications": Precision(precision), "names": ["grpo", "vanilla"]}
    table = measure(problem("tabular"), 3, **options, threads=1)
    relative = (table.std_error / table.mse).max()
    assert relative <= precision
    assert relative > 0.8 * precision or table.replications.iloc[0] <= 4 * REPLICATES_PER_BLOCK
    again = measure(problem("tabular"), 3, **options, threads=2)
    pd.testing.assert_frame_equal(table, again, check_exact=True)
    fixed = measure(problem("tabular"), 3, names=options["names"],
                    replications=int(table.replications.iloc[0]))  # fmt: skip
    pd.testing.assert_frame_equal(table, fixed, check_exact=True)


def test_precision_ends_where_the_error_is_exactly_zero():
    """One reward level: GRPO's advantages all vanish."""
    snapshot = random_snapshot(np.random.default_rng(0), 2, 3, reward_levels=(0.5,))
    table = measure(snapshot, None, names=["grpo"], replications=Precision(0.1))
    assert (abs(table.mse) < 1e-15).all()


def test_columns_and_rows():
    table = measure(problem("dense"), None, replications=2, names=["grpo", "oracle"], sizes=[9, 2])
    assert list(table.columns) == COLUMNS
    assert list(table.group_size) == [2, 2, 9, 9]
    assert list(table.estimator) == ["grpo", "oracle"] * 2
    assert set(table.batch_size) == {4}
    assert set(measure(problem("dense"), 3, replications=2).batch_size) == {3}


def test_rows_are_named_after_their_estimators():
    chosen = [Grpo(), GroupMean(), Shrinkage(0.5), ConstantBaseline(0.25)]
    table = gradient_mse(
        problem("dense"), chosen, [2], None, replications=2, rng=np.random.default_rng(0)
    )
    expected = ["grpo", "group_mean", "shrinkage(weight=0.5, target=0.0)"]
    expected.append("constant_baseline(baseline=0.25)")
    assert list(table.estimator) == expected == [label(each) for each in chosen]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"estimators": []}, "estimators and group_sizes must not be empty"),
        ({"estimators": {}}, "estimators and group_sizes must not be empty"),
        ({"group_sizes": []}, "estimators and group_sizes must not be empty"),
        ({"group_sizes": [4.0]}, "group_size must be an integer of at least 1, got 4.0"),
        ({"group_sizes": [0]}, "group_size must be an integer of at least 1, got 0"),
        ({"group_sizes": [1, 4]},
         "group_size must be at least 2 for a leave-one-out baseline, got 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be an integer of at least 1, got 2.0"),
        ({"replications": 1},
         "replications must be an integer of at least 2 or a Precision, got 1"),
        ({"replications": 1e3},
         "replications must be an integer of at least 2 or a Precision, got 1000.0"),
        ({"replications": None},
         "replications must be an integer of at least 2 or a Precision, got None"),
        ({"estimators": [Grpo(), Vanilla(), Grpo()]},
         "estimators must differ, got ['grpo', 'vanilla', 'grpo']"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(wrong, message):
    arguments = {"estimators": [Grpo()], "group_sizes": [4], "batch_size": 2} | {
        name: wrong[name] for name in wrong if name in ("estimators", "group_sizes", "batch_size")
    }
    options = {"replications": 9, "rng": np.random.default_rng(0)} | {
        name: wrong[name] for name in wrong if name not in arguments
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        gradient_mse(problem("dense"), **arguments, **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"relative": 0}, "relative must be a finite number and above 0, got 0"),
        ({"relative": np.nan}, "relative must be a finite number"),
        ({"max_replications": 1}, "max_replications must be an integer of at least 2, got 1"),
        ({"max_replications": 9.0}, "max_replications must be an integer of at least 2, got 9.0"),
    ],
)
def test_a_precision_is_checked_when_it_is_made(wrong, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        Precision(**({"relative": 0.1} | wrong))


@pytest.mark.parametrize("most", [2, REPLICATES_PER_BLOCK - 1, 3 * REPLICATES_PER_BLOCK + 1])
def test_a_precision_ends_where_told(most):
    """Would catch: whole blocks only, or a round that knows no end."""
    snapshot = problem("tabular")
    table = measure(snapshot, 3, replications=Precision(1e-9, most), names=["grpo"])
    fixed = measure(snapshot, 3, replications=most, names=["grpo"])
    pd.testing.assert_frame_equal(table, fixed, check_exact=True)
    assert (table.replications == most).all()


@pytest.mark.parametrize("rng", [None, 7, np.random])
def test_rng_must_be_a_generator(rng):
    with pytest.raises(TypeError, match=re.escape("rng must be a numpy.random.Generator, got")):
        gradient_mse(problem("dense"), [Grpo()], [4], 2, replications=9, rng=rng)


def test_rng_is_required():
    with pytest.raises(TypeError, match="required keyword-only argument: 'rng'"):
        gradient_mse(problem("dense"), [Grpo()], [4], 2, replications=9)


PEAK_MEMORY = """
import numpy as np
from pathlib import Path
from ustat_grpo import Grpo, Oracle, Vanilla, random_bandit
from ustat_grpo.monte_carlo.kernels import REPLICATES_PER_BLOCK
from ustat_grpo.monte_carlo.harness import gradient_mse
rng = np.random.default_rng(0)
snapshot = random_bandit(64, 16, group_size_target=16, rng=rng).at(np.zeros(1024))
estimators = [Vanilla(), Oracle(), Grpo()]
gradient_mse(snapshot, estimators, [4], None, replications=200_000, rng=rng)
print(*[line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_does_not_grow_with_the_replicates():
    """In 400 MB 200 000 replicates, whose gradients would take 4.9 GB; the benchmark takes 2·10⁶.

    Read from /proc, as getrusage would count what this process held when it started the other.
    """
    done = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[1]) * 1024 < 400e6
