"""Snapshot, SoftmaxBandit and TugOfWar against explicit loops, differences and autograd."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch

from support.pace import loops
from support.problems import (
    cells,
    expectation,
    naive_moments,
    naive_policy,
    one_hot,
    random_problem,
    random_snapshot,
)
from ustat_grpo import SoftmaxBandit, TugOfWar

LEVELS = {"binary": (0.0, 1.0), "binary backwards": (1.0, 0.0), "graded": (-1.5, 0.25, 2.0)}
both_policies = pytest.mark.parametrize("dimension", [None, 5], ids=["tabular", "features"])
every_levels = pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)


def exact(left, right):
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-12)


@both_policies
@every_levels
def test_snapshot_against_loops(dimension, levels, rng):
    """Would catch: offsets left out, a prompt of the wrong index, J with equal prompt weights."""
    bandit, theta = random_problem(rng, 3, 4, reward_levels=levels, dimension=dimension)
    snapshot, naive = bandit.at(theta), naive_moments(bandit, theta)
    exact(snapshot.action_probs, naive_policy(bandit, theta))
    exact(snapshot.value, naive["value"])
    exact(snapshot.objective, sum(bandit.prompt_probs[x] * naive["value"][x] for x in range(3)))
    exact(snapshot.gradient, sum(bandit.prompt_probs[x] * naive["gradient"][x] for x in range(3)))
    for x in range(3):
        scores = [score for _, score, _ in cells(bandit, theta, x)][:: len(levels)]
        exact(snapshot.dense_scores()[x], scores)
        exact(snapshot.score_norm_squared[x], [score @ score for score in scores])
    if dimension is None:  # the one block that is not zero
        blocks = naive["gradient"].reshape(3, 3, 4)
        exact(snapshot.prompt_gradients, blocks[range(3), range(3)])
    else:
        exact(snapshot.prompt_gradients, naive["gradient"])
    assert snapshot.dimension == bandit.dimension == len(theta)


@both_policies
@every_levels
def test_moments_against_loops(dimension, levels, rng):
    """Would catch: mean reward for reward in τ or σ², m without the centring, swapped outcomes."""
    bandit, theta = random_problem(rng, 3, 4, reward_levels=levels, dimension=dimension)
    moments, naive = bandit.at(theta).moments, naive_moments(bandit, theta)
    computed = {field.name: getattr(moments, field.name) for field in dataclasses.fields(moments)}
    assert (computed["outcome"] is None) == (len(levels) > 2)
    outcome = computed.pop("outcome")
    if outcome is not None:
        computed |= dataclasses.asdict(outcome)
    exact(computed.pop("prompt_probs"), bandit.prompt_probs)
    prompt_noise = computed.pop("prompt_noise")
    for name, values in computed.items():
        np.testing.assert_allclose(values, naive[name], rtol=0, atol=1e-12, err_msg=name)
    whole = bandit.prompt_probs @ naive["gradient"]
    exact(prompt_noise, bandit.prompt_probs @ naive["gradient_norm_squared"] - whole @ whole)
    exact(moments.objective_gradient_norm_squared, whole @ whole)


@both_policies
def test_noise_components_are_variances(dimension, rng):
    """Would catch: c₂ without - ‖g(x)‖², c₃ without + ‖g(x)‖², c₁ about another mean than g."""
    bandit, theta = random_problem(rng, dimension=dimension, reward_levels=LEVELS["graded"])
    noise, naive = bandit.at(theta).noise, naive_moments(bandit, theta)
    whole = bandit.prompt_probs @ naive["gradient"]
    prompt = oracle = residual = 0.0
    for x, weight in enumerate(bandit.prompt_probs):
        of_prompt, v, g = cells(bandit, theta, x), naive["value"][x], naive["gradient"][x]
        prompt += weight * (g - whole) @ (g - whole)
        oracle += weight * expectation(
            of_prompt, lambda w, z, v=v, g=g: sum((w * (z - v) - g) ** 2)
        )
        for p, w, z in of_prompt:  # 2·tr Var ζ₂ for every pair of outputs
            residual += (
                2
                * weight
                * p
                * expectation(
                    of_prompt,
                    lambda u, y, w=w, z=z, v=v: sum((-(w * (y - v) + u * (z - v)) / 2) ** 2),
                )
            )
    exact([noise.prompt, noise.oracle, noise.residual], [prompt, oracle, residual])
    assert bandit.at(theta).moments.noise == noise


def test_prompt_noise_does_not_cancel(rng):
    """Prompts that differ by 1e-9 have c₁ ~ 1e-18, of which E‖g(X)‖² - ‖g‖² keeps no digit."""
    features = np.tile(rng.normal(size=(1, 4, 3)), (3, 1, 1))
    reward = np.tile(rng.uniform(0.2, 0.8, (1, 4)), (3, 1)) + 1e-9 * rng.normal(size=(3, 4))
    prompts = np.array([0.5, 0.25, 0.25])  # binary fractions: no rounding in the weights
    bandit = SoftmaxBandit(features, [0.0, 1.0], np.stack([1 - reward, reward], -1), prompts)
    snapshot = bandit.at(np.zeros(3))
    weights = [Fraction(weight) for weight in prompts]
    gradients = [[Fraction(g) for g in row] for row in snapshot.prompt_gradients]
    of_squares = sum(f * sum(g * g for g in row) for f, row in zip(weights, gradients, strict=True))
    square = [sum(f * row[j] for f, row in zip(weights, gradients, strict=True)) for j in range(3)]
    expected = float(of_squares - sum(g * g for g in square))
    assert 0 < expected < 1e-17
    assert snapshot.noise.prompt == pytest.approx(expected, rel=1e-6, abs=0)


@both_policies
def test_gradient_against_differences_of_the_objective(dimension, rng):
    """Would catch: a sign, a factor, a g(x) that is not weighted by f(x)."""
    bandit, theta = random_problem(rng, dimension=dimension, reward_levels=LEVELS["graded"])
    step = 1e-5 * np.eye(len(theta))
    difference = [
        (bandit.at(theta + h).objective - bandit.at(theta - h).objective) / 2e-5 for h in step
    ]
    np.testing.assert_allclose(bandit.at(theta).gradient, difference, rtol=0, atol=1e-8)


@both_policies
def test_gradient_and_scores_against_autograd(dimension, rng):
    """Would catch: a score that is not the derivative of log π, an objective that is not J."""
    bandit, theta = random_problem(rng, dimension=dimension, reward_levels=LEVELS["graded"])
    phi = one_hot(3, 4) if bandit.features is None else bandit.features
    phi, offsets, prompts, reward_probs, levels = map(
        torch.as_tensor,
        (phi, bandit.offsets, bandit.prompt_probs, bandit.reward_probs, bandit.reward_levels),
    )

    def log_policy(parameters):
        return torch.log_softmax(phi @ parameters + offsets, dim=-1)

    def objective(parameters):
        per_action = (log_policy(parameters).exp()[..., None] * reward_probs * levels).sum((1, 2))
        return prompts @ per_action

    point, snapshot = torch.as_tensor(theta), bandit.at(theta)
    exact(snapshot.objective, objective(point))
    exact(snapshot.gradient, torch.func.grad(objective)(point))
    exact(snapshot.dense_scores(), torch.func.jacrev(log_policy)(point))


@every_levels
def test_tabular_equals_explicit_one_hot_features(levels, rng):
    """Would catch: a closed form of the tabular branch that the other branch does not share."""
    tabular, theta = random_problem(rng, 3, 4, reward_levels=levels)
    dense = dataclasses.replace(tabular, features=one_hot(3, 4))
    assert tabular.dimension == dense.dimension == 12
    left, right = tabular.at(theta), dense.at(theta)
    for name in ("objective", "value", "gradient", "optimal_baseline", "score_norm_squared",
                 "mean_reward", "action_probs", "dimension"):  # fmt: skip
        exact(getattr(left, name), getattr(right, name))
    exact(left.dense_scores(), right.dense_scores())
    blocks = right.prompt_gradients.reshape(3, 3, 4)
    exact(left.prompt_gradients, blocks[range(3), range(3)])
    for one, other in [(left.moments, right.moments), (left.noise, right.noise)]:
        one, other = dataclasses.asdict(one), dataclasses.asdict(other)
        outcomes = one.pop("outcome", None), other.pop("outcome", None)
        assert (outcomes[0] is None) == (outcomes[1] is None)
        one, other = one | (outcomes[0] or {}), other | (outcomes[1] or {})
        for name in one:
            np.testing.assert_allclose(one[name], other[name], atol=1e-12, err_msg=name)


def test_classmethod_tabular_is_the_class_without_features(rng):
    bandit, theta = random_problem(rng)
    same = SoftmaxBandit.tabular(
        bandit.reward_levels, bandit.reward_probs, bandit.prompt_probs, bandit.offsets
    )
    assert same.features is None
    exact(same.at(theta).action_probs, bandit.at(theta).action_probs)
    exact(same.at(theta).objective, bandit.at(theta).objective)


def test_defaults_are_uniform_prompts_and_no_offsets(rng):
    bandit, theta = random_problem(rng)
    plain = SoftmaxBandit.tabular(bandit.reward_levels, bandit.reward_probs)
    exact(plain.prompt_probs, np.full(3, 1 / 3))
    spelled_out = dataclasses.replace(bandit, prompt_probs=[1 / 3] * 3, offsets=np.zeros((3, 4)))
    exact(plain.at(theta).objective, spelled_out.at(theta).objective)


@both_policies
def test_optimal_baseline_minimises_the_error(dimension, rng):
    """E‖W(Z - b)‖² by sums over cells. Would catch: V for b*, which costs m²/s more."""
    bandit, theta = random_problem(rng, dimension=dimension, reward_levels=LEVELS["graded"])
    snapshot = bandit.at(theta)
    moments = snapshot.moments
    for x, best in enumerate(snapshot.optimal_baseline):

        def error(baseline, x=x):
            of_prompt = cells(bandit, theta, x)
            return expectation(of_prompt, lambda w, z: (w @ w) * (z - baseline) ** 2)

        norm, m = moments.score_norm_squared[x], moments.score_norm_reward_covariance[x]
        assert abs(m) > 1e-3  # Assumption 2 fails, so V and b* differ
        exact(error(snapshot.value[x]) - error(best), m**2 / norm)
        for step in (-0.1, 0.1):
            exact(error(best + step) - error(best), step**2 * norm)


@both_policies
def test_a_certain_policy_learns_nothing(dimension, rng):
    """Every moment of the score is 0, b* is V, and nothing warns of 0/0."""
    bandit, _ = random_problem(rng, dimension=dimension)
    certain = dataclasses.replace(bandit, offsets=np.array([[0.0, 5e3, 0, 0]] * 3))
    snapshot = certain.at(np.zeros(bandit.dimension))
    exact(snapshot.action_probs, [[0, 1, 0, 0]] * 3)
    exact(snapshot.value, bandit.reward_probs[:, 1, 1])
    exact(snapshot.optimal_baseline, snapshot.value)
    exact(snapshot.moments.reward_variance, snapshot.value * (1 - snapshot.value))
    for zero in ("score_norm_squared", "oracle_norm_squared", "gradient_norm_squared",
                 "score_norm_reward_covariance", "prompt_noise"):  # fmt: skip
        np.testing.assert_array_equal(getattr(snapshot.moments, zero), 0, err_msg=zero)
    assert dataclasses.astuple(snapshot.noise) == (0, 0, 0)


def test_impossible_outcomes_have_no_score(rng):
    """Would catch: a NaN for E[‖W‖²|Z=1] where nothing succeeds."""
    rewards = np.array([[[1.0, 0.0]] * 3, [[0.0, 1.0]] * 3])  # never at prompt 0, always at 1
    outcome = SoftmaxBandit.tabular([0, 1], rewards).at(rng.normal(size=6)).moments.outcome
    np.testing.assert_array_equal(outcome.success_probability, [0, 1])
    assert outcome.success_score_norm_squared[0] == outcome.failure_score_norm_squared[1] == 0
    assert outcome.success_score_norm_squared[1] > 0 < outcome.failure_score_norm_squared[0]


def test_large_parameters_do_not_overflow():
    bandit = SoftmaxBandit.tabular([0.0, 1.0], np.full((1, 3, 2), 0.5))
    exact(bandit.at([800.0, 800.0, -800.0]).action_probs, [[0.5, 0.5, 0]])


def test_equality_is_identity(rng):
    """Arrays have no truth value: bandits and snapshots compare and hash as objects."""
    snapshot, bandit = random_snapshot(rng), random_problem(rng)[0]
    assert snapshot != dataclasses.replace(snapshot)
    assert bandit != dataclasses.replace(bandit)
    assert len({snapshot, snapshot, bandit, bandit}) == 2
    for frozen in (snapshot, bandit):
        with pytest.raises(dataclasses.FrozenInstanceError):
            frozen.reward_levels = np.zeros(2)


def test_exact_moments_are_fast(rng):
    """64 prompts with 16 actions, some 5 ms at most. Would catch: a sum over cells in Python."""
    bandit, theta = random_problem(rng, 64, 16)
    assert loops(lambda: bandit.at(theta).moments, repeats=20) < 0.25


# Arguments that fit, and one change at a time that does not; the message must name what clashes.
FITTING = {
    "features": np.ones((2, 3, 4)),
    "reward_levels": [0.0, 1.0],
    "reward_probs": np.full((2, 3, 2), 0.5),
    "prompt_probs": [0.5, 0.5],
    "offsets": np.zeros((2, 3)),
}
BAD = [
    ({"reward_probs": np.tile([1.25, -0.25], (2, 3, 1))},
     "reward_probs must not be negative, got a smallest entry of -0.25"),
    ({"reward_probs": np.full((2, 3, 2), 0.505)},
     "reward_probs must sum to 1 along the last axis, got sums off by 0.01"),
    ({"reward_probs": np.full((2, 3, 2), np.nan)},
     "reward_probs must be finite, got 12 NaN or infinity"),
    ({"reward_probs": np.full((6, 2), 0.5)},
     "reward_probs must be 3-dimensional and not empty, got shape (6, 2)"),
    ({"prompt_probs": [0.5, 0.4]},
     "prompt_probs must sum to 1 along the last axis, got sums off by 0.1"),
    ({"prompt_probs": [1.5, -0.5]},
     "prompt_probs must not be negative, got a smallest entry of -0.5"),
    ({"prompt_probs": [0.5, 0.25, 0.25]},
     "arrays must agree on the number of prompts, got: "
     "reward_probs has 2, prompt_probs has 3, offsets has 2, features has 2"),
    ({"reward_levels": [0.0, np.inf]}, "reward_levels must be finite, got 1 NaN or infinity"),
    ({"reward_levels": [0.0, 0.5, 1.0]},
     "arrays must agree on the number of levels, got: reward_levels has 3, reward_probs has 2"),
    ({"features": np.ones((2, 5, 4))},
     "arrays must agree on the number of actions, got: "
     "reward_probs has 3, offsets has 3, features has 5"),
    ({"features": np.ones((3, 4))},
     "features must be 3-dimensional and not empty, got shape (3, 4)"),
    ({"features": np.full((2, 3, 4), np.nan)}, "features must be finite, got 24 NaN or infinity"),
    ({"offsets": np.zeros((2, 5))},
     "arrays must agree on the number of actions, got: "
     "reward_probs has 3, offsets has 5, features has 3"),
    ({"offsets": np.full((2, 3), -np.inf)}, "offsets must be finite, got 6 NaN or infinity"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_bandits_are_refused(change, message):
    SoftmaxBandit(**FITTING)
    with pytest.raises(ValueError) as error:
        SoftmaxBandit(**FITTING | change)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        (np.zeros(5), "^theta must have length 6, got 5$"),
        (np.zeros((2, 3)), r"^theta must be 1-dimensional and not empty, got shape \(2, 3\)$"),
        ([0, 0, np.nan, 0, 0, 0], "^theta must be finite, got 1 NaN or infinity$"),
    ],
)
def test_bad_parameters_are_refused(theta, message):
    bandit = SoftmaxBandit.tabular([0, 1], np.full((2, 3, 2), 0.5))
    with pytest.raises(ValueError, match=message):
        bandit.at(theta)


def test_rounding_errors_of_probabilities_are_divided_out():
    """Sums off by 1e-9 are the caller's rounding; left in, J would move by as much."""
    bandit = SoftmaxBandit.tabular([1.0], np.full((2, 3, 1), 1 + 1e-9), [0.5, 0.5 - 1e-9])
    np.testing.assert_array_equal(bandit.reward_probs, np.ones((2, 3, 1)))
    assert bandit.at(np.zeros(6)).objective == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    "name",
    ["reward_probs", "prompt_probs", "features", "reward_levels", "offsets"],
)
def test_bandit_does_not_change_with_the_arrays_it_was_made_from(name):
    arguments = {key: np.array(value, dtype=float) for key, value in FITTING.items()}
    bandit = SoftmaxBandit(**arguments)
    assert not np.shares_memory(getattr(bandit, name), arguments[name])


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2)])
def test_a_bandit_without_prompts_or_actions_is_refused(shape):
    with pytest.raises(ValueError, match="reward_probs must"):
        SoftmaxBandit.tabular([0.0, 1.0], np.full(shape, 0.5)).at([])


