"""What `optimize` promises: the same bits, exact records, projections, error messages."""

from __future__ import annotations

import dataclasses
import re
from functools import cache

import numpy as np
import pytest
from numba import njit

from support.problems import one_hot, random_problem
from support.training_options import optimized
from ustat_grpo import (
    Box,
    Constant,
    Decay,
    Grpo,
    OptimalBaseline,
    TugOfWar,
)
from ustat_grpo.optimization.policy_rows import exp_of_negative
from ustat_grpo.optimization.practice import Practice
from ustat_grpo.optimization.training_config import PROMPT_SAMPLING

TUG = TugOfWar(num_axes=2, num_flat=1, separation=(1.5, 3.0))
KINDS = {
    "tabular": random_problem(np.random.default_rng(1), 3, 4),
    "three levels": random_problem(np.random.default_rng(2), 5, 3, reward_levels=(2, -1, 0.5)),
    "features": random_problem(np.random.default_rng(3), 4, 3, dimension=2),
    "tug of war": (TUG.bandit, TUG.theta(0.5)),
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)
every_sampling = pytest.mark.parametrize("sampling", PROMPT_SAMPLING)


@cache
def of_equal_prompts(kind):
    """The same one to all, which then looks for its best objective once."""
    return dataclasses.replace(KINDS[kind][0], prompt_probs=None)


def climb(kind="tabular", estimator=None, *, seed=0, sampling="iid", **options):
    bandit, theta0 = KINDS[kind]
    if sampling != "iid":
        bandit = of_equal_prompts(kind)
    arguments = {
        "batch_size": 2, "group_size": 4, "num_iterations": 12, "schedule": Decay(3.0, 2.0),
        "num_runs": 7, "theta0": theta0, "rng": np.random.default_rng(seed), "threads": 1,
    }  # fmt: skip
    options = arguments | options | {"prompt_sampling": sampling}
    return optimized(bandit, Grpo() if estimator is None else estimator, **options)


def assert_same_bits(left, right):
    for field in dataclasses.fields(left):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))


@every_kind
@pytest.mark.parametrize("threads", [2, 3, 50, None])
def test_threads_change_no_bit(kind, threads):
    assert_same_bits(climb(kind, threads=threads), climb(kind))


@every_sampling
def test_a_run_does_not_depend_on_how_many_there_are(sampling):
    """Would catch: an epoch that the next run of the thread finishes, a stream that runs share."""
    many, few = climb(sampling=sampling, num_runs=40), climb(sampling=sampling, num_runs=11)
    np.testing.assert_array_equal(many.theta[:11], few.theta)
    cut = climb(sampling=sampling, num_runs=40, threads=3)
    np.testing.assert_array_equal(many.theta, cut.theta)
    assert len(np.unique(many.theta[:, 0], axis=0)) == 40


@every_kind
@every_sampling
def test_checkpoints_record_and_do_not_disturb(kind, sampling):
    """Every iteration, some, or a shorter horizon: the same path. Would catch: stale policies."""
    every = climb(kind, sampling=sampling, checkpoints=range(1, 13))
    some = climb(kind, sampling=sampling, checkpoints=[3, 4, 9])
    np.testing.assert_array_equal(every.checkpoints, np.arange(1, 13))
    np.testing.assert_array_equal(some.checkpoints, [3, 4, 9])
    assert every.theta.shape == (7, 12, len(KINDS[kind][1]))
    for name in ("theta", "objective", "gap"):
        np.testing.assert_array_equal(getattr(every, name)[:, [2, 3, 8]], getattr(some, name))
    assert_same_bits(
        climb(kind, sampling=sampling), climb(kind, sampling=sampling, checkpoints=[12])
    )
    assert_same_bits(climb(kind, sampling=sampling), climb(kind, sampling=sampling, checkpoints=[]))
    shorter = climb(kind, sampling=sampling, num_iterations=5)
    np.testing.assert_array_equal(shorter.theta[:, 0], every.theta[:, 4])


