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
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import MISSING
from rich.progress import track

from experiments.running.app import App
from experiments.running.estimators import Compared, algorithms, require_group_size, resolve
from experiments.running.options import Scale, group_sizes, require_seed_and_threads
from experiments.running.parts import Parts
from experiments.running.threads import use_threads
from experiments.tasks.bandits import panel_rng
from experiments.tasks.policies import PosedTask, posed
from experiments.tasks.pool_table import errors_of_pool, require_pool, with_laws
from experiments.tasks.subject import ErrorsAsked
from ustat_grpo.inputs.checks import integer
from ustat_grpo.pools.moments import pool_moments
from ustat_grpo.pools.pool import NUM_BLOCKS, Pool, PromptPool

if TYPE_CHECKING:
    from experiments.tasks.language import Panel
    from experiments.tasks.prompt_pools import PromptOutputs

COLUMNS = [
    "task", "estimator", "batch_size", "group_size", "replications", "mse", "std_error", "law",
    "law_std_error", "evidence", "value", "distinct", "norm_right", "norm_wrong",
]  # fmt: skip


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
        if "optimal_baseline" in self.estimators:
            raise ValueError("estimators must not need what is measured (optimal_baseline)")

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
    panels = config.posed.panels()
    kept = {
        name: _KeptPanel(name, panel, Parts(__name__, config), parts / str(place))
        for place, (name, panel) in enumerate(panels.items())
    }
    tables = []
    for each in kept.values():
        _draw(config, each)
        tables.append(_panel_table(config, each))
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


class _KeptPanel(NamedTuple):
    """A panel with the tables that are kept of it."""

    name: str
    panel: "Panel"
    parts: Parts
    folder: Path

    @property
    def pools(self) -> list[Path]:
        """The paths of the questions' pools."""
        return [self.folder / f"{number}.csv" for number in range(len(self.panel.prompts))]

    @property
    def whole(self) -> Path:
        """The path of the errors of whole gradients."""
        return self.folder / "whole.csv"


def _draw(config: PretrainedErrors, kept: _KeptPanel) -> None:
    """Draw the pools of the questions that are missing."""
    import torch

    from experiments.tasks.prompt_pools import drawn

    seeds = panel_rng(config.seed, kept.name).integers(2**62, size=len(kept.pools))
    missing = set(kept.parts.left(kept.pools))
    numbers = [number for number, path in enumerate(kept.pools) if path in missing]
    for number in track(numbers, kept.name):
        rng = torch.Generator().manual_seed(int(seeds[number]))
        table = drawn(kept.panel, number, config.posed.task.num_outputs, rng)
        kept.parts.write(kept.pools[number], table)


def _panel_table(config: PretrainedErrors, kept: _KeptPanel) -> pd.DataFrame:
    """Return the errors by the pools and by whole gradients, and what the outputs are like."""
    from experiments.tasks.prompt_pools import PromptOutputs

    outputs = [PromptOutputs.of(kept.parts.read(path)) for path in kept.pools]
    if kept.parts.left([kept.whole]):
        kept.parts.write(kept.whole, _whole_errors(config, kept.panel, outputs))
    whole = kept.parts.read(kept.whole)
    # The prompt noise of the moments needs ‖∇J‖², of which whole gradients of GRPO know most.
    objective = whole["objective_norm"].iloc[-1]
    pool = Pool([each.pool for each in outputs], np.full((NUM_BLOCKS, NUM_BLOCKS), objective))
    moments = pool_moments(pool)
    table = errors_of_pool(config.asked, kept.name, pool, moments)
    rows = [
        {
            "estimator": name,
            "batch_size": len(outputs),
            "group_size": config.whole_group_size,
            "replications": len(errors),
            "mse": errors.mean(),
            "std_error": errors.std(ddof=1) / len(errors) ** 0.5,
            "evidence": "brute force",
        }
        for name, errors in whole.groupby("estimator", sort=False)["error"]
    ]
    both = pd.concat([table, with_laws(config.asked, kept.name, rows, moments)])
    return both.assign(**_described([each.pool for each in outputs]))


def _whole_errors(
    config: PretrainedErrors, panel: "Panel", outputs: "Sequence[PromptOutputs]"
) -> pd.DataFrame:
    """Return one row a whole gradient: its part of the error, and ‖∇J‖² by all of them."""
    from experiments.tasks.prompt_pools import whole_gradients

    estimators = algorithms(config.compared)
    whole = whole_gradients(
        panel, outputs, estimators, config.whole_group_size, config.whole_gradients
    )
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "estimator": name,
                    "error": whole.errors(name),
                    "objective_norm": whole.objective_norm(name),
                }
            )
            for name in estimators
        ]
    )


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
