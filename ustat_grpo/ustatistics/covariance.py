"""The product kernel in closed form: a sample covariance in O(nd), and its variance.

GRPO's policy gradient is this U-statistic, with the outputs of one group as the
observations, their scores as x and their rewards as z (arXiv 2603.01162, Lemma 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .components import VarianceComponents, components_from_grams
from .pairs import Array, as_floats


def covariance_u_statistic(x: ArrayLike, z: ArrayLike) -> Array:
    """U-statistic of the kernel ½ (x_i − x_j)(z_i − z_j), without visiting pairs.

    U_n = 1/(n−1) Σ_i x_i (z_i − z̄) = 1/(n−1) Σ_i (x_i − x̄)(z_i − z̄),

    the sample covariance with ddof 1, and GRPO's gradient for scores x and rewards z.

    Args:
        x: (..., n, d), one row an observation.
        z: (..., n) for one number an observation, or (..., n, q). The leading axes are
            those of x.

    Returns:
        (..., d), or (..., d, q); float32 if the floating inputs are, else float64. A NaN
        observation makes its own batch entry NaN.

    Raises:
        TypeError: If x or z does not hold real numbers.
        ValueError: If n < 2 or the shapes do not match.

    Note:
        z alone is centred: x needs no centring because Σ(z_i − z̄) = 0, and a centred
        copy of x would cost several times the product itself. z is centred twice so
        that this sum vanishes to rounding of the *deviations*. Errors are then no larger
        than from changing each x_i in its last digit: nothing cancels quadratically.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.ustatistics import covariance_u_statistic
        >>> scores = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])
        >>> rewards = np.array([1.0, 0.0, 0.0])
        >>> print(covariance_u_statistic(scores, rewards))
        [ 0.5 -0.5]

    Reference:
        arXiv 2603.01162, Lemma 1.
    """
    scores, other, is_vector = _matching(x, z, 2, "a covariance")
    axis = -1 if is_vector else -2
    centred = _centred(_centred(other, axis), axis)
    scale = scores.shape[-2] - 1
    if is_vector:
        return np.matmul(centred[..., None, :], scores)[..., 0, :] / scale
    return np.matmul(np.swapaxes(scores, -1, -2), centred) / scale


def covariance_variance_estimate(x: ArrayLike, z: ArrayLike) -> Array:
    """Unbiased covariance matrix of `covariance_u_statistic`, from moments.

    With a, b the centred x, z and P = Σ a_i b_i, pairs need not be visited:

    R_i = n/2 (a_i b_i − P/n),
    Σ_{i≠j} h̃ h̃ᵀ = ½ (n Σ a_i a_iᵀ b_i² + Σ a_i a_iᵀ Σ b_i² + 2 P Pᵀ) − n/(n−1) P Pᵀ,

    then as in `variance_estimate`, with which it agrees to rounding; O(n d²).

    Args:
        x: (..., n, d) with n ≥ 4.
        z: (..., n).

    Returns:
        (..., d, d). Its diagonal may be negative at small n.

    Raises:
        TypeError: If x or z does not hold real numbers.
        ValueError: If n < 4 or the shapes do not match.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.ustatistics import covariance_variance_estimate
        >>> scores, rewards = np.array([[1], [-1], [1], [-1], [1]]), np.array([1, 0, 1, 0, 0])
        >>> covariance_variance_estimate(scores, rewards).round(4).tolist()  # a matrix, d = 1
        [[0.0267]]

    Reference:
        Derived here; see `variance_estimate`.
    """
    scores, other, is_vector = _matching(x, z, 4, "an unbiased variance")
    _require_vector(is_vector, z)
    a, b = _centred(scores, -2), _centred(other, -1)
    count = b.shape[-1]
    weighted = a * b[..., None]
    product = weighted.sum(axis=-2)
    squared = product[..., :, None] * product[..., None, :]
    fourth = np.swapaxes(weighted, -1, -2) @ weighted
    second = (np.swapaxes(a, -1, -2) @ a) * np.sum(b * b, axis=-1)[..., None, None]
    return _components(count, squared, fourth, second).variance(count)


def covariance_variance_components(x: ArrayLike, z: ArrayLike) -> VarianceComponents:
    """Unbiased traces of the variance components of `covariance_u_statistic` in O(nd).

    The trace of the sums in `covariance_variance_estimate` needs only ‖a_i‖² and P.
    For a group of n = G outputs to one prompt, with s = E‖W‖², τ = E‖W‖²A²,

    4 first → τ − ‖g‖²,   2 second → sσ² + ‖g‖²,

    so that `variance(G)` is the mean squared error of GRPO's gradient at that prompt
    for every group size G, estimated from one group.

    Args:
        x: (..., n, d) with n ≥ 4.
        z: (..., n).

    Returns:
        `first` and `second` of shape (...), one value a batch entry; may be negative.

    Raises:
        TypeError: If x or z does not hold real numbers.
        ValueError: If n < 4 or the shapes do not match.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.ustatistics import covariance_variance_components
        >>> rng = np.random.default_rng(0)
        >>> scores, rewards = rng.normal(size=(500, 8, 3)), rng.normal(size=(500, 8))
        >>> noise = covariance_variance_components(scores, rewards)
        >>> noise.first.shape
        (500,)

    Reference:
        arXiv 2603.01162, Theorem 2; the exact constants are derived in this package.
    """
    scores, other, is_vector = _matching(x, z, 4, "unbiased variance components")
    _require_vector(is_vector, z)
    a, b = _centred(scores, -2), _centred(other, -1)
    product = np.matmul(b[..., None, :], a)[..., 0, :]
    norms, squares = np.einsum("...nd,...nd->...n", a, a), b * b
    squared = np.sum(product * product, axis=-1)
    fourth = np.sum(norms * squares, axis=-1)
    second = norms.sum(axis=-1) * squares.sum(axis=-1)
    return _components(b.shape[-1], squared, fourth, second)


def _components(count: int, squared: Array, fourth: Array, second: Array) -> VarianceComponents:
    """Components from P Pᵀ, Σ a aᵀ b² and Σ a aᵀ Σ b², or from the traces of the three."""
    row_gram = count**2 / 4 * (fourth - squared / count)
    pair_gram = (count * fourth + second) / 2 + squared - count / (count - 1) * squared
    return components_from_grams(count, row_gram, pair_gram)


def _centred(values: Array, axis: int) -> Array:
    return values - values.mean(axis=axis, keepdims=True)


def _matching(x: ArrayLike, z: ArrayLike, minimum: int, purpose: str) -> tuple[Array, Array, Any]:
    """Validate x (..., n, d) and z (..., n) or (..., n, q); say whether z is the former."""
    scores, other = as_floats("x and z", x, z)
    if scores.ndim < 2:
        raise ValueError(f"x must have shape (..., n, d), got {scores.shape}")
    is_vector = other.shape == scores.shape[:-1]
    if not is_vector and other.shape[:-1] != scores.shape[:-1]:
        raise ValueError(
            f"z must have shape {scores.shape[:-1]} or {(*scores.shape[:-1], 'q')} "
            f"to match x of shape {scores.shape}, got {other.shape}"
        )
    if scores.shape[-2] < minimum:
        raise ValueError(
            f"x must hold at least {minimum} observations for {purpose}, got {scores.shape[-2]}"
        )
    return scores, other, is_vector


def _require_vector(is_vector: bool, z: ArrayLike) -> None:
    if not is_vector:
        raise ValueError(f"z must have one number an observation here, got shape {np.shape(z)}")
