"""Feature maps φ of observations, for `LinearSoftmax`: (n, ...) in, (n, F) out."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import integer, real


@dataclass(frozen=True)
class OneHot:
    """φ(o) = e_o: one feature for each state of a Discrete space; F = S.

    Args:
        num_states: S; states are 0, …, S − 1.

    Raises:
        ValueError: if there is no state.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import OneHot
        >>> OneHot(3)(np.array([2, 0])).tolist()  # of two observations
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    num_states: int

    def __post_init__(self) -> None:
        """Check the number of states."""
        integer("num_states", self.num_states)

    @property
    def num_features(self) -> int:
        """F."""
        return self.num_states

    def __call__(self, observations: NDArray[np.int64]) -> Float[Array, "n F"]:
        """Return the features of n states."""
        return np.eye(self.num_states)[observations]


@dataclass(frozen=True)
class Affine:
    """φ(o) = (1, o/scale): the numbers of a Box observation, and a constant; F = 1 + k.

    Args:
        scale: typical size of each of the k numbers; all must be positive.

    Raises:
        ValueError: if there is no number, or a scale is not positive.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import Affine
        >>> Affine(scale=(1.0, 10.0))(np.array([[0.5, 20.0]])).tolist()
        [[1.0, 0.5, 2.0]]
    """

    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the scales."""
        _require_scale(self.scale)

    @property
    def num_features(self) -> int:
        """F."""
        return 1 + len(self.scale)

    def __call__(self, observations: Array) -> Float[Array, "n F"]:
        """Return the features of n observations of k numbers in all."""
        scaled = _scaled(observations, self.scale)
        return np.concatenate([np.ones((len(scaled), 1)), scaled], axis=1)


@dataclass(frozen=True)
class Quadratic:
    """φ(o) = (1, u, u_i·u_j for i ≤ j) with u = o/scale; F = 1 + k + k(k+1)/2.

    Args:
        scale: typical size of each of the k numbers; all must be positive.

    Raises:
        ValueError: if there is no number, or a scale is not positive.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import Quadratic
        >>> Quadratic(scale=(1.0, 10.0))(np.array([[0.5, 20.0]])).tolist()  # of u = (½, 2)
        [[1.0, 0.5, 2.0, 0.25, 1.0, 4.0]]
    """

    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the scales."""
        _require_scale(self.scale)

    @property
    def num_features(self) -> int:
        """F."""
        size = len(self.scale)
        return 1 + size + size * (size + 1) // 2

    def __call__(self, observations: Array) -> Float[Array, "n F"]:
        """Return the features of n observations of k numbers in all."""
        scaled = _scaled(observations, self.scale)
        first, second = np.triu_indices(len(self.scale))
        products = scaled[:, first] * scaled[:, second]
        return np.concatenate([np.ones((len(scaled), 1)), scaled, products], axis=1)


def _require_scale(scale: tuple[float, ...]) -> None:
    if not scale:
        raise ValueError(f"scale must hold a number for each of an observation, got {scale}")
    for each in scale:
        real("scale", each, above=0.0)


def _scaled(observations: Array, scale: tuple[float, ...]) -> Array:
    array = np.asarray(observations, dtype=np.float64)
    flat = array.reshape(len(array), math.prod(array.shape[1:]))
    if flat.shape[1] != len(scale):
        raise ValueError(
            f"scale must hold a number for each of an observation, {flat.shape[1]}, "
            f"got {len(scale)}"
        )
    return flat / np.array(scale)
