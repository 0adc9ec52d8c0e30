"""Where Algorithm 2 comes to rest: its mean step, the maximisers, and prompts on one axis."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest
from scipy.linalg import block_diag

from support.problems import naive_policy, random_problem
from support.training_options import optimized
from ustat_grpo import Constant, Practice, TugOfWar
from ustat_grpo.bandits.expansion import Expansion
from ustat_grpo.bandits.tug_of_war import one_axis
from ustat_grpo.estimators.normalised import LeaveOneOutNormalised
from ustat_grpo.laws import binary
from ustat_grpo.optimization.mean_field import curvature, maximiser, mean_field

PROBLEMS = {
    "tabular": random_problem(np.random.default_rng(1), 3, 4),
    "features": random_problem(np.random.default_rng(3), 4, 3, dimension=3),
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)
LIMIT = binary.limiting_objective, binary.limiting_gain
OBJECTIVES = {"value": (lambda p: p, np.ones_like), "arcsine": LIMIT}


def objective(bandit, theta, reference, penalty, weight, function):
    """E F(V) − κ E KL at one θ, from scratch."""
    policy, origin = naive_policy(bandit, theta), naive_policy(bandit, reference)
    value = (policy * (bandit.reward_probs @ bandit.reward_levels)).sum(axis=1)
    left, right = (policy, origin) if penalty == "k2" else (origin, policy)
    divergence = (left * np.log(left / right)).sum(axis=1)
    divergence = 0.0 if penalty == "k1" else divergence
    return bandit.prompt_probs @ (function(value) - weight * divergence)


@every_problem
@pytest.mark.parametrize("penalty", ["k1", "k2", "k3"])
@pytest.mark.parametrize("shape", OBJECTIVES)
def test_is_the_gradient_of_the_objective(name, penalty, shape):
    """Central differences, to 1e-7 of them. Would catch the other divergence, and ½ of one."""
    (bandit, theta), (function, gain) = PROBLEMS[name], OBJECTIVES[shape]
    reference, step = 0.3 * theta + 0.2 * np.arange(len(theta)), 1e-5
    practice = Practice(penalty=penalty, penalty_weight=0.7)
    field = mean_field(bandit, theta, gain, practice=practice, reference=reference)

    def slopes(kind):
        at = [[objective(bandit, theta + sign * move, reference, kind, 0.7, function)
               for sign in (1, -1)] for move in step * np.eye(len(theta))]  # fmt: skip
        return np.diff(at, axis=1)[:, 0] / (-2 * step)

    np.testing.assert_allclose(field, slopes(penalty), rtol=0, atol=1e-7 * abs(field).max())
    other = {"k1": "k2", "k2": "k3", "k3": "k2"}[penalty]
    assert abs(field - slopes(other)).max() > 1e-3


@pytest.mark.parametrize("penalty", ["k1", "k2", "k3"])
def test_is_the_mean_step_of_the_loop(penalty):
    """In standard errors; the mean without the penalty, or with φ = 1, is off by more than four."""
    bandit, theta0 = PROBLEMS["features"]
    reference, practice = -0.5 * theta0, Practice(penalty=penalty, penalty_weight=0.5)
    estimator, law = LeaveOneOutNormalised(eps=0.0), binary.leave_one_out_normalised(5, eps=0.0)
    runs = optimized(
        bandit, estimator, batch_size=8, group_size=5, num_iterations=1, schedule=Constant(1e-3),
        num_runs=40_000, theta0=theta0, practice=practice, reference=reference,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    steps = (runs.theta[:, 0] - theta0) / 1e-3
    spread = steps.std(axis=0) / np.sqrt(len(steps))

    def z(gain, practice):
        expected = mean_field(bandit, theta0, gain, practice=practice, reference=reference)
        return abs((steps.mean(axis=0) - expected) / spread).max()

    assert z(partial(binary.gain, law), practice) <= 4
    assert z(np.ones_like, practice) > 4
    if penalty != "k1":
        assert z(partial(binary.gain, law), Practice()) > 4


@every_problem
def test_curvature_is_minus_the_hessian(name):
    bandit, theta = PROBLEMS[name]
    follow = partial(mean_field, bandit, gain=np.ones_like, practice=Practice(), reference=theta)
    expected = -block_diag(*Expansion(bandit.at(theta)).hessian)
    np.testing.assert_allclose(curvature(follow, theta), expected, rtol=0, atol=1e-9)


class TestMaximiser:
    def test_of_a_tug_of_war_from_afar(self):
        """From where J is convex, with a flat direction, which is moved along by rounding only."""
        tug = TugOfWar(separation=1.5)
        follow = partial(
            mean_field, tug.bandit, gain=np.ones_like, practice=Practice(), reference=[0, 0]
        )
        start = tug.theta(-3.0) + np.array([2.0, -2.0])
        found = maximiser(follow, start)
        np.testing.assert_allclose(tug.axes @ found, [0.75], rtol=1e-12)
        np.testing.assert_allclose(found - tug.optimum, [2.0, -2.0], atol=1e-4)

    @pytest.mark.parametrize("start", [-3.0, 0.0, 1.0, 4.0])
    def test_does_not_depend_on_the_start(self, start):
        """Would catch Newton's method itself, which leaves for infinity where J is convex."""
        bandit = one_axis([[0.3, 0.7], [0.3, 0.02]], [0.0, 1.0])
        practice = Practice(penalty="k2", penalty_weight=0.04)
        follow = partial(
            mean_field, bandit, gain=binary.limiting_gain, practice=practice, reference=[3.0]
        )
        found = maximiser(follow, [start])
        assert abs(follow(found)[0]) < 1e-15
        assert found[0] == pytest.approx(1.0379572698871, abs=1e-12)

    def test_refuses_where_there_is_none(self):
        """Two prompts that want the same: the best θ is infinite."""
        bandit = one_axis([[0.3, 0.7], [0.1, 0.2]], [0.0, 1.0])
        follow = partial(
            mean_field, bandit, gain=np.ones_like, practice=Practice(), reference=[0.0]
        )
        with pytest.raises(ValueError, match=r"^start must lie below a maximiser, got \[0\.0\], "):
            maximiser(follow, [0.0])

    def test_refuses_a_saddle(self):
        with pytest.raises(ValueError, match=r"^start must lie below a maximiser"):
            maximiser(lambda theta: np.array([-theta[0], theta[1]]), [1.0, 0.0])


