"""Prompts that pull one coordinate, each to its own side: two that balance, and any number."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.bandits.snapshot import Snapshot
from ustat_grpo.bandits.softmax import SoftmaxBandit
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, integer, real, same_length, unit_interval


@dataclass(frozen=True)
class TugOfWar:
    """A smooth problem with an interior optimum and, if wished, flat directions.

    θ ∈ ℝ^(r+f) acts through r coordinates t = Rθ only, where R has orthogonal rows of squared
    length 2; with r = f = 1, t = θ₁ + θ₂. Each coordinate has two prompts. At both the policy
    takes action 1 with probability sigmoid(t_k − shift), shift 0 at one and `separation` at the
    other. Action 1 succeeds with probability (1+signal)/2 and action 0 with (1−signal)/2 at the
    first prompt, the reverse at the second. The objective is largest on the flat set
    t_k = separation_k/2 for all k, which meets the assumptions of Theorem 8 without
    identifiability. ‖W‖² depends on the action, hence Assumption 2 fails away from t_k = shift.

    Args:
        signal: how much the reward depends on the action, in (0, 1].
        num_axes: r, number of identifiable coordinates.
        num_flat: f, number of directions that leave the policy unchanged.
        separation: distance of the two prompts' indifference points along each t_k; one number,
            or one for each axis, which makes their curvatures differ.

    Raises:
        ValueError: if a dial is out of its range.

    Examples:
        >>> from ustat_grpo import TugOfWar
        >>> task = TugOfWar(signal=0.8, separation=2.0)
        >>> task.theta(1.0).round(6).tolist()  # t = θ₁ + θ₂ = separation/2
        [0.5, 0.5]
        >>> round(task.at(task.optimum).objective, 4), round(task.bandit.best_objective, 4)
        (0.6848, 0.6848)
    """

    signal: float = 0.8
    num_axes: int = 1
    num_flat: int = 1
    separation: float | tuple[float, ...] = 2.0

    def __post_init__(self) -> None:
        """Check the dials."""
        real("signal", self.signal, above=0.0)
        if self.signal > 1:
            raise ValueError(f"signal must be at most 1, got {self.signal!r}")
        integer("num_axes", self.num_axes)
        integer("num_flat", self.num_flat, at_least=0)
        distances = self.separation
        for distance in distances if isinstance(distances, tuple | list) else (distances,):
            if real("separation", distance) < 0:
                raise ValueError(f"separation must not be negative, got {distance!r}")
        if np.size(self.separation) not in (1, self.num_axes):
            raise ValueError(
                f"separation must be one number or {self.num_axes}, got {self.separation}"
            )

    @property
    def separations(self) -> Float[Array, " r"]:
        """The separation along each axis, shape (r,)."""
        return np.broadcast_to(np.asarray(self.separation, dtype=float), self.num_axes)

    @property
    def optimum(self) -> Float[Array, " d"]:
        """The shortest θ at which J is largest: t_k = separation_k/2."""
        return self.theta(self.separations / 2)

    @cached_property
    def axes(self) -> Float[Array, "r d"]:
        """R: the rows of √2 times an orthonormal cosine basis; (1, 1) for r = f = 1."""
        dimension = self.num_axes + self.num_flat
        phase = np.outer(np.arange(dimension), np.arange(dimension) + 0.5) * np.pi / dimension
        basis = np.cos(phase) * np.sqrt(2 / dimension)
        basis[0] = np.sqrt(1 / dimension)
        return np.sqrt(2) * basis[: self.num_axes]

    @cached_property
    def bandit(self) -> SoftmaxBandit:
        """The same problem as a softmax bandit with 2r prompts and two actions."""
        num_prompts = 2 * self.num_axes
        features = np.zeros((num_prompts, 2, self.axes.shape[1]))
        features[:, 1] = np.repeat(self.axes, 2, axis=0)
        offsets = np.zeros((num_prompts, 2))
        offsets[1::2, 1] = -self.separations
        high, low = (1 + self.signal) / 2, (1 - self.signal) / 2
        success = np.tile([[low, high], [high, low]], (self.num_axes, 1))
        reward_probs = np.stack([1 - success, success], axis=-1)
        return SoftmaxBandit(features, np.array([0.0, 1.0]), reward_probs, offsets=offsets)

    def theta(self, coordinates: ArrayLike) -> Float[Array, " d"]:
        """Return the shortest θ with Rθ = t.

        Args:
            coordinates: t, shape (r,), or one number for all axes.

        Raises:
            ValueError: if there are not r coordinates.
        """
        array = np.atleast_1d(np.asarray(coordinates, dtype=float))
        if array.shape not in ((1,), (self.num_axes,)):
            raise ValueError(
                f"coordinates must be one number or {self.num_axes}, got shape {array.shape}"
            )
        return np.broadcast_to(array, self.num_axes) @ self.axes / 2

    def at(self, theta: ArrayLike) -> Snapshot:
        """Return the problem at one parameter θ, shape (d,); see `SoftmaxBandit.at`."""
        return self.bandit.at(theta)


def one_axis(success: ArrayLike, shifts: ArrayLike) -> SoftmaxBandit:
    """Return equally likely prompts with two actions, π_θ(1∣x) = sigmoid(θ − shift(x)), θ ∈ ℝ.

    The value V(x) lies between the chances of success of the two actions. Prompts of which one
    succeeds more often by action 1 and another by action 0 have to share θ: the objective is
    largest in between, where depends on how much each prompt counts.

    Args:
        success: P(Z = 1∣x, y), shape (P, 2).
        shifts: shape (P,).

    Raises:
        ValueError: if the shapes do not fit, or a chance lies outside [0, 1].

    Examples:
        >>> from ustat_grpo.bandits import one_axis
        >>> bandit = one_axis(success=[[0, 1], [1, 0]], shifts=[0, 0])  # opposite right answers
        >>> bandit.at([0.0]).value.tolist(), bandit.at([5.0]).value.round(2).tolist()
        ([0.5, 0.5], [0.99, 0.01])
    """
    chances = unit_interval("success", finite("success", success, ndim=2))
    offsets = finite("shifts", shifts, ndim=1)
    if chances.shape[1] != 2:
        raise ValueError(f"success must have a column for each of 2 actions, got {chances.shape}")
    same_length("prompts", {"success": len(chances), "shifts": len(offsets)})
    features = np.zeros((len(chances), 2, 1))
    features[:, 1] = 1.0
    return SoftmaxBandit(
        features,
        np.array([0.0, 1.0]),
        np.stack([1 - chances, chances], axis=-1),
        offsets=np.stack([np.zeros(len(offsets)), -offsets], axis=-1),
    )
