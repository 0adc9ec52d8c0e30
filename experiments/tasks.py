"""The problems that experiments run on; a task holds several panels, each one policy."""

import zlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from hydra.core.config_store import ConfigStore

from ustat_grpo import Snapshot, TugOfWar, arithmetic_choice, random_bandit, train_to
from ustat_grpo.checks import integer, real


@dataclass
class ArithmeticChoice:
    """The paper's 500 questions as a choice of answers, for policies of rising skill."""

    name: str = "arithmetic_choice"
    num_problems: int = 500
    num_candidates: int = 16
    habit: float = 1.0
    accuracies: list[float] = field(default_factory=lambda: [0.15, 0.4, 0.7])
    seed: int = 2603

    def __post_init__(self) -> None:
        """Check the ranges."""
        _some("task.accuracies", self.accuracies)
        integer("task.seed", self.seed, at_least=0)
        for accuracy in self.accuracies:
            real("task.accuracies", accuracy, above=0.0, below=1.0)

    @cached_property
    def snapshots(self) -> dict[str, Snapshot]:
        """The policies by panel name."""
        rng = np.random.default_rng(self.seed)
        bandit = arithmetic_choice(
            self.num_problems, self.num_candidates, habit=self.habit, rng=rng
        )
        return {
            f"{self.name}: accuracy {accuracy:g}": bandit.at(train_to(bandit, accuracy))
            for accuracy in self.accuracies
        }


@dataclass
class Bandit:
    """Random tabular bandits whose optimal group size is dialled in."""

    name: str = "bandit"
    num_prompts: int = 64
    num_actions: int = 16
    group_size_targets: list[float] = field(default_factory=lambda: [4.0, 16.0, 64.0])
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        integer("task.num_prompts", self.num_prompts, at_least=2)
        integer("task.num_actions", self.num_actions, at_least=2)
        _some("task.group_size_targets", self.group_size_targets)
        integer("task.seed", self.seed, at_least=0)

    @cached_property
    def snapshots(self) -> dict[str, Snapshot]:
        """The policies by panel name."""
        found = {}
        for target in self.group_size_targets:
            bandit = random_bandit(
                self.num_prompts,
                self.num_actions,
                group_size_target=target,
                rng=np.random.default_rng(self.seed),
            )
            found[f"{self.name}: G* = {target:g}"] = bandit.at(np.zeros(bandit.dimension))
        return found


@dataclass
class TugOfWarTask:
    """Two prompts that pull one way and the other, at points along the identifiable axis."""

    name: str = "tug_of_war"
    signal: float = 0.8
    num_axes: int = 1
    num_flat: int = 1
    coordinates: list[float] = field(default_factory=lambda: [-1.0, 0.0, 1.0])

    def __post_init__(self) -> None:
        """Check the ranges."""
        _some("task.coordinates", self.coordinates)

    @cached_property
    def snapshots(self) -> dict[str, Snapshot]:
        """The policies by panel name."""
        problem = TugOfWar(self.signal, self.num_axes, self.num_flat)
        return {
            f"{self.name}: t = {point:g}": problem.at(problem.theta(point))
            for point in self.coordinates
        }


Task = ArithmeticChoice | Bandit | TugOfWarTask


def panel_rng(seed: int, panel: str) -> np.random.Generator:
    """Return the generator of a panel: keyed by its name, not by its place in a list."""
    return np.random.default_rng([seed, zlib.crc32(panel.encode())])


def _some(name: str, values: list[float]) -> None:
    if not values:
        raise ValueError(f"{name} must hold at least one value, one for each panel, got {values}")


def register() -> None:
    """Make the tasks' schemas known to Hydra."""
    store = ConfigStore.instance()
    for schema in (ArithmeticChoice, Bandit, TugOfWarTask):
        store.store(group="task_schema", name=schema().name, node=schema)
