"""The expected gap after n iterations against closed forms, exact sums and mutants.

Algorithm 1 meets it in `test_laws_path_runs.py`.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import binom
from test_laws_covariance import one_prompt

from support.problems import random_problem
from theory.claims import limiting_slope
from ustat_grpo import (
    GroupMean,
    Grpo,
    Oracle,
    SoftmaxBandit,
    TugOfWar,
    Vanilla,
)
from ustat_grpo.bandits.expansion import Expansion
from ustat_grpo.laws import covariance
from ustat_grpo.laws.covariance import NoiseMatrices
from ustat_grpo.laws.path import ExpectedGap, expected_gap, without_replacement

GRADED = (-1.0, 0.5, 2.0)
ESTIMATORS = {
    "grpo": (Grpo(), covariance.grpo),
    "vanilla": (Vanilla(), covariance.vanilla),
    "oracle": (Oracle(), covariance.oracle),
}


class WithoutDrift(Expansion):
    """A mutant: the spread of θ does not move the mean gradient."""

    def drift(self, covariance):
        return np.zeros(covariance.shape[:-1])


def laws_of(bandit, noise, theta0, rates, checkpoints, kind=Expansion):
    return expected_gap(
        lambda theta: kind(bandit.at(theta)),
        noise,
        theta0=theta0,
        rates=rates,
        checkpoints=checkpoints,
        best_objective=bandit.best_objective,
    )


def falls_like(exponent, sizes, values):
    """Whether the whole interval of the limiting slope is nearest to this exponent."""
    slope, half_width = limiting_slope(sizes, values)
    return abs(slope - exponent) + half_width < 0.5


class TestOneStep:
    """E J(θ₀ + ηĝ) by summing over every prompt and group; B = 1."""

    ETAS = 2.0 ** -np.arange(3, 7)

    @pytest.fixture(params=[None, 2], ids=["tabular", "features"])
    def problem(self, request):
        rng = np.random.default_rng(3)
        return random_problem(rng, 2, 2, reward_levels=GRADED, dimension=request.param)

    def errors(self, problem, estimator, noise, gain=1.0):
        bandit, theta0 = problem
        values, probs = one_prompt(estimator, bandit.at(theta0), 2)
        errors = []
        for eta in self.ETAS:
            objectives = [bandit.at(theta0 + eta * value).objective for value in values]
            (law,) = laws_of(bandit, noise, theta0, [gain * eta], [1])
            exact = bandit.best_objective - probs @ np.array(objectives)
            errors.append(abs(law.gap(batch_size=1, group_size=2) - exact))
        return np.array(errors)

    @pytest.mark.parametrize("name", ESTIMATORS)
    def test_what_is_left_out_is_of_third_order_in_the_rate(self, problem, name):
        """Would catch: an error of any size in a₁, a₂ or a₃, as its slope would be 2."""
        assert falls_like(-3, 1 / self.ETAS, self.errors(problem, *ESTIMATORS[name]))

    def test_the_group_mean_is_grpo_at_a_smaller_rate(self, problem):
        errors = self.errors(problem, GroupMean(), covariance.grpo, gain=1 / 2)
        assert falls_like(-3, 1 / self.ETAS, errors)
        mutant = self.errors(problem, GroupMean(), covariance.grpo)
        assert falls_like(-1, 1 / self.ETAS, mutant)


class Quadratic:
    """J = −½θᵀAθ with constant noise: an expansion without a bandit."""

    def __init__(self, curvature):
        self.curvature = curvature

    def __call__(self, theta):
        gradient = -self.curvature @ theta
        return SimpleNamespace(
            objective=theta @ gradient / 2,
            gradient=gradient[None],
            hessian=-self.curvature[None],
            score_moments=None,
            drift=lambda covariance: np.zeros(covariance.shape[:-1]),
        )


class TestQuadratic:
    """Where the law leaves nothing out: C_ij = η²Γ_ij(1 − ρⁿ)/(1 − ρ), ρ = (1−ηλ_i)(1−ηλ_j)."""

    RATE, STEPS = 0.3, (1, 5, 40)

    @pytest.fixture
    def setting(self, rng):
        eigenvalues, noise = np.array([0.2, 1.0, 2.5]), rng.normal(size=(3, 3, 3))
        axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        noise = noise @ np.swapaxes(noise, 1, 2)
        return eigenvalues, axes, noise, rng.normal(size=3)

    def closed_form(self, setting, steps):
        """Δ(m_n), a₁, a₂ and a₃."""
        eigenvalues, axes, noise, theta0 = setting
        factors = 1 - self.RATE * eigenvalues
        ratio = np.outer(factors, factors)
        total = self.RATE**2 * (1 - ratio**steps) / (1 - ratio)
        diagonal = np.einsum("ia,cij,ja->ca", axes, noise, axes) * np.diag(total)
        path = eigenvalues @ (factors**steps * (axes.T @ theta0)) ** 2 / 2
        return [path, *(diagonal @ eigenvalues / 2)]

    def test_closed_form(self, setting):
        """Would catch: η for η², I + ηH on one side only, a checkpoint off by one."""
        eigenvalues, axes, noise, theta0 = setting
        laws = expected_gap(
            Quadratic(axes * eigenvalues @ axes.T),
            lambda moments: NoiseMatrices(*noise[:, None]),
            theta0=theta0,
            rates=np.full(50, self.RATE),
            checkpoints=self.STEPS,
            best_objective=0.0,
        )
        assert [law.iteration for law in laws] == list(self.STEPS)
        for law in laws:
            obtained = [law.path_gap, law.prompt, law.output, law.pair]
            np.testing.assert_allclose(obtained, self.closed_form(setting, law.iteration), 1e-12)


class TwoActions:
    """Two sure rewards at each of P prompts: a count decides the whole minibatch gradient."""

    def __init__(self, directions, gains, chances, offsets):
        self.directions, self.gains = np.array(directions), np.array(gains)
        self.chances, self.offsets = np.array(chances), np.array(offsets)
        features = np.stack([np.zeros_like(self.directions), self.directions], axis=1)
        reward_probs = np.zeros((len(gains), 2, 3))
        reward_probs[:, 0, 0] = 1.0
        reward_probs[np.arange(len(gains)), 1, [1 if gain > 0 else 2 for gain in gains]] = 1.0
        self.bandit = SoftmaxBandit(
            features, np.array([0.0, max(gains), min(gains)]), reward_probs, self.chances,
            np.stack([np.zeros(len(gains)), self.offsets], axis=1),
        )  # fmt: skip

    def policy(self, theta):
        return expit(theta @ self.directions.T + self.offsets)

    def objective(self, theta):
        return self.policy(theta) @ (self.chances * self.gains)

    def prompt_gradients(self, theta):
        spread = self.policy(theta) * (1 - self.policy(theta)) * self.gains
        return spread[..., None] * self.directions


def count_outputs(problem, theta, size):
    """GRPO at the only prompt: ĝ = gain·k(G−k)/(G(G−1)), with k ~ Binomial(G, π)."""
    counts = np.arange(size + 1)
    slopes = problem.gains[0] * counts * (size - counts) / (size * (size - 1))
    steps = np.broadcast_to(slopes[:, None] * problem.directions[0], (len(theta), size + 1, 1))
    return steps, binom.pmf(counts, size, problem.policy(theta))


def count_prompts(problem, theta, size):
    """Exact gradients of B prompts out of two: ĝ = (k·g(x₁) + (B−k)·g(x₂))/B."""
    shares = np.arange(size + 1) / size
    first, second = np.moveaxis(problem.prompt_gradients(theta), 1, 0)
    steps = shares[:, None] * first[:, None] + (1 - shares)[:, None] * second[:, None]
    return steps, binom.pmf(np.arange(size + 1), size, problem.chances[0])


def exact_gap(problem, count, theta0, rates, size):
    """E Δ_n over every sequence of counts."""
    theta, probs = np.array([theta0]), np.ones(1)
    for rate in rates:
        steps, chances = count(problem, theta, size)
        theta = (theta[:, None] + rate * steps).reshape(-1, theta.shape[-1])
        probs = (probs[:, None] * chances).ravel()
    return problem.bandit.best_objective - probs @ problem.objective(theta)


ONE_PROMPT = TwoActions([[1.0]], [1.5], [1.0], [0.4])
TWO_PROMPTS = TwoActions([[1.0, 0.3], [-0.6, 1.2]], [1.5, -0.8], [0.3, 0.7], [0.4, -0.9])


CASES = {
    "outputs": (ONE_PROMPT, count_outputs, [1.0], lambda size: (1, size)),
    "prompts": (TWO_PROMPTS, count_prompts, [0.3, -0.2], lambda size: (size, np.inf)),
}
"""Problem, counts, θ₀ (where the coefficient of N⁻² is not near zero), and (B, G) for N."""

MUTANTS = {
    "no drift": {"kind": WithoutDrift},
    "a tenth of the noise lost": {
        "of": lambda law, **sizes: 0.9 * law.gap(**sizes) + 0.1 * law.path_gap
    },
}


class TestSecondOrder:
    """Three steps over every sequence of minibatches: what the law leaves out falls like N⁻²."""

    SIZES = np.array([8, 16, 32, 64])
    RATES = (2.0, 1.5, 2.5)

    @pytest.fixture(params=CASES)
    def case(self, request):
        return CASES[request.param]

    def errors(self, case, *, kind=Expansion, of=ExpectedGap.gap):
        problem, count, theta0, sizes = case
        (law,) = laws_of(problem.bandit, covariance.grpo, np.array(theta0), self.RATES, [3], kind)
        distances = []
        for size in self.SIZES:
            batch_size, group_size = sizes(int(size))
            exact = exact_gap(problem, count, theta0, self.RATES, size)
            predicted = of(law, batch_size=batch_size, group_size=group_size)
            distances.append(abs(exact - predicted))
        return distances

    def test_the_law_is_right_to_first_order(self, case):
        assert falls_like(-2, self.SIZES, self.errors(case))

    def test_the_noiseless_path_is_not(self, case):
        assert falls_like(-1, self.SIZES, self.errors(case, of=lambda law, **sizes: law.path_gap))

    @pytest.mark.parametrize("mutant", MUTANTS)
    def test_mutants_are_no_better_than_the_path(self, case, mutant):
        assert falls_like(-1, self.SIZES, self.errors(case, **MUTANTS[mutant]))


class TestBestGroupSize:
    @pytest.mark.parametrize(("prompt", "pair"), [(0.5, 2.0), (3.0, 0.1), (1.0, 400.0)])
    def test_minimises_the_gap_at_a_fixed_budget(self, prompt, pair):
        law, budget = ExpectedGap(10, 0.7, prompt, 5.0, pair), 1000.0
        found = minimize_scalar(
            lambda log: law.gap(batch_size=budget / np.exp(log), group_size=np.exp(log)),
            bounds=(1e-3, 8.0), method="bounded", options={"xatol": 1e-10},
        )  # fmt: skip
        assert law.best_group_size == pytest.approx(np.exp(found.x), rel=1e-5)

    def test_of_a_bandit(self):
        tug = TugOfWar()
        rates = np.full(12, 4.0)
        (law,) = laws_of(tug.bandit, covariance.grpo, tug.theta(-1.0), rates, [12])
        sizes = np.linspace(1.01, 30, 3000)
        gaps = [law.gap(batch_size=256 / size, group_size=size) for size in sizes]
        assert law.best_group_size == pytest.approx(sizes[np.argmin(gaps)], abs=0.01)

    @pytest.mark.parametrize(
        ("prompt", "pair", "best"),
        [(1.0, 0.0, 1.0), (0.0, 1.0, np.inf), (-1.0, 1.0, np.inf), (-1.0, 0.0, np.inf),
         (-1.0, -1.0, np.inf), (1.0, -1.0, np.nan)],
    )  # fmt: skip
    def test_where_there_is_none(self, prompt, pair, best):
        law = ExpectedGap(1, 0.0, prompt, 1.0, pair)
        np.testing.assert_equal(law.best_group_size, best)


def test_every_checkpoint_is_that_of_a_shorter_run():
    bandit, theta0 = random_problem(np.random.default_rng(42), 2, 3)
    rates = 12 / np.arange(5.0, 11.0)
    together = laws_of(bandit, covariance.grpo, theta0, rates, [1, 4, 6])
    for law in together:
        (alone,) = laws_of(bandit, covariance.grpo, theta0, rates, [law.iteration])
        assert dataclasses.astuple(law) == dataclasses.astuple(alone)


def test_without_replacement_at_its_ends():
    assert without_replacement(50, 1) == 1
    assert without_replacement(50, 50) == 0
    assert without_replacement(1, 1) == 0
    assert without_replacement(7, 3) == 4 / 6
