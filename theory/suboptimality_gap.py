"""Lemma 6: bounds on the expected gap after n iterations, with every constant certified.

**Statement.** Let J be L-smooth with ‖∇J‖² ≥ 2μΔ, and M the largest error of a gradient estimate.
(a) At a constant rate β < 1/(2L): E Δ_n ≤ ρⁿΔ_0 + Lβ²M/(2(1−ρ)), ρ = 1 − 2μβ + Lμβ².
(b) At rates β/i, β > 1/(2μ): E Δ_n ≤ max{(1+ε)Lβ²M/(4μβ−2), a·n₀}/n.

**Why.** Smoothness gives E Δ_i ≤ E Δ_{i−1} − η(1 − Lη/2)E‖g‖² + Lη²M/2, and ‖g‖² ≥ 2μΔ the factor
1 − 2μη + Lμη². Iterate. The tug of war meets the assumptions on −1 ≤ t ≤ 3: L and μ come from a
certificate that holds between grid points too (`ustat_grpo.optimization.certificate`), and
projecting t onto the interval never lowers J.

**Note.** For (a) the proof needs β < 2/L only. The bounds are true and loose: they take sup M and
the worst curvature of all Θ, where the law of `theory/gap_scaling.py` takes those of the path.
"""

from collections.abc import Iterator

import numpy as np

from theory.claims import IDENTITY, SIMULATION, Claim, below, refuted
from ustat_grpo import (
    Box,
    Constant,
    Decay,
    Grpo,
    Schedule,
    Snapshot,
    TrainingConfig,
    TugOfWar,
    optimize,
)
from ustat_grpo.laws import gap, mse
from ustat_grpo.optimization.certificate import Certificate, certify_tug_of_war, largest_error

ITEM = "Lemma 6"
TITLE = "bounds on the suboptimality gap"

_BATCH_SIZE, _GROUP_SIZE = 4, 4
_LOW, _HIGH, _CELLS = -1.0, 3.0, 2000
_RUNS = 1000
_CHECKPOINTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_CAUTION = 4.0
"""Standard errors added to a measured mean before it is held against a bound."""


def claims() -> Iterator[Claim]:
    """Yield both bounds against runs, how loose they are, and what the certificate is worth."""
    problem = TugOfWar()
    certificate = certify_tug_of_war(problem, low=_LOW, high=_HIGH, cells=_CELLS)
    yield from _certificate(problem, certificate)
    noise = largest_error(
        problem.bandit, _error, low=_LOW, high=_HIGH, cells=200, axes=problem.axes
    )
    start = problem.at(problem.theta(0.0)).objective
    constants = {
        "smoothness": certificate.smoothness,
        "pl_constant": certificate.pl_constant,
        "noise": noise,
    }
    constant = 0.9 / (2 * certificate.smoothness)
    bound = gap.constant_rate_bound(
        _CHECKPOINTS, initial_gap=certificate.best_objective - start, rate=constant, **constants
    )
    yield from _holds("constant rate", problem, Constant(constant), bound)
    decaying = 1.5 / (2 * certificate.pl_constant)
    bound = gap.decaying_rate_bound(
        _CHECKPOINTS, largest_gap=certificate.largest_gap, rate=decaying, **constants
    )
    yield from _holds("rate β/i", problem, Decay(decaying), bound)
    iterated = gap.recursive_bound(
        Decay(decaying).rates(_CHECKPOINTS[-1]),
        initial_gap=certificate.best_objective - start,
        largest_gap=certificate.largest_gap,
        **constants,
    )[np.array(_CHECKPOINTS) - 1]
    yield from _holds("rate β/i, bound iterated step by step", problem, Decay(decaying), iterated)
    yield below("the iterated bound is below the closed form (largest ratio)", IDENTITY, 1.0,
                float((iterated / bound).max()), margin=0.0)  # fmt: skip


def _error(snapshot: Snapshot) -> float:
    """M at one θ: the exact error of a minibatch."""
    errors = mse.grpo(snapshot.moments, group_size=_GROUP_SIZE)
    return mse.minibatch(errors, snapshot.moments, batch_size=_BATCH_SIZE)


def _certificate(problem: TugOfWar, certificate: Certificate) -> Iterator[Claim]:
    """What random points show lies within the certificate, and near it."""
    points = np.sort(np.random.default_rng(0).uniform(_LOW, _HIGH, 2000))
    snapshots = [problem.at(problem.theta(point)) for point in points]
    gaps = certificate.best_objective - np.array([s.objective for s in snapshots])
    gradients = np.array([s.gradient for s in snapshots])
    ratios = (gradients**2).sum(axis=1)[gaps > 1e-9] / (2 * gaps[gaps > 1e-9])
    yield below("certified μ is below ‖∇J‖²/(2Δ) at 2000 points of Θ", IDENTITY,
                float(ratios.min()), certificate.pl_constant)  # fmt: skip
    yield below("and above 0.95 of the least of them (ratio, negated)", IDENTITY, -0.95,
                -certificate.pl_constant / float(ratios.min()))  # fmt: skip
    steps = np.linalg.norm(np.diff(gradients, axis=0), axis=1)
    lengths = np.diff(points) / np.sqrt(2)
    secants = (steps / lengths)[lengths > 1e-4]
    yield below("slopes of ∇J between neighbouring points are below L", IDENTITY,
                certificate.smoothness, float(secants.max()))  # fmt: skip


def _holds(name: str, problem: TugOfWar, schedule: Schedule, bound: np.ndarray) -> Iterator[Claim]:
    config = TrainingConfig(
        estimator=Grpo(),
        batch_size=_BATCH_SIZE,
        group_size=_GROUP_SIZE,
        num_iterations=_CHECKPOINTS[-1],
        schedule=schedule,
        checkpoints=_CHECKPOINTS,
        projection=Box(_LOW, _HIGH, problem.axes),
    )
    rng, start = np.random.default_rng(6), problem.theta(0.0)
    runs = optimize(problem.bandit, config, theta0=start, num_runs=_RUNS, rng=rng)
    mean = runs.gap.mean(axis=0)
    safe = mean + _CAUTION * runs.gap.std(axis=0, ddof=1) / np.sqrt(_RUNS)
    yield below(
        f"{name}: mean gap over bound at {len(_CHECKPOINTS)} checkpoints (largest ratio, + 4 s.e.)",
        SIMULATION,
        1.0,
        float((safe / bound).max()),
    )
    yield refuted(f"{name}: the bound is attained, n = {_CHECKPOINTS[-1]}", float(bound[-1]),
                  float(mean[-1]))  # fmt: skip