@every_kind
def test_records_agree_with_the_bandit(kind):
    bandit, runs = KINDS[kind][0], climb(kind, checkpoints=[1, 12])
    objective = [[bandit.at(theta).objective for theta in run] for run in runs.theta]
    np.testing.assert_allclose(runs.objective, objective, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(runs.gap, bandit.best_objective - runs.objective)
    assert (runs.gap > 0).all()
    assert runs.objective.shape == runs.gap.shape == (7, 2)


def test_theta_need_not_be_kept():
    kept, dropped = climb(checkpoints=[5, 12]), climb(checkpoints=[5, 12], keep_theta=False)
    assert dropped.theta.shape == (0, 0, 0)
    np.testing.assert_array_equal(kept.objective, dropped.objective)
    np.testing.assert_array_equal(kept.gap, dropped.gap)


def test_the_generator_decides_and_moves_on():
    rng, theta0 = np.random.default_rng(3), KINDS["tabular"][1].copy()
    first, second = climb(rng=rng, theta0=theta0), climb(rng=rng, theta0=theta0)
    assert_same_bits(first, climb(seed=3))
    assert not (first.theta[:, None] == second.theta).all(axis=(2, 3)).any()
    np.testing.assert_array_equal(theta0, KINDS["tabular"][1])


def test_one_hot_features_give_the_runs_of_the_tabular_bandit():
    """Would catch: an estimate that one branch scales differently."""
    (bandit, theta0), runs = KINDS["tabular"], climb()
    dense = dataclasses.replace(bandit, features=one_hot(3, 4))
    KINDS["dense"] = dense, theta0
    np.testing.assert_allclose(climb("dense").theta, runs.theta, rtol=0, atol=1e-12)
    del KINDS["dense"]


@pytest.mark.parametrize(
    ("kind", "box"),
    [("features", Box(-0.1, [0.2, 0.1])), ("features", Box(-0.1, 0.2)),
     ("tug of war", Box([0, 0.2], [1, 0.8], TUG.axes)), ("tabular", Box(-0.2, 0.1))],
)  # fmt: skip
def test_projection_is_that_of_the_box_and_runs_stay_inside(kind, box):
    """Would catch: a bound of another coordinate, a move of the flat part, no projection."""
    start = KINDS[kind][1] if kind == "tug of war" else np.zeros_like(KINDS[kind][1])
    options = {"theta0": start, "schedule": Constant(2.0)}
    free = climb(kind, num_iterations=1, **options).theta
    first = climb(kind, num_iterations=1, projection=box, **options).theta
    np.testing.assert_allclose(first, box.project(free), rtol=0, atol=1e-14)
    assert not box.contains(free)
    runs = climb(kind, projection=box, checkpoints=range(1, 13), **options)
    assert box.contains(runs.theta)
    wide = climb(kind, projection=Box(-1e9, 1e9), **options)
    assert_same_bits(wide, climb(kind, **options))


@njit(fastmath={"reassoc"})
def exponentials(points):
    """As the loop compiles them."""
    out = np.empty_like(points)
    for i in range(len(points)):
        out[i] = exp_of_negative(points[i])
    return out


def test_exponential_against_numpy():
    """To 2e-15, relatively.

    Would catch: n·ln 2 rounded as one number, 8e-14 at −700; a polynomial of one term less.
    """
    halves = -np.arange(1, 1000) * np.log(2) / 2
    points = np.concatenate([
        -np.linspace(0, 700, 200_001), -np.logspace(-300, 2, 1000), halves,
        np.nextafter(halves, 0), np.nextafter(halves, -1e9), [-0.0, 0.0],
    ])  # fmt: skip
    np.testing.assert_allclose(exponentials(points), np.exp(points), rtol=2e-15, atol=0)
    assert exponentials(np.zeros(1)) == 1.0
    below = exponentials(np.array([-700.1, -745.0, -1e4, -1e300, -np.inf]))
    assert ((below >= 0) & (below <= 1e-304)).all()


def test_masked_actions_and_far_parameters_are_no_trouble():
    """Logits of ±5000: actions that never occur, policies that are certain. No NaN, J in place."""
    bandit, theta0 = KINDS["tabular"]
    masked = dataclasses.replace(bandit, offsets=np.tile([0.0, -5e3, 5.0, 0.0], (3, 1)))
    for name, start in {"masked": theta0, "certain": 5e3 * theta0}.items():
        KINDS[name] = masked, start
        runs = climb(name, OptimalBaseline())
        del KINDS[name]
        expected = [masked.at(theta).objective for theta in runs.theta[:, 0]]
        np.testing.assert_allclose(runs.objective[:, 0], expected, rtol=0, atol=1e-12)


@dataclasses.dataclass(frozen=True)
class Given:
    """A schedule of the caller's own."""

    given: object

    def rates(self, num_iterations):
        return self.given


BAD = [
    ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    ({"batch_size": 2.0}, "batch_size must be an integer of at least 1, got 2.0"),
    ({"group_size": 0}, "group_size must be an integer of at least 1, got 0"),
    ({"group_size": 1}, "group_size must be at least 2 for a leave-one-out baseline, got 1"),
    ({"num_runs": 0}, "num_runs must be an integer of at least 1, got 0"),
    ({"num_iterations": 0}, "num_iterations must be an integer of at least 1, got 0"),
    ({"num_iterations": True}, "num_iterations must be an integer of at least 1, got True"),
    ({"checkpoints": [0, 3]}, "checkpoints must be an integer of at least 1, got 0"),
    ({"checkpoints": [1.5]}, "checkpoints must be an integer of at least 1, got 1.5"),
    ({"checkpoints": [3, 3]},
     "checkpoints must be increasing and at most 12, got [3, 3]"),
    ({"checkpoints": [2, 13]},
     "checkpoints must be increasing and at most 12, got [2, 13]"),
    ({"theta0": np.zeros(11)}, "theta0 must have length 12, got 11"),
    ({"theta0": np.zeros((3, 4))}, "theta0 must be 1-dimensional and not empty, got shape (3, 4)"),
    ({"theta0": np.full(12, np.nan)}, "theta0 must be finite, got 12 NaN or infinity"),
    ({"projection": Box(np.zeros(4), 1)}, "projection must be for theta of length 12, got 4"),
    ({"projection": Box(0, 1, TUG.axes)}, "projection must be for theta of length 12, got 3"),
    ({"theta0": np.zeros(12), "projection": Box(1, 2)},
     "theta0 must lie inside the projection's set, got coordinates "
     f"{np.zeros(12)} for low=[1.] and high=[2.]"),
    ({"sampling": "shuffled"}, "prompt_sampling must be among ['iid', 'without_replacement', "
     "'epochs'], got 'shuffled'"),
    ({"sampling": "without_replacement", "batch_size": 4}, "batch_size must be at most the number "
     "of prompts, 3, to draw them without replacement, got 4"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_errors_say_what_is_wrong_before_any_work(wrong, message):
    """A call that is refused takes nothing from the generator."""
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        climb(rng=rng, **wrong)
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("sampling", ["without_replacement", "epochs"])
def test_unequal_prompts_can_only_be_drawn_independently(sampling):
    bandit, theta0 = KINDS["tabular"]
    message = f"^prompt_sampling must be 'iid' for unequal prompt_probs, got '{sampling}'$"
    with pytest.raises(ValueError, match=message):
        optimized(
            bandit, Grpo(), batch_size=2, group_size=4, num_iterations=1, schedule=Constant(1.0),
            num_runs=1, theta0=theta0, prompt_sampling=sampling, rng=np.random.default_rng(0),
        )  # fmt: skip


@pytest.mark.parametrize(
    "rates",
    [np.ones(11), np.ones((12, 1)), np.full(12, np.nan), [0.1] * 11, np.zeros(12)],
    ids=["too few", "two axes", "NaN", "a short list", "zeros"],
)
def test_rates_of_a_schedule_of_the_callers_own_are_checked(rates):
    """Would catch: the loop reading on behind the end of the rates."""
    with pytest.raises(ValueError, match="rates"):
        climb(schedule=Given(rates))


@pytest.mark.parametrize("rates", [[0.1] * 12, np.full(12, 0.1, np.float32), np.ones(12, int)])
def test_rates_may_be_of_any_real_type(rates):
    expected = climb(schedule=Given(np.array(rates, dtype=float)))
    assert_same_bits(climb(schedule=Given(rates)), expected)


@pytest.mark.parametrize("rng", [None, 7, np.random])
def test_rng_must_be_a_generator(rng):
    with pytest.raises(TypeError, match=re.escape("rng must be a numpy.random.Generator, got")):
        climb(rng=rng)


def test_a_run_that_leaves_the_numbers_is_an_error():
    """Would catch: NaN objectives handed back, and tables of empty gaps made of them."""
    for practice in (Practice(), Practice(num_minibatches=2)):
        with pytest.raises(FloatingPointError, match=r"diverged in \d of 7 runs, .* up to 1e\+308"):
            climb("features", schedule=Constant(1e308), practice=practice)
