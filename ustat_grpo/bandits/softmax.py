"""Softmax bandits: finite prompts and outputs, finitely many reward levels."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.bandits.snapshot import Snapshot
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, probabilities, same_length


@dataclass(frozen=True, eq=False)
class SoftmaxBandit:
    """A contextual bandit with policy π_θ(y∣x) ∝ exp(φ(x, y)·θ + offset(x, y)).

    A prompt is a context, an output one of K actions, as in the paper, where a whole answer is
    one action. Everything about it can be summed exactly: see `at`.

    Args:
        features: φ, shape (P, K, d); None for one-hot features (see `tabular`).
        reward_levels: the values that a reward can take, shape (L,).
        reward_probs: P(Z = level∣x, y), shape (P, K, L), each row summing to one.
        prompt_probs: f(x), shape (P,); uniform if None.
        offsets: part of the logits that θ does not move, shape (P, K); zero if None.

    Raises:
        ValueError: if shapes disagree, or probabilities are negative, NaN or do not sum to one.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit
        >>> features = [[[0], [1]], [[0], [2]]]  # two prompts, two actions, d = 1
        >>> bandit = SoftmaxBandit(features, [0, 1], [[[1, 0], [0, 1]], [[0, 1], [1, 0]]])
        >>> bandit.at([0]).objective, bandit.at([0]).gradient.tolist()  # ¼·1 and −¼·2, averaged
        (0.5, [-0.125])
    """

    features: Float[Array, "P K d"] | None
    reward_levels: Float[Array, " L"]
    reward_probs: Float[Array, "P K L"]
    prompt_probs: Float[Array, " P"] | None = None
    offsets: Float[Array, "P K"] | None = None

    def __post_init__(self) -> None:
        """Check and normalise the arrays."""
        levels = finite("reward_levels", self.reward_levels, ndim=1)
        probs = probabilities("reward_probs", self.reward_probs, ndim=3)
        num_prompts, num_actions, num_levels = probs.shape
        prompts = (
            np.full(num_prompts, 1 / num_prompts)
            if self.prompt_probs is None
            else (probabilities("prompt_probs", self.prompt_probs, ndim=1))
        )
        offsets = (
            np.zeros((num_prompts, num_actions))
            if self.offsets is None
            else (finite("offsets", self.offsets, ndim=2))
        )
        lengths = {"reward_probs": num_prompts, "prompt_probs": len(prompts)}
        lengths["offsets"] = len(offsets)
        actions = {"reward_probs": num_actions, "offsets": offsets.shape[1]}
        if self.features is not None:
            features = finite("features", self.features, ndim=3)
            lengths["features"], actions["features"] = features.shape[:2]
            object.__setattr__(self, "features", features)
        same_length("prompts", lengths)
        same_length("actions", actions)
        same_length("levels", {"reward_levels": len(levels), "reward_probs": num_levels})
        object.__setattr__(self, "reward_levels", levels)
        object.__setattr__(self, "reward_probs", probs)
        object.__setattr__(self, "prompt_probs", prompts)
        object.__setattr__(self, "offsets", offsets)

    @classmethod
    def tabular(
        cls,
        reward_levels: ArrayLike,
        reward_probs: ArrayLike,
        prompt_probs: ArrayLike | None = None,
        offsets: ArrayLike | None = None,
    ) -> "SoftmaxBandit":
        """Return a bandit with one parameter per (prompt, action): θ has P·K entries.

        The one-hot features are implied and never stored. Arguments as for the class.
        """
        return cls(None, reward_levels, reward_probs, prompt_probs, offsets)  # pyright: ignore

    @property
    def dimension(self) -> int:
        """The length d of θ."""
        if self.features is None:
            return self.reward_probs.shape[0] * self.reward_probs.shape[1]
        return self.features.shape[-1]

    @cached_property
    def best_objective(self) -> float:
        """The least upper bound of J over all θ.

        Tabular: E max_y E[Z∣X, y], which no finite θ attains. With features: the largest value
        that quasi-Newton ascent on exact gradients finds from θ = 0 and from thirty random points
        near and far. J may have several maxima; nothing proves that this is the highest.
        """
        if self.features is None:
            assert self.prompt_probs is not None
            return float(self.prompt_probs @ (self.reward_probs @ self.reward_levels).max(axis=1))
        return self._ascend_from(np.zeros(self.dimension), *_starting_points(self.dimension))

    def _ascend_from(self, *points: Array) -> float:
        from scipy.optimize import minimize

        def loss(theta: Array) -> tuple[float, Array]:
            snapshot = self.at(theta)
            return -snapshot.objective, -snapshot.gradient

        options = {"gtol": 1e-12, "ftol": 1e-15, "maxiter": 10_000}
        results = [minimize(loss, p, jac=True, method="L-BFGS-B", options=options) for p in points]
        return float(max(-result.fun for result in results))

    def at(self, theta: ArrayLike) -> Snapshot:
        """Return the problem at one parameter.

        Args:
            theta: θ, shape (d,).

        Raises:
            ValueError: if θ has another length than `dimension`, or is not finite.
        """
        parameters = finite("theta", theta, ndim=1)
        if len(parameters) != self.dimension:
            raise ValueError(f"theta must have length {self.dimension}, got {len(parameters)}")
        assert self.offsets is not None and self.prompt_probs is not None
        if self.features is None:
            logits = parameters.reshape(self.offsets.shape) + self.offsets
        else:
            logits = self.features @ parameters + self.offsets
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return Snapshot(
            self.prompt_probs,
            weights / weights.sum(axis=-1, keepdims=True),
            self.reward_levels,
            self.reward_probs,
            self.features,
        )


def _starting_points(dimension: int) -> Array:
    """Thirty points at distances of order 1, 3 and 10, the same on every call; shape (30, d)."""
    points = np.random.default_rng(0).standard_normal((30, dimension))
    return points * np.repeat([1.0, 3.0, 10.0], 10)[:, None]
