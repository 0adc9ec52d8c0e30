"""Compact parameter sets Θ, and the projection onto them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite


@dataclass(frozen=True, eq=False)
class Box:
    """Bounds on the coordinates of θ, or on other coordinates t = Rθ: low ≤ t ≤ high.

    With fewer rows than θ has entries the set is a slab; it is compact as a set of *policies* if
    these depend on θ through t only, as for the tug-of-war bandit.

    Args:
        low: lower bounds, shape (r,), or one number for all.
        high: upper bounds, likewise.
        axes: R, orthogonal rows, shape (r, d); None for the coordinates of θ themselves.

    Raises:
        ValueError: if bounds are not increasing or rows not orthogonal.

    Examples:
        >>> from ustat_grpo import Box
        >>> box = Box(low=-1.0, high=1.0)
        >>> box.project([3.0, 0.5]).tolist(), box.contains([3.0, 0.5])
        ([1.0, 0.5], False)
        >>> Box(-1.0, 1.0, axes=[[1, 1]]).project([3.0, 1.0]).tolist()  # a slab: −1 ≤ θ₁ + θ₂ ≤ 1
        [1.5, -0.5]
    """

    low: Float[Array, " r"] | float
    high: Float[Array, " r"] | float
    axes: Float[Array, "r d"] | None = None

    def __post_init__(self) -> None:
        """Check the arrays."""
        low = finite("low", np.atleast_1d(self.low), ndim=1)
        high = finite("high", np.atleast_1d(self.high), ndim=1)
        length = max(len(low), len(high))
        if self.axes is not None:
            axes = finite("axes", self.axes, ndim=2)
            _require_orthogonal(axes)
            object.__setattr__(self, "axes", axes)
            length = len(axes)
        for name, bound in {"low": low, "high": high}.items():
            if len(bound) not in (1, length):
                raise ValueError(f"{name} must be one number or {length}, got {len(bound)}")
        low, high = np.broadcast_to(low, length), np.broadcast_to(high, length)
        if (low >= high).any():
            raise ValueError(f"low must be below high, got low={self.low} and high={self.high}")
        object.__setattr__(self, "low", low.astype(float))
        object.__setattr__(self, "high", high.astype(float))

    def require_dimension(self, dimension: int) -> None:
        """Raise ValueError unless the box is one for θ of this length."""
        assert isinstance(self.low, np.ndarray)
        length = len(self.low) if self.axes is None else self.axes.shape[1]
        one_for_all = self.axes is None and length == 1
        if length != dimension and not one_for_all:
            raise ValueError(f"projection must be for theta of length {dimension}, got {length}")

    def coordinates(self, theta: ArrayLike) -> Float[Array, "... r"]:
        """Return t = Rθ, shape (..., r)."""
        parameters = np.asarray(theta, dtype=float)
        return parameters if self.axes is None else parameters @ self.axes.T

    def project(self, theta: ArrayLike) -> Float[Array, "... d"]:
        """Return the nearest point of the box: θ + Rᵀ(RRᵀ)⁻¹(clip(t) − t), shape (..., d)."""
        inside = self.coordinates(theta)
        step = np.clip(inside, self.low, self.high) - inside
        if self.axes is not None:
            step = (step / np.einsum("rd,rd->r", self.axes, self.axes)) @ self.axes
        return np.asarray(theta, dtype=float) + step

    def contains(self, theta: ArrayLike) -> bool:
        """Say whether a parameter, or each of several, lies in the box, up to rounding."""
        inside = self.coordinates(theta)
        slack = 1e-9 * (np.abs(self.low) + np.abs(self.high))
        return bool(((inside >= self.low - slack) & (inside <= self.high + slack)).all())

    def require_start(self, theta0: Array) -> None:
        """Raise ValueError unless the box is one for θ₀'s length and holds it."""
        self.require_dimension(len(theta0))
        if not self.contains(theta0):
            raise ValueError(
                "theta0 must lie inside the projection's set, got coordinates "
                f"{self.coordinates(theta0)} for low={self.low} and high={self.high}"
            )


def _require_orthogonal(axes: Array) -> None:
    lengths = np.linalg.norm(axes, axis=1)
    rows = axes / np.where(lengths > 0, lengths, 1.0)[:, None]
    slant = np.abs(rows @ rows.T - np.eye(len(axes))).max()
    if slant > 1e-9:
        raise ValueError(
            "axes must have orthogonal rows that are not zero, got cosines and lengths off by "
            f"{slant:.3g}"
        )
