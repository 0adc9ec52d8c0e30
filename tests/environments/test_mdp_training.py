"""What `optimize_mdp` promises: the same bits, coupled runs, exact records, error messages."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from support.mdp_cases import FEATURES, PROBLEMS, climb, lake, objective, start
from ustat_grpo import Box, Constant, Oracle, Practice, StdNormalised, Vanilla
from ustat_grpo.environments.mdp_moments import best_objective
from ustat_grpo.estimators import OptimalBaseline, PassAtK

every_problem = pytest.mark.parametrize("name", PROBLEMS)


def assert_same_bits(left, right):
    for field in dataclasses.fields(left):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))


@every_problem
@pytest.mark.parametrize("threads", [2, 3, 50, None])
def test_threads_change_no_bit(name, threads):
    assert_same_bits(climb(name, threads=threads), climb(name))


def test_a_run_does_not_depend_on_how_many_there_are():
    """Would catch: weights that one run leaves to the next, a stream that runs share."""
    many, few = climb(num_runs=40), climb(num_runs=11)
    np.testing.assert_array_equal(many.theta[:11], few.theta)
    assert len(np.unique(many.theta[:, 0], axis=0)) == 40


@pytest.mark.parametrize("size", ["group_size", "batch_size"])
def test_larger_groups_and_batches_begin_with_smaller_ones(size):
    """Without a baseline Σ Z W of two outputs is that of the first if the second has Z = 0.

    That share of runs is 1 − E V(X) if two begin with the one, and less if they do not.
    """
    options = {"num_iterations": 1, "num_runs": 40_000, "schedule": Constant(1.0), "batch_size": 1}
    options |= {"group_size": 1}
    failed = 1 - objective(*PROBLEMS["lake"], start("lake"))

    def z_score(seed):
        one, two = (
            climb("lake", Vanilla(), **options),
            climb("lake", Vanilla(), seed=seed, **(options | {size: 2})),
        )
        steps = one.theta - start("lake"), 2 * (two.theta - start("lake"))
        alike = np.isclose(*steps, rtol=0, atol=1e-12).all(axis=(1, 2))
        return abs(alike.mean() - failed) / np.sqrt(failed * (1 - failed) / len(alike))

    assert z_score(seed=0) <= 4
    assert z_score(seed=1) > 4  # other streams


@every_problem
def test_checkpoints_record_and_do_not_disturb(name):
    """Would catch: policies or values that a record leaves behind."""
    every = climb(name, Oracle(), checkpoints=range(1, 13))
    some = climb(name, Oracle(), checkpoints=[3, 4, 9])
    np.testing.assert_array_equal(some.checkpoints, [3, 4, 9])
    for field in ("theta", "objective", "gap"):
        np.testing.assert_array_equal(getattr(every, field)[:, [2, 3, 8]], getattr(some, field))
    assert_same_bits(climb(name, Oracle()), climb(name, Oracle(), checkpoints=[12]))
    np.testing.assert_array_equal(every.gap, best_objective(PROBLEMS[name][0]) - every.objective)
    assert (every.gap > 0).all()


def test_theta_need_not_be_kept():
    kept, dropped = climb(), climb(keep_theta=False)
    assert dropped.theta.shape == (0, 0, 0)
    np.testing.assert_array_equal(kept.gap, dropped.gap)


def test_the_generator_decides_and_moves_on():
    rng, theta0 = np.random.default_rng(3), start("lake")
    first, second = climb(rng=rng, theta0=theta0), climb(rng=rng, theta0=theta0)
    assert_same_bits(first, climb(seed=3))
    assert not (first.theta == second.theta).all(axis=(1, 2)).any()
    np.testing.assert_array_equal(theta0, start("lake"))


def test_one_hot_features_give_the_runs_of_the_tabular_policy():
    """Would catch: θ laid out action by action."""
    np.testing.assert_allclose(
        climb("random", features=np.eye(4)).theta, climb("random").theta, rtol=0, atol=1e-12
    )


def test_learning_reaches_the_other_side_of_the_lake():
    """Without slipping the best policy need not look at the clock, so the gap can close."""
    sure = np.zeros((4, 4, 3))
    sure[:, :, 1] = 1.0
    runs = climb(
        mdp=dataclasses.replace(lake(), probs=sure), theta0=np.zeros(16), num_iterations=400,
        schedule=Constant(2.0), num_runs=20,
    )  # fmt: skip
    assert runs.gap.max() < 0.05


BAD = [
    ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    ({"group_size": 0}, "group_size must be an integer of at least 1, got 0"),
    ({"group_size": 1}, "group_size must be at least 2 for a leave-one-out baseline, got 1"),
    ({"num_runs": 0}, "num_runs must be an integer of at least 1, got 0"),
    ({"num_iterations": 0}, "num_iterations must be an integer of at least 1, got 0"),
    ({"checkpoints": [2, 13]}, "checkpoints must be increasing and at most 12, got [2, 13]"),
    ({"theta0": np.zeros(12)}, "theta0 must have length 16, got 12"),
    ({"theta0": np.full(16, np.nan)}, "theta0 must be finite, got 16 NaN or infinity"),
    ({"features": FEATURES}, "theta0 must have length 8, got 16"),
    ({"features": FEATURES[1:]}, "features must have a row for each of the 4 states, got 3"),
    ({"features": FEATURES[0]}, "features must be 2-dimensional and not empty, got shape (2,)"),
    ({"estimator": OptimalBaseline()}, "estimator must not look at b*(x), which is not worked out "
     "on the way through an MDP, got OptimalBaseline()"),
    ({"estimator": StdNormalised(), "name": "lake, discounted"}, "estimator must be affine in the "
     "rewards, or depend on 0/1 rewards through their number only, for many runs at once, got "
     f"{StdNormalised()!r}"),
    ({"estimator": PassAtK(2), "name": "random"}, "rewards must be 0 or 1 for the PassAtK "
     "estimator, got another value"),
    ({"projection": Box(-1.0, 1.0)}, "projection must be None on decision processes, got "
     f"{Box(-1.0, 1.0)!r}"),
    ({"prompt_sampling": "epochs"}, "prompt_sampling must be 'iid' on decision processes, "
     "got 'epochs'"),
    ({"practice": Practice(2)}, "practice must have one minibatch and no penalty on "
     f"decision processes, got {Practice(2)!r}"),
    ({"practice": Practice(penalty_weight=0.1)}, "practice must have one minibatch and no "
     f"penalty on decision processes, got {Practice(penalty_weight=0.1)!r}"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_errors_say_what_is_wrong_before_any_work(wrong, message):
    """A call that is refused takes nothing from the generator."""
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        climb(rng=rng, **wrong)
    assert rng.bit_generator.state == before


@pytest.mark.parametrize(
    "change",
    [{"discount": 0.9}, {"rewards": 2 * lake().rewards}, {"terminated": lake().terminated & False}],
    ids=["discounted", "a reward of 2", "rewards on the way"],
)
def test_what_looks_at_the_number_of_ones_needs_returns_of_zero_and_one(change):
    """Would catch: the loop reading on behind the end of the table."""
    with pytest.raises(ValueError, match=r"^estimator must be affine in the rewards"):
        climb("lake", StdNormalised(), mdp=dataclasses.replace(lake(), **change))


@pytest.mark.parametrize("rng", [None, 7])
def test_rng_must_be_a_generator(rng):
    with pytest.raises(TypeError, match=re.escape("rng must be a numpy.random.Generator, got")):
        climb(rng=rng)


def test_a_run_that_leaves_the_numbers_is_an_error():
    """Would catch: NaN objectives handed back."""
    with pytest.raises(
        FloatingPointError, match=r"training diverged in \d+ of \d+ runs, up to iter"
    ):
        climb(schedule=Constant(1e308))
