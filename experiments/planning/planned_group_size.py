"""Does the planner work? Plan G from one small batch where training begins, then run the sweep.

Many first batches are drawn at the first policy, each gives a plan, and the plan is judged by a
sweep whose runs are paired: how often is the planned G among those that may be the best, and what
does following the plan lose, against fixed sizes and the best of the sweep? Try

    python -m experiments planned_group_size task=weak_tug_of_war
    python -m experiments planned_group_size -m task=frozenlake,cartpole,arithmetic

Sweeps of bandits are run here; those of episodes and language models take long, and are read from
the committed references, or from a `sweep` of one's own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int
from omegaconf import MISSING
from rich.progress import track

from experiments.group_size.group_size import GroupSize, grpo_sweep
from experiments.group_size.group_size_rules import nearest
from experiments.planning.first_batches import FirstBatch
from experiments.planning.planned_panels import Panel, panels
from experiments.planning.planned_sweeps import Sweep, fingerprint
from experiments.running.app import App
from experiments.running.options import Scale, ScheduleConfig, require_seed_and_threads
from experiments.tasks import bandits as tasks
from experiments.tasks import panels as policy_panels
from experiments.tasks.language import Arithmetic, SmallPolicies
from experiments.tasks.sequential import SequentialTask
from ustat_grpo.inputs.arrays import Integers
from ustat_grpo.inputs.checks import increasing, integer
from ustat_grpo.noise import NoiseEstimate, OutputSample, estimate_noise
from ustat_grpo.planner import plan

NAME = "planned_group_size"
PLANNED, AT_ESTIMATE, BEST = "planned", "planned at the estimate", "best of the sweep"
FIXED = (8, 16, 64)
"""Group sizes that trainers and papers start from."""
FALLBACK = 8
"""The G of a user whose first batch was refused."""
GRID = (2, 4, 8, 16, 32, 64, 128)
"""The group sizes of the sweeps, as far as a budget has room for them."""

_REFERENCE = Path(__file__).parents[1] / "reference"
_BUDGETS = [256, 1024, 4096]

COLUMNS = [
    "task", "optimizer", "budget", "iteration", "runs", "num_prompts", "num_outputs", "plans",
    "rule", "in_confidence_set", "set_size", "num_sizes", "best_loss",
    "excess", "std_error", "relative_excess",
    "relative_std_error", "over_planned", "over_planned_std_error", "lower_bound", "refused",
    *(f"share_{size}" for size in GRID),
]  # fmt: skip


@dataclass
class PlannedGroupSize:
    """The configuration of this app."""

    task: Any = MISSING
    policy: Any = None  # of language models
    start: str = "intermediate"  # of the small policies, the one where runs begin
    scale: Scale = field(default_factory=Scale)
    first_batches: list[list[int]] = field(default_factory=lambda: [[32, 8], [128, 8]])
    plans: int = 200  # from so many first batches of each size
    budgets: list[int] | None = None  # null takes 256, 1024, 4096, or all of a table
    iterations: list[int] = field(default_factory=lambda: [25, 50, 100, 200])  # of bandits
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sweep: str | None = None  # a table; null takes the reference, where sweeps are not run here
    seed: int = 0
    threads: int | None = None  # null takes all cores; one for language models
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        integer("plans", self.plans, at_least=2)
        for shape in self.first_batches:
            if len(shape) != 2 or shape[0] < 8 or shape[1] < 3:
                raise ValueError(
                    "first_batches must hold pairs of at least 8 prompts and at least 3 outputs, "
                    f"got {self.first_batches}"
                )
        increasing("iterations", self.iterations)
        require_seed_and_threads(self.seed, self.threads)
        if isinstance(self.policy, SmallPolicies):
            self.policy = replace(self.policy, skills=[self.start])
        self._require_sweep()

    def _require_sweep(self) -> None:
        """Find the table of a sweep, or check that one can be run."""
        if isinstance(self.task, tasks.Task):
            if self.sweep is not None:
                raise ValueError(f"sweep must be null on {self.task.name}, whose sweeps are run, "
                                 f"got {self.sweep}")  # fmt: skip
            self.budgets = self.budgets or _BUDGETS
            for budget in self.budgets:
                self.of_budget(budget)
            return
        if not isinstance(self.task, SequentialTask | Arithmetic):
            raise ValueError(
                f"task must be a bandit, an environment or arithmetic, got {self.task.name}"
            )
        language = isinstance(self.task, Arithmetic)
        name = "language_group_size" if language else "sequential_group_size"
        self.sweep = self.sweep or str(_REFERENCE / f"{name}.csv")
        fingerprint(Path(self.sweep))

    @property
    def inputs(self) -> list[Path]:
        """The table that numbers depend on by its content."""
        return [] if self.sweep is None else [Path(self.sweep)]

    def of_budget(self, budget: int) -> GroupSize:
        """Return the sweep that is run at one budget, or raise if it has no two sizes."""
        sizes = [size for size in GRID if budget % size == 0 and 2 * size <= budget]
        if len(sizes) < 2:
            raise ValueError(f"budgets must be multiples of 4 from 8 on, got {budget}")
        return grpo_sweep(self, budget, sizes)


class Planned(NamedTuple):
    """What the planner says of many first batches.

    Args:
        estimates: one a batch, None where it was refused.
        recommended: the planned G by budget, real and one a batch.
        at_estimate: the same if the point estimate were the truth.
    """

    estimates: list[NoiseEstimate | None]
    recommended: dict[int, list[int]]
    at_estimate: dict[int, list[int]]

    @property
    def refused(self) -> float:
        """The share of batches without a plan."""
        return sum(each is None for each in self.estimates) / len(self.estimates)

    @property
    def lower_bound(self) -> float:
        """The share of batches that give no upper end for G*."""
        found = [each is not None and each.optimal.is_lower_bound for each in self.estimates]
        return sum(found) / len(found)


def run(config: PlannedGroupSize) -> pd.DataFrame:
    """Judge plans from first batches of every size, for each panel of the task."""
    rows = []
    with panels(config) as found:
        for panel in found:
            for shape in config.first_batches:
                size = FirstBatch(*shape)
                planned = _planned(config, panel, size)
                for sweep in panel.sweeps:
                    rows += [
                        {"task": panel.name, **size._asdict(), "plans": config.plans, **row}
                        for row in judged(sweep, planned, panel.laws.get(sweep.iteration, {}))
                    ]
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def _planned(config: PlannedGroupSize, panel: Panel, size: FirstBatch) -> Planned:
    key = f"{panel.name}, {size.num_prompts} prompts of {size.num_outputs}"
    streams = tasks.panel_rng(config.seed, key).spawn(config.plans)
    estimates = [estimated(panel.draw(size, rng)) for rng in track(streams, key)]
    recommended, at_estimate = {}, {}
    for budget in dict.fromkeys(sweep.budget for sweep in panel.sweeps):
        plans = [None if each is None else plan(each, budget=budget) for each in estimates]
        recommended[budget] = [p.recommended.group_size if p else FALLBACK for p in plans]
        at_estimate[budget] = [p.at_estimate.group_size if p else FALLBACK for p in plans]
    return Planned(estimates, recommended, at_estimate)


def estimated(sample: OutputSample) -> NoiseEstimate | None:
    """Return the noise of a first batch, or None if the planner refuses it: there is no signal."""
    try:
        noise = estimate_noise(sample)
    except ValueError:
        return None
    return noise if noise.residual > 0 else None


def judged(sweep: Sweep, planned: Planned, laws: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Yield one row a rule: how often its G may be the best, and what it loses.

    Standard errors are those of the runs, paired, and of the plans, whose number is finite.

    Args:
        sweep: what every group size loses.
        planned: what the planner says at the policy where the sweep begins.
        laws: the G that laws want.
    """
    columns = _columns(sweep, planned, laws)
    best = np.full(len(planned.estimates), sweep.excess.argmin())
    worst = float(sweep.excess.max())
    for rule, chosen in columns.items():
        excess, std_error = difference(sweep, chosen, best)
        over, over_error = difference(sweep, chosen, columns[PLANNED])
        shares = np.bincount(chosen, minlength=len(sweep.sizes)) / len(chosen)
        yield {
            "optimizer": sweep.optimizer,
            "budget": sweep.budget,
            "iteration": sweep.iteration,
            "runs": sweep.runs,
            "rule": rule,
            "in_confidence_set": float(sweep.may_be_best[chosen].mean()),
            "set_size": int(sweep.may_be_best.sum()),
            "num_sizes": len(sweep.sizes),
            "best_loss": sweep.best_loss,
            "excess": excess,
            "std_error": std_error,
            "relative_excess": excess / worst,
            "relative_std_error": std_error / worst,
            "over_planned": over,
            "over_planned_std_error": over_error,
            "lower_bound": planned.lower_bound,
            "refused": planned.refused,
            **{f"share_{size}": 0.0 for size in GRID},
            **{f"share_{size}": share for size, share in zip(sweep.sizes, shares, strict=True)},
        }