# TugOfWar

SHAPES = [(1, 1), (1, 0), (1, 3), (2, 1), (3, 2), (5, 0)]
every_shape = pytest.mark.parametrize(("axes", "flat"), SHAPES)


@pytest.mark.parametrize("flat", [0, 1])
def test_tug_of_war_is_the_problem_of_the_laws(flat):
    """J by hand: sigmoids at 0 and 2, rewards .9/.1 and .1/.9. Would catch: swapped prompts."""
    problem = TugOfWar(num_flat=flat)
    for t in np.linspace(-1, 3, 9):
        first, second = 1 / (1 + np.exp(-t)), 1 / (1 + np.exp(2 - t))
        snapshot = problem.at(problem.theta(t))
        exact(snapshot.prompt_probs, [0.5, 0.5])
        exact(snapshot.action_probs[:, 1], [first, second])
        exact(snapshot.value, [0.9 * first + 0.1 * (1 - first), 0.1 * second + 0.9 * (1 - second)])


def test_tug_of_war_coordinate_is_the_sum_of_theta():
    problem = TugOfWar()
    exact(problem.axes, [[1, 1]])
    exact(problem.at([0.7, -0.2]).action_probs, problem.at([0.5, 0.0]).action_probs)


@every_shape
def test_tug_of_war_axes_are_orthogonal_and_theta_is_shortest(axes, flat, rng):
    """R Rᵀ = 2I and Rθ = t. Would catch: a last cosine row of norm 2, θ with a flat component."""
    problem = TugOfWar(num_axes=axes, num_flat=flat)
    assert problem.axes.shape == (axes, axes + flat)
    exact(problem.axes @ problem.axes.T, 2 * np.eye(axes))
    t = rng.normal(size=axes)
    exact(problem.axes @ problem.theta(t), t)
    exact(problem.theta(t), np.linalg.pinv(problem.axes) @ t)
    exact(problem.theta(0.3), problem.theta(np.full(axes, 0.3)))
    assert problem.bandit.dimension == axes + flat
    assert len(problem.at(problem.theta(t)).value) == 2 * axes


