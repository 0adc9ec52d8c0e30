"""Laws of the final gap against matrix equations, recursions run many times, and the bandit."""

import re

import numpy as np
import pytest
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov

from ustat_grpo import TugOfWar
from ustat_grpo.laws import group_size, limit
from ustat_grpo.laws.weighted_chi_squared import WeightedChiSquared

RELATIVE = 1e-11
CURVATURES = {1: [0.8], 3: [1.6, 0.7, 0.5]}
DECAYING_RATE = 2.5
CONSTANT_RATE = 0.3
NUM_RUNS = 4000


def rotation(dimension, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, dimension)))[0]


def correlated(dimension, seed=1):
    """Return a covariance matrix far from diagonal."""
    root = np.random.default_rng(seed).normal(size=(dimension, dimension))
    return root @ root.T + 0.1 * np.eye(dimension)


def hessian_of(eigenvalues, num_flat=0, seed=0):
    """Return H* with the given eigenvalues of −H* and some flat directions, in a random basis."""
    values = np.concatenate([eigenvalues, np.zeros(num_flat)])
    basis = rotation(len(values), seed)
    return -(basis * values) @ basis.T


def problem(rank, num_flat=2):
    dimension = rank + num_flat
    return hessian_of(CURVATURES[rank], num_flat), correlated(dimension)


class TestIdentifiable:
    @pytest.mark.parametrize("num_flat", [0, 2])
    def test_decomposes_the_hessian(self, num_flat):
        hessian = hessian_of([0.5, 1.6, 0.7], num_flat)
        eigenvalues, directions = limit.identifiable(hessian)
        np.testing.assert_allclose(eigenvalues, [1.6, 0.7, 0.5], rtol=RELATIVE)
        assert directions.shape == (3 + num_flat, 3)
        np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-14)
        np.testing.assert_allclose(directions * eigenvalues @ directions.T, -hessian, atol=1e-14)

    def test_tolerance_decides_what_is_flat(self):
        hessian = -np.diag([1.0, 1e-6])
        assert len(limit.identifiable(hessian).eigenvalues) == 2
        assert len(limit.identifiable(hessian, tolerance=1e-4).eigenvalues) == 1

    def test_rounding_is_no_curvature(self):
        eigenvalues = limit.identifiable(-np.diag([1.0, 1e-15, -1e-15])).eigenvalues
        np.testing.assert_array_equal(eigenvalues, [1.0])


class TestMatrixEquations:
    @pytest.mark.parametrize("rank", CURVATURES)
    def test_against_scipy(self, rank):
        hessian, noise = problem(rank)
        eigenvalues, directions = limit.identifiable(hessian)
        omega = directions.T @ noise @ directions
        drift = DECAYING_RATE * np.diag(eigenvalues) - np.eye(rank) / 2
        lyapunov = solve_continuous_lyapunov(drift, DECAYING_RATE**2 * omega)
        obtained = limit.decaying_covariance(hessian, noise, rate=DECAYING_RATE)
        np.testing.assert_allclose(obtained, lyapunov, rtol=RELATIVE)
        step = np.eye(rank) - CONSTANT_RATE * np.diag(eigenvalues)
        stein = solve_discrete_lyapunov(step, CONSTANT_RATE**2 * omega)
        obtained = limit.stationary_covariance(hessian, noise, rate=CONSTANT_RATE)
        np.testing.assert_allclose(obtained, stein, rtol=RELATIVE)

    def test_exact_moments_of_the_decaying_recursion_converge_like_one_over_n(self):
        """n·E[θθᵀ] less Σ falls by two when n doubles, as every 2βλ − 1 here is above 1."""
        hessian, noise = problem(3)
        eigenvalues, directions = limit.identifiable(hessian)
        omega = directions.T @ noise @ directions
        expected = limit.decaying_covariance(hessian, noise, rate=DECAYING_RATE)
        second, errors = np.zeros((3, 3)), {}
        for i in range(1, 16_001):
            factor = 1 - DECAYING_RATE / i * eigenvalues
            second = np.outer(factor, factor) * second + (DECAYING_RATE / i) ** 2 * omega
            if i in (8_000, 16_000):
                errors[i] = np.abs(i * second / expected - 1).max()
        assert errors[16_000] < 5e-4
        assert 1.8 < errors[8_000] / errors[16_000] < 2.2


def recursion(eigenvalues, omega, rates, seed):
    """Run θ ← θ + β_i(ξ − Λθ), ξ ~ N(0, Ω), from 0, many times; return the last θ."""
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(omega).T
    theta = np.zeros((NUM_RUNS, len(eigenvalues)))
    for rate in rates:
        noise = np.zeros_like(theta)
        for draw, row in zip(rng.normal(size=theta.T.shape), root, strict=True):
            noise += draw[:, None] * row
        theta += rate * (noise - theta * eigenvalues)
    return theta


