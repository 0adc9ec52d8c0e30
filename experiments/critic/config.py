"""What the comparison with a learned critic is asked: its configuration, methods and cells."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from omegaconf import MISSING

from experiments.group_size.config import sizes_at
from experiments.running.options import Scale, require_seed_and_threads
from experiments.tasks.kinds import of_kind
from experiments.tasks.language import Arithmetic
from experiments.tasks.policies import PosedTask, SmallPolicies
from ustat_grpo.inputs.checks import increasing, integer, leave_one_out_group_size, real

NAME = "critic"


GRPO, CRITIC, TOKEN_CRITIC = "grpo", "critic", "token_critic"


@dataclass
class CriticConfig:
    """The configuration of this app."""

    task: Any = MISSING
    policy: Any = MISSING
    start: str = "intermediate"  # of the small policies, the one where runs begin
    scale: Scale = field(default_factory=Scale)
    budget: int = 256
    group_size: Any = field(default_factory=lambda: [2, 4, 8, 16])
    critic_group_size: Any = field(default_factory=lambda: [1, 4])
    iterations: list[int] = field(default_factory=lambda: [10, 25, 50, 100, 150, 200])
    learning_rate: float = 0.005
    critic_learning_rate: float = 0.001
    seeds: int = 8
    noise_seeds: int = 2  # of these, the gradient error is measured along training
    noise_questions: int = 250
    noise_outputs: int = 64  # to each of these questions
    cost_steps: int = 15  # of each method, in turn, to time
    seed: int = 0
    threads: int | None = 1
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        of_kind(self.task, Arithmetic, "task must be arithmetic").require_exact_match()
        small = of_kind(self.policy, SmallPolicies, "policy must be small")
        self.policy = small.starting_at(self.start)
        self.group_size = sizes_at(self.budget, self.group_size, default=(2, 4, 8, 16), fewest=1)
        self.critic_group_size = sizes_at(
            self.budget, self.critic_group_size, default=(1, 4), fewest=1, name="critic_group_size"
        )
        leave_one_out_group_size(min(self.group_size))
        increasing("iterations", self.iterations)
        integer("seeds", self.seeds, at_least=2)
        for name in ("noise_seeds", "noise_questions", "cost_steps"):
            integer(name, getattr(self, name))
        integer("noise_outputs", self.noise_outputs, at_least=16)
        for name in ("learning_rate", "critic_learning_rate"):
            real(name, getattr(self, name), above=0.0)
        require_seed_and_threads(self.seed, self.threads)

    @property
    def posed(self) -> PosedTask:
        """The task with the policy at which runs begin."""
        return PosedTask(self.task, self.policy)

    def methods(self) -> list["TrainingMethod"]:
        """Return what is compared."""
        return [
            *(TrainingMethod(GRPO, size) for size in self.group_size),
            *(TrainingMethod(CRITIC, size) for size in self.critic_group_size),
            TrainingMethod(TOKEN_CRITIC, 1),
        ]


class TrainingMethod(NamedTuple):
    """GRPO or a critic, with a group size."""

    name: str
    group_size: int


class CriticRun(NamedTuple):
    """One run: a method and a seed."""

    method: TrainingMethod
    seed: int

    @property
    def name(self) -> str:
        """The name of its table."""
        return f"{self.method.name}_G{self.method.group_size}_seed{self.seed}"
