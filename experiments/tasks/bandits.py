"""The problems that experiments run on; a task holds several panels, each one policy."""

import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from hydra.core.config_store import ConfigStore
from numpy.typing import NDArray

from experiments.tasks.kinds import for_kind
from ustat_grpo import (
    Box,
    Snapshot,
    SoftmaxBandit,
    TugOfWar,
    arithmetic_choice,
    random_bandit,
    train_to,
)
from ustat_grpo.bandits.token_bandit import TokenBandit, random_token_bandit
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import integer, real


@dataclass(frozen=True, eq=False)
class Start:
    """Where runs of an optimisation begin, and what holds them."""

    bandit: SoftmaxBandit
    theta0: NDArray[np.float64]
    projection: Box | None = None


@dataclass
class ArithmeticChoice:
    """The paper's 500 questions as a choice of answers, for policies of rising skill."""

    name: str = "arithmetic_choice"
    num_problems: int = 500
    num_candidates: int = 16
    habit: float = 1.0
    accuracies: list[float] = field(default_factory=lambda: [0.15, 0.4, 0.7])
    learning_rate: float = 1.0
    seed: int = 2603

    def __post_init__(self) -> None:
        """Check the ranges."""
        real("task.learning_rate", self.learning_rate, above=0.0)
        _some("task.accuracies", self.accuracies)
        integer("task.seed", self.seed, at_least=0)
        for accuracy in self.accuracies:
            real("task.accuracies", accuracy, above=0.0, below=1.0)

    @cached_property
    def bandit(self) -> SoftmaxBandit:
        """The questions."""
        rng = np.random.default_rng(self.seed)
        return arithmetic_choice(self.num_problems, self.num_candidates, habit=self.habit, rng=rng)

    @cached_property
    def snapshots(self) -> dict[str, Snapshot]:
        """The policies by panel name."""
        return {
            f"{self.name}: accuracy {accuracy:g}": self.bandit.at(train_to(self.bandit, accuracy))
            for accuracy in self.accuracies
        }

    @cached_property
    def starts(self) -> dict[str, Start]:
        """Runs begin at the least skilled policy."""
        accuracy = min(self.accuracies)
        start = Start(self.bandit, train_to(self.bandit, accuracy))
        return {f"{self.name}: accuracy {accuracy:g}": start}


@dataclass
class Bandit:
    """Random tabular bandits whose optimal group size is dialled in."""

    name: str = "bandit"
    num_prompts: int = 64
    num_actions: int = 16
    group_size_targets: list[float] = field(default_factory=lambda: [4.0, 16.0, 64.0])
    learning_rate: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        integer("task.num_prompts", self.num_prompts, at_least=2)
        integer("task.num_actions", self.num_actions, at_least=2)
        real("task.learning_rate", self.learning_rate, above=0.0)
        _some("task.group_size_targets", self.group_size_targets)
        integer("task.seed", self.seed, at_least=0)

    @cached_property
    def bandits(self) -> dict[str, SoftmaxBandit]:
        """One bandit a target, by panel name."""
        found = {}
        for target in self.group_size_targets:
            found[f"{self.name}: G* = {target:g}"] = random_bandit(
                self.num_prompts,
                self.num_actions,
                group_size_target=target,
                rng=np.random.default_rng(self.seed),
            )
        return found

    @cached_property
    def snapshots(self) -> dict[str, Snapshot]:
        """The policies by panel name."""
        return {name: start.bandit.at(start.theta0) for name, start in self.starts.items()}

    @property
    def starts(self) -> dict[str, Start]:
        """Runs begin at θ = 0."""
        return {
            name: Start(bandit, np.zeros(bandit.dimension)) for name, bandit in self.bandits.items()
        }


