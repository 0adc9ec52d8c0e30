"""Do finite prompt sets move the best group size? The gap under three ways of drawing prompts.

The paper suspects its finite set of questions behind the larger best G at its largest budget. Here
minibatches are i.i.d., without replacement within each, or taken from epochs, shuffle by shuffle,
as trainers do; each beside its law. Try

    python -m experiments finite_prompts task=arithmetic_choice task.num_problems=100
    python -m experiments finite_prompts -m budget=1024,2048,4096 scale=paper
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import MISSING
from rich.progress import track

from experiments.group_size.config import sizes_at
from experiments.group_size.group_size import gap_columns
from experiments.running.app import App
from experiments.running.estimators import resolve
from experiments.running.options import Scale, ScheduleConfig, require_seed_and_threads
from experiments.tasks.bandits import Start, bandit_task, prepare
from experiments.tasks.finite_subject import train_bandit
from experiments.tasks.subject import TrainingAsked
from ustat_grpo import Grpo, Runs
from ustat_grpo.bandits.expansion import expand
from ustat_grpo.inputs.checks import increasing, leave_one_out_group_size
from ustat_grpo.laws.covariance import grpo
from ustat_grpo.laws.epochs import prompt_effect
from ustat_grpo.laws.path import ExpectedGap, expected_gap, without_replacement
from ustat_grpo.optimization.training_config import PROMPT_SAMPLING

COLUMNS = [
    "task", "prompt_sampling", "num_prompts", "budget", "group_size", "batch_size", "iteration",
    "runs", "gap", "std_error", "law",
]  # fmt: skip


@dataclass
class FinitePrompts:
    """The configuration of this app."""

    task: Any = MISSING
    scale: Scale = field(default_factory=Scale)
    prompt_sampling: list[str] = field(default_factory=lambda: list(PROMPT_SAMPLING))
    budget: int = 1024
    group_size: Any = MISSING  # one, or a list
    iterations: list[int] = MISSING
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    seed: int = 0
    threads: int | None = None  # null takes all cores
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        self.group_size = sizes_at(
            self.budget, self.group_size, default=(4, 8, 16, 32, 64, 128), fewest=1
        )
        leave_one_out_group_size(min(self.group_size))
        increasing("iterations", self.iterations)
        require_seed_and_threads(self.seed, self.threads)
        if not self.prompt_sampling or len(set(self.prompt_sampling)) < len(self.prompt_sampling):
            raise ValueError(
                f"prompt_sampling must hold different names, got {list(self.prompt_sampling)}"
            )
        for name in self.prompt_sampling:
            if name not in PROMPT_SAMPLING:
                raise ValueError(
                    f"prompt_sampling must be among {', '.join(PROMPT_SAMPLING)}, got {name!r}"
                )
        if self.prompt_sampling == ["without_replacement"]:
            self._require_small_batches()

    @property
    def asked(self) -> TrainingAsked:
        """What is asked of GRPO's runs."""
        return TrainingAsked(
            resolve({"grpo": {}}),
            self.budget,
            self.group_size,
            self.iterations,
            self.schedule,
            self.scale.runs,
            self.seed,
            self.threads,
        )

    def _require_small_batches(self) -> None:
        """Raise if every minibatch is larger than the set: nothing would be left to measure."""
        smallest = self.budget // max(self.group_size)
        for panel, start in bandit_task(self.task).starts.items():
            if smallest > len(start.bandit.reward_probs):
                raise ValueError(
                    f"batch_size must be at most the {len(start.bandit.reward_probs)} prompts of "
                    f"{panel} for prompt_sampling without_replacement, got {smallest}"
                )


def run(config: FinitePrompts) -> pd.DataFrame:
    """Measure GRPO's gap under each way of drawing prompts, for each panel of the task."""
    tables = []
    for panel, start in bandit_task(config.task).starts.items():
        num_prompts = len(start.bandit.reward_probs)
        laws = _path_laws(config, start)
        for name in config.prompt_sampling:
            for size in track(config.group_size, f"{panel}, {name}"):
                if name == "without_replacement" and config.budget // size > num_prompts:
                    continue
                runs = train_bandit(config.asked, config.task, panel, Grpo(), size, name)
                law = list(_laws(config, start, laws, name, size))
                table = _columns(config, runs, law, size)
                tables.append(
                    table.assign(task=panel, prompt_sampling=name, num_prompts=num_prompts)
                )
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


def _rates(config: FinitePrompts) -> np.ndarray:
    schedule = config.schedule.build(config.task.learning_rate)
    return schedule.rates(config.iterations[-1])


def _path_laws(config: FinitePrompts, start: Start) -> list[ExpectedGap]:
    return expected_gap(
        expand(start.bandit.at),
        grpo,
        theta0=start.theta0,
        rates=_rates(config),
        checkpoints=config.iterations,
        best_objective=start.bandit.best_objective,
    )


def _laws(
    config: FinitePrompts, start: Start, laws: Sequence[ExpectedGap], name: str, size: int
) -> Iterator[float]:
    """Yield the law at each iteration; NaN for epochs where prompts share no parameters."""
    batch_size, num_prompts = config.budget // size, len(start.bandit.reward_probs)
    factor, effects = 1.0, np.zeros(len(laws))
    if name == "without_replacement":
        factor = without_replacement(num_prompts, batch_size)
    if name == "epochs":
        factor, effects = 0.0, np.full(len(laws), np.nan)
        if start.bandit.features is not None:
            effects = prompt_effect(
                expand(start.bandit.at),
                theta0=start.theta0,
                rates=_rates(config),
                checkpoints=config.iterations,
                batch_size=batch_size,
            )
    for law, effect in zip(laws, effects, strict=True):
        iid = law.gap(batch_size=batch_size, group_size=size, prompt_factor=factor)
        yield iid + effect


def _columns(config: FinitePrompts, runs: Runs, law: Sequence[float], size: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "budget": config.budget,
            "group_size": size,
            "batch_size": config.budget // size,
            **gap_columns(runs.gap, config.iterations),
            "law": law,
        }
    )


def describe(config: FinitePrompts) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_N{config.budget}_{len(config.group_size)}sizes"


APP = App("finite_prompts", FinitePrompts, run, describe, prepare)
