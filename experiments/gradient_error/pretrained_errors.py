"""How wrong is each gradient estimate on a pretrained model? The paper's figure, weights and all.

SmolLM2-135M-Instruct, dequantised from 4 bits, is asked one-digit arithmetic plainly, in chat, and
behind solved examples: three policies of rising skill, as in the paper. Every gradient is that of
all its weights. One pool of outputs to each question serves every group size, and at one of them
gradients of whole batches are written out. Try

    python -m experiments get_model smollm2
    python -m experiments pretrained_errors scale=smoke
    python -m experiments pretrained_errors scale=paper

A question that is finished is kept: a killed job goes on with those that are left.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from omegaconf import MISSING

from experiments.running.app import App
from experiments.running.estimators import Compared, algorithms, require_group_size, resolve
from experiments.running.options import Scale, group_sizes, require_seed_and_threads
from experiments.running.parts import KeptRuns, Parts
from experiments.running.threads import use_threads
from experiments.tasks import errors_table
from experiments.tasks.bandits import panel_rng
from experiments.tasks.errors_table import BRUTE_FORCE, GradientError, measured
from experiments.tasks.policies import PosedTask, posed
from experiments.tasks.pool_table import errors_of_pool, require_pool
from experiments.tasks.subject import ErrorsAsked
from ustat_grpo.inputs.checks import integer
from ustat_grpo.pools.measured_moments import pool_moments
from ustat_grpo.pools.prompt_pools import NUM_BLOCKS, Pool, PromptPool

if TYPE_CHECKING:
    from experiments.tasks.kept_pools import PromptOutputs
    from experiments.tasks.language import Panel

COLUMNS = [*errors_table.COLUMNS, "value", "distinct", "norm_right", "norm_wrong"]
"""Those of gradient errors, and what the outputs of a panel are like: see `_described`."""


@dataclass
class PretrainedErrors:
    """The configuration of this app."""

    task: Any = MISSING
    policy: Any = MISSING
    dataset: str | None = None  # of task=reasoning_gym
    dataset_config: dict[str, Any] = field(default_factory=dict)
    scale: Scale = field(default_factory=Scale)
    estimators: dict[str, dict[str, float]] = MISSING
    group_size: Any = field(default_factory=lambda: [4, 8, 16, 32, 64])
    whole_group_size: int = 16  # at which whole gradients are written out
    whole_gradients: int = 4  # of each estimator
    seed: int = 0
    threads: int | None = None  # null takes all cores
    stale: str = "refuse"  # or rerun, or keep: questions that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        self.group_size = group_sizes(self.group_size)
        require_seed_and_threads(self.seed, self.threads)
        require_group_size(self.compared, min(self.group_size))
        require_pool(self.posed.task.num_outputs, self.asked)
        integer("whole_gradients", self.whole_gradients, at_least=2)
        integer("whole_group_size", self.whole_group_size, at_least=2)
        needed = self.whole_gradients * self.whole_group_size
        if needed > self.posed.task.num_outputs:
            raise ValueError(
                "whole_gradients times whole_group_size must be at most task.num_outputs="
                f"{self.posed.task.num_outputs}, got {needed}"
            )
        if "optimal_baseline" in self.estimators or "grpo" not in self.estimators:
            raise ValueError(
                "estimators must hold grpo, by which ∇J is measured, and not optimal_baseline, "
                f"got {list(self.estimators)}"
            )

    @cached_property
    def compared(self) -> dict[str, Compared]:
        """The estimators with their laws, by name."""
        return resolve(self.estimators)

    @property
    def posed(self) -> PosedTask:
        """The task with its policies."""
        return posed(self.task, self.policy)

    @property
    def asked(self) -> ErrorsAsked:
        """What is asked of the pools: errors with every question once."""
        return ErrorsAsked(
            self.compared, self.group_size, None, self.scale.precision, self.seed, self.threads
        )


def run(config: PretrainedErrors, parts: Path) -> pd.DataFrame:
    """Measure every estimator at every group size, for each way to ask.

    Args:
        config: of this app.
        parts: folder of the tables of single questions.
    """
    use_threads(config.threads)
    tables, kept = [], Parts(__name__, config)
    for place, (name, panel) in enumerate(config.posed.panels().items()):
        tables.append(_panel_table(config, name, panel, KeptRuns(kept, parts / str(place))))
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


def _panel_table(
    config: PretrainedErrors, name: str, panel: "Panel", kept: KeptRuns
) -> pd.DataFrame:
    """Return the errors by the pools and by whole gradients, and what the outputs are like."""
    from experiments.tasks.kept_pools import PromptOutputs

    numbers = {str(number): number for number in range(len(panel.prompts))}
    pools = kept.tables(numbers, partial(_pools, config, name, panel), name)
    outputs = [PromptOutputs.of(table) for table in pools.values()]
    compute = partial(_whole_errors, config, panel, outputs)
    whole = kept.tables({"whole": 0}, compute, f"{name}, whole gradients")["whole"]
    # The prompt noise of the moments needs ‖∇J‖², of which whole gradients of GRPO know most.
    objective = whole.query("estimator == 'grpo'")["objective_norm"].iloc[0]
    pool = Pool([each.pool for each in outputs], np.full((NUM_BLOCKS, NUM_BLOCKS), objective))
    moments = pool_moments(pool)
    rows = []
    for estimator in config.compared:
        errors = whole["error"].to_numpy()[whole["estimator"] == estimator]
        count, spread = len(errors), float(errors.std(ddof=1) / len(errors) ** 0.5)
        size, mean = config.whole_group_size, float(errors.mean())
        rows.append(
            GradientError(
                name, estimator, len(outputs), size, count, mean, spread, evidence=BRUTE_FORCE
            )
        )
    by_pool = errors_of_pool(config.asked, name, pool, moments)
    both = pd.concat([by_pool, measured(rows, config.asked, moments)])
    return both.assign(**_described(pool.prompts))


def _pools(
    config: PretrainedErrors, name: str, panel: "Panel", numbers: Sequence[int]
) -> Iterator[tuple[int, pd.DataFrame]]:
    """Yield the pool of each question as a table; every question has draws of its own."""
    import torch

    from experiments.tasks.kept_pools import drawn

    seeds = panel_rng(config.seed, name).integers(2**62, size=len(panel.prompts))
    for number in numbers:
        rng = torch.Generator().manual_seed(int(seeds[number]))
        yield number, drawn(panel, number, config.posed.task.num_outputs, rng)


def _whole_errors(
    config: PretrainedErrors, panel: "Panel", outputs: "Sequence[PromptOutputs]", _: Sequence[int]
) -> Iterator[tuple[int, pd.DataFrame]]:
    """Yield one table of all whole gradients: each one's part of the error, and ‖∇J‖²."""
    from experiments.tasks.kept_pools import whole_gradients

    estimators = algorithms(config.compared)
    whole = whole_gradients(
        panel, outputs, estimators, config.whole_group_size, config.whole_gradients
    )
    tables = [
        pd.DataFrame(
            {
                "estimator": name,
                "error": whole.errors(name),
                "objective_norm": whole.objective_norm(name),
            }
        )
        for name in estimators
    ]
    yield 0, pd.concat(tables)


def _described(pools: Sequence[PromptPool]) -> Mapping[str, float]:
    """Return what the outputs of a panel are like, on average over its questions."""

    def mean(values: Iterator[float]) -> float:
        found = [value for value in values if np.isfinite(value)]
        return float(np.mean(found)) if found else float("nan")

    def norms(pool: PromptPool, right: bool) -> float:
        chosen = pool.norms[(pool.rewards > 0) == right]
        return float(chosen.mean()) if len(chosen) else float("nan")

    return {
        "value": mean(float(pool.rewards.mean()) for pool in pools),
        "distinct": mean(float(len(pool.gram)) for pool in pools),
        "norm_right": mean(norms(pool, True) for pool in pools),
        "norm_wrong": mean(norms(pool, False) for pool in pools),
    }


def describe(config: PretrainedErrors) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_{config.policy.name}_M{config.task.num_outputs}"


def prepare(config: PretrainedErrors) -> None:
    """Build the panels, or raise."""
    config.posed.panels()


APP = App("pretrained_errors", PretrainedErrors, run, describe, prepare, keeps_parts=True)
