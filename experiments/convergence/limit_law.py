"""Does n·Δ_n end as a weighted sum of χ²₁, although no parameter is identified (Theorem 8)?

Many runs at the rate β/(i + i₀): the quantiles of n·Δ_n beside those of its limit law, and of the
law without the factor β² that the paper's proof loses. Try

    python -m experiments limit_law task=tug_of_war_rank3
    python -m experiments limit_law -m task=tug_of_war,tug_of_war_rank3 rate_factor=1,1.5
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import MISSING
from rich.progress import track

from experiments.running.app import App
from experiments.running.estimators import Compared, algorithms, require_group_size, resolve
from experiments.running.options import Scale, require_seed_and_threads
from experiments.tasks import bandits as tasks
from experiments.tasks.bandits import Start, TugOfWarTask
from experiments.tasks.kinds import of_kind
from ustat_grpo import Box, Decay, SideInformation, SoftmaxBandit, TrainingConfig, optimize
from ustat_grpo.bandits.expansion import Expansion
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import increasing, integer, real
from ustat_grpo.laws import limit
from ustat_grpo.laws.weighted_chi_squared import WeightedChiSquared

COLUMNS = [
    "task", "estimator", "batch_size", "group_size", "iteration", "runs", "probability", "quantile",
    "law", "law_density", "law_without_beta_squared", "mean", "mean_std_error", "law_mean",
    "ks_distance", "ks_p_value", "largest_distance", "flat_spread",
]  # fmt: skip


RUNS = 10  # times scale.runs: two prompts with two actions are cheap
PROBABILITIES = np.arange(1, 100) / 100
FLAT_STARTS = (-1.0, 1.0)  # each half of the runs begins elsewhere along the flat directions


@dataclass
class LimitLaw:
    """The configuration of this app."""

    task: Any = MISSING
    scale: Scale = field(default_factory=Scale)
    estimators: dict[str, dict[str, float]] = MISSING
    batch_size: int = 4
    group_size: int = 4
    iterations: list[int] | None = None  # null takes more the more runs there are
    rate_factor: float = 1.5  # β·λ_min
    offset: float = 15.0
    project: bool = True
    seed: int = 0
    threads: int | None = None  # null takes all cores
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        _ = self.tug_of_war
        integer("batch_size", self.batch_size)
        integer("group_size", self.group_size)
        if self.iterations is None:  # more runs see smaller departures from the limit
            self.iterations = [250, 1000] if self.scale.runs < 1000 else [250, 1000, 4000]
        increasing("iterations", self.iterations)
        schedule = Decay(real("rate_factor", self.rate_factor, above=0.0), self.offset)
        require_seed_and_threads(self.seed, self.threads)
        require_group_size(self.compared, self.group_size)
        if not self.project:
            rates = schedule.rates(self.iterations[-1]) / least_curvature(self.tug_of_war)
            for start in self.tug_of_war.starts.values():
                require_no_escape(start, self.compared, self.group_size, rates)

    @property
    def tug_of_war(self) -> TugOfWarTask:
        """The task, which encloses its optimum."""
        return enclosed_tug_of_war(self.task)

    @cached_property
    def compared(self) -> dict[str, Compared]:
        """The estimators with their laws, by name."""
        return resolve(self.estimators)


class Samples(NamedTuple):
    """R runs at C checkpoints."""

    scaled_gap: Array  # n·Δ_n, (R, C)
    distance: Array  # ‖t − t*‖, (R, C)
    flat: Array  # coordinates along the f flat directions, (R, C, f)


def enclosed_tug_of_war(task: Any) -> TugOfWarTask:
    """Return a task as a tug of war whose start and optimum lie in Θ, the latter inside.

    Raises:
        ValueError: if it is no such task.
    """
    task = of_kind(task, TugOfWarTask, "task must be a tug of war, with its optimum inside Θ")
    best = task.problem.separations / 2
    if not (task.low < best.min() and best.max() < task.high):
        raise ValueError(
            f"task.low and task.high must enclose the optimum t = {best.tolist()}, "
            f"got {task.low} and {task.high}"
        )
    if not task.low <= task.coordinates[0] <= task.high:
        raise ValueError(
            f"task.coordinates must begin between {task.low} and {task.high}, where runs start, "
            f"got {task.coordinates[0]}"
        )
    return task


def require_no_escape(
    start: Start, compared: Mapping[str, Compared], group_size: int, rates: Array
) -> None:
    """Raise unless runs cannot leave Θ even without a projection."""
    region = start.projection
    assert isinstance(region, Box) and region.axes is not None
    travel = farthest_travel(start.bandit, compared, group_size, rates)
    inside = region.coordinates(start.theta0)
    lengths = np.linalg.norm(region.axes, axis=1)
    distance = max((np.minimum(inside - region.low, region.high - inside) / lengths).min(), 0.0)
    if travel > distance:
        raise ValueError(
            "project must be true where runs can leave Θ, got false for a travel of up to "
            f"{travel:.4g} and a boundary at a distance of {distance:.4g}"
        )


def farthest_travel(
    bandit: SoftmaxBandit,
    compared: Mapping[str, Compared],
    group_size: int,
    rates: Array,
) -> float:
    """Bound ‖θ_n − θ₀‖ by Σ η_i · max∣advantage∣ · max‖W‖, the last by the features' diameter."""
    assert bandit.features is not None
    features = bandit.features
    diameter = np.linalg.norm(features[:, :, None] - features[:, None], axis=-1).max()
    advantage = largest_advantage(compared, group_size, bandit.reward_levels)
    return float(rates.sum() * advantage * diameter)


