"""How far above the gap after n iterations is Lemma 6's bound, with certified constants?

Runs of Algorithm 1 on a tug of war, at a constant rate and at β/(i + i₀), beside the law of their
mean gap, the closed bounds of Lemma 6 and the recursion that they solve. Try

    python -m experiments gap_bound task=weak_tug_of_war
    python -m experiments gap_bound -m task=tug_of_war,weak_tug_of_war group_size=4,16
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import MISSING
from rich.progress import track

from experiments.convergence.limit_law import enclosed_tug_of_war, require_no_escape
from experiments.group_size.group_size import gap_columns
from experiments.running.app import App
from experiments.running.estimators import Compared, require_group_size, resolve
from experiments.running.options import Scale, require_seed_and_threads
from experiments.tasks import bandits as tasks
from experiments.tasks.bandits import Start, TugOfWarTask
from ustat_grpo import Constant, Decay, Runs, Snapshot, TrainingConfig, TugOfWar, optimize
from ustat_grpo.bandits.expansion import Expansion, expand
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import increasing, integer, real
from ustat_grpo.laws.gap import constant_rate_bound, decaying_rate_bound, recursive_bound
from ustat_grpo.laws.path import expected_gap
from ustat_grpo.optimization.certificate import certify_tug_of_war, largest_error, smoothness_bound

COLUMNS = [
    "task", "schedule", "estimator", "batch_size", "group_size", "iteration", "runs", "gap",
    "std_error", "law", "bound", "recursive_bound", "smoothness", "pl_constant", "noise", "rate",
    "offset",
]  # fmt: skip


@dataclass
class GapBound:
    """The configuration of this app."""

    task: Any = MISSING
    scale: Scale = field(default_factory=Scale)
    estimators: dict[str, dict[str, float]] = MISSING
    batch_size: int = 32
    group_size: int = 16
    iterations: list[int] = field(default_factory=lambda: [1, 2, 5, 10, 20, 50, 100, 200, 500])
    constant_factor: float = 0.5  # β·2L
    decay_factor: float = 1.5  # β·2μ
    offset: float | None = None  # null takes the least with a first step below 1/(2L)
    cells: int = 400
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
        increasing("iterations", self.iterations)
        real("constant_factor", self.constant_factor, above=0.0)
        real("decay_factor", self.decay_factor, above=0.0)
        require_seed_and_threads(self.seed, self.threads)
        require_group_size(self.compared, self.group_size)
        if self.tug_of_war.num_axes > 3:
            raise ValueError(
                f"task.num_axes must be at most 3 for a grid over Θ, got {self.tug_of_war.num_axes}"
            )
        schedules = build_schedules(self, certified(self.tug_of_war, self.cells))
        if not self.project:
            for start in self.tug_of_war.starts.values():
                for schedule in schedules.values():
                    rates = schedule.rates(self.iterations[-1])
                    require_no_escape(start, self.compared, self.group_size, rates)

    @property
    def tug_of_war(self) -> TugOfWarTask:
        """The task, which encloses its optimum."""
        return enclosed_tug_of_war(self.task)

    @cached_property
    def compared(self) -> dict[str, Compared]:
        """The estimators with their laws, by name."""
        return resolve(self.estimators)


class Constants(NamedTuple):
    """What Lemma 6 assumes of J: L everywhere, μ and a = sup Δ on Θ."""

    smoothness: float
    pl_constant: float
    largest_gap: float


def certified(task: TugOfWarTask, cells: int) -> Constants:
    """Return constants that are proved to hold.

    L holds outside Θ, too, where a step may lead before it is projected. J is the mean of one
    objective an axis, and all of them have the bound of a tug of war with a single axis.
    """
    problem = task.problem
    found = certify_tug_of_war(problem, low=task.low, high=task.high, cells=cells)
    if found.pl_constant <= 0:
        raise ValueError(
            f"cells must be enough to certify a PL constant for {task.low} ≤ t ≤ {task.high}, "
            f"got {cells}"
        )
    smoothness = smoothness_bound(TugOfWar(problem.signal, 1, 0).bandit) / problem.num_axes
    return Constants(smoothness, found.pl_constant, found.largest_gap)


def largest_noise(config: GapBound, compared: Compared) -> float:
    """Return M, the largest error of a minibatch gradient over Θ; the group mean's over its gain.

    The grid has as many cells in all as that of the certificate has along one axis.
    """
    task = config.tug_of_war
    sizes = {"batch_size": config.batch_size, "group_size": config.group_size}

    def error(snapshot: Snapshot) -> float:
        covariance = compared.noise(Expansion(snapshot).score_moments).minibatch(**sizes)
        return float(np.trace(covariance, axis1=1, axis2=2).sum())

    return largest_error(
        task.problem.bandit,
        error,
        low=task.low,
        high=task.high,
        cells=int(np.ceil(config.cells ** (1 / task.problem.num_axes))),
        axes=task.problem.axes,
    )


def build_schedules(config: GapBound, known: Constants) -> dict[str, Constant | Decay]:
    """Return the learning rates by name, in units of what the lemma allows."""
    highest, lowest = 1 / (2 * known.smoothness), 1 / (2 * known.pl_constant)
    decaying, offset = config.decay_factor * lowest, config.offset
    if offset is None:
        offset = float(np.floor(decaying / highest))
    return {
        "constant": Constant(config.constant_factor * highest),
        "decay": Decay(decaying, offset),
    }


def run(config: GapBound) -> pd.DataFrame:
    """Measure the gap and bound it, for every schedule and estimator and each panel of the task."""
    known, tables = certified(config.tug_of_war, config.cells), []
    for panel, start in config.tug_of_war.starts.items():
        for name, each in track(config.compared.items(), panel):
            noise = largest_noise(config, each)
            for kind, schedule in build_schedules(config, known).items():
                runs = measure(config, panel, start, each, schedule)
                columns = gap_columns(runs.gap, config.iterations)
                columns["law"] = predicted(config, start, each, schedule)
                columns |= bounds(config, start, each, schedule, noise)
                table = pd.DataFrame(columns | known._asdict())
                table = table.assign(rate=schedule.rate, offset=getattr(schedule, "offset", 0.0))
                tables.append(table.assign(task=panel, schedule=kind, estimator=name, noise=noise))
    data = pd.concat(tables, ignore_index=True)
    sizes = {"batch_size": config.batch_size, "group_size": config.group_size}
    return data.assign(**sizes).reindex(columns=COLUMNS)


def measure(
    config: GapBound, panel: str, start: Start, compared: Compared, schedule: Constant | Decay
) -> Runs:
    """Run Algorithm 1; the same generator each time, so that estimators and schedules share."""
    training = TrainingConfig(
        estimator=compared.estimator,
        batch_size=config.batch_size,
        group_size=config.group_size,
        num_iterations=config.iterations[-1],
        schedule=schedule,
        checkpoints=config.iterations,
        keep_theta=False,
        projection=start.projection if config.project else None,
    )
    rng, num_runs = tasks.panel_rng(config.seed, panel), config.scale.runs
    return optimize(start.bandit, training, theta0=start.theta0, num_runs=num_runs, rng=rng)


def predicted(
    config: GapBound, start: Start, compared: Compared, schedule: Constant | Decay
) -> Sequence[float]:
    """Return the law of the mean gap; it knows no Θ, so it needs noise that rarely leaves it."""
    gain = compared.gain(config.group_size)
    laws = expected_gap(
        expand(start.bandit.at),
        compared.noise,
        theta0=start.theta0,
        rates=gain * schedule.rates(config.iterations[-1]),
        checkpoints=config.iterations,
        best_objective=start.bandit.best_objective,
    )
    return [law.gap(batch_size=config.batch_size, group_size=config.group_size) for law in laws]


def bounds(
    config: GapBound, start: Start, compared: Compared, schedule: Constant | Decay, noise: float
) -> dict[str, Array]:
    """Return Lemma 6's bound in closed form, and the recursion that it solves.

    At β/(i + i₀) the lemma's induction starts at i₀: its bound holds at n + i₀ in place of n if it
    is at least a at i₀, a = sup Δ. The group mean is GRPO's estimate at the rate gain·β.
    """
    smoothness, pl_constant, largest_gap = certified(config.tug_of_war, config.cells)
    shared = {"smoothness": smoothness, "pl_constant": pl_constant, "noise": noise}
    first = start.bandit.best_objective - start.bandit.at(start.theta0).objective
    points, gain = np.array(config.iterations), compared.gain(config.group_size)
    rate, rates = gain * schedule.rate, gain * schedule.rates(config.iterations[-1])
    if isinstance(schedule, Constant):
        closed = constant_rate_bound(points, initial_gap=first, rate=rate, **shared)
    else:
        lemma = decaying_rate_bound([1], largest_gap=largest_gap, rate=rate, **shared)[0]
        closed = max(lemma, largest_gap * schedule.offset) / (points + schedule.offset)
    recursive = recursive_bound(rates, initial_gap=first, largest_gap=largest_gap, **shared)
    return {"bound": closed, "recursive_bound": recursive[points - 1]}


def describe(config: GapBound) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.tug_of_war.name}_B{config.batch_size}_G{config.group_size}"


APP = App("gap_bound", GapBound, run, describe)