class TestOneAxis:
    def test_policy_value_and_score(self):
        bandit = one_axis([[0.3, 0.7], [0.3, 0.02], [0.0, 1.0]], [0.0, 1.0, -2.0])
        snapshot = bandit.at([0.4])
        chance = 1 / (1 + np.exp(-(0.4 - np.array([0.0, 1.0, -2.0]))))
        np.testing.assert_allclose(snapshot.action_probs[:, 1], chance, rtol=1e-14)
        value = [0.3, 0.3, 0.0] * (1 - chance) + [0.7, 0.02, 1.0] * chance
        np.testing.assert_allclose(snapshot.value, value, rtol=1e-14)
        np.testing.assert_allclose(snapshot.dense_scores()[:, 1, 0], 1 - chance, rtol=1e-13)
        np.testing.assert_array_equal(snapshot.reward_levels, [0.0, 1.0])

    @pytest.mark.parametrize(
        ("success", "shifts", "message"),
        [
            ([[0.1, 0.2, 0.3]], [0.0], "success must have a column for each of 2 actions, got"),
            ([[0.1, 1.2]], [0.0], "success must lie in [0, 1], got 1.2"),
            ([[-0.1, 0.2]], [0.0], "success must lie in [0, 1], got -0.1"),
            ([[0.1, 0.2]], [0.0, 1.0], "arrays must agree on the number of prompts, got: success"),
            ([[0.1, np.nan]], [0.0], "success must be finite, got 1 NaN or infinity"),
        ],
    )
    def test_errors(self, success, shifts, message):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            one_axis(success, shifts)
