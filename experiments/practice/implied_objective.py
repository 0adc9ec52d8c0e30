"""What do normalised advantages maximise? Runs of Algorithm 2, and three maximisers beside them.

The law's rows hold φ_G and F_G against the success probability, and the maximisers of E F_G − κ KL
against G. The runs' rows hold the mean of θ over many runs, to be held against three candidates:
the maximisers of E F_G − κ KL, of E V − κ KL and of the limit, E 2 arcsin √V − κ KL. Try

    python -m experiments implied_objective
    python -m experiments implied_objective penalties=[k2] group_size=[2,4,8] penalty_weight=0.01
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import MISSING
from rich.progress import track

from experiments.running.app import App
from experiments.running.options import Scale, require_seed_and_threads
from experiments.tasks.bandits import panel_rng
from ustat_grpo import Decay, Estimator, Grpo, Practice, SoftmaxBandit, TrainingConfig, optimize
from ustat_grpo.bandits.tug_of_war import one_axis
from ustat_grpo.estimators.normalised import LeaveOneOutNormalised, StdNormalised
from ustat_grpo.inputs.checks import increasing, integer, real
from ustat_grpo.laws import binary
from ustat_grpo.optimization.mean_field import Gain, curvature, maximiser, mean_field

COLUMNS = [
    "part", "task", "estimator", "group_size", "penalty", "num_minibatches", "iteration", "runs",
    "coordinate", "std_error", "predicted", "predicted_value", "predicted_limit",
    "success_probability", "gain", "implied_objective",
]  # fmt: skip

Law = Callable[[int], binary.GroupAdvantages]

ESTIMATORS: dict[str, tuple[Estimator, Law]] = {
    "grpo": (Grpo(), binary.grpo),
    "leave_one_out_normalised": (
        LeaveOneOutNormalised(eps=0.0), partial(binary.leave_one_out_normalised, eps=0.0),
    ),
    "std_normalised": (StdNormalised(eps=0.0), partial(binary.std_normalised, eps=0.0)),
}  # fmt: skip
"""By name; without ε, so that nothing but normalisation distorts the objective."""

RUNS = 0.25  # times scale.runs: the mean's bias falls like 1/n, so long runs are better than many
PROBABILITIES = np.arange(1, 100) / 100
CURVES = (2, 4, 8, 16, 64)
LAW_SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass
class Problem:
    """Prompts that share one coordinate; see `ustat_grpo.bandits.tug_of_war`."""

    name: str = "two_prompts"
    success: list[list[float]] = MISSING
    shifts: list[float] = MISSING
    reference: float = 0.0
    start: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        real("problem.reference", self.reference)
        real("problem.start", self.start)

    @cached_property
    def bandit(self) -> SoftmaxBandit:
        """The problem itself."""
        return one_axis(self.success, self.shifts)


@dataclass
class ImpliedObjective:
    """The configuration of this app."""

    problem: Problem = field(default_factory=Problem)
    scale: Scale = field(default_factory=Scale)
    estimators: list[str] = MISSING
    group_size: list[int] = MISSING
    penalties: list[str] = MISSING
    num_minibatches: list[int] = MISSING
    penalty_weight: float = MISSING
    budget: int = MISSING
    iterations: int | None = None  # null takes more the more runs there are
    rate_factor: float = 2.0
    offset: float = 20.0
    seed: int = 0
    threads: int | None = None  # null takes all cores
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        for name in self.estimators:
            if name not in ESTIMATORS:
                raise ValueError(f"estimators must be among {', '.join(ESTIMATORS)}, got {name!r}")
        if self.iterations is None:
            self.iterations = 200 if self.scale.runs < 1000 else 8000
        integer("iterations", self.iterations, at_least=2)
        increasing("group_size", self.group_size)
        for size in self.group_size:
            if integer("budget", self.budget) % size or size < 2:
                raise ValueError(
                    f"group_size must divide budget = {self.budget} and be at least 2, got {size}"
                )
        increasing("num_minibatches", self.num_minibatches)
        for _, size, practice in self.cells:
            practice.require_batch_size(self.budget // size)
        Decay(real("rate_factor", self.rate_factor, above=0.0), self.offset)
        require_seed_and_threads(self.seed, self.threads)

    @property
    def cells(self) -> Iterator[tuple[str, int, Practice]]:
        """Estimator, group size and practice of each set of runs."""
        for penalty, parts in product(self.penalties, self.num_minibatches):
            practice = Practice(parts, penalty=penalty, penalty_weight=self.penalty_weight)
            for name, size in product(self.estimators, self.group_size):
                yield name, size, practice

    @cached_property
    def candidates(self) -> dict[tuple[str, str, int], "Candidates"]:
        """Where runs may end, by estimator, penalty and group size.

        Raises:
            ValueError: if an objective has no maximiser above the start.
        """
        found = {}
        for penalty in self.penalties:
            climb = partial(_climb, self.problem, penalty, self.penalty_weight)
            (value, _), (limit, _) = climb(np.ones_like), climb(binary.limiting_gain)
            for name, size in product(self.estimators, sorted({*LAW_SIZES, *self.group_size})):
                own, curved = climb(partial(binary.gain, ESTIMATORS[name][1](size)))
                found[name, penalty, size] = Candidates(own, value, limit, curved)
        return found


class Candidates(NamedTuple):
    """Where E F − κ KL is largest for three F, and how curved the first is there."""

    own: float
    value: float
    limit: float
    curvature: float


def _climb(problem: Problem, penalty: str, weight: float, gain: Gain) -> tuple[float, float]:
    """Return where E F − κ KL is largest, F′ = `gain`, and how curved it is there."""
    practice = Practice(penalty=penalty, penalty_weight=weight)
    follow = partial(mean_field, problem.bandit, gain=gain, practice=practice,
                     reference=[problem.reference])  # fmt: skip
    found = maximiser(follow, [problem.start])
    return float(found[0]), float(curvature(follow, found)[0, 0])


def run(config: ImpliedObjective) -> pd.DataFrame:
    """Write down the law, then make the runs."""
    rows = [*_curves(config), *_maximisers(config)]
    for name, size, practice in track(list(config.cells), "cells"):
        rows += _runs(config, name, size, practice)
    return pd.DataFrame(rows).assign(task=config.problem.name).reindex(columns=COLUMNS)


def _curves(config: ImpliedObjective) -> Iterator[dict[str, Any]]:
    """φ_G and F_G at each success probability, and their limits at G = ∞."""
    for name in config.estimators:
        curves = {
            float(size): (
                binary.gain(ESTIMATORS[name][1](size), PROBABILITIES),
                binary.implied_objective(ESTIMATORS[name][1](size), PROBABILITIES),
            )
            for size in CURVES
        }
        if name != "grpo":
            limits = binary.limiting_gain, binary.limiting_objective
            curves[np.inf] = limits[0](PROBABILITIES), limits[1](PROBABILITIES)
        for size, (gain, objective) in curves.items():
            for place, prob in enumerate(PROBABILITIES):
                yield {"part": "gain", "estimator": name, "group_size": size,
                       "success_probability": prob, "gain": gain[place],
                       "implied_objective": objective[place]}  # fmt: skip


def _maximisers(config: ImpliedObjective) -> Iterator[dict[str, Any]]:
    """The candidates against G."""
    for (name, penalty, size), found in config.candidates.items():
        keys = {"estimator": name, "penalty": penalty, "group_size": size}
        yield {"part": "maximiser"} | keys | _predicted(found)


def _runs(
    config: ImpliedObjective, name: str, size: int, practice: Practice
) -> Iterator[dict[str, Any]]:
    """Make the runs of one cell, and look at them half-way and at the end.

    θ_n varies by O(n^−½) about a mean that is off by O(1/n), since the field is curved and outputs
    are used off-policy: both ends of a run show whether that is below the standard error.
    """
    assert config.iterations is not None
    found = config.candidates[name, practice.penalty, size]
    rate = config.rate_factor / (found.curvature * practice.num_minibatches)
    training = TrainingConfig(
        estimator=ESTIMATORS[name][0],
        batch_size=config.budget // size,
        group_size=size,
        num_iterations=config.iterations,
        schedule=Decay(rate, config.offset),
        checkpoints=[config.iterations // 2, config.iterations],
        practice=practice,
    )
    made = optimize(
        config.problem.bandit,
        training,
        theta0=[config.problem.start],
        num_runs=max(2, int(RUNS * config.scale.runs)),
        rng=panel_rng(config.seed, config.problem.name),  # the same for all: cells are paired
        reference=[config.problem.reference],
    )
    for place, iteration in enumerate(made.checkpoints):
        ends = made.theta[:, place, 0]
        yield {
            "part": "runs", "estimator": name, "group_size": size, "penalty": practice.penalty,
            "num_minibatches": practice.num_minibatches, "iteration": iteration, "runs": len(ends),
            "coordinate": ends.mean(), "std_error": ends.std(ddof=1) / np.sqrt(len(ends)),
        } | _predicted(found)  # fmt: skip


def _predicted(found: Candidates) -> dict[str, float]:
    return {
        "predicted": found.own,
        "predicted_value": found.value,
        "predicted_limit": found.limit,
    }


def describe(config: ImpliedObjective) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.problem.name}_N{config.budget}_kl{config.penalty_weight:g}"


APP = App("implied_objective", ImpliedObjective, run, describe, lambda config: config.candidates)
