"""Policies over discrete actions: logits of an observation, and scores of whole episodes."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.special import softmax

from ustat_grpo.environments.features import OneHot
from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import generator, integer

Observations = NDArray[Any]
"""n observations along the first axis: (n,) states of a Discrete space, (n, ...) of a Box."""


class FeatureMap(Protocol):
    """φ: n observations to n rows of F features; those of `features.py`, or a user's own."""

    @property
    def num_features(self) -> int:
        """F."""
        ...

    def __call__(self, observations: Any) -> Float[Array, "n F"]:
        """Return the features of n observations."""
        ...


class Policy(Protocol):
    """π_θ(a∣o) = softmax(logits(θ, o)): a family of policies, whose θ ∈ ℝᵈ is kept apart."""

    @property
    def num_actions(self) -> int:
        """A, the number of actions."""
        ...

    @property
    def dimension(self) -> int:
        """d, the length of θ."""
        ...

    def initial(self, rng: np.random.Generator) -> Float[Array, " d"]:
        """Return a θ to start from."""
        ...

    def logits(self, theta: Float[Array, " d"], observations: Observations) -> Float[Array, "n A"]:
        """Return the logits of every action at n observations."""
        ...

    def pull_back(
        self,
        theta: Float[Array, " d"],
        observations: Observations,
        weights: Float[Array, "n A"],
        episode: Int[Integers, " n"],
        num_episodes: int,
    ) -> Float[Array, "E d"]:
        """Return Σ_t Σ_a weights[t, a]·∂logits(θ, o_t)[a]/∂θ over the steps t of every episode.

        Args:
            theta: θ, shape (d,).
            observations: o_t, of n steps.
            weights: shape (n, A).
            episode: which of the E episodes each step belongs to, shape (n,), in rising order.
            num_episodes: E; an episode without a step has the row 0.
        """
        ...


def action_probs(
    policy: Policy, theta: Float[Array, " d"], observations: Observations
) -> Float[Array, "n A"]:
    """Return π_θ(a∣o) of every action at n observations."""
    return softmax(policy.logits(theta, observations), axis=1)


def scores(
    policy: Policy,
    theta: Float[Array, " d"],
    observations: Observations,
    actions: Int[Integers, " n"],
    episode: Int[Integers, " n"],
    num_episodes: int,
) -> Float[Array, "E d"]:
    """Return the score W = Σ_t ∇ log π_θ(a_t∣o_t) of every episode; arguments as `pull_back`."""
    weights = -action_probs(policy, theta, observations)
    weights[np.arange(len(actions)), actions] += 1.0
    return policy.pull_back(theta, observations, weights, episode, num_episodes)


@dataclass(frozen=True)
class LinearSoftmax:
    """Logits φ(o)ᵀΘ that are linear in features of the observation; d = F·A, θ = Θ row by row.

    Args:
        features: φ.
        num_actions: A.

    Raises:
        ValueError: if there are fewer than two actions.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import Affine, LinearSoftmax
        >>> policy = LinearSoftmax(Affine((1.0,)), num_actions=2)
        >>> theta = np.array([0.0, 1.0, 2.0, 0.0])  # Θ row by row: constant, then slope
        >>> policy.logits(theta, np.array([[3.0]])).tolist()
        [[6.0, 1.0]]
    """

    features: FeatureMap
    num_actions: int

    def __post_init__(self) -> None:
        """Check the number of actions."""
        integer("num_actions", self.num_actions, at_least=2)

    @property
    def dimension(self) -> int:
        """d = F·A."""
        return self.features.num_features * self.num_actions

    def initial(self, rng: np.random.Generator) -> Float[Array, " d"]:
        """Return θ = 0, at which all actions are equally likely; `rng` is not used."""
        generator(rng)
        return np.zeros(self.dimension)

    def logits(self, theta: Float[Array, " d"], observations: Observations) -> Float[Array, "n A"]:
        """Return the logits of every action at n observations."""
        return self.features(observations) @ theta.reshape(-1, self.num_actions)

    def pull_back(
        self,
        theta: Float[Array, " d"],
        observations: Observations,
        weights: Float[Array, "n A"],
        episode: Int[Integers, " n"],
        num_episodes: int,
    ) -> Float[Array, "E d"]:
        """See `Policy.pull_back`: Σ_t φ(o_t) ⊗ weights[t], whatever θ."""
        del theta
        products = self.features(observations)[:, :, None] * weights[:, None, :]
        total = np.zeros((num_episodes, self.dimension))
        present, first = np.unique(episode, return_index=True)
        if len(present):
            total[present] = np.add.reduceat(products.reshape(len(weights), -1), first)
        return total


def tabular_softmax(num_states: int, num_actions: int) -> LinearSoftmax:
    """Return the policy with a logit of its own for every state and action; d = S·A.

    Args:
        num_states: S, of a Discrete observation space that starts at 0.
        num_actions: A.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import tabular_softmax
        >>> policy = tabular_softmax(num_states=3, num_actions=2)
        >>> policy.dimension, policy.logits(np.arange(6.0), np.array([2])).tolist()
        (6, [[4.0, 5.0]])
    """
    return LinearSoftmax(OneHot(num_states), num_actions)