def moment_scores(theta, covariance):
    """z-scores of all second moments."""
    products = theta[:, :, None] * theta[:, None, :]
    error = products.std(axis=0) / np.sqrt(len(theta))
    return (products.mean(axis=0) - covariance) / error


class TestRecursions:
    """Second moments to 9 % (|z| ≤ 4): would catch a lost β², ½ or −1, or λ_j for λ_j + λ_k."""

    @pytest.mark.parametrize("rank", CURVATURES)
    def test_decaying_rate(self, rank):
        hessian, noise = problem(rank)
        eigenvalues, directions = limit.identifiable(hessian)
        omega = directions.T @ noise @ directions
        num_steps = 1000
        rates = DECAYING_RATE / np.arange(1, num_steps + 1)
        theta = recursion(eigenvalues, omega, rates, seed=2) * np.sqrt(num_steps)
        covariance = limit.decaying_covariance(hessian, noise, rate=DECAYING_RATE)
        assert np.abs(moment_scores(theta, covariance)).max() <= 4
        mutants = {
            "β² lost": covariance / DECAYING_RATE**2,
            "β for β²": covariance / DECAYING_RATE,
            "−1 lost": DECAYING_RATE * omega / np.add.outer(eigenvalues, eigenvalues),
        }
        for mutant in mutants.values():
            assert np.abs(moment_scores(theta, mutant)).max() > 4
        gaps = theta**2 @ eigenvalues / 2
        self.check_gaps(gaps, limit.weights(hessian, covariance))
        assert limit.mean_gap(hessian, covariance) == pytest.approx(gaps.mean(), rel=0.1)

    @pytest.mark.parametrize("rank", CURVATURES)
    def test_constant_rate(self, rank):
        hessian, noise = problem(rank)
        eigenvalues, directions = limit.identifiable(hessian)
        omega = directions.T @ noise @ directions
        theta = recursion(eigenvalues, omega, [CONSTANT_RATE] * 80, seed=3)
        covariance = limit.stationary_covariance(hessian, noise, rate=CONSTANT_RATE)
        assert np.abs(moment_scores(theta, covariance)).max() <= 4
        flow = CONSTANT_RATE * omega / np.add.outer(eigenvalues, eigenvalues)
        for mutant in (covariance / CONSTANT_RATE, covariance / CONSTANT_RATE**2, flow):
            assert np.abs(moment_scores(theta, mutant)).max() > 4
        self.check_gaps(theta**2 @ eigenvalues / 2, limit.weights(hessian, covariance))

    def check_gaps(self, gaps, weights):
        """Shares of runs below quantiles of the law, and not of the law without ½."""
        levels = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
        error = np.sqrt(levels * (1 - levels) / NUM_RUNS)

        def worst(law):
            shares = np.array([(gaps <= x).mean() for x in law.ppf(levels)])
            return np.abs((shares - levels) / error).max()

        assert worst(WeightedChiSquared(weights)) <= 4 < worst(WeightedChiSquared(2 * weights))


RATES = {
    limit.decaying_covariance: DECAYING_RATE,
    limit.stationary_covariance: CONSTANT_RATE,
}
SOLVERS = list(RATES)
COMPONENTS = {
    limit.decaying_covariance: limit.decaying_gap_components,
    limit.stationary_covariance: limit.stationary_gap_components,
}


