"""How much does re-using outputs cost? Squared bias of Algorithm 2's updates, exactly.

Of m minibatches of outputs of π_old the last meets the policy after m − 1 updates. Its mean is
compared with ∇J there: with token ratios, with none, with the sequence ratio, and with a K3 penalty
on old tokens. The path to it is that of exact gradient steps, or that of sampled minibatches. Try

    python -m experiments practical_bias task=token_bandit
    python -m experiments practical_bias task=arithmetic policy.skills=[beginner] runs=2
"""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from omegaconf import MISSING

from experiments.practice.token_bias import token_rows
from experiments.running.app import App
from experiments.running.options import Scale, require_seed_and_threads
from experiments.tasks import language as language_tasks
from experiments.tasks import panels as policy_panels
from experiments.tasks.bandits import TokenBanditTask
from ustat_grpo.inputs.checks import increasing, integer, real

COLUMNS = [
    "task", "ratio", "penalty_weight", "path", "num_minibatches", "learning_rate", "squared_bias",
    "std_error", "runs", "law", "gradient_norm_squared", "budget", "group_size", "sampling_error",
]  # fmt: skip


LANGUAGE_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01)
"""Learning rates for language models, which are trained at 0.005 elsewhere."""


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
        from experiments.practice.language_bias import language_rows

        rows = language_rows(config)
    table = pd.DataFrame(list(rows)).assign(budget=config.budget, group_size=config.group_size)
    return table.reindex(columns=COLUMNS)


def describe(config: PracticalBias) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_N{config.budget}_m{config.num_minibatches[-1]}"


def prepare(config: PracticalBias) -> None:
    """Build the task, or raise."""
    if not isinstance(config.task, TokenBanditTask):
        policy_panels.panels(config.task, config.policy)


APP = App("practical_bias", PracticalBias, run, describe, prepare)
