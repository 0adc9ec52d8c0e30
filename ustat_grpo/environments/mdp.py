"""Finite Markov decision processes with a time limit, as transition tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.toy_text.frozen_lake import MAPS
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from ustat_grpo.environments.mdp_check import require_played
from ustat_grpo.inputs.arrays import Array, Booleans, Integers
from ustat_grpo.inputs.checks import finite, integer, probabilities, real


@dataclass(frozen=True, eq=False)
class TabularMdp:
    """S states, A actions, at most K outcomes of each; an episode ends after `horizon` steps.

    A prompt is a start state; the reward Z of an episode is its return Σ_t γᵗ r_t.

    Args:
        next_state: where each outcome leads, shape (S, A, K).
        probs: of each outcome, shape (S, A, K); 0 for outcomes that do not exist.
        rewards: r of each outcome, shape (S, A, K).
        terminated: whether the episode ends with the outcome, shape (S, A, K).
        starts: the P start states, shape (P,).
        start_probs: f(x) of each, shape (P,).
        horizon: T, the time limit.
        discount: γ in (0, 1].

    Raises:
        ValueError: if shapes disagree, probabilities do not sum to one, or a number is out of
            range.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import TabularMdp, best_objective
        >>> mdp = TabularMdp(
        ...     next_state=np.zeros((1, 2, 1), dtype=int),
        ...     probs=np.ones((1, 2, 1)),
        ...     rewards=np.array([[[0.0], [1.0]]]),  # of S = 1 state, A = 2 actions, K = 1 outcome
        ...     terminated=np.ones((1, 2, 1), dtype=bool),
        ...     starts=np.array([0]),
        ...     start_probs=np.array([1.0]),
        ...     horizon=1,
        ... )
        >>> best_objective(mdp), mdp.has_binary_returns
        (1.0, True)
    """

    next_state: Int[Integers, "S A K"]
    probs: Float[Array, "S A K"]
    rewards: Float[Array, "S A K"]
    terminated: Bool[Booleans, "S A K"]
    starts: Int[Integers, " P"]
    start_probs: Float[Array, " P"]
    horizon: int
    discount: float = 1.0

    def __post_init__(self) -> None:
        """Check and normalise the arrays."""
        probs = probabilities("probs", self.probs, ndim=3)
        start_probs = probabilities("start_probs", self.start_probs, ndim=1)
        integer("horizon", self.horizon)
        if real("discount", self.discount, above=0.0) > 1:
            raise ValueError(f"discount must be at most 1, got {self.discount}")
        arrays = {
            "next_state": _states("next_state", self.next_state, probs.shape, len(probs)),
            "probs": probs,
            "rewards": finite("rewards", self.rewards, ndim=3),
            "terminated": np.array(self.terminated, dtype=np.bool_),
            "starts": _states("starts", self.starts, start_probs.shape, len(probs)),
            "start_probs": start_probs,
        }
        for name in ("rewards", "terminated"):
            _require_shape(name, arrays[name].shape, probs.shape)
        for name, array in arrays.items():
            object.__setattr__(self, name, array)

    @property
    def num_states(self) -> int:
        """S."""
        return self.probs.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.probs.shape[1]

    @property
    def has_binary_returns(self) -> bool:
        """Whether every return is 0 or 1, as seen from the table: γ = 1, a reward 1 ends it."""
        possible = self.probs > 0
        one = possible & (self.rewards == 1)
        none = self.rewards[possible & ~one]
        return bool(self.discount == 1 and (none == 0).all() and self.terminated[one].all())


def tabular_mdp(
    environment: gym.Env[Any, Any], *, discount: float = 1.0, horizon: int | None = None
) -> TabularMdp:
    """Read the table of a toy-text environment: FrozenLake, CliffWalking, Taxi, or one alike.

    Args:
        environment: its unwrapped self must have P[s][a] = [(probability, next state, reward,
            terminated), …] and initial_state_distrib, shape (S,); starts are the states that this
            gives a positive probability. It is reset and played some 2,000 steps, and four
            episodes as long as possible, to see that it does what the table says. Wrappers are
            refused unless they are Gymnasium's own and leave steps as they are, as TimeLimit and
            RecordEpisodeStatistics do.
        discount: γ in (0, 1].
        horizon: T; that of the environment's registration if None. The environment must not
            truncate episodes earlier.

    Raises:
        ValueError: if the environment has no such table, neither it nor `horizon` limits an
            episode, a wrapper may change what is played, or steps do not do what the table says.

    Examples:
        >>> import gymnasium as gym
        >>> from ustat_grpo.environments import tabular_mdp
        >>> with gym.make("FrozenLake-v1") as environment:
        ...     mdp = tabular_mdp(environment)
        >>> mdp.num_states, mdp.num_actions, mdp.starts.tolist(), mdp.horizon
        (16, 4, [0], 100)
    """
    table, initial = _table_of(environment)
    mdp = _read(environment, discount, horizon)
    require_played(environment, table, np.flatnonzero(initial), mdp.horizon)
    return mdp


def _read(environment: gym.Env[Any, Any], discount: float, horizon: int | None) -> TabularMdp:
    """Return the table of an environment, which it is taken to play."""
    table, initial = _table_of(environment)
    limit = environment.spec.max_episode_steps if environment.spec else None
    if horizon is None and limit is None:
        raise ValueError(
            f"horizon must be given for an environment without max_episode_steps, got {environment}"
        )
    num_states, num_actions = len(table), len(table[0])
    num_outcomes = max(len(table[s][a]) for s in range(num_states) for a in range(num_actions))
    columns = np.zeros((4, num_states, num_actions, num_outcomes))
    for s in range(num_states):
        for a in range(num_actions):
            columns[:, s, a, : len(table[s][a])] = np.transpose(table[s][a])
    starts = np.flatnonzero(initial)
    return TabularMdp(
        next_state=columns[1].astype(np.int64),
        probs=columns[0],
        rewards=columns[2],
        terminated=columns[3].astype(np.bool_),
        starts=starts,
        start_probs=np.asarray(initial)[starts],
        horizon=horizon if horizon is not None else int(limit or 0),
        discount=discount,
    )


def _table_of(environment: gym.Env[Any, Any]) -> tuple[Any, Any]:
    """Return P and initial_state_distrib, or raise if there is none."""
    table = getattr(environment.unwrapped, "P", None)
    initial = getattr(environment.unwrapped, "initial_state_distrib", None)
    if table is None or initial is None:
        raise ValueError(
            "environment must have a transition table P and initial_state_distrib, "
            f"got {environment}"
        )
    return table, initial


def make_frozen_lake(
    map_name: str | Sequence[str] = "4x4", *, is_slippery: bool = True, horizon: int = 100
) -> gym.Env[Any, Any]:
    """Make FrozenLake-v1 with episodes that begin in any free cell, all equally likely.

    With the one start of the original there would be one prompt, and no prompt noise. Free is what
    is neither hole nor goal.

    Args:
        map_name: "4x4" or "8x8", or the rows of a map of S, F, H and G.
        is_slippery: whether two moves in three go astray.
        horizon: T, the time limit.

    Raises:
        ValueError: if `map_name` is no name of a map, or its rows differ in length or have no S.

    Examples:
        >>> from ustat_grpo.environments import make_frozen_lake
        >>> environment = make_frozen_lake(("SF", "HG"), is_slippery=False)
        >>> environment.reset(seed=0)[0] in (0, 1)  # S or F
        True
        >>> environment.close()
    """
    rows = _rows(map_name)
    integer("horizon", horizon)
    environment = gym.make(
        "FrozenLake-v1", desc=rows, is_slippery=is_slippery, max_episode_steps=horizon
    )
    free = np.array([cell in "SF" for cell in "".join(rows)], dtype=float)
    setattr(environment.unwrapped, "initial_state_distrib", free / free.sum())  # noqa: B010
    return environment


def frozen_lake(
    map_name: str | Sequence[str] = "4x4",
    *,
    is_slippery: bool = True,
    discount: float = 1.0,
    horizon: int = 100,
) -> TabularMdp:
    """Return the table of the environment that `make_frozen_lake` makes.

    Args:
        map_name: as for `make_frozen_lake`.
        is_slippery: as for `make_frozen_lake`.
        discount: γ in (0, 1].
        horizon: T, the time limit.

    Raises:
        ValueError: as for `make_frozen_lake` and `TabularMdp`.

    Examples:
        >>> from ustat_grpo.environments import best_objective, frozen_lake
        >>> mdp = frozen_lake(("SF", "HG"), is_slippery=False, horizon=2)
        >>> mdp.starts.tolist(), round(best_objective(mdp), 6)  # right, then down
        ([0, 1], 1.0)
    """
    environment = make_frozen_lake(map_name, is_slippery=is_slippery, horizon=horizon)
    return _read(environment, discount, None)


def _rows(map_name: str | Sequence[str]) -> list[str]:
    if isinstance(map_name, str):
        if map_name not in MAPS:
            raise ValueError(
                f"map_name must be one of {', '.join(MAPS)}, or rows, got {map_name!r}"
            )
        return MAPS[map_name]
    rows = list(map_name)
    if len({len(row) for row in rows}) != 1 or not set("".join(rows)) <= set("SFHG"):
        raise ValueError(f"map_name must have rows of S, F, H and G of one length, got {rows}")
    if "S" not in "".join(rows) or len(rows[0]) < 2:
        raise ValueError(f"map_name must have a start S, in rows of at least two, got {rows}")
    return rows


def _states(
    name: str, value: NDArray[np.int64], shape: tuple[int, ...], num_states: int
) -> NDArray[np.int64]:
    states = np.array(value)
    _require_shape(name, states.shape, shape)
    if not np.issubdtype(states.dtype, np.integer) or states.min() < 0:
        raise ValueError(f"{name} must hold states 0, …, {num_states - 1}, got {value!r}")
    if states.max() >= num_states:
        raise ValueError(f"{name} must be below the number of states, {num_states}, "
                         f"got {states.max()}")  # fmt: skip
    return states.astype(np.int64)


def _require_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(f"{name} must have the shape of its probabilities, {expected}, "
                         f"got {shape}")  # fmt: skip