@pytest.mark.parametrize("solver", SOLVERS)
class TestWeights:
    def test_are_the_eigenvalues_of_the_definition(self, solver):
        """½ Σ^½ Λ Σ^½ with a root by eigendecomposition, where the code has ½ Λ^½ Σ Λ^½."""
        hessian, noise = problem(3)
        covariance = solver(hessian, noise, rate=RATES[solver])
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(values) @ vectors.T
        form = root @ np.diag(limit.identifiable(hessian).eigenvalues) @ root / 2
        expected = np.linalg.eigvalsh(form)[::-1]
        np.testing.assert_allclose(limit.weights(hessian, covariance), expected, rtol=1e-10)

    def test_sum_to_the_expected_gap(self, solver):
        hessian, noise = problem(3)
        covariance = solver(hessian, noise, rate=RATES[solver])
        weights = limit.weights(hessian, covariance)
        assert limit.mean_gap(hessian, covariance) == pytest.approx(weights.sum(), rel=1e-12)

    @pytest.mark.parametrize("num_flat", [0, 1, 3])
    @pytest.mark.parametrize("eigenvalues", [[1.6, 0.7, 0.5], [0.9, 0.9, 0.4]])
    def test_do_not_depend_on_the_basis(self, solver, eigenvalues, num_flat):
        """Would catch: λ and Σ in different orders, QΓQᵀ for QᵀΓQ."""
        hessian, noise = hessian_of(eigenvalues, num_flat), correlated(3 + num_flat)
        turn = rotation(3 + num_flat, seed=5)
        found = [
            limit.weights(h, solver(h, g, rate=RATES[solver]))
            for h, g in [(hessian, noise), (turn @ hessian @ turn.T, turn @ noise @ turn.T)]
        ]
        assert found[0].shape == (3,)
        np.testing.assert_allclose(found[1], found[0], rtol=1e-10)

    def test_noise_in_flat_directions_does_not_matter(self, solver):
        hessian, noise = -np.diag([1.5, 0.6, 0.0]), correlated(3)
        louder = noise + np.diag([0, 0, 1e3])
        one, other = (solver(hessian, g, rate=RATES[solver]) for g in (noise, louder))
        np.testing.assert_array_equal(one, other)

    def test_noiseless_coordinates_are_dropped(self, solver):
        hessian = hessian_of([1.6, 0.7, 0.5], num_flat=1)
        directions = limit.identifiable(hessian).directions
        noise = 2.0 * np.outer(directions[:, 1], directions[:, 1])
        covariance = solver(hessian, noise, rate=RATES[solver])
        weights = limit.weights(hessian, covariance)
        assert weights.shape == (1,)
        assert weights[0] == pytest.approx(limit.mean_gap(hessian, covariance), rel=1e-12)

    def test_no_noise_no_weights(self, solver):
        hessian, noise = problem(3)
        covariance = solver(hessian, 0 * noise, rate=RATES[solver])
        assert limit.weights(hessian, covariance).shape == (0,)

    def test_components_add_up_at_every_batch_and_group_size(self, solver):
        hessian, rate = problem(3)[0], RATES[solver]
        parts = [correlated(5, seed) for seed in (7, 8, 9)]
        noise = COMPONENTS[solver](hessian, *parts, rate=rate)
        for batch_size, size in [(1, 2), (4, 4), (3, 50)]:
            outputs = batch_size * size
            shares = np.array([1 / batch_size, 1 / outputs, 1 / (outputs * (size - 1))])
            total = sum(share * part for share, part in zip(shares, parts, strict=True))
            expected = limit.mean_gap(hessian, solver(hessian, total, rate=rate))
            components = [noise.prompt, noise.oracle, noise.residual]
            assert shares @ components == pytest.approx(expected, rel=1e-12)


def matrices(snapshot):
    """C₁, C₂ and C₃ of a problem by a loop over prompts, outputs and reward levels."""
    scores, gradients = snapshot.dense_scores(), snapshot.prompt_gradients
    shape = (snapshot.dimension, snapshot.dimension)
    prompt, oracle, residual = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for x, share in enumerate(snapshot.prompt_probs):
        square = np.outer(gradients[x], gradients[x])
        deviation = gradients[x] - snapshot.gradient
        prompt += share * np.outer(deviation, deviation)
        centred = snapshot.reward_levels - snapshot.value[x]
        variances = snapshot.reward_probs[x] @ centred**2
        reward_variance = snapshot.action_probs[x] @ variances
        oracle -= share * square
        residual += share * square
        for y, probability in enumerate(snapshot.action_probs[x]):
            outer = share * probability * np.outer(scores[x, y], scores[x, y])
            oracle += outer * variances[y]
            residual += outer * reward_variance
    return prompt, oracle, residual


def second_derivatives(bandit, theta, step=1e-4):
    """H by fourth-order differences of the exact gradient."""
    columns = []
    for direction in np.eye(len(theta)):
        ahead = [bandit.at(theta + k * step * direction).gradient for k in (-2, -1, 1, 2)]
        columns.append(np.array([1, -8, 8, -1]) @ np.array(ahead) / (12 * step))
    return (np.array(columns) + np.array(columns).T) / 2


