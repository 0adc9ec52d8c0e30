"""What the bias of Algorithm 2's updates is asked: its configuration, and the tasks it knows."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.running.options import Scale, require_seed_and_threads
from experiments.tasks.bandits import TokenBanditTask
from experiments.tasks.kinds import for_kind, of_kind
from experiments.tasks.language import Arithmetic
from ustat_grpo.inputs.checks import increasing, integer, real

_REQUIRED = {TokenBanditTask: lambda task: None, Arithmetic: Arithmetic.require_exact_match}

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
        for_kind(self.task, _REQUIRED, "task must be token_bandit or arithmetic")(self.task)
        for rate in self.rates:
            real("learning_rates", rate, above=0.0)
        require_seed_and_threads(self.seed, self.threads)

    @property
    def token_bandit(self) -> TokenBanditTask:
        """The task, where outputs can be listed."""
        return of_kind(self.task, TokenBanditTask, "task must be token_bandit")

    @property
    def rates(self) -> list[float]:
        """The learning rates: those that are asked for, or the task's."""
        if self.learning_rates is not None:
            return self.learning_rates
        return list(getattr(self.task, "learning_rates", LANGUAGE_RATES))
