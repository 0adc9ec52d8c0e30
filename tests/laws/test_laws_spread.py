"""The second order of the mean gap against exact sums and Algorithm 1; where the law is void."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.special import expit
from test_laws_path import CASES, Quadratic, exact_gap, falls_like
from test_laws_path_runs import BATCH, POINTS, PROBLEMS, SIZE

from support.problems import random_problem
from support.training_options import optimized
from ustat_grpo import Constant, Grpo, SoftmaxBandit
from ustat_grpo.bandits import expand
from ustat_grpo.laws import covariance, spread
from ustat_grpo.laws.covariance import NoiseMatrices
from ustat_grpo.laws.path import expected_gap
from ustat_grpo.laws.spread import SecondOrder, second_order

RATES = (2.0, 1.5, 2.5)
SIZES = np.array([8, 16, 32, 64])


class TestAgainstExactSums:
    """Three steps over every sequence of minibatches, as in `test_laws_path.py`."""

    @pytest.fixture(params=CASES)
    def case(self, request):
        return CASES[request.param]

    def seconds(self, case):
        """What is found and what is true, at every size."""
        problem, count, theta0, sizes = case
        found, true = [], []
        for size in map(int, SIZES):
            batch_size, group_size = sizes(size)
            if group_size == np.inf:
                group_size = 10**9  # exact gradients of the prompts
            terms = second_order(
                expand(problem.bandit.at), covariance.grpo, theta0=theta0, rates=RATES,
                batch_size=batch_size, group_size=group_size,
            )  # fmt: skip
            (law,) = expected_gap(
                expand(problem.bandit.at), covariance.grpo, theta0=theta0, rates=RATES,
                checkpoints=[3], best_objective=problem.bandit.best_objective,
            )  # fmt: skip
            found.append(terms.second)
            true.append(exact_gap(problem, count, theta0, RATES, size) - law.path_gap - terms.first)
        return np.array(found), np.array(true)

    def test_finds_half_of_it_to_all(self, case):
        """Would catch: a law that differs from `laws.path` to first order, a sign, a lost η."""
        found, true = self.seconds(case)
        assert falls_like(-2, SIZES, np.abs(found))
        assert ((found / true > 0.5) & (found / true < 1.1)).all()

    @pytest.mark.parametrize("shrunk", [0.0, 0.9])
    def test_points_that_lie_too_near_are_of_first_order(self, case, shrunk, monkeypatch):
        """A mutant: gradient and noise on the mean path, or spread by a tenth too little."""
        points = spread._Spread.points.fget
        nearer = property(lambda self: self.mean + shrunk * (points(self) - self.mean))
        monkeypatch.setattr(spread._Spread, "points", nearer)
        found, _ = self.seconds(case)
        assert falls_like(-1, SIZES, np.abs(found))


class TestPoints:
    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    def test_have_the_moments_of_a_gaussian(self, rng, size):
        """Would catch: axes in the place of rows, blocks that mix, weights that do not add to 1."""
        factor = rng.normal(size=(2, size, size))
        around = spread._Spread(rng.normal(size=(2, size)), factor @ np.swapaxes(factor, 1, 2))
        weights, steps = around.weights, around.points - around.mean
        assert (weights >= 0).all() and weights.sum() == pytest.approx(1.0, rel=1e-15)
        np.testing.assert_allclose(np.tensordot(weights, steps, 1), 0.0, atol=1e-14)
        second = np.einsum("p,pmi,pmj->mij", weights, steps, steps)
        np.testing.assert_allclose(second, around.covariance, rtol=0, atol=1e-12)
        third = np.einsum("p,pmi,pmj,pmk->mijk", weights, steps, steps, steps)
        np.testing.assert_allclose(third, 0.0, atol=1e-12)


@functools.cache
def late():
    """Few prompts and three features, after sixty steps of exact ascent: a plateau with cliffs."""
    rng = np.random.default_rng(3)
    features, direction = rng.normal(size=(12, 4, 3)), rng.normal(size=3) * 1.5 / np.sqrt(3)
    success = expit(features @ direction + 0.5 * rng.normal(size=(12, 4)))
    rewards = np.stack([1 - success, success], axis=-1)
    bandit = SoftmaxBandit(features, np.array([0.0, 1.0]), rewards)
    theta = np.zeros(3)
    for _ in range(60):
        theta = theta + 3.0 * bandit.at(theta).gradient
    return bandit, theta


class TestValidity:
    RATE, STEPS = 19.8, 40

    def compared(self, budget, group_size, runs):
        """z of Algorithm 1 against the first order, the mean gap, and the second order."""
        bandit, theta0 = late()
        sizes = {"batch_size": budget // group_size, "group_size": group_size}
        rates = np.full(self.STEPS, self.RATE)
        law = self.law(bandit, theta0)
        terms = second_order(
            expand(bandit.at), covariance.grpo, theta0=theta0, rates=rates, **sizes
        )
        gaps = optimized(
            bandit, Grpo(), **sizes, num_iterations=self.STEPS, schedule=Constant(self.RATE),
            num_runs=runs, theta0=theta0, keep_theta=False, rng=np.random.default_rng(1),
        ).gap  # fmt: skip
        error = gaps.std(ddof=1) / np.sqrt(runs)
        return (gaps.mean() - law.gap(**sizes)) / error, gaps.mean(), terms

    def law(self, bandit, theta0):
        (law,) = expected_gap(
            expand(bandit.at), covariance.grpo, theta0=theta0,
            rates=np.full(self.STEPS, self.RATE), checkpoints=[self.STEPS],
            best_objective=bandit.best_objective,
        )  # fmt: skip
        return law

    def test_a_best_group_size_that_is_worst_is_not_believed(self):
        """N = 128: the law says G = ∞, yet G = 64 is far worse than G = 8; both are flagged."""
        assert self.law(*late()).best_group_size == np.inf
        z_small, small, terms_small = self.compared(128, 8, 400)
        z_large, large, terms_large = self.compared(128, 64, 400)
        assert large > 1.5 * small
        assert z_small > 4 and not terms_small.first_order_holds
        assert z_large > 8 and not terms_large.first_order_holds

    def test_a_large_budget_is_believed(self):
        """N = 8192, the same bandit. Would catch: a number that flags the problem, not (B, G)."""
        z, _, terms = self.compared(8192, 64, 100)
        assert abs(z) <= 4 and terms.first_order_holds

    @pytest.mark.parametrize("name", PROBLEMS)
    def test_where_the_law_meets_algorithm_one_it_is_believed(self, name):
        """The problems of `test_laws_path_runs.py`, at the (B, G) that are measured there."""
        bandit, theta0, schedule = PROBLEMS[name]
        terms = second_order(
            expand(bandit.at), covariance.grpo, theta0=theta0,
            rates=schedule.rates(POINTS[-1]), batch_size=BATCH, group_size=SIZE,
        )  # fmt: skip
        assert terms.first_order_holds
        assert terms.share > 0


class TestSecondOrder:
    def test_a_quadratic_with_constant_noise_has_none(self, rng):
        """There the first order is exact at any noise. Would catch: rounding taken for a term."""
        factor = rng.normal(size=(3, 3))
        noise = NoiseMatrices(*np.eye(3)[None, None].repeat(3, axis=0))
        terms = second_order(
            Quadratic(factor @ factor.T / 9), lambda moments: noise,
            theta0=np.ones(3), rates=np.full(10, 0.3), batch_size=1, group_size=2,
        )  # fmt: skip
        assert terms.first > 0.1
        assert terms.share < 1e-12 and terms.first_order_holds

    def test_noise_below_rounding_is_no_second_order(self):
        bandit, theta0 = random_problem(np.random.default_rng(42), 4, 3, dimension=3)
        sizes = {"batch_size": 10**13, "group_size": 4}
        terms = second_order(
            expand(bandit.at), covariance.grpo, theta0=theta0, rates=RATES, **sizes
        )
        assert terms.size > 0 and terms.share == 0.0

    def test_the_worst_view_counts(self):
        """Would catch: the share at the noise itself, which higher orders may cancel."""
        terms = SecondOrder(first=-1.0, size=2.0, seconds=(0.01, -0.5, 0.3))
        assert (terms.second, terms.share, terms.first_order_holds) == (0.01, 0.25, False)
        assert SecondOrder(0.0, 0.0, (0.0,)).first_order_holds

    @pytest.mark.parametrize("name", ["batch_size", "group_size"])
    def test_errors(self, name):
        bandit, theta0 = random_problem(np.random.default_rng(42), 2, 3)
        sizes = {"batch_size": 4, "group_size": 4} | {name: 0}
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got 0"):
            second_order(expand(bandit.at), covariance.grpo, theta0=theta0, rates=RATES, **sizes)