def fixed(size: int) -> str:
    """Return the name of the rule that always takes this size."""
    return f"fixed {size}"


def _columns(
    sweep: Sweep, planned: Planned, laws: Mapping[str, float]
) -> dict[str, Int[Integers, " P"]]:
    """Return the places of the sizes nearest by ratio to those that every rule wants, by plan."""
    always = {**{fixed(size): size for size in FIXED}, BEST: sweep.best, **laws}
    wanted: dict[str, Sequence[float]] = {
        PLANNED: planned.recommended[sweep.budget],
        AT_ESTIMATE: planned.at_estimate[sweep.budget],
        **{rule: [size] * len(planned.estimates) for rule, size in always.items()},
    }
    return {
        rule: np.array([sweep.sizes.index(nearest(size, sweep.sizes)) for size in sizes])
        for rule, sizes in wanted.items()
    }


def difference(
    sweep: Sweep, chosen: Int[Integers, " P"], other: Int[Integers, " P"]
) -> tuple[float, float]:
    """Return what one choice of columns loses more than another, plan by plan, and its error."""
    each = sweep.excess[chosen] - sweep.excess[other]
    count, places = len(chosen), len(sweep.sizes)
    weights = np.bincount(chosen, minlength=places) - np.bincount(other, minlength=places)
    of_plans = each.std(ddof=1) / count**0.5
    return float(each.mean()), float(np.hypot(sweep.std_error(weights / count), of_plans))


def describe(config: PlannedGroupSize) -> str:
    """Return the readable part of the results folder's name; another table is another job."""
    source = fingerprint(Path(config.sweep)) if config.sweep else f"{config.scale.runs}runs"
    return f"{config.task.name}_{config.plans}plans_{source}"


def prepare(config: PlannedGroupSize) -> None:
    """Build the task, or raise."""
    if isinstance(config.task, Arithmetic):
        policy_panels.training_sets(config.task, config.policy)
    else:
        _ = config.task.snapshots


APP = App(NAME, PlannedGroupSize, run, describe, prepare)
