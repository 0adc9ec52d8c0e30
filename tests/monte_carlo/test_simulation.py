"""The fused loop against the plain path on the same draws, and the plain path against sums."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from support.problems import random_snapshot
from ustat_grpo import (
    ConstantBaseline,
    Estimator,
    GroupMean,
    Grpo,
    OptimalBaseline,
    Oracle,
    Shrinkage,
    Snapshot,
    SoftmaxBandit,
    Vanilla,
    gradient,
)
from ustat_grpo.compiled import thread_limit
from ustat_grpo.estimators import NOTHING, SideInformation
from ustat_grpo.monte_carlo import kernels, simulation
from ustat_grpo.monte_carlo.layout import Draws
from ustat_grpo.monte_carlo.simulation import Simulation, form_of, tables_of

ESTIMATORS: dict[str, Estimator] = {
    "vanilla": Vanilla(),
    "oracle": Oracle(),
    "grpo": Grpo(),
    "group_mean": GroupMean(),
    "constant": ConstantBaseline(0.3),
    "optimal": OptimalBaseline(),
    "shrinkage": Shrinkage(0.4, 0.2),
}
SIZES = [2, 4, 8, 9, 64, 256, 257, 300]
KEY = np.uint64(2**63 + 12345)


class StdNormalised:
    """Leave-in mean over the group's own standard deviation: not affine."""

    def advantages(self, rewards, side=NOTHING):
        centred = rewards - rewards.mean(axis=-1, keepdims=True)
        return centred / (rewards.std(axis=-1, keepdims=True) + 1e-4)


class Sign:
    """The sign of the advantage: not affine."""

    def advantages(self, rewards, side=NOTHING):
        return np.sign(rewards - rewards.mean(axis=-1, keepdims=True))


class SkipEqual:
    """Vanilla that drops groups whose rewards are all equal: affine on every other group."""

    def advantages(self, rewards, side=NOTHING):
        spread = rewards.max(axis=-1, keepdims=True) > rewards.min(axis=-1, keepdims=True)
        return np.where(spread, rewards, 0.0)


class Clipped:
    """Vanilla that clips rewards at 2: affine as long as no reward is larger."""

    def advantages(self, rewards, side=NOTHING):
        return np.minimum(rewards, 2.0)


class Previous:
    """The reward of the output before as baseline: unbiased, but it knows the order of outputs."""

    def advantages(self, rewards, side=NOTHING):
        return rewards - np.roll(rewards, 1, axis=-1)


def problem(name: str) -> Snapshot:
    rng = np.random.default_rng(42)
    match name:
        case "tabular":
            return random_snapshot(rng, 3, 5, reward_levels=(0.0, 1.0))
        case "dense":
            return random_snapshot(rng, 4, 3, reward_levels=(-1.0, 0.5, 2.0), dimension=6)
        case "one level":
            return random_snapshot(rng, 2, 3, reward_levels=(0.7,))
        case "three levels":
            return random_snapshot(rng, 2, 6, reward_levels=(3.0, -1.0, 0.5))
        case "one prompt":
            return random_snapshot(rng, 1, 4)
        case "one dense prompt":
            return random_snapshot(rng, 1, 7, dimension=1)
        case "many prompts":  # more than any tile of slots, and no power of two
            return random_snapshot(rng, 67, 3)
        case "impossible prompt":
            bandit = SoftmaxBandit.tabular(
                [0, 1], rng.dirichlet(np.ones(2), size=(3, 4)), [0.0, 0.4, 0.6]
            )
            return bandit.at(rng.normal(size=12))
    raise AssertionError(name)


def both_paths(monkeypatch, snapshot, batch_size, sizes, replications=20):
    """Errors and gradient sums by the fused loop, then by the plain path."""
    results = [Simulation(snapshot, ESTIMATORS, sizes, batch_size, KEY).run(0, replications)]
    monkeypatch.setattr(simulation, "form_of", lambda *_: None)
    plain = Simulation(snapshot, ESTIMATORS, sizes, batch_size, KEY)
    return *results, plain.run(0, replications)