@every_shape
@pytest.mark.parametrize("separation", [2.0, 3.5])
def test_tug_of_war_is_won_half_way(axes, flat, separation, rng):
    """J is least improvable on t = separation/2. Would catch: the optimum at 0 or `separation`."""
    problem = TugOfWar(num_axes=axes, num_flat=flat, separation=separation)
    best = problem.at(problem.theta(separation / 2))
    exact(best.gradient, np.zeros(axes + flat))
    for axis in range(axes):
        for t in np.linspace(separation / 2 - 2, separation / 2 + 2, 40):  # even: not the middle
            coordinates = np.full(axes, separation / 2)
            coordinates[axis] = t
            assert problem.at(problem.theta(coordinates)).objective < best.objective


def negative_hessian(problem, theta):
    """-H by central differences of the exact gradient."""
    steps = 1e-5 * np.eye(len(theta))
    return -np.array([(problem.at(theta + h).gradient - problem.at(theta - h).gradient) / 2e-5
                      for h in steps])  # fmt: skip


@every_shape
def test_tug_of_war_curvature(axes, flat):
    """Eigenvalue 0.145372/r on the axes, 0 on the flat directions.

    Would catch: rows of squared length 1, whose eigenvalue is half as large.
    """
    problem = TugOfWar(num_axes=axes, num_flat=flat)
    eigenvalues = np.linalg.eigvalsh(negative_hessian(problem, problem.theta(1.0)))
    s = 1 / (1 + np.exp(-1))
    curvature = 1.6 * s * (1 - s) * (2 * s - 1)
    assert curvature == pytest.approx(0.145372, abs=5e-7)
    np.testing.assert_allclose(eigenvalues[flat:], curvature / axes, rtol=0, atol=1e-9)
    np.testing.assert_allclose(eigenvalues[:flat], 0, rtol=0, atol=1e-9)


