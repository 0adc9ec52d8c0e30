"""Where GRPO ends: the law of the suboptimality Δ = J(θ*) − J(θ) after many steps (Theorem 8).

Near an optimum θ* with Hessian H*, Δ is half the quadratic form of −H* in θ − θ*, and θ − θ* is
normal with a covariance that the learning rate and the covariance Γ of one gradient estimate
decide; hence Δ is a weighted sum of χ²₁. All covariances Σ here belong to Qᵀ(θ − θ*), the r
coordinates that J can tell apart: no identifiability needed, θ* may lie in a flat set. Q is the
basis of `identifiable`, so pass the same Hessian throughout.

Notation: Λ = diag(λ) the positive eigenvalues of −H*, Ω = QᵀΓQ, β the rate. An estimate ĝ from B
prompts with G outputs has Γ = C₁/B + C₂/(BG) + C₃/(BG(G−1)); Σ and E[Δ] are linear in Γ.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, real
from ustat_grpo.moments import NoiseComponents

SYMMETRY_TOLERANCE = 1e-8
ZERO_WEIGHT = 1e-12  # eigenvalues of a covariance below this share of the largest are zeros


class Curvature(NamedTuple):
    """The curved part of an objective: λ, largest first, shape (r,), and Q, shape (d, r).

    Examples:
        >>> from ustat_grpo import laws
        >>> curvature = laws.limit.identifiable([[-2, 0], [0, 0]])
        >>> curvature.eigenvalues.round(6).tolist()
        [2.0]
        >>> abs(curvature.directions).round(6).tolist()  # Q, here one unit vector
        [[1.0], [0.0]]
    """

    eigenvalues: Float[Array, " r"]
    directions: Float[Array, "d r"]


def identifiable(hessian: ArrayLike, *, tolerance: float = 1e-9) -> Curvature:
    """Return the positive eigenvalues λ of −H* and their eigenvectors: −H* = Q Λ Qᵀ.

    Args:
        hessian: H*, the Hessian of J at an optimum, shape (d, d).
        tolerance: eigenvalues within this share of the largest absolute one are flat directions.

    Raises:
        ValueError: if H* is not symmetric, or −H* has a negative or no positive eigenvalue.

    Examples:
        >>> from ustat_grpo import laws
        >>> laws.limit.identifiable([[-1, 0], [0, -3]]).eigenvalues.round(6).tolist()
        [3.0, 1.0]
        >>> flat = laws.limit.identifiable([[-1, -1], [-1, -1]])  # along (1, −1)
        >>> flat.eigenvalues.round(6).tolist()
        [2.0]
    """
    share = real("tolerance", tolerance, above=0.0, below=1.0)
    eigenvalues, vectors = np.linalg.eigh(-_symmetric("hessian", hessian))
    threshold = share * np.abs(eigenvalues).max()
    if eigenvalues[0] < -threshold:
        raise ValueError(
            "hessian must be negative semidefinite, as at a maximum, got a largest eigenvalue of "
            f"{-eigenvalues[0]:g}"
        )
    curved = np.flatnonzero(eigenvalues > threshold)[::-1]
    if curved.size == 0:
        raise ValueError(f"hessian must have a negative eigenvalue, got {-eigenvalues}")
    return Curvature(eigenvalues[curved], vectors[:, curved])


def decaying_covariance(
    hessian: ArrayLike, noise: ArrayLike, *, rate: float
) -> Float[Array, "r r"]:
    """Limit covariance of √n Qᵀ(θ_n − θ*) at learning rate β/i: β²Ω_jk/(β(λ_j + λ_k) − 1).

    It solves (βΛ − ½I)Σ + Σ(βΛ − ½I) = β²Ω. A rate β/(i + i₀) has the same limit.

    Args:
        hessian: H*, shape (d, d).
        noise: Γ, the covariance of one gradient estimate at θ*, shape (d, d).
        rate: β, with βλ > ½ for every λ; a smaller one forgets its start too slowly.

    Raises:
        ValueError: if a matrix is not symmetric, H* is not that of a maximum, or β is too small.

    Note:
        Step (iii) of the proof of Theorem 8 lacks β²: the noise of a step is β(ĝ − g), not ĝ − g.

    Examples:
        >>> from ustat_grpo import laws
        >>> covariance = laws.limit.decaying_covariance([[-1.0]], [[0.75]], rate=2.0)
        >>> covariance.round(6).tolist()  # 2²·¾/(2·2 − 1)
        [[1.0]]
    """
    curvature = identifiable(hessian)
    least = 1 / (2 * curvature.eigenvalues[-1])
    beta = real("rate", rate)
    if beta <= least:
        raise ValueError(f"rate must be above 1/(2·λ_min) = {least:g}, got {rate!r}")
    scaled = beta * curvature.eigenvalues
    return beta**2 * _projected(noise, curvature) / (np.add.outer(scaled, scaled) - 1)


def stationary_covariance(
    hessian: ArrayLike, noise: ArrayLike, *, rate: float
) -> Float[Array, "r r"]:
    """Stationary covariance of Qᵀ(θ − θ*) at a constant rate: βΩ_jk/(λ_j + λ_k − βλ_jλ_k).

    It solves Σ = (I − βΛ)Σ(I − βΛ) + β²Ω: exact for a quadratic J with additive noise, the leading
    order in β otherwise.

    Args:
        hessian: H*, shape (d, d).
        noise: Γ, the covariance of one gradient estimate at θ*, shape (d, d).
        rate: β, with 0 < βλ < 2 for every λ.

    Raises:
        ValueError: if a matrix is not symmetric, H* is not that of a maximum, or β is out of range.

    Examples:
        >>> from ustat_grpo import laws
        >>> covariance = laws.limit.stationary_covariance([[-1.0]], [[0.3]], rate=0.5)
        >>> covariance.round(6).tolist()  # ½·0.3/(2 − ½)
        [[0.1]]
    """
    curvature = identifiable(hessian)
    limit = 2 / curvature.eigenvalues[0]
    beta = real("rate", rate)
    if not 0 < beta < limit:
        raise ValueError(f"rate must be above 0 and below 2/λ_max = {limit:g}, got {rate!r}")
    eigenvalues = curvature.eigenvalues
    contraction = np.add.outer(eigenvalues, eigenvalues) - beta * np.outer(eigenvalues, eigenvalues)
    return beta * _projected(noise, curvature) / contraction


def weights(hessian: ArrayLike, covariance: ArrayLike) -> Float[Array, " k"]:
    """Return w, the positive eigenvalues of ½ Σ^½ Λ Σ^½, largest first, shape (k,) with k ≤ r.

    At rate β/i, nΔ_n → Σ_k w_k χ²₁ in law (Theorem 8). At a small constant rate, Δ is near
    Σ_k w_k χ²₁ in the long run. `WeightedChiSquared` is this law.

    Args:
        hessian: H*, shape (d, d).
        covariance: Σ in the basis of `identifiable`, shape (r, r), from a function above.

    Raises:
        ValueError: if Σ is not a covariance matrix of r coordinates.

    Examples:
        >>> from ustat_grpo import laws
        >>> hessian = [[-1, 0], [0, -4]]  # λ = 4, 1, largest first
        >>> laws.limit.weights(hessian, covariance=[[0.5, 0], [0, 0.5]]).round(6).tolist()  # ½λ·½
        [1.0, 0.25]
    """
    eigenvalues = identifiable(hessian).eigenvalues
    root = np.sqrt(eigenvalues)
    # ½ Λ^½ Σ Λ^½ has the same eigenvalues and needs no matrix root.
    form = np.outer(root, root) * _coordinates(covariance, eigenvalues) / 2
    spectrum = np.linalg.eigvalsh(form)[::-1]
    threshold = ZERO_WEIGHT * np.abs(spectrum).max()
    if spectrum[-1] < -threshold:
        raise ValueError(
            "covariance must be positive semidefinite, got a weight of "
            f"{spectrum[-1]:g} beside a largest of {spectrum[0]:g}"
        )
    return np.asarray(spectrum[spectrum > threshold], dtype=np.float64)


def mean_gap(hessian: ArrayLike, covariance: ArrayLike) -> float:
    """Return ½ tr(ΛΣ) = Σ_k w_k, the mean of the law of `weights`.

    The limit of n E[Δ_n] at rate β/i (given uniform integrability); near E[Δ] in the long run at a
    small constant rate.

    Args:
        hessian: H*, shape (d, d).
        covariance: Σ in the basis of `identifiable`, shape (r, r).

    Raises:
        ValueError: if Σ is not a symmetric matrix of r coordinates.

    Examples:
        >>> from ustat_grpo import laws
        >>> round(laws.limit.mean_gap([[-2.0]], covariance=[[0.5]]), 6)  # ½ · 2 · ½
        0.5
    """
    eigenvalues = identifiable(hessian).eigenvalues
    return float(eigenvalues @ np.diagonal(_coordinates(covariance, eigenvalues))) / 2


def decaying_gap_components(
    hessian: ArrayLike, prompt: ArrayLike, oracle: ArrayLike, residual: ArrayLike, *, rate: float
) -> NoiseComponents:
    """Split the expected gap at rate β/i: n E[Δ_n] → k₁/B + k₂/(BG) + k₃/(BG(G−1)).

    k_c = ½ tr(Λ Σ[C_c]) takes the place of c_c = tr C_c, so `group_size.optimal` and its siblings
    return the group size of least final gap instead of least gradient error. `laws.covariance`
    gives the three matrices.

    Args:
        hessian: H*, shape (d, d).
        prompt: C₁ = Cov g(X), shape (d, d).
        oracle: C₂ = E[WWᵀA² − g(X)g(X)ᵀ], shape (d, d).
        residual: C₃ = E[WWᵀσ²(X) + g(X)g(X)ᵀ], shape (d, d).
        rate: β, as for `decaying_covariance`.

    Raises:
        ValueError: as `decaying_covariance`, or if a component is negative.

    Examples:
        >>> from ustat_grpo import laws
        >>> split = laws.limit.decaying_gap_components([[-1]], [[1]], [[2]], [[9]], rate=1)
        >>> round(split.residual, 6)  # ½β²/(2β − 1) of each, as in every problem of one dimension
        4.5
        >>> round(laws.group_size.optimal(split), 6)  # so G* is that of the gradient, 1 + √9
        4.0
    """

    def covariance(noise: ArrayLike) -> Array:
        return decaying_covariance(hessian, noise, rate=rate)

    return _gap_components(
        hessian, {"prompt": prompt, "oracle": oracle, "residual": residual}, covariance
    )


def stationary_gap_components(
    hessian: ArrayLike, prompt: ArrayLike, oracle: ArrayLike, residual: ArrayLike, *, rate: float
) -> NoiseComponents:
    """Split the expected gap at a constant rate β: E[Δ] ≈ k₁/B + k₂/(BG) + k₃/(BG(G−1)).

    Arguments and meaning as for `decaying_gap_components`.

    Raises:
        ValueError: as `stationary_covariance`, or if a component is negative.

    Examples:
        >>> from ustat_grpo import laws
        >>> hessian, oracle = [[-1, 0], [0, -1]], [[0, 0], [0, 0]]
        >>> split = laws.limit.stationary_gap_components(
        ...     hessian, [[1, 0], [0, 0]], oracle, [[2, 0], [0, 2]], rate=1.0
        ... )
        >>> round(laws.group_size.optimal(split), 6)  # 1 + √4: the second has no prompt noise
        3.0
    """

    def covariance(noise: ArrayLike) -> Array:
        return stationary_covariance(hessian, noise, rate=rate)

    return _gap_components(
        hessian, {"prompt": prompt, "oracle": oracle, "residual": residual}, covariance
    )


def _gap_components(
    hessian: ArrayLike,
    noises: dict[str, ArrayLike],
    covariance: Callable[[ArrayLike], Array],
) -> NoiseComponents:
    checked = {name: _symmetric(name, noise) for name, noise in noises.items()}
    return NoiseComponents(
        **{name: mean_gap(hessian, covariance(noise)) for name, noise in checked.items()}
    )


def _projected(noise: ArrayLike, curvature: Curvature) -> Float[Array, "r r"]:
    """Ω = QᵀΓQ."""
    directions = curvature.directions
    return directions.T @ _symmetric("noise", noise, size=len(directions)) @ directions


def _coordinates(covariance: ArrayLike, eigenvalues: Array) -> Float[Array, "r r"]:
    return _symmetric("covariance", covariance, size=len(eigenvalues))


def _symmetric(name: str, value: ArrayLike, *, size: int | None = None) -> Array:
    """Return a symmetric matrix, its rounding errors averaged out, or raise."""
    matrix = finite(name, value, ndim=2)
    size = len(matrix) if size is None else size
    if matrix.shape != (size, size):
        raise ValueError(f"{name} must have shape {(size, size)}, got {matrix.shape}")
    gap = np.abs(matrix - matrix.T).max()
    if gap > SYMMETRY_TOLERANCE * np.abs(matrix).max():
        raise ValueError(f"{name} must be symmetric, got entries that differ by {gap:.3g}")
    return (matrix + matrix.T) / 2