@dataclass
class TugOfWarTask:
    """Two prompts that pull one way and the other, at points along the identifiable axis."""

    name: str = "tug_of_war"
    signal: float = 0.8
    num_axes: int = 1
    num_flat: int = 1
    separation: list[float] = field(default_factory=lambda: [2.0])  # one, or one for each axis
    coordinates: list[float] = field(default_factory=lambda: [-1.0, 0.0, 1.0])
    low: float = -1.0
    high: float = 3.0
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        _some("task.coordinates", self.coordinates)
        for point in self.coordinates:
            real("task.coordinates", point)
        real("task.low", self.low)
        real("task.high", self.high)
        _some("task.separation", self.separation)
        real("task.learning_rate", self.learning_rate, above=0.0)

    @cached_property
    def problem(self) -> TugOfWar:
        """The tug-of-war."""
        one = len(self.separation) == 1
        separation = self.separation[0] if one else tuple(self.separation)
        return TugOfWar(self.signal, self.num_axes, self.num_flat, separation)

    @cached_property
    def snapshots(self) -> dict[str, Snapshot]:
        """The policies by panel name."""
        return {
            f"{self.name}: t = {point:g}": self.problem.at(self.problem.theta(point))
            for point in self.coordinates
        }

    @property
    def starts(self) -> dict[str, Start]:
        """Runs begin at the first coordinate and are held in low ≤ t ≤ high."""
        point = self.coordinates[0]
        region = Box(self.low, self.high, self.problem.axes)
        start = Start(self.problem.bandit, self.problem.theta(point), region)
        return {f"{self.name}: t = {point:g}": start}


BanditTask = ArithmeticChoice | Bandit | TugOfWarTask
TRAINED = (ArithmeticChoice, Bandit, TugOfWarTask)
"""The kinds of bandits on which runs of an optimisation begin."""


def bandit_task(task: Any) -> BanditTask:
    """Return a task of a configuration as one of bandits on which runs begin.

    Raises:
        ValueError: if it is another.
    """
    known = {kind: task for kind in TRAINED}
    return for_kind(task, known, "task must be a bandit that is trained on")


class OnBandits(Protocol):
    """A configuration of an app that trains on bandits."""

    task: Any


def prepare(config: OnBandits) -> object:
    """Build the policies of a task of bandits on which runs begin, or raise."""
    return bandit_task(config.task).snapshots


def panel_rng(seed: int, panel: str) -> np.random.Generator:
    """Return the generator of a panel: keyed by its name, not by its place in a list."""
    return np.random.default_rng([seed, zlib.crc32(panel.encode())])


def _some(name: str, values: list[float]) -> None:
    if not values:
        raise ValueError(f"{name} must hold at least one value, one for each panel, got {values}")


@dataclass
class SuccessProbability:
    """One prompt whose success probability p is dialled in; nothing else about it changes.

    Two outputs are equally likely, so that ‖W‖² is a constant; they succeed with probability p ± δ.

    Args:
        probabilities: the p, one a panel.
        correlation: squared correlation of score and reward, δ²/(p(1−p)).
    """

    name: str = "success_probability"
    probabilities: list[float] = field(
        default_factory=lambda: [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98]
    )
    correlation: float = 0.01

    def __post_init__(self) -> None:
        """Check that both outputs have a probability of success."""
        real("task.correlation", self.correlation, above=0.0)
        for prob in self.probabilities:
            real("task.probabilities", prob, above=0.0, below=1.0)
            if self.correlation > min(prob, 1 - prob) / max(prob, 1 - prob):
                raise ValueError(
                    f"task.correlation must be at most p/(1 − p) and (1 − p)/p, "
                    f"got {self.correlation:g} at p = {prob:g}"
                )

    @property
    def starts(self) -> dict[str, Start]:
        """No runs: the prompt is there for its gradient errors."""
        return {}

    @cached_property
    def snapshots(self) -> dict[str, Snapshot]:
        """The prompts by panel name."""
        return {f"{self.name}: p = {prob:g}": self._prompt(prob) for prob in self.probabilities}

    def _prompt(self, prob: float) -> Snapshot:
        half = np.sqrt(self.correlation * prob * (1 - prob))
        right = np.array([prob - half, prob + half])
        features = np.array([[[0.0], [1.0]]])
        rewards = np.stack([1 - right, right], axis=-1)[None]
        return SoftmaxBandit(features, np.array([0.0, 1.0]), rewards).at([0.0])


FiniteTask = BanditTask | SuccessProbability


def finite_task(task: Any) -> FiniteTask:
    """Return a task of a configuration as one whose policies are known exactly, trained on or not.

    Raises:
        ValueError: if it is another.
    """
    known = {kind: task for kind in (*TRAINED, SuccessProbability)}
    return for_kind(task, known, "task must be a bandit")


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


_STORE = ConfigStore.instance()
for _schema in (ArithmeticChoice, Bandit, SuccessProbability, TokenBanditTask, TugOfWarTask):
    _STORE.store(group="task_schema", name=_schema().name, node=_schema)
