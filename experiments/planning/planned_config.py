"""What plans are asked: the configuration, and which tasks have sweeps to judge them by."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from experiments.group_size.config import GroupSize, grpo_sweep
from experiments.planning.planned_sweeps import fingerprint
from experiments.running.options import Scale, ScheduleConfig, require_seed_and_threads
from experiments.tasks.bandits import TRAINED
from experiments.tasks.kinds import for_kind
from experiments.tasks.language import Arithmetic
from experiments.tasks.resolve import subject
from experiments.tasks.sequential import FrozenLake, Gym
from experiments.tasks.subject import Subject
from ustat_grpo.inputs.checks import increasing, integer

GRID = (2, 4, 8, 16, 32, 64, 128)
"""The group sizes of the sweeps, as far as a budget has room for them."""

_REFERENCE = Path(__file__).parents[1] / "reference"
_BUDGETS = [256, 1024, 4096]
_SWEEPS: dict[type, Path | None] = {
    **dict.fromkeys(TRAINED),
    **dict.fromkeys((FrozenLake, Gym), _REFERENCE / "sequential_group_size.csv"),
    Arithmetic: _REFERENCE / "language_group_size.csv",
}
"""The table of each kind of task; None where sweeps are run, since they take seconds."""


@dataclass
class PlannedGroupSize:
    """The configuration of this app."""

    task: Any = MISSING
    policy: Any = None  # of language models
    start: str = "intermediate"  # of the small policies, the one where runs begin
    scale: Scale = field(default_factory=Scale)
    first_batches: list[list[int]] = field(default_factory=lambda: [[32, 8], [128, 8]])
    plans: int = 200  # from so many first batches of each size
    budgets: list[int] | None = None  # null takes 256, 1024, 4096, or all of a table
    iterations: list[int] = field(default_factory=lambda: [25, 50, 100, 200])  # of bandits
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sweep: str | None = None  # a table; null takes the reference, where sweeps are not run here
    seed: int = 0
    threads: int | None = None  # null takes all cores; one for language models
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        integer("plans", self.plans, at_least=2)
        for shape in self.first_batches:
            if len(shape) != 2 or shape[0] < 8 or shape[1] < 3:
                raise ValueError(
                    "first_batches must hold pairs of at least 8 prompts and at least 3 outputs, "
                    f"got {self.first_batches}"
                )
        if self.budgets == []:
            raise ValueError("budgets must hold at least one budget, got []")
        increasing("iterations", self.iterations)
        require_seed_and_threads(self.seed, self.threads)
        if self.policy is not None:
            self.policy = self.policy.starting_at(self.start)
        self._require_sweep()

    def _require_sweep(self) -> None:
        """Find the table of a sweep, or check that one can be run."""
        wanted = "task must be a bandit, an environment or arithmetic"
        reference = for_kind(self.task, _SWEEPS, wanted)
        if reference is not None:
            self.sweep = self.sweep or str(reference)
            fingerprint(Path(self.sweep))
            return
        if self.sweep is not None:
            raise ValueError(f"sweep must be null on {self.task.name}, whose sweeps are run, "
                             f"got {self.sweep}")  # fmt: skip
        self.budgets = _BUDGETS if self.budgets is None else self.budgets
        for budget in self.budgets:
            self.of_budget(budget)

    @property
    def subject(self) -> Subject:
        """The task with the policy at which runs begin."""
        return subject(self.task, self.policy)

    @property
    def inputs(self) -> list[Path]:
        """The table that numbers depend on by its content."""
        return [] if self.sweep is None else [Path(self.sweep)]

    def of_budget(self, budget: int) -> GroupSize:
        """Return the sweep that is run at one budget, or raise if it has no two sizes."""
        sizes = [size for size in GRID if budget % size == 0 and 2 * size <= budget]
        if len(sizes) < 2:
            raise ValueError(f"budgets must be multiples of 4 from 8 on, got {budget}")
        return grpo_sweep(self, budget, sizes)
