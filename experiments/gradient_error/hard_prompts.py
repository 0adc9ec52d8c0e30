"""On which prompts does vanilla beat GRPO? Errors prompt by prompt, against how hard the prompt is.

Corollary 5 compares the errors for large G and under Assumption 2. Here they are compared at every
question, by the exact laws: V(x) and g(x) are exact, E[‖W‖²] is measured. Try

    python -m experiments hard_prompts
    python -m experiments hard_prompts policy.skills=[beginner] num_outputs=1024
"""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from omegaconf import MISSING

from experiments.running.app import App
from experiments.running.options import Scale, group_sizes, require_seed_and_threads
from experiments.running.threads import use_threads
from experiments.tasks import bandits as tasks
from experiments.tasks import language as language_tasks
from experiments.tasks.kinds import of_kind
from experiments.tasks.policies import PosedTask, SmallPolicies
from ustat_grpo import Moments, laws
from ustat_grpo.arithmetic.problems import KINDS
from ustat_grpo.inputs.checks import integer

COLUMNS = ["task", "kind", "value", "score_norm_ratio", "crossover", "group_size", "ratio"]


@dataclass
class HardPrompts:
    """The configuration of this app."""

    task: Any = MISSING
    policy: Any = MISSING
    scale: Scale = field(default_factory=Scale)
    group_size: Any = field(default_factory=lambda: [4, 16, 64])
    num_outputs: int = 256  # to each question, for E[‖W‖²]
    seed: int = 0
    threads: int | None = 1
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        self.group_size = group_sizes(self.group_size)
        integer("num_outputs", self.num_outputs, at_least=32)
        require_seed_and_threads(self.seed, self.threads)
        self.questions.require_exact_match()
        _ = self.small

    @property
    def questions(self) -> language_tasks.Arithmetic:
        """The task."""
        return of_kind(self.task, language_tasks.Arithmetic, "task must be arithmetic")

    @property
    def small(self) -> SmallPolicies:
        """The policies, which answer in tokens in which the right output is known."""
        return of_kind(self.policy, SmallPolicies, "policy must be small")

    @property
    def posed(self) -> PosedTask:
        """The task with its policies."""
        return PosedTask(self.questions, self.small)


def run(config: HardPrompts) -> pd.DataFrame:
    """Return one row a policy, question and group size."""
    import torch

    from ustat_grpo.lm.scores.known_solutions import norm_moments

    use_threads(config.threads)
    _, questions = config.questions.questions()
    kinds = [KINDS[place] for place in questions.kinds.tolist()]
    tables = []
    for name, panel in config.posed.panels().items():
        seed = int(tasks.panel_rng(config.seed, name).integers(2**32))
        measured = norm_moments(
            panel.model,
            panel.task,
            config.num_outputs,
            rng=torch.Generator().manual_seed(seed),
        )
        for size in config.group_size:
            table = compare(measured.moments, size).assign(task=name, kind=kinds)
            tables.append(table.assign(group_size=size))
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


def compare(moments: Moments, group_size: int) -> pd.DataFrame:
    """Return GRPO's error over vanilla's at every prompt, and what decides it.

    Columns: value V(x); score_norm_ratio E[‖W‖²∣Z=0]/E[‖W‖²∣Z=1], 1 under Assumption 2; crossover,
    the G above which GRPO is better, infinite if it never is; ratio of the errors at `group_size`.
    """
    outcome = moments.outcome
    assert outcome is not None  # the reward is 0 or 1
    return pd.DataFrame(
        {
            "value": moments.value,
            "score_norm_ratio": outcome.failure_score_norm_squared
            / outcome.success_score_norm_squared,
            "crossover": laws.group_size.vanilla_crossover(moments),
            "ratio": laws.mse.grpo(moments, group_size=group_size)
            / laws.mse.vanilla(moments, group_size=group_size),
        }
    )


def describe(config: HardPrompts) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_{'-'.join(config.small.skills)}"


def prepare(config: HardPrompts) -> None:
    """Build the task, or raise."""
    config.posed.panels()


APP = App("hard_prompts", HardPrompts, run, describe, prepare)
