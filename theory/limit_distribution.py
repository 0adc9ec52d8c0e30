"""Theorem 8: nΔ_n tends to a weighted sum of χ²₁, with or without identifiability.

**Statement.** Let J be largest on a closed convex set Θ* along which its Hessian has r negative
eigenvalues −λ, and let θ_n follow rates β/i with βλ > ½. Then d(θ_n, Θ*) → 0 and

    nΔ_n → Σ_k w_k χ²₁,    w the eigenvalues of ½Σ^½ΛΣ^½,    Σ_jk = β²Ω_jk/(β(λ_j+λ_k) − 1),

Ω the covariance of one gradient estimate in the eigenbasis Q of the curved directions. Θ* may be
flat: θ_n tends to the set and to no point of it.

**Why.** Along Q, i½-scaled deviations follow an autoregression with noise β(ĝ − g); its covariance
solves (βΛ − ½I)Σ + Σ(βΛ − ½I) = β²Ω (Fabian 1968), and Δ is half the quadratic form of Λ.

**Note.** Step (iii) of the paper's proof has no β² in Σ (erratum 1): the noise of a step is β(ĝ−g).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from theory.claims import IDENTITY, SIMULATION, Claim, below, equal, refuted, simulated
from ustat_grpo import Box, Decay, Grpo, Runs, TrainingConfig, TugOfWar, optimize
from ustat_grpo.bandits.expansion import Expansion
from ustat_grpo.laws import limit
from ustat_grpo.laws.covariance import grpo
from ustat_grpo.laws.weighted_chi_squared import WeightedChiSquared

ITEM = "Theorem 8"
TITLE = "limit law of the suboptimality"

_RUNS = 2000
_DISTANCE = 1.95
"""Kolmogorov's distance times √runs is above this once in a thousand."""
_HALFWAY = 4
"""Checkpoints lie at n/4 and n."""


@dataclass(frozen=True)
class Setting:
    """A tug of war and how Algorithm 1 is run on it."""

    name: str
    problem: TugOfWar
    iterations: int
    offset: float
    high: float
    batch_size: int = 4
    group_size: int = 4

    @property
    def rate(self) -> float:
        """β = 1.5/λ_min."""
        hessian = Expansion(self.problem.at(self.problem.optimum)).hessian[0]
        return 1.5 / float(limit.identifiable(hessian).eigenvalues[-1])

    @property
    def flat_start(self) -> np.ndarray:
        """The flat part of θ₀: a direction that moves no policy, at length 3."""
        _, _, rows = np.linalg.svd(self.problem.axes)
        return 3.0 * rows[-1]

    def weights(self) -> np.ndarray:
        """Return w."""
        expansion = Expansion(self.problem.at(self.problem.optimum))
        noise = grpo(expansion.score_moments).minibatch(
            batch_size=self.batch_size, group_size=self.group_size
        )
        covariance = limit.decaying_covariance(expansion.hessian[0], noise[0], rate=self.rate)
        return limit.weights(expansion.hessian[0], covariance)

    def run(self) -> Runs:
        """Run Algorithm 1 from half a unit before the optimum, off the shortest θ."""
        config = TrainingConfig(
            estimator=Grpo(),
            batch_size=self.batch_size,
            group_size=self.group_size,
            num_iterations=self.iterations,
            schedule=Decay(self.rate, self.offset),
            checkpoints=[self.iterations // _HALFWAY, self.iterations],
            projection=Box(-1.0, self.high, self.problem.axes),
        )
        start = self.problem.theta(self.problem.separations / 2 - 0.5) + self.flat_start
        rng = np.random.default_rng(8)
        return optimize(self.problem.bandit, config, theta0=start, num_runs=_RUNS, rng=rng)


RANK_ONE = Setting("rank 1", TugOfWar(), 2000, 20.0, 3.0)
RANK_THREE = Setting("rank 3", TugOfWar(0.8, 3, 1, (1.0, 2.0, 4.0)), 3000, 100.0, 4.0, batch_size=8)


def claims() -> Iterator[Claim]:
    """Yield mean, distribution, the paper's β² and consistency to a set, at ranks 1 and 3."""
    for setting in (RANK_ONE, RANK_THREE):
        runs, law = setting.run(), WeightedChiSquared(setting.weights())
        sample = setting.iterations * runs.gap[:, -1]
        yield simulated(f"{setting.name}: mean of nΔ_n is Σw_k", law.mean, sample)
        yield below(
            f"{setting.name}: Kolmogorov's distance between nΔ_n and the law, times √runs",
            SIMULATION,
            _DISTANCE,
            distance(sample, law) * np.sqrt(_RUNS),
        )
        yield refuted(
            f"{setting.name}: the law without β² has the mean of nΔ_n",
            law.mean / setting.rate**2,
            float(sample.mean()),
            tolerance=0.9,
        )
        yield from _consistency(setting, runs)
    yield from _unequal()


def _consistency(setting: Setting, runs: Runs) -> Iterator[Claim]:
    """The curved coordinates settle, the flat one does not."""
    problem = setting.problem
    theta = runs.theta - problem.optimum
    curved = np.linalg.norm(theta @ problem.axes.T, axis=-1)
    early, late = np.sqrt((curved**2).mean(axis=0))
    yield below(
        f"{setting.name}: d(θ_n, Θ*) over n to 4n falls toward ½ (ratio of root mean squares)",
        SIMULATION,
        0.7,
        float(late / early),
    )
    flat = setting.flat_start / 3.0
    yield equal(
        f"{setting.name}: the flat coordinate stays where it began: no point of Θ* is preferred",
        IDENTITY,
        np.full(len(theta), 3.0),
        theta[:, -1] @ flat,
    )


def _unequal() -> Iterator[Claim]:
    """At rank 3 the weights differ, so that no scaled χ²₃ is the law."""
    weights = RANK_THREE.weights()
    scaled = WeightedChiSquared(np.full(3, weights.mean()))
    law = WeightedChiSquared(weights)
    quantile = float(law.ppf(0.99))
    yield refuted("rank 3: a χ²₃ scaled to the same mean exceeds the law's 99 % quantile as often",
                  float(scaled.sf(quantile)), 0.01, tolerance=0.2)  # fmt: skip


def distance(sample: np.ndarray, law: WeightedChiSquared) -> float:
    """Return Kolmogorov's distance between a sample and a law."""
    reached = law.cdf(np.sort(sample))
    steps = np.arange(len(sample) + 1) / len(sample)
    return float(max((steps[1:] - reached).max(), (reached - steps[:-1]).max()))
