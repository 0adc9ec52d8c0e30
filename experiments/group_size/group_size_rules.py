"""Published rules for the group size contradict each other: replay them all on the same runs.

One says that G is universal, others that it grows with the budget, that two are enough, or that it
hardly matters. Every rule picks from the same sweep of GRPO's group sizes, whose runs share their
random numbers, so that differences between rules have paired error bars. Try

    python -m experiments group_size_rules task=weak_tug_of_war
    python -m experiments group_size_rules -m task=bandit,tug_of_war 'budgets=[128,512]'
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import MISSING

from experiments.group_size.confidence import compare
from experiments.group_size.config import GroupSize, grpo_sweep
from experiments.group_size.group_size import measured_gaps, predicted
from experiments.running.app import App
from experiments.running.options import Scale, ScheduleConfig, group_sizes, sizes_of_budget
from experiments.tasks.bandits import Start, bandit_task, prepare
from ustat_grpo import NoiseComponents, laws
from ustat_grpo.laws.path import ExpectedGap

COLUMNS = [
    "task", "budget", "iteration", "rule", "wanted", "group_size", "runs", "gap", "excess",
    "std_error", "relative_excess", "law_excess", "in_confidence_set",
]  # fmt: skip

MEASURED_BEST = "measured best"


@dataclass(frozen=True)
class Known:
    """What a rule may know before any run.

    Args:
        budget: N, outputs a step.
        noise: of the gradient at θ₀.
        law: of the gap at the last iteration.
    """

    budget: int
    noise: NoiseComponents
    law: ExpectedGap


RULES: dict[str, Callable[[Known], float]] = {
    "law (gap)": lambda known: known.law.best_group_size,
    "law (gradient error)": lambda known: laws.group_size.optimal(known.noise),
    "paper": lambda known: laws.group_size.optimal(known.noise) - 1,
    "cube root": lambda known: known.budget ** (1 / 3),
    "grows with compute": lambda known: known.budget**0.5,
    "two": lambda known: 2.0,
    "flat: 8": lambda known: 8.0,
    "flat: 16": lambda known: 16.0,
    "flat: 32": lambda known: 32.0,
}
"""The G that each rule wants, a real number:

- law (gap): 1 + √(a₃/a₁) of `laws.path` at the last iteration
- law (gradient error): 1 + √(c₃/c₁) at θ₀
- paper: √(c₃/c₁) at θ₀, for all budgets (Theorem 7, arXiv 2603.01162)
- cube root: N^⅓ (notes of the package multireward-grpo)
- grows with compute: "the best number of outputs of a prompt grows with the compute" (IsoCompute,
  arXiv 2603.12151). It fits a sigmoid in log compute to each model; √N is our reading, which
  divides a growing budget evenly among more prompts and larger groups
- two: G = 2 is enough (arXiv 2510.00977)
- flat: any of 8 to 32 is as good (ScaleRL, arXiv 2510.13786)
"""


DEFAULT_SIZES = [2**power for power in range(1, 12)]
"""Those of conf/group_size_rules.yaml; a budget that none of them divides takes its divisors."""


@dataclass
class GroupSizeRules:
    """The configuration of this app."""

    task: Any = MISSING
    scale: Scale = field(default_factory=Scale)
    budgets: list[int] = field(default_factory=lambda: [64, 256, 1024])
    group_size: Any = MISSING  # one, or a list; each budget takes its divisors up to half of it
    iterations: list[int] = field(default_factory=lambda: [25, 50, 100, 200])
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    seed: int = 0
    threads: int | None = None  # null takes all cores
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        self.group_size = sorted(set(group_sizes(self.group_size)))
        if not self.budgets or sorted(set(self.budgets)) != list(self.budgets):
            raise ValueError(f"budgets must be increasing, got {list(self.budgets)}")
        for budget in self.budgets:
            self.sweep(budget)

    def sweep(self, budget: int) -> GroupSize:
        """Return the sweep over the group sizes that a budget allows, or raise if it has none."""
        sizes = [size for size in self.group_size if budget % size == 0 and 2 * size <= budget]
        if not sizes and self.group_size == DEFAULT_SIZES:
            sizes = sizes_of_budget(budget)
        if not sizes:
            raise ValueError(
                f"group_size must hold a divisor of budget {budget} of at most half of it, "
                f"got {self.group_size}"
            )
        return grpo_sweep(self, budget, sizes)


def run(config: GroupSizeRules) -> pd.DataFrame:
    """Replay every rule at every budget and iteration, for each panel of the task."""
    rows = []
    for panel, start in bandit_task(config.task).starts.items():
        sweeps = [config.sweep(budget) for budget in config.budgets]
        # One law for all budgets and group sizes.
        at_points = next(iter(predicted(sweeps[0], start, sweeps[0].compared["grpo"]).values()))
        for sweep in sweeps:
            rows += [{"task": panel, **row} for row in _replay(sweep, panel, start, at_points)]
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def nearest(wanted: float, sizes: Sequence[int]) -> int:
    """Return the size nearest to a wanted one by ratio, the smaller of two at a tie.

    Infinity asks for the largest; NaN for the smallest: a law that falls toward G = 1 has no best.
    """
    if np.isnan(wanted):
        return min(sizes)
    if np.isinf(wanted):
        return max(sizes)
    ratio = {size: abs(float(np.log2(wanted / size))) for size in sorted(sizes)}
    return min(ratio, key=lambda size: round(ratio[size], 9))  # √32 is as near to 4 as to 8


def _replay(
    sweep: GroupSize, panel: str, start: Start, at_points: Sequence[ExpectedGap]
) -> Iterator[dict[str, Any]]:
    """Measure all sizes of one budget, and look up what each rule picks."""
    known = Known(sweep.budget, start.bandit.at(start.theta0).noise, at_points[-1])
    wanted = {rule: advise(known) for rule, advise in RULES.items()}
    gaps = measured_gaps(sweep, panel, start, "grpo")
    for point, law in enumerate(at_points):
        table = compare(gaps[:, :, point], sweep.group_size)
        table["law"] = [
            law.gap(batch_size=sweep.budget // size, group_size=size) for size in sweep.group_size
        ]
        for row in _rows(table, wanted):
            yield {"budget": sweep.budget, "iteration": law.iteration, "runs": len(gaps), **row}


def _rows(table: pd.DataFrame, wanted: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Yield one row a rule; `law_excess` is over the least law, which noise cannot choose."""
    sizes = table.index.to_list()
    best = float(sizes[int(table["gap"].argmin())])
    for rule, real_size in {**wanted, MEASURED_BEST: best}.items():
        size = nearest(real_size, sizes)
        picked = table.loc[size]
        yield {
            "rule": rule,
            "wanted": real_size,
            "group_size": size,
            "gap": picked["gap"],
            "excess": picked["excess"],
            "std_error": picked["excess_std_error"],
            "relative_excess": picked["excess"] / table["gap"].min(),
            "law_excess": picked["law"] - table["law"].min(),
            "in_confidence_set": bool(picked["in_confidence_set"]),
        }


def describe(config: GroupSizeRules) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_N{'-'.join(map(str, config.budgets))}_{len(RULES)}rules"


APP = App("group_size_rules", GroupSizeRules, run, describe, prepare)
