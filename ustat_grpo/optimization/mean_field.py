"""Where Algorithm 2 comes to rest on a bandit: the zeros of its mean step."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.bandits.softmax import SoftmaxBandit
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite
from ustat_grpo.optimization.practice import Practice, penalty_slope

Gain = Callable[[Array], Array]
"""φ: of values V(x), shape (P,), the factors of E ĝ(x) = φ(V(x))·g(x), shape (P,)."""

_STEP = 1e-6
_STEPS = 200
_ROUNDING, _ZERO = 1e-15, 1e-12
_FLAT = 1e-6


def mean_field(
    bandit: SoftmaxBandit,
    theta: ArrayLike,
    gain: Gain,
    *,
    practice: Practice,
    reference: ArrayLike,
) -> Float[Array, " d"]:
    """Return the mean of the first step of an iteration of Algorithm 2, per unit of η.

        h(θ) = Σ_x f(x) (φ(V(x))·g(x) − κ E[k′(ℓ)·W∣x])

    It is the gradient of E F(V(X)) − κ KL with F′ = φ, where KL is KL(π_θ ‖ π_ref) for k2,
    KL(π_ref ‖ π_θ) for k3, and absent for k1 (see `theory.implied_objective`).

    Args:
        bandit: the problem.
        theta: θ, shape (d,).
        gain: φ of the estimator; 1 for an unbiased one.
        practice: its penalty and penalty weight.
        reference: the parameter of π_ref, shape (d,).

    Returns:
        h(θ), shape (d,).

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Practice, TugOfWar
        >>> from ustat_grpo.optimization import mean_field
        >>> task = TugOfWar()
        >>> theta = task.theta(0.0)
        >>> field = mean_field(
        ...     task.bandit, theta, np.ones_like, practice=Practice(), reference=theta
        ... )
        >>> bool(np.allclose(field, task.at(theta).gradient))  # unbiased and without penalty: ∇J
        True
    """
    here, start = bandit.at(theta), bandit.at(reference)
    slopes = penalty_slope(practice.penalty, np.log(here.action_probs) - np.log(start.action_probs))
    advantages = gain(here.value)[:, None] * here.mean_reward - practice.penalty_weight * slopes
    centred = advantages - np.sum(here.action_probs * advantages, axis=-1, keepdims=True)
    weights = here.prompt_probs[:, None] * here.action_probs * centred
    if here.features is None:
        return weights.ravel()
    return np.einsum("pk,pkd->d", weights, here.features)


def curvature(field: Callable[[Array], Array], theta: ArrayLike) -> Float[Array, "d d"]:
    """Return −∂h/∂θ of a vector field, by central differences, shape (d, d)."""
    here = finite("theta", theta, ndim=1)
    steps = _STEP * np.eye(len(here))
    return -np.stack([field(here + each) - field(here - each) for each in steps], -1) / (2 * _STEP)


def maximiser(field: Callable[[Array], Array], start: ArrayLike) -> Float[Array, " d"]:
    """Climb along a gradient field to where it vanishes: a maximiser of what it is the gradient of.

    Newton's method, with the absolute values of the curvatures, so that every step leads upward,
    steps of at most 1, and curvatures from differences of the exact field: the zero is exact to
    rounding.

    Args:
        field: h, of θ.
        start: where to begin, shape (d,).

    Returns:
        θ with ‖h(θ)‖ below 1e-12, shape (d,).

    Raises:
        ValueError: if this way leads from `start` to no maximiser.
    """
    theta = finite("start", start, ndim=1)
    for _ in range(_STEPS):
        if np.linalg.norm(field(theta)) < _ROUNDING:
            break
        theta = _step(field, theta)
    curvatures = np.linalg.eigvalsh(curvature(field, theta))
    size = np.linalg.norm(field(theta))
    if size > _ZERO or curvatures.max() < _FLAT or curvatures.min() < -_FLAT:
        raise ValueError(
            f"start must lie below a maximiser, got {start}, from which the way up ends at "
            f"{theta.tolist()}, with a gradient of {size:.1e} and curvatures of "
            f"{curvatures.min():.1e} to {curvatures.max():.1e}"
        )
    return theta


def _step(field: Callable[[Array], Array], theta: Array) -> Array:
    """Make one step, halved until it does not lead far beyond the top."""
    here = field(theta)
    curvatures, axes = np.linalg.eigh(curvature(field, theta))
    move = axes @ (axes.T @ here / np.maximum(np.abs(curvatures), _FLAT))
    move /= max(1.0, float(np.linalg.norm(move)))
    while field(theta + move) @ move < -0.5 * (here @ move):
        move = move / 2
    return theta + move