class TestTugOfWar:
    """The bandit that meets the assumptions of Theorem 8 with a flat direction."""

    BANDIT = TugOfWar()
    THETA = BANDIT.theta(1.0)
    HESSIAN = second_derivatives(BANDIT, THETA)
    PARTS = matrices(BANDIT.at(THETA))

    def test_curvature_and_noise(self):
        eigenvalues, directions = limit.identifiable(self.HESSIAN)
        assert eigenvalues == pytest.approx([0.145372], abs=5e-7)
        np.testing.assert_allclose(np.abs(directions[:, 0]), np.sqrt(0.5), rtol=1e-9)
        noise = self.BANDIT.at(self.THETA).noise
        traces = [np.trace(part) for part in self.PARTS]
        np.testing.assert_allclose(traces, [noise.prompt, noise.oracle, noise.residual], rtol=1e-12)

    def test_weight_of_the_simulated_runs(self):
        """4000 runs of GRPO, B = G = 4, rate β/(i+20), 4000 steps: 0.0809 ± 0.0019 measured."""
        rate = 1.5 / 0.145372
        noise = sum(part / share for part, share in zip(self.PARTS, (4, 16, 48), strict=True))
        covariance = limit.decaying_covariance(self.HESSIAN, noise, rate=rate)
        (weight,) = limit.weights(self.HESSIAN, covariance)
        assert weight == pytest.approx(0.0803, abs=5e-5)
        assert abs(weight - 0.0809) <= 4 * 0.0019 < abs(weight / rate**2 - 0.0809)
        assert weight / rate**2 == pytest.approx(0.00075, abs=5e-6)  # as printed in the paper

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_best_group_size_for_the_gap(self, solver):
        """In rank 1 with all noise along Q the gap wants what the gradient's error wants."""
        rate = 1.5 / 0.145372
        gap = COMPONENTS[solver](self.HESSIAN, *self.PARTS, rate=rate)
        gradient = self.BANDIT.at(self.THETA).noise
        best = group_size.optimal(gap)
        assert best == pytest.approx(group_size.optimal(gradient), rel=1e-9)
        errors = [group_size.error_at_budget(gap, group_size=g, budget=64) for g in (2, best, 60)]
        assert errors[1] == min(errors)


HESSIAN = -np.diag([2.0, 0.5, 0.0])
DECAYING, STATIONARY = SOLVERS
REFUSED = [
    (np.zeros((2, 2)), "hessian must have a negative eigenvalue, got [0. 0.]"),
    (np.zeros((2, 3)), "hessian must have shape (2, 2), got (2, 3)"),
    ([[-1, 0.5], [0, -1]], "hessian must be symmetric, got entries that differ by 0.5"),
    ([[np.nan]], "hessian must be finite, got 1 NaN or infinity"),
    ([-1.0], "hessian must be 2-dimensional and not empty, got shape (1,)"),
    (
        np.diag([-1.0, 0.25]),
        "hessian must be negative semidefinite, as at a maximum, got a largest eigenvalue of 0.25",
    ),
]
RATES_REFUSED = [
    *[(DECAYING, r, "must be above 1/(2·λ_min) = 1") for r in (1.0, 0.5, 0.0, -2)],
    *[(STATIONARY, r, "must be above 0 and below 2/λ_max = 1") for r in (1.0, 7.5, 0.0, -0.1)],
    *[(s, r, "must be a finite number") for s in SOLVERS for r in (np.nan, np.inf, "1", True)],
]


def refuses(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


class TestErrors:
    @pytest.mark.parametrize(("hessian", "message"), REFUSED)
    def test_hessian(self, hessian, message):
        with refuses(message):
            limit.identifiable(hessian)

    @pytest.mark.parametrize(("solver", "rate", "requirement"), RATES_REFUSED)
    def test_rate(self, solver, rate, requirement):
        with refuses(f"rate {requirement}, got {rate!r}"):
            solver(HESSIAN, np.eye(3), rate=rate)

    @pytest.mark.parametrize(("solver", "rate"), [(DECAYING, 1.1), (STATIONARY, 0.9)])
    def test_noise(self, solver, rate):
        with refuses("noise must have shape (3, 3), got (2, 2)"):
            solver(HESSIAN, np.eye(2), rate=rate)
        with pytest.raises(
            ValueError, match=r"^oracle noise must be finite and not negative, got "
        ):
            COMPONENTS[solver](HESSIAN, np.eye(3), -np.eye(3), np.eye(3), rate=rate)

    @pytest.mark.parametrize("law", [limit.weights, limit.mean_gap])
    def test_covariance_belongs_to_the_identifiable_coordinates(self, law):
        with refuses("covariance must have shape (2, 2), got (3, 3)"):
            law(HESSIAN, np.eye(3))

    def test_covariance_is_semidefinite(self):
        requirement = "covariance must be positive semidefinite"
        with refuses(f"{requirement}, got a weight of -0.25 beside a largest of 1"):
            limit.weights(HESSIAN, np.diag([1.0, -1.0]))

    @pytest.mark.parametrize("tolerance", [0.0, 1.0, np.nan])
    def test_tolerance(self, tolerance):
        requirement = "a finite number and above 0 and below 1"
        with refuses(f"tolerance must be {requirement}, got {tolerance!r}"):
            limit.identifiable(HESSIAN, tolerance=tolerance)