@every_shape
def test_tug_of_war_flat_directions_change_nothing(axes, flat, rng):
    """Would catch: an axis that is not orthogonal to the kernel of R."""
    problem = TugOfWar(num_axes=axes, num_flat=flat)
    theta = rng.normal(size=axes + flat)
    kernel = np.eye(axes + flat) - problem.axes.T @ problem.axes / 2
    assert np.linalg.matrix_rank(kernel, tol=1e-9) == flat
    here, there = problem.at(theta), problem.at(theta + 10 * kernel @ rng.normal(size=axes + flat))
    exact(here.action_probs, there.action_probs)
    exact(here.gradient, there.gradient)
    exact(kernel @ here.gradient, np.zeros(axes + flat))


def test_tug_of_war_asymptotic_weights():
    """w = ½λΣ, Σ = β²Ω/(2βλ - 1), β = 1.5/λ, B = G = 4: the numbers of shared/laws.md.

    The whole noise lies along the one axis. Would catch: m = 0 (vanilla then loses to the oracle),
    c₃ without its factor 1/(G - 1), Σ without β².
    """
    problem = TugOfWar()
    snapshot = problem.at(problem.theta(1.0))
    curvature = np.trace(negative_hessian(problem, problem.theta(1.0)))
    noise, moments = snapshot.noise, snapshot.moments
    oracle = noise.prompt / 4 + noise.oracle / 16
    value, norm = moments.value, moments.score_norm_squared
    extra = 2 * value * moments.score_norm_reward_covariance + value**2 * norm
    errors = {
        "grpo": oracle + noise.residual / (4 * 4 * 3),
        "oracle": oracle,
        "vanilla": oracle + moments.prompt_probs @ extra / 16,
    }
    rate = 1.5 / curvature
    weights = {name: curvature / 2 * rate**2 * omega / 2 for name, omega in errors.items()}
    expected = {"grpo": 0.0803, "oracle": 0.0694, "vanilla": 0.0659}
    assert weights == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("dial", "message"),
    [
        ({"signal": 0.0}, "signal must be a finite number and above 0, got 0.0"),
        ({"signal": 1.5}, "signal must be at most 1, got 1.5"),
        ({"signal": np.nan}, "signal must be a finite number and above 0, got nan"),
        ({"num_axes": 0}, "num_axes must be an integer of at least 1, got 0"),
        ({"num_flat": -1}, "num_flat must be an integer of at least 0, got -1"),
        ({"num_flat": 1.0}, "num_flat must be an integer of at least 0, got 1.0"),
        ({"separation": np.inf}, "separation must be a finite number, got inf"),
    ],
)
def test_tug_of_war_dials_out_of_range(dial, message):
    with pytest.raises(ValueError) as error:
        TugOfWar(**dial)
    assert str(error.value) == message