@pytest.mark.parametrize("batch_size", [None, 1, 5], ids=lambda b: f"B={b}")
@pytest.mark.parametrize("name", ["tabular", "dense"])
def test_fused_loop_equals_plain_path_on_the_same_draws(monkeypatch, name, batch_size):
    """Every estimator, at group sizes on both sides of every threshold; prompts repeat at B = 5."""
    fused, plain = both_paths(monkeypatch, problem(name), batch_size, SIZES)
    np.testing.assert_allclose(fused[0], plain[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(fused[1], plain[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_size", [None, 3], ids=lambda b: f"B={b}")
@pytest.mark.parametrize(
    "name",
    ["one level", "three levels", "one prompt", "one dense prompt", "many prompts",
     "impossible prompt"],
)  # fmt: skip
def test_fused_loop_equals_plain_path_on_odd_shapes(monkeypatch, name, batch_size):
    fused, plain = both_paths(monkeypatch, problem(name), batch_size, [2, 3, 16, 300], 10)
    np.testing.assert_allclose(fused[0], plain[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(fused[1], plain[1], rtol=1e-12, atol=1e-12)


def test_large_rewards_lose_no_more_digits_than_they_must(monkeypatch):
    """Levels 1000 and 1001: vanilla's weights are a thousand times the signal."""
    snapshot = random_snapshot(np.random.default_rng(1), 3, 4, reward_levels=(1000.0, 1001.0))
    fused, plain = both_paths(monkeypatch, snapshot, None, [4, 64])
    np.testing.assert_allclose(fused[0], plain[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch_size", [None, 4], ids=lambda b: f"B={b}")
@pytest.mark.parametrize("name", ["tabular", "dense"])
def test_replicates_are_algorithm_1_on_the_counted_outputs(name, batch_size):
    """The library's own `gradient`, prompt by prompt, on outputs expanded from the counts."""
    snapshot, sizes, replications = problem(name), [4, 300], 6
    run = Simulation(snapshot, ESTIMATORS, sizes, batch_size, KEY)
    errors, _ = run.run(0, replications)
    tables, slots = tables_of(snapshot, sizes), run.num_slots
    prompts = np.empty((replications, slots), np.int64)
    counts = np.zeros((2, replications, slots, len(tables.cell_rewards)), np.int64)
    draws = Draws(KEY, first=0, all_once=batch_size is None)
    kernels.count_cells(tables, np.array(sizes), draws, prompts, counts)
    weights = snapshot.prompt_probs if batch_size is None else np.full(slots, 1 / slots)
    scores, num_actions = snapshot.dense_scores(), snapshot.action_probs.shape[1]
    for s, e, r in product(range(2), range(len(ESTIMATORS)), range(replications)):
        estimate = np.zeros(snapshot.dimension)
        for slot, x in enumerate(prompts[r]):
            cells = np.repeat(np.arange(counts.shape[-1]), counts[s, r, slot])
            estimate += weights[slot] * gradient(
                list(ESTIMATORS.values())[e],
                scores[x, cells % num_actions],
                snapshot.reward_levels[cells // num_actions],
                SideInformation(snapshot.value[x], snapshot.optimal_baseline[x]),
            )
        error = ((estimate - snapshot.gradient) ** 2).sum()
        assert errors[r, s, e] == pytest.approx(error, rel=1e-12, abs=1e-13)


def test_parts_of_a_run_are_the_run():
    """Replicates are addressed by number: where a run starts, or how it is cut, changes no bit."""
    run = Simulation(problem("tabular"), ESTIMATORS, [4, 64, 300], 3, KEY)
    block, wanted = kernels.REPLICATES_PER_BLOCK, 3 * kernels.REPLICATES_PER_BLOCK - 68
    errors, sums = run.run(0, wanted)
    later_errors, later_sums = run.run(block, wanted - block)
    np.testing.assert_array_equal(errors[block:], later_errors)
    np.testing.assert_array_equal(sums[1:], later_sums)
    for threads in (2, 3, 8):
        with thread_limit(threads):
            cut = run.run(0, wanted)
        for got, expected in zip(cut, (errors, sums), strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("group_size", [2, 3, 16])
@pytest.mark.parametrize("name", ["tabular", "dense"])
def test_affine_form_recovers_the_coefficients(name, group_size):
    snapshot, others = problem(name), group_size - 1
    expected = {
        "vanilla": (1, 0, 0),
        "oracle": (1, 0, -snapshot.value),
        "grpo": (1, -1 / others, 0),
        "group_mean": (1 - 1 / group_size, -1 / group_size, 0),
        "constant": (1, 0, -0.3),
        "optimal": (1, 0, -snapshot.optimal_baseline),
        "shrinkage": (1, -0.6 / others, -0.4 * 0.2),
    }
    assert expected.keys() == ESTIMATORS.keys()
    for label, estimator in ESTIMATORS.items():
        form = form_of(estimator, group_size, snapshot)
        assert form is not None
        for got, known in zip(form, expected[label], strict=True):
            np.testing.assert_allclose(got, np.broadcast_to(known, np.shape(got)), atol=1e-14)


def test_a_group_of_one_has_no_others():
    form = form_of(Vanilla(), 1, problem("tabular"))
    assert form is not None and form.other == 0.0


NOT_AFFINE = [
    StdNormalised(),
    Sign(),
    Previous(),
    SkipEqual(),
    Clipped(),
]


@pytest.mark.parametrize("estimator", NOT_AFFINE, ids=lambda e: type(e).__name__)
def test_affine_form_refuses_what_is_not_affine(estimator):
    snapshot = random_snapshot(np.random.default_rng(0), 3, 4, reward_levels=(0.0, 1.0, 5.0))
    for group_size in (3, 4, 16):
        assert form_of(estimator, group_size, snapshot) is None


def enumerated_mse(snapshot: Snapshot, estimator: Estimator, group_size: int) -> float:
    """E‖Σ f(x)ĝ(x) − g‖² by summing over every group of every prompt."""
    scores, mean, variance = snapshot.dense_scores(), np.zeros(snapshot.dimension), 0.0
    joint = snapshot.action_probs[..., None] * snapshot.reward_probs
    cells = list(product(range(joint.shape[1]), range(joint.shape[2])))
    for x, weight in enumerate(snapshot.prompt_probs):
        first, second = np.zeros(snapshot.dimension), 0.0
        for group in product(cells, repeat=group_size):
            prob = np.prod([joint[x, y, level] for y, level in group])
            rewards = np.array([snapshot.reward_levels[level] for _, level in group])
            side = SideInformation(snapshot.value[x], snapshot.optimal_baseline[x])
            advantages = estimator.advantages(rewards, side)
            estimate = advantages @ scores[x, [y for y, _ in group]] / group_size
            first, second = first + prob * estimate, second + prob * (estimate @ estimate)
        mean += weight * first
        variance += weight**2 * (second - first @ first)
    return float(variance + ((mean - snapshot.gradient) ** 2).sum())


def z_scores(snapshot, estimators, group_size, replications=20_000):
    run = Simulation(snapshot, dict(enumerate(estimators)), [group_size], None, KEY)
    errors, _ = run.run(0, replications)
    exact = np.array([enumerated_mse(snapshot, each, group_size) for each in estimators])
    return (errors[:, 0].mean(axis=0) - exact) / errors[:, 0].std(axis=0) * np.sqrt(replications)


@pytest.mark.parametrize("dimension", [None, 3], ids=["tabular", "dense"])
def test_nonlinear_estimators_against_enumeration(dimension):
    """Would see an error of 3 %; the nearest wrong answer, GRPO's own error, is far off."""
    snapshot = random_snapshot(np.random.default_rng(3), 2, 2, dimension=dimension)
    estimators = [StdNormalised(), Grpo(), Sign(), Vanilla()]
    assert abs(z_scores(snapshot, estimators, 3)).max() <= 4
    wrong = enumerated_mse(snapshot, Grpo(), 3) / enumerated_mse(snapshot, StdNormalised(), 3)
    assert abs(wrong - 1) > 0.1


def test_skipped_groups_against_enumeration():
    snapshot = random_snapshot(np.random.default_rng(3), 2, 2)
    assert abs(z_scores(snapshot, [SkipEqual()], 3)).max() <= 4


def test_estimators_that_know_the_order_against_enumeration():
    snapshot = random_snapshot(np.random.default_rng(3), 2, 2)
    assert abs(z_scores(snapshot, [Previous()], 3)).max() <= 4


def test_general_and_affine_estimators_mix_without_disturbing_each_other():
    snapshot = problem("tabular")
    alone = {"std": StdNormalised()}, {"grpo": Grpo(), "vanilla": Vanilla()}
    mixed = {"grpo": Grpo(), "std": StdNormalised(), "vanilla": Vanilla()}
    results = [Simulation(snapshot, e, [4, 300], 3, KEY).run(0, 300) for e in (*alone, mixed)]
    for got, general, affine in zip(results[2], results[0], results[1], strict=True):
        np.testing.assert_array_equal(got[:, :, [1]], general)
        np.testing.assert_array_equal(got[:, :, [0, 2]], affine)
