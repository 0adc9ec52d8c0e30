"""Sequential tasks: Gymnasium environments, where a prompt is a start and an output an episode.

Nothing here imports gymnasium before panels are asked for.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from hydra.core.config_store import ConfigStore
from numpy.typing import NDArray

from ustat_grpo import Constant, Grpo, TrainingConfig
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import increasing, integer, real
from ustat_grpo.pools.prompt_pools import Pool, whole_blocks

if TYPE_CHECKING:
    from ustat_grpo.environments.copies import EnvironmentCopies
    from ustat_grpo.environments.mdp import TabularMdp
    from ustat_grpo.environments.policies import Policy


_POLICIES = ("linear", "tabular", "mlp")
_FEATURES = ("affine", "quadratic")
_BATCH_SIZE, _GROUP_SIZE = 16, 8
"""How policies of rising skill are trained; any division of a budget would do."""
_COPIES = 64
"""Episodes of a table's environment that are played at once."""


class TabularPanel(NamedTuple):
    """A policy on a finite decision process, of which all is known exactly."""

    mdp: "TabularMdp"
    policy: "Policy"
    theta: Array


@dataclass
class FrozenLake:
    """FrozenLake-v1, a prompt being a cell where episodes begin; policies of rising skill."""

    name: str = "frozenlake"
    map_name: str = "4x4"
    is_slippery: bool = True
    discount: float = 1.0
    horizon: int = 100  # steps, the environment's own limit
    objectives: list[float] = field(default_factory=lambda: [0.1, 0.25, 0.5])
    learning_rate: float = 10.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        _discount(self.discount)
        integer("task.horizon", self.horizon)
        real("task.learning_rate", self.learning_rate, above=0.0)
        for objective in _some("task.objectives", self.objectives):
            real("task.objectives", objective, above=0.0)

    @cached_property
    def snapshots(self) -> dict[str, TabularPanel]:
        """The policies by panel name."""
        from ustat_grpo.environments import frozen_lake, tabular_softmax, train_to

        mdp = frozen_lake(
            self.map_name,
            is_slippery=self.is_slippery,
            discount=self.discount,
            horizon=self.horizon,
        )
        policy = tabular_softmax(mdp.num_states, mdp.num_actions)
        return {
            f"{self.name}: J = {objective:g}": TabularPanel(
                mdp, policy, train_to(mdp, policy, objective=objective)
            )
            for objective in self.objectives
        }

    @contextmanager
    def copies(self) -> Iterator["EnvironmentCopies"]:
        """Open copies of the environment that the table is of, and close them."""
        from ustat_grpo.environments import EnvironmentCopies, make_frozen_lake

        make = partial(
            make_frozen_lake, self.map_name, is_slippery=self.is_slippery, horizon=self.horizon
        )
        with EnvironmentCopies(make, _COPIES, discount=self.discount) as copies:
            yield copies

    def start_seeds(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw reset seeds that are all different: each begins anywhere on the map."""
        return rng.integers(2**31, size=count)


class SampledPanel(NamedTuple):
    """A policy of which only episodes can be had."""

    policy: "Policy"
    theta: Array


@dataclass
class Gym:
    """Any Gymnasium environment with discrete actions; a prompt is a reset seed.

    Policies of rising skill have so many iterations of GRPO behind them.
    """

    name: str = "gym"
    env_id: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    policy: str = "linear"  # or tabular, or mlp
    features: str | None = None  # of Box observations: affine or quadratic; mlp needs none
    scale: list[float] | None = None  # typical size of each number observed; null for 1
    hidden: list[int] = field(default_factory=lambda: [32])  # of the mlp
    discount: float = 1.0
    max_steps: int | None = None  # where the environment has no time limit of its own
    hidden_start: bool = False  # whether resets draw what observations do not show
    num_prompts: int = 32  # reset seeds 0, 1, …
    num_outputs: int = 128  # episodes of each, from which moments are measured
    num_copies: int = 64  # episodes played at once
    trained: list[int] = field(default_factory=lambda: [0])  # iterations behind each policy
    learning_rate: float = 1.0
    iterations: list[int] | None = None  # of training runs, in place of the app's
    share_of_runs: float = 0.03  # of `scale.runs`, at least two: episodes are dear
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.env_id is None:
            raise ValueError("env_id must be an id that gymnasium.make knows, got None")
        _discount(self.discount)
        integer("task.num_prompts", self.num_prompts, at_least=2)
        whole_blocks("task.num_outputs", self.num_outputs)
        integer("task.num_copies", self.num_copies)
        integer("task.seed", self.seed, at_least=0)
        real("task.learning_rate", self.learning_rate, above=0.0)
        real("task.share_of_runs", self.share_of_runs, above=0.0)
        _one_of("task.policy", self.policy, _POLICIES)
        if self.features is not None:
            _one_of("task.features", self.features, _FEATURES)
        for scale in self.scale or []:
            real("task.scale", scale, above=0.0)
        for units in _some("task.hidden", self.hidden):
            integer("task.hidden", units)
        if self.max_steps is not None:
            integer("task.max_steps", self.max_steps)
        for iterations in _some("task.trained", self.trained):
            integer("task.trained", iterations, at_least=0)
        if self.iterations is not None:
            increasing("task.iterations", self.iterations)

    @property
    def prompts(self) -> NDArray[np.int64]:
        """The reset seeds, all equally likely."""
        return np.arange(self.num_prompts)

    @property
    def inputs(self) -> list[Path]:
        """The module of the user that registers the environment, as in `module:Name-v0`."""
        module, colon, _ = str(self.env_id).partition(":")
        try:
            spec = find_spec(module) if colon else None
        except (ImportError, ValueError):
            return []  # what there is to say of it, `gymnasium.make` says
        if spec is None:
            return []
        folders = spec.submodule_search_locations
        return [Path(each) for each in folders or [spec.origin] if each is not None]

    @contextmanager
    def copies(self) -> Iterator["EnvironmentCopies"]:
        """Open copies of the environment, and close them."""
        from ustat_grpo.environments import EnvironmentCopies

        with EnvironmentCopies(
            self._make,
            self.num_copies,
            self.max_steps,
            hidden_start=self.hidden_start,
            discount=self.discount,
        ) as copies:
            yield copies

    def start_seeds(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw reset seeds, among the task's own."""
        return rng.choice(self.prompts, size=count)

    def pool(
        self, copies: "EnvironmentCopies", panel: SampledPanel, rng: np.random.Generator
    ) -> Pool:
        """Play `num_outputs` episodes from every start."""
        from ustat_grpo.environments import episode_pool

        return episode_pool(
            copies, panel.policy, panel.theta, self.prompts, self.num_outputs, rng=rng
        )

    @cached_property
    def snapshots(self) -> dict[str, SampledPanel]:
        """The policies by panel name."""
        from ustat_grpo.environments import train

        rng = np.random.default_rng(self.seed)
        with self.copies() as copies:
            policy = self._policy(copies)
            start = policy.initial(rng)
            found = {0: start}
            points = sorted(set(self.trained) - {0})
            if points:
                config = TrainingConfig(
                    estimator=Grpo(),
                    batch_size=_BATCH_SIZE,
                    group_size=_GROUP_SIZE,
                    num_iterations=points[-1],
                    schedule=Constant(self.learning_rate),
                    checkpoints=points,
                )
                runs = train(copies, policy, config, seeds=self.prompts, theta0=start, rng=rng)
                found |= dict(zip(points, runs.theta, strict=True))
        return {
            f"{self.name}: {count} iterations": SampledPanel(policy, found[count])
            for count in self.trained
        }

    def _make(self) -> Any:
        """Build one environment, or raise if Gymnasium cannot."""
        import gymnasium

        try:
            # The checker would slow down every step, and repeat its warnings for each copy.
            return gymnasium.make(str(self.env_id), disable_env_checker=True, **self.env_kwargs)
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            raise ValueError(
                f"env_id and task.env_kwargs must be what gymnasium.make takes, got {self.env_id} "
                f"and {self.env_kwargs} ({' '.join(str(error).split())})"
            ) from None

    def _policy(self, copies: "EnvironmentCopies") -> "Policy":
        """Return the family of policies, or raise if it does not fit the observations."""
        from ustat_grpo.environments import LinearSoftmax

        features = self._feature_map(copies.observation_space)
        if self.policy != "mlp":
            return LinearSoftmax(features, copies.num_actions)
        from ustat_grpo.environments import MlpPolicy  # needs torch

        return MlpPolicy(features, tuple(self.hidden), copies.num_actions)

    def _feature_map(self, space: Any) -> Any:
        """Return what a policy sees of an observation: all of a state, so that π is a table."""
        from gymnasium.spaces import Discrete

        from ustat_grpo.environments import Affine, OneHot, Quadratic

        if isinstance(space, Discrete):
            return OneHot(int(space.n))
        size = math.prod(space.shape)
        scale = tuple([1.0] * size if self.scale is None else self.scale)
        if len(scale) != size:
            raise ValueError(
                f"task.scale must hold one number for each of an observation, {size}, "
                f"got {self.scale}"
            )
        if self.policy == "mlp":
            return Affine(scale)
        if self.policy == "tabular" or self.features is None:
            raise ValueError(
                "task.features must name a feature map (affine or quadratic), or task.policy be "
                f"mlp, for observations that are arrays, here of shape {space.shape}, "
                f"got task.policy={self.policy} and task.features={self.features}"
            )
        return Affine(scale) if self.features == "affine" else Quadratic(scale)


def _discount(discount: float) -> None:
    if real("task.discount", discount, above=0.0) > 1:
        raise ValueError(f"task.discount must be at most 1, got {discount}")


def _some(name: str, values: list[Any]) -> list[Any]:
    if not values:
        raise ValueError(f"{name} must hold at least one value, got {values}")
    return values


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be among {', '.join(allowed)}, got {value!r}")


_STORE = ConfigStore.instance()
for _schema in (FrozenLake, Gym):
    _STORE.store(group="task_schema", name=_schema.name, node=_schema)
