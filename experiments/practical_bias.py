"""How much does re-using outputs cost? Squared bias of Algorithm 2's updates, exactly.

Of m minibatches of outputs of π_old the last meets the policy after m − 1 updates. Its mean is
compared with ∇J there: with token ratios, with none, with the sequence ratio, and with a K3 penalty
on old tokens. The path to it is that of exact gradient steps, or that of sampled minibatches. Try

    python -m experiments.practical_bias task=token_bandit
    python -m experiments.practical_bias task=arithmetic policy.skills=[beginner] runs=2
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

from experiments import language_tasks, tasks
from experiments.commands import hydra_main
from experiments.gradient_mse import Scale
from experiments.runner import execute, main_job, require_seed_and_threads
from experiments.token_bias import token_rows
from ustat_grpo.arrays import Array
from ustat_grpo.bandits.token_bandit import TokenBandit, random_token_bandit
from ustat_grpo.checks import increasing, integer, real

COLUMNS = [
    "task", "ratio", "penalty_weight", "path", "num_minibatches", "learning_rate", "squared_bias",
    "std_error", "runs", "law", "gradient_norm_squared", "budget", "group_size", "sampling_error",
]  # fmt: skip


LANGUAGE_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01)
"""Learning rates for language models, which are trained at 0.005 elsewhere."""


@dataclass
class TokenBanditTask:
    """A bandit whose outputs are sequences of tokens, all of which can be listed."""

    name: str = "token_bandit"
    num_prompts: int = 4
    num_tokens: int = 4
    num_values: int = 3
    dimension: int = 8
    learning_rates: list[float] = field(default_factory=lambda: [0.01, 0.03, 0.1, 0.3, 1.0])
    penalty_weight: float = 0.1  # of K3, toward the policy at θ = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("num_prompts", "num_tokens", "dimension"):
            integer(f"task.{name}", getattr(self, name))
        integer("task.num_values", self.num_values, at_least=2)
        real("task.penalty_weight", self.penalty_weight, above=0.0)
        integer("task.seed", self.seed, at_least=0)

    @cached_property
    def start(self) -> tuple[TokenBandit, Array]:
        """The problem, and θ_old."""
        rng = np.random.default_rng(self.seed)
        bandit = random_token_bandit(
            self.num_prompts,
            self.num_tokens,
            num_values=self.num_values,
            dimension=self.dimension,
            rng=rng,
        )
        return bandit, 0.5 * rng.normal(size=self.dimension)


@dataclass
class PracticalBias:
    """The configuration of this app."""

    task: Any = MISSING
    policy: Any = None  # of language models
    scale: Scale = field(default_factory=Scale)
    num_minibatches: list[int] = MISSING
    learning_rates: list[float] | None = None  # null takes the task's
    budget: int = 1024  # N = B·G, outputs of an iteration
    group_size: int = 16
    num_questions: int = 100  # of those held out, to language models
    runs: int = 16  # of sampled minibatches of language models; a bandit takes scale.runs
    seed: int = 0
    threads: int | None = 1
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        increasing("num_minibatches", self.num_minibatches)
        integer("num_minibatches", self.num_minibatches[0], at_least=2)
        integer("group_size", self.group_size, at_least=2)
        integer("num_questions", self.num_questions)
        integer("runs", self.runs, at_least=2)
        for number in self.num_minibatches:
            if integer("budget", self.budget) % (number * self.group_size):
                raise ValueError(
                    f"budget must be a multiple of num_minibatches·group_size = "
                    f"{number * self.group_size}, got {self.budget}"
                )
        if not isinstance(self.task, TokenBanditTask | language_tasks.Arithmetic):
            raise ValueError(f"task must be token_bandit or arithmetic, got {self.task.name}")
        if isinstance(self.task, language_tasks.Arithmetic) and self.task.reward != "exact_match":
            raise ValueError(f"task.reward must be exact_match, got {self.task.reward}")
        if self.learning_rates is None:
            self.learning_rates = list(getattr(self.task, "learning_rates", LANGUAGE_RATES))
        for rate in self.learning_rates:
            real("learning_rates", rate, above=0.0)
        require_seed_and_threads(self.seed, self.threads)


def run(config: PracticalBias) -> pd.DataFrame:
    """Return one row a policy, ratio, path, number of minibatches and learning rate."""
    if isinstance(config.task, TokenBanditTask):
        rows = token_rows(config)
    else:
        from experiments.language_bias import language_rows

        rows = language_rows(config)
    table = pd.DataFrame(list(rows)).assign(budget=config.budget, group_size=config.group_size)
    return table.reindex(columns=COLUMNS)


def describe(config: PracticalBias) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_N{config.budget}_m{config.num_minibatches[-1]}"


def prepare(config: PracticalBias) -> None:
    """Build the task, or raise."""
    if not isinstance(config.task, TokenBanditTask):
        language_tasks.panels(config.task, config.policy)


def execute_config(config: DictConfig) -> Path:
    """Run one configuration, or find its results; return the CSV."""
    return execute(config, "practical_bias", run, describe, prepare)


tasks.register()
language_tasks.register()
ConfigStore.instance().store(group="task_schema", name="token_bandit", node=TokenBanditTask)
ConfigStore.instance().store(name="practical_bias_schema", node=PracticalBias)


@hydra_main("practical_bias")
def main(config: DictConfig) -> None:
    """Entry point of `python -m experiments.practical_bias`."""
    main_job(execute_config, config)


if __name__ == "__main__":
    main()
