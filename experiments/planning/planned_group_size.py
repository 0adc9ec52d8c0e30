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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int
from rich.progress import track

from experiments.group_size.group_size_rules import nearest
from experiments.planning.planned_config import GRID, PlannedGroupSize
from experiments.planning.planned_panels import PlannedPolicy, panels, tabled
from experiments.planning.planned_sweeps import Sweep, fingerprint
from experiments.running.app import App
from experiments.tasks import bandits as tasks
from experiments.tasks.subject import FirstBatch
from ustat_grpo.inputs.arrays import Integers
from ustat_grpo.noise import NoiseEstimate, OutputSample, estimate_noise
from ustat_grpo.planner import plan

NAME = "planned_group_size"
PLANNED, AT_ESTIMATE, BEST = "planned", "planned at the estimate", "best of the sweep"
FIXED = (8, 16, 64)
"""Group sizes that trainers and papers start from."""
FALLBACK = 8
"""The G of a user whose first batch was refused."""
COLUMNS = [
    "task", "optimizer", "budget", "iteration", "runs", "num_prompts", "num_outputs", "plans",
    "rule", "in_confidence_set", "set_size", "num_sizes", "best_loss",
    "excess", "std_error", "relative_excess",
    "relative_std_error", "over_planned", "over_planned_std_error", "lower_bound", "refused",
    *(f"share_{size}" for size in GRID),
]  # fmt: skip


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


def _planned(config: PlannedGroupSize, panel: PlannedPolicy, size: FirstBatch) -> Planned:
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
    first = next(iter(config.subject.prepare()))
    if config.sweep is not None:
        tabled(Path(config.sweep), config.budgets, first)


APP = App(NAME, PlannedGroupSize, run, describe, prepare)