def test_tug_of_war_is_a_frozen_value():
    problem = TugOfWar(signal=1.0, num_axes=2)
    assert problem == TugOfWar(1.0, 2)
    assert hash(problem) == hash(TugOfWar(1.0, 2))
    assert problem != TugOfWar(1.0, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.signal = 0.5
    assert problem.bandit is problem.bandit  # made once


def test_tug_of_war_coordinates_of_another_number():
    with pytest.raises(ValueError, match="coordinates"):
        TugOfWar(num_axes=2).theta([1.0, 2.0, 3.0])


UNLIKE = TugOfWar(num_axes=3, num_flat=2, separation=(1.5, 2.0, 4.0))


def test_tug_of_war_separations_are_one_for_each_axis():
    """The optimum by axis, and curvatures 1.6·s(1−s)(2s−1)/3, s = sigmoid(separation/2).

    Would catch: separations in another order, or the first one for all.
    """
    exact(UNLIKE.separations, [1.5, 2.0, 4.0])
    exact(UNLIKE.axes @ UNLIKE.optimum, [0.75, 1.0, 2.0])
    exact(UNLIKE.at(UNLIKE.optimum).gradient, np.zeros(5))
    exact(UNLIKE.optimum, UNLIKE.theta([0.75, 1.0, 2.0]))
    s = 1 / (1 + np.exp(-np.array([0.75, 1.0, 2.0])))
    along = UNLIKE.axes @ negative_hessian(UNLIKE, UNLIKE.optimum) @ UNLIKE.axes.T / 2
    curvatures = np.diag(1.6 * s * (1 - s) * (2 * s - 1) / 3)
    np.testing.assert_allclose(along, curvatures, rtol=0, atol=1e-9)


@every_shape
def test_tug_of_war_separation_of_all_axes_is_that_of_each(axes, flat, rng):
    one = TugOfWar(num_axes=axes, num_flat=flat, separation=3.0)
    several = TugOfWar(num_axes=axes, num_flat=flat, separation=(3.0,) * axes)
    theta = rng.normal(size=axes + flat)
    np.testing.assert_array_equal(one.at(theta).action_probs, several.at(theta).action_probs)
    np.testing.assert_array_equal(one.optimum, several.optimum)
    assert hash(several) == hash(TugOfWar(num_axes=axes, num_flat=flat, separation=(3.0,) * axes))


@pytest.mark.parametrize(
    ("num_axes", "separation", "message"),
    [
        (2, (1.0, 2.0, 3.0), "separation must be one number or 2, got (1.0, 2.0, 3.0)"),
        (1, (1.0, 2.0), "separation must be one number or 1, got (1.0, 2.0)"),
        (2, (1.0, np.nan), "separation must be a finite number, got nan"),
        (1, True, "separation must be a finite number, got True"),
        (1, "2", "separation must be a finite number, got '2'"),
    ],
)
def test_tug_of_war_separations_out_of_range(num_axes, separation, message):
    with pytest.raises(ValueError) as error:
        TugOfWar(num_axes=num_axes, separation=separation)
    assert str(error.value) == message


def test_tug_of_war_is_not_lost_at_its_optimum():
    """Half way along a negative separation J is least: it is refused, or the optimum elsewhere."""
    try:
        problem = TugOfWar(separation=-2.0)
    except ValueError as error:
        assert "separation must" in str(error)
        return
    best = problem.at(problem.optimum).objective
    assert best >= max(problem.at(problem.theta(t)).objective for t in (-5.0, 0.0, 5.0))


# sample_groups


@both_policies
@every_levels
def test_groups_are_drawn_from_the_snapshot(dimension, levels, rng):
    """|z| ≤ 5 over 36 cells and 6 pairs of neighbours. Would catch: prompts drawn evenly, rewards
    of another output, outputs of a group that are alike."""
    snapshot = random_snapshot(rng, 3, 4, reward_levels=levels, dimension=dimension)
    prompts, outputs, rewards = snapshot.sample_groups(20_000, 3, np.random.default_rng(6))
    assert prompts.shape == (20_000,) and outputs.shape == rewards.shape == (20_000, 3)
    for x, f in enumerate(snapshot.prompt_probs):
        here = prompts == x
        assert abs(here.mean() - f) <= 5 * np.sqrt(f * (1 - f) / len(prompts))
        groups, number = outputs[here], 3 * here.sum()
        for y, p in enumerate(snapshot.action_probs[x]):
            both = np.mean((groups[:, 0] == y) & (groups[:, 1] == y))
            assert abs(both - p**2) <= 5 * np.sqrt(p**2 * (1 - p**2) / len(groups))
            for level, q in zip(levels, snapshot.reward_probs[x, y] * p, strict=True):
                found = np.mean((groups == y) & (rewards[here] == level))
                assert abs(found - q) <= 5 * np.sqrt(q * (1 - q) / number)


def test_what_never_happens_is_never_drawn():
    """A prompt, an output and a level of probability zero, the last of each and another."""
    bandit = SoftmaxBandit.tabular(
        [0, 1, 2], [[[0, 1, 0], [0, 0, 1], [1, 0, 0]]] * 3, prompt_probs=[0, 1, 0]
    )
    snapshot = bandit.at(np.tile([0.0, 1.0, -800.0], 3))
    prompts, outputs, rewards = snapshot.sample_groups(500, 4, np.random.default_rng(0))
    assert set(prompts) == {1} and set(outputs.ravel()) == {0, 1}
    np.testing.assert_array_equal(rewards, outputs + 1)


@pytest.mark.parametrize("name", ["batch_size", "group_size"])
def test_groups_of_no_size_are_refused(name):
    sizes = {"batch_size": 2, "group_size": 3, name: 0}
    snapshot = TugOfWar().at([0.0, 0.0])
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got 0"):
        snapshot.sample_groups(**sizes, rng=np.random.default_rng(0))
    with pytest.raises(TypeError, match="rng must be"):
        snapshot.sample_groups(2, 3, rng=0)


# best_objective


@every_levels
def test_best_objective_of_tables_is_the_best_action_of_each_prompt(levels, rng):
    """A bound that no θ attains and a θ far out approaches. Would catch: the best level instead."""
    bandit, _ = random_problem(rng, 3, 4, reward_levels=levels)
    naive, far = 0.0, np.zeros((3, 4))
    for x, weight in enumerate(bandit.prompt_probs):
        means = [sum(bandit.reward_probs[x, y] * bandit.reward_levels) for y in range(4)]
        naive += weight * max(means)
        far[x, means.index(max(means))] = 1.0
    exact(bandit.best_objective, naive)
    assert bandit.at(10 * far.ravel()).objective < bandit.best_objective
    exact(bandit.at(60 * far.ravel()).objective, bandit.best_objective)


@pytest.mark.parametrize("problem", [TugOfWar(), TugOfWar(0.3, 2, 0, 3.5), UNLIKE], ids=str)
def test_best_objective_of_features_is_the_optimum_of_the_tug_of_war(problem):
    exact(problem.bandit.best_objective, problem.at(problem.optimum).objective)
    assert problem.bandit.best_objective is problem.bandit.best_objective  # found once


def test_best_objective_of_one_hot_features_is_that_of_the_table(rng):
    """To 1e-9 from below: ascent ends on the way to infinity."""
    bandit, _ = random_problem(rng, 3, 4, reward_levels=LEVELS["graded"])
    dense = dataclasses.replace(bandit, features=one_hot(3, 4))
    assert -1e-9 < dense.best_objective - bandit.best_objective <= 1e-15
