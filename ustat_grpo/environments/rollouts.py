"""Groups of episodes: G from each start, of unequal lengths, with their returns and scores."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from ustat_grpo.compiled.rng import draw_key
from ustat_grpo.environments.copies import EnvironmentCopies
from ustat_grpo.environments.features import OneHot
from ustat_grpo.environments.playing import EpisodeStreams, Tape, play
from ustat_grpo.environments.policies import LinearSoftmax, Observations, Policy, scores
from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import capable, finite, instance, integer

_STEPS_PER_PASS = 2**16
"""Bounds the memory of `episode_scores`, apart from single episodes that are longer."""


@dataclass(frozen=True, eq=False)
class Episodes:
    """B·G episodes, G from each of B starts; the steps of all stand one after another.

    Args:
        observations: of every step, episode after episode in the order of `returns.ravel()`.
        actions: taken in them, shape (n,).
        lengths: steps of each episode, shape (B, G).
        returns: Z = Σ_t γᵗ r_t, shape (B, G).

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import Episodes
        >>> episodes = Episodes(
        ...     observations=np.array([0, 1, 0]),
        ...     actions=np.array([1, 1, 0]),
        ...     lengths=np.array([[2, 1]]),  # B = 1 start, G = 2 episodes, of two steps and of one
        ...     returns=np.array([[1.0, 0.0]]),
        ... )
        >>> len(episodes.actions), episodes.returns.mean(axis=1).tolist()  # 3 steps in all, and V̂
        (3, [0.5])
    """

    observations: Observations
    actions: Int[Integers, " n"]
    lengths: Int[Integers, "B G"]
    returns: Float[Array, "B G"]


def group_rollouts(
    copies: EnvironmentCopies,
    policy: Policy,
    theta: ArrayLike,
    seeds: ArrayLike,
    group_size: int,
    *,
    rng: np.random.Generator,
) -> Episodes:
    """Play G episodes from the start of each seed: Z = Σ_t γᵗ r_t, with a_t ~ π_θ(·∣o_t).

    Noise and actions of an episode come from two streams of its own, whose keys are drawn from
    `rng` and its position (b, i). So the same `rng` state gives the same episodes however many
    copies play them (but for rounding in the policy's probabilities, which may depend on how many
    observations it sees), and smaller groups and batches are the beginnings of larger ones.

    Args:
        copies: play the episodes, and hold γ; a copy that is through begins the next one.
        policy: π.
        theta: θ, shape (d,).
        seeds: reset seeds, the prompts of the batch, shape (B,).
        group_size: G.
        rng: gives the keys of the random streams.

    Raises:
        ValueError: if an argument is out of its range, the policy does not fit the environment, its
            logits or a return are not finite, or an episode has not ended after `copies.max_steps`.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Grpo
        >>> from ustat_grpo.environments import EnvironmentCopies, group_rollouts, tabular_softmax
        >>> policy, rng = tabular_softmax(num_states=2, num_actions=2), np.random.default_rng(0)
        >>> with EnvironmentCopies("ustat_grpo/TugOfWar-v0") as copies:
        ...     episodes = group_rollouts(
        ...         copies, policy, np.zeros(4), seeds=[0, 1, 2], group_size=4, rng=rng
        ...     )
        >>> episodes.returns.shape, Grpo().advantages(episodes.returns).shape
        ((3, 4), (3, 4))
    """
    parameter = require_policy(copies, policy, theta)
    starts, size = require_seeds(seeds), integer("group_size", group_size)
    streams = EpisodeStreams(starts, size, draw_key(rng), draw_key(rng))
    tape = Tape(np.zeros(streams.num_episodes, dtype=np.int64), np.zeros(streams.num_episodes))
    with np.errstate(over="ignore", invalid="ignore"):  # see what follows, and `play`
        play(copies, streams, lambda seen: policy.logits(parameter, seen), tape)
    if not np.isfinite(tape.returns).all():
        raise ValueError(
            "returns must be finite, but the sum of the rewards of an episode has overflowed"
        )
    order = np.argsort(np.concatenate(tape.episodes), kind="stable")
    shape = (len(starts), size)
    return Episodes(
        np.concatenate(tape.observations)[order],
        np.concatenate(tape.actions)[order],
        tape.lengths.reshape(shape),
        tape.returns.reshape(shape),
    )


def episode_scores(policy: Policy, theta: ArrayLike, episodes: Episodes) -> Float[Array, "B G d"]:
    """Return the score W = Σ_t ∇ log π_θ(a_t∣o_t) of each episode.

    Args:
        policy: π.
        theta: θ, shape (d,).
        episodes: of any policy.

    Raises:
        ValueError: if θ does not fit the policy.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import Episodes, episode_scores, tabular_softmax
        >>> policy = tabular_softmax(num_states=1, num_actions=2)
        >>> episodes = Episodes(
        ...     observations=np.array([0, 0, 0]),
        ...     actions=np.array([1, 1, 0]),
        ...     lengths=np.array([[2, 1]]),  # action 1 twice, and action 0
        ...     returns=np.array([[1.0, 0.0]]),
        ... )
        >>> episode_scores(policy, np.zeros(2), episodes).tolist()
        [[[-1.0, 1.0], [0.5, -0.5]]]
    """
    parameter = _require_theta(policy, theta)
    lengths = episodes.lengths.ravel()
    ends = np.cumsum(lengths)
    out = np.empty((len(lengths), policy.dimension))
    first = 0
    while first < len(lengths):
        before = ends[first] - lengths[first]
        last = max(int(np.searchsorted(ends, before + _STEPS_PER_PASS, side="right")), first + 1)
        steps = slice(before, ends[last - 1])
        episode = np.repeat(np.arange(last - first), lengths[first:last])
        seen, taken = episodes.observations[steps], episodes.actions[steps]
        out[first:last] = scores(policy, parameter, seen, taken, episode, last - first)
        first = last
    return out.reshape(*episodes.lengths.shape, -1)


def require_policy(
    copies: EnvironmentCopies, policy: Policy, theta: ArrayLike
) -> Float[Array, " d"]:
    """Return θ as an array, or raise unless policy and environment fit each other."""
    instance("copies", copies, EnvironmentCopies, 'EnvironmentCopies("CartPole-v1")')
    capable("policy", policy, "logits", "tabular_softmax(num_states=2, num_actions=2)")
    if policy.num_actions != copies.num_actions:
        raise ValueError(
            f"policy must have the {copies.num_actions} actions of the environment, "
            f"got {policy.num_actions}"
        )
    if isinstance(policy, LinearSoftmax) and isinstance(policy.features, OneHot):
        _require_states(copies.observation_space, policy.features.num_states)
    return _require_theta(policy, theta)


def _require_states(space: spaces.Space[Any], num_states: int) -> None:
    if not isinstance(space, spaces.Discrete):
        raise ValueError(
            f"{type(space).__name__} observations need a feature map, such as Affine or Quadratic: "
            f"OneHot features must be of a Discrete observation space, got {space}"
        )
    if num_states != space.n:
        raise ValueError(
            f"num_states of the OneHot features must be that of the observation space, {space.n}, "
            f"got {num_states}"
        )


def _require_theta(policy: Policy, theta: ArrayLike) -> Float[Array, " d"]:
    parameter = finite("theta", theta, ndim=1)
    if len(parameter) != policy.dimension:
        raise ValueError(
            f"theta must have the policy's dimension, {policy.dimension}, got {len(parameter)}"
        )
    return parameter


def require_seeds(seeds: ArrayLike) -> Int[Integers, " B"]:
    """Return reset seeds as an array, or raise."""
    array = np.asarray(seeds)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu" or array.min() < 0:
        raise ValueError(f"seeds must be one or more integers of at least 0, got {seeds!r}")
    return array.astype(np.int64)