def largest_advantage(compared: Mapping[str, Compared], group_size: int, levels: Array) -> float:
    """Return max∣advantage∣ over all estimators and groups.

    Advantages are affine in rewards and baseline and treat outputs alike: the extremes are where
    all of them are lowest or highest.
    """
    low, high = levels.min(), levels.max()
    rewards = np.where(np.tri(group_size + 1, group_size, -1) > 0, high, low)
    advantages = [
        estimator.advantages(rewards, SideInformation(ends, ends))
        for estimator in algorithms(compared).values()
        for ends in (np.full(len(rewards), low), np.full(len(rewards), high))
    ]
    return float(np.abs(advantages).max())


def at_optimum(task: TugOfWarTask) -> Expansion:
    """Return the expansion of J at the optimum."""
    return Expansion(task.problem.at(task.problem.optimum))


def least_curvature(task: TugOfWarTask) -> float:
    """Return λ_min, the least positive eigenvalue of −∇²J at the optimum."""
    return float(limit.identifiable(at_optimum(task).hessian[0]).eigenvalues[-1])


def run(config: LimitLaw) -> pd.DataFrame:
    """Compare n·Δ_n with its law, for every estimator and checkpoint and each panel of the task."""
    assert config.iterations is not None
    tables = []
    for panel, start in config.tug_of_war.starts.items():
        for name, each in track(config.compared.items(), panel):
            law, beta = predicted(config, each)
            samples = measure(config, panel, start, each)
            for i, iteration in enumerate(config.iterations):
                sample = Samples(*(part[:, i] for part in samples))
                table = pd.DataFrame(_compared(sample, law, beta) | _constant(sample, law))
                tables.append(table.assign(task=panel, estimator=name, iteration=iteration))
    data = pd.concat(tables, ignore_index=True)
    sizes = {"batch_size": config.batch_size, "group_size": config.group_size}
    return data.assign(**sizes).reindex(columns=COLUMNS)


