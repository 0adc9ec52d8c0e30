"""What the sweep on language models is asked: its configuration and its cells."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from omegaconf import MISSING

from experiments.group_size.config import DEFAULT_SIZES, sizes_at
from experiments.running.estimators import Compared, require_group_size, resolve
from experiments.running.options import Scale, require_seed_and_threads
from experiments.tasks.policies import PosedTask, posed
from ustat_grpo.inputs.checks import increasing, integer, real

NAME = "language_group_size"


@dataclass
class LanguageGroupSize:
    """The configuration of this app."""

    task: Any = MISSING
    policy: Any = MISSING
    start: str = "intermediate"  # of the small policies, the one where runs begin
    dataset: str | None = None  # of task=reasoning_gym, with parameters of its own
    dataset_config: dict[str, Any] = field(default_factory=dict)
    scale: Scale = field(default_factory=Scale)
    estimators: dict[str, dict[str, float]] = MISSING
    budget: int = 256
    group_size: Any = field(default_factory=lambda: [2, 4, 8, 16, 32, 64, 128])
    iterations: list[int] = field(default_factory=lambda: [50, 100, 150, 200])
    optimizer: str = "sgd"  # or adamw
    learning_rate: float = 0.005
    seeds: int = 10
    noise_seeds: int = 2  # of these, the noise components are measured along training
    noise_questions: int = 500
    noise_outputs: int = 16  # to each of these questions; more if no solution is known by token
    seed: int = 0
    threads: int | None = 1  # of each process
    processes: int = 2  # runs at a time, on a CPU; a GPU takes all of a budget at once
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        self.policy = self.policy.starting_at(self.start)
        self.group_size = sizes_at(self.budget, self.group_size, default=DEFAULT_SIZES)
        if len(self.group_size) < 2 or len(set(self.group_size)) < len(self.group_size):
            raise ValueError(
                f"group_size must hold at least two sizes to compare, got {self.group_size}"
            )
        increasing("iterations", self.iterations)
        integer("seeds", self.seeds, at_least=2)
        for name in ("processes", "noise_questions", "noise_seeds"):
            integer(name, getattr(self, name))
        real("learning_rate", self.learning_rate, above=0.0)
        require_seed_and_threads(self.seed, self.threads)
        require_group_size(self.compared, min(self.group_size))
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"optimizer must be sgd or adamw, got {self.optimizer!r}")
        if len(self.estimators) != 1:
            raise ValueError(f"estimators must hold one, got {list(self.estimators)}")
        self._require_knowledge()

    @cached_property
    def compared(self) -> dict[str, Compared]:
        """The estimators with their laws, by name."""
        return resolve(self.estimators)

    @property
    def posed(self) -> PosedTask:
        """The task with the policy at which runs begin."""
        return posed(self.task, self.policy)

    def _require_knowledge(self) -> None:
        """Raise if an estimator or the noise components need what is not known of a task."""
        from ustat_grpo.pools.prompt_pools import NUM_BLOCKS

        exact = self.posed.is_exact
        unknown = {"optimal_baseline"} if exact else {"optimal_baseline", "oracle"}
        if unknown & set(self.estimators):
            raise ValueError(
                f"estimators must not need what is not known ({', '.join(sorted(unknown))}), "
                f"got {list(self.estimators)}"
            )
        least = NUM_BLOCKS if exact else 2 * NUM_BLOCKS
        if self.noise_outputs < least or (self.noise_outputs % NUM_BLOCKS and not exact):
            raise ValueError(
                f"noise_outputs must be a multiple of {NUM_BLOCKS}, at least {least} for this task "
                f"and policy, got {self.noise_outputs}"
            )


class SeededRun(NamedTuple):
    """One run: a group size and a seed."""

    group_size: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its table."""
        return f"G{self.group_size}_seed{self.seed}"