def measure(config: LimitLaw, panel: str, start: Start, compared: Compared) -> Samples:
    """Run Algorithm 1; the same generator each time, so that estimators share."""
    from scipy.linalg import null_space

    assert config.iterations is not None
    problem, rng = config.tug_of_war.problem, tasks.panel_rng(config.seed, panel)
    flat = null_space(problem.axes)
    places = FLAT_STARTS if flat.size else (0.0,)
    training = TrainingConfig(
        estimator=compared.estimator,
        batch_size=config.batch_size,
        group_size=config.group_size,
        num_iterations=config.iterations[-1],
        schedule=Decay(config.rate_factor / least_curvature(config.tug_of_war), config.offset),
        checkpoints=config.iterations,
        projection=start.projection if config.project else None,
    )
    parts = [
        optimize(
            start.bandit,
            training,
            theta0=start.theta0 + place * flat.sum(axis=1),
            num_runs=RUNS * config.scale.runs // len(places),
            rng=rng,
        )
        for place in places
    ]
    gap = np.concatenate([part.gap for part in parts])
    theta = np.concatenate([part.theta for part in parts])
    distance = np.linalg.norm(theta @ problem.axes.T - problem.separations / 2, axis=-1)
    return Samples(gap * np.array(config.iterations, dtype=float), distance, theta @ flat)


def predicted(config: LimitLaw, compared: Compared) -> tuple[WeightedChiSquared | None, float]:
    """Return the limit law of n·Δ_n, None where there is none, and β.

    The group mean is GRPO's estimate times a gain: it is GRPO at the rate gain·β.
    """
    here, gain = at_optimum(config.tug_of_war), compared.gain(config.group_size)
    hessian = here.hessian[0]
    beta = gain * config.rate_factor / least_curvature(config.tug_of_war)
    if gain * config.rate_factor <= 0.5:
        warnings.warn(
            f"rate_factor must be above {0.5 / gain:g} for {compared.name} to have a limit law "
            f"(β·λ > ½), got {config.rate_factor:g}",
            stacklevel=2,
        )
        return None, beta
    noise = compared.noise(here.score_moments)
    sizes = {"batch_size": config.batch_size, "group_size": config.group_size}
    covariance = limit.decaying_covariance(hessian, noise.minibatch(**sizes)[0], rate=beta)
    return WeightedChiSquared(limit.weights(hessian, covariance)), beta


def _compared(sample: Samples, law: WeightedChiSquared | None, beta: float) -> dict[str, Any]:
    """The columns that vary with the probability."""
    exact = np.full(len(PROBABILITIES), np.nan) if law is None else law.ppf(PROBABILITIES)
    return {
        "probability": PROBABILITIES,
        "quantile": np.quantile(sample.scaled_gap, PROBABILITIES),
        "law": exact,
        "law_density": np.nan if law is None else law.pdf(exact),
        "law_without_beta_squared": exact / beta**2,
    }


def _constant(sample: Samples, law: WeightedChiSquared | None) -> dict[str, Any]:
    """The columns that describe a whole sample."""
    distance, p_value = _kolmogorov_smirnov(sample.scaled_gap, law)
    flat = sample.flat
    return {
        "runs": len(sample.scaled_gap),
        "mean": sample.scaled_gap.mean(),
        "mean_std_error": sample.scaled_gap.std(ddof=1) / np.sqrt(len(sample.scaled_gap)),
        "law_mean": np.nan if law is None else law.mean,
        "ks_distance": distance,
        "ks_p_value": p_value,
        "largest_distance": sample.distance.max(),
        "flat_spread": np.sqrt(flat.var(axis=0).mean()) if flat.size else np.nan,
    }


def _kolmogorov_smirnov(sample: Array, law: WeightedChiSquared | None) -> tuple[float, float]:
    """Return the largest difference of the distribution functions, and its p-value."""
    from scipy.stats import ks_1samp

    if law is None:
        return np.nan, np.nan
    result: Any = ks_1samp(sample, law.cdf)
    return float(result.statistic), float(result.pvalue)


def describe(config: LimitLaw) -> str:
    """Return the readable part of the results folder's name."""
    sizes = f"B{config.batch_size}_G{config.group_size}"
    return f"{config.tug_of_war.name}_{sizes}_rate{config.rate_factor:g}"


APP = App("limit_law", LimitLaw, run, describe)
