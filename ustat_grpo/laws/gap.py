"""How far from the best objective after n iterations? Lemma 6, every constant explicit.

θ ← θ + η_i ĝ_i with E[ĝ∣θ] = g(θ) and E‖ĝ − g‖² ≤ M ascends J, whose gap is Δ = sup J − J(θ).
Let J be L-smooth and ‖g‖² ≥ 2μΔ (Polyak–Łojasiewicz). One step then has, by smoothness,
E‖ĝ‖² = ‖g‖² + MSE and the inequality,

    E Δ_i ≤ E Δ_{i−1} − η(1 − Lη/2) E‖g‖² + Lη²M/2 ≤ (1 − 2μη + Lμη²) E Δ_{i−1} + Lη²M/2,

the last for η ≤ 2/L. Everything here iterates that line. (B, G) enters through M only, the
supremum over θ of the error of a minibatch, `laws.mse.minibatch`.

L and μ must hold wherever a step can lead. Projecting each iterate onto Θ changes nothing if the
projection never lowers J. The line fails for a biased estimator, since E⟨g, ĝ⟩ ≠ ‖g‖²; but one
with E ĝ = αg, such as the group mean, is an unbiased one run at the rates αη_i.

Reference: arXiv 2603.01162, Lemma 6.
"""

import warnings

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array, exponent_of
from ustat_grpo.inputs.checks import finite, real, require_unmasked


def constant_rate_bound(
    iterations: ArrayLike,
    *,
    initial_gap: float,
    smoothness: float,
    pl_constant: float,
    noise: float,
    rate: float,
) -> Float[Array, "..."]:
    """Bound E Δ_n at a constant rate: ρⁿ E Δ₀ + Lβ²M/(2(1−ρ)), ρ = 1 − 2μβ + Lμβ².

    Lemma 6 (a). The step of this module n times; the noise adds up to Lβ²M/2·(1 + ρ + ρ² + …).

    Args:
        iterations: n, whole numbers, any shape; the bounds have the same.
        initial_gap: E Δ₀.
        smoothness: L.
        pl_constant: μ, at most L.
        noise: M.
        rate: β. The lemma asks for β < 1/(2L), and a warning says where that fails; its proof
            needs β < 2/L only, and from there on the bound is infinite.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> from ustat_grpo import laws
        >>> bound = laws.gap.constant_rate_bound(
        ...     [0, 1, 100], initial_gap=1.0, smoothness=1.0, pl_constant=1.0, noise=0.0, rate=0.25
        ... )
        >>> bound.round(6).tolist()  # ρ = (1 − ¼)² = 9/16 without noise
        [1.0, 0.5625, 0.0]
    """
    steps = _iterations(iterations, at_least=0)
    gap = _not_negative("initial_gap", initial_gap)
    smooth, dominance, variance = _constants(smoothness, pl_constant, noise)
    size = real("rate", rate, above=0.0)
    if size >= 1 / (2 * smooth):
        limit = f"1/(2L) = {1 / (2 * smooth):g}"
        warnings.warn(f"rate must be below {limit} for Lemma 6, got {rate!r}", stacklevel=2)
    if size >= 2 / smooth:
        return np.full(steps.shape, np.inf)
    progress = dominance * size * (2 - smooth * size)  # 1 − ρ, free of cancellation
    return (1 - progress) ** steps * gap + smooth * size**2 * variance / (2 * progress)


def decaying_rate_bound(
    iterations: ArrayLike,
    *,
    largest_gap: float,
    smoothness: float,
    pl_constant: float,
    noise: float,
    rate: float,
) -> Float[Array, "..."]:
    """Bound E Δ_n at the rates β/i: max{(1+ε)Lβ²M/(4μβ − 2), a·n₀}/n, at the best ε > 0.

    Lemma 6 (b) with n₀ = ⌈μLβ²(1+ε)/(ε(2μβ−1))⌉ + 1. Up to n₀ the bound is at least a = sup Δ.
    From there on C/(i−1) implies C/i, which the step of this module does if
    (1+ε)(δi − μLβ²) ≥ δ(i−1), δ = 2μβ − 1, and any i > n₀ is large enough.

    Args:
        iterations: n ≥ 1, whole numbers, any shape; the bounds have the same.
        largest_gap: a.
        smoothness: L.
        pl_constant: μ, at most L.
        noise: M.
        rate: β. The lemma asks for β > 1/(2μ); below, a warning says so and the bound is infinite.

    Returns:
        The bounds, infinite where they are above all doubles.

    Raises:
        ValueError: if a number is out of its range, or what the bound is made of is no double.

    Note:
        ε is free in the lemma. As a function of n₀ the least is 1 + ε = (n₀−1)/(n₀−1−q),
        q = μLβ²/δ, and the two terms meet at the root of a·n₀(n₀−1−q) = Lβ²M(n₀−1)/(2δ).
        `recursive_bound` with `largest_gap` is never larger than this bound, often much smaller.

    Examples:
        >>> from ustat_grpo import laws
        >>> bound = laws.gap.decaying_rate_bound(
        ...     [10, 100], largest_gap=1.0, smoothness=1.0, pl_constant=1.0, noise=0.1, rate=1.0
        ... )
        >>> bound.round(6).tolist()  # C/n
        [0.3, 0.03]
    """
    steps = _iterations(iterations, at_least=1)
    gap = real("largest_gap", largest_gap, above=0.0)
    smooth, dominance, variance = _constants(smoothness, pl_constant, noise)
    size = real("rate", rate, above=0.0)
    excess = 2 * dominance * size - 1
    if excess <= 0:
        limit = f"1/(2μ) = {1 / (2 * dominance):g}"
        warnings.warn(f"rate must be above {limit} for Lemma 6, got {rate!r}", stacklevel=2)
        return np.full(steps.shape, np.inf)
    exponent = exponent_of(np.array(gap))
    with np.errstate(all="ignore"):
        try:
            least = dominance * smooth * size**2 / excess  # q: n₀ − 1 must exceed it
            limit = smooth * size**2 * variance / (2 * excess)
            own_gap, own_limit = np.ldexp([gap, limit], -exponent).tolist()
            scale = _decaying_scale(own_gap, own_limit, least)
        except OverflowError:
            scale = np.nan
        if not np.isfinite(scale):
            raise ValueError(
                "largest_gap, smoothness, pl_constant, noise and rate must be of a size at which "
                f"the bound is a double, got {gap:g}, {smooth:g}, {dominance:g}, {variance:g} and "
                f"{size:g}"
            )
        return np.ldexp(scale / steps, exponent)


def _decaying_scale(gap: float, limit: float, least: float) -> float:
    """Return the least C of n₀ with E Δ_n ≤ C/n: max{a·n₀, limit·(n₀−1)/(n₀−1−q)}."""
    half = (gap - gap * least - limit) / (2 * gap)
    root = np.sqrt(half**2 + least) - half
    # One term rises and the other falls in n₀ − 1, so the best whole number is next to the root.
    whole = np.maximum([np.floor(root), np.ceil(root)], np.floor(least) + 1)
    return np.maximum(gap * (whole + 1), limit * whole / (whole - least)).min()


def recursive_bound(
    rates: ArrayLike,
    *,
    initial_gap: float,
    smoothness: float,
    pl_constant: float,
    noise: float,
    largest_gap: float = np.inf,
) -> Float[Array, " n"]:
    """Bound E Δ_1, …, E Δ_n at any rates η_i, by iterating the step of this module.

    E Δ_i ≤ min{κ(η_i) E Δ_{i−1} + Lη_i²M/2, sup Δ}, with κ(η) = 1 − 2μη + Lμη² for η ≤ 2/L and
    κ(η) = (1 − Lη)² beyond: there −η(1 − Lη/2) is positive, and what bounds ‖g‖² from above is
    ‖g‖² ≤ 2LΔ, smoothness along the segment to θ + g/L. A quadratic with μ = L attains every step.

    Args:
        rates: η_1, …, η_n, shape (n,).
        initial_gap: E Δ₀.
        smoothness: L.
        pl_constant: μ, at most L.
        noise: M.
        largest_gap: sup Δ, if there is one.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> from ustat_grpo import laws
        >>> bound = laws.gap.recursive_bound(
        ...     [0.5, 0.5], initial_gap=1.0, smoothness=1.0, pl_constant=1.0, noise=0.08
        ... )
        >>> bound.round(6).tolist()  # each step takes a quarter of the gap and adds 0.01
        [0.26, 0.075]
    """
    sizes = finite("rates", rates, ndim=1)
    if (sizes <= 0).any():
        raise ValueError(f"rates must be positive, got a smallest rate of {sizes.min():g}")
    gap = _not_negative("initial_gap", initial_gap)
    smooth, dominance, variance = _constants(smoothness, pl_constant, noise)
    if not largest_gap >= gap:
        raise ValueError(f"largest_gap must be at least initial_gap = {gap}, got {largest_gap!r}")
    slope = np.where(smooth * sizes <= 2, dominance, smooth)
    factors = 1 - slope * sizes * (2 - smooth * sizes)
    drifts = smooth * sizes**2 * variance / 2
    bounds = np.empty_like(sizes)
    for i, (factor, drift) in enumerate(zip(factors.tolist(), drifts.tolist(), strict=True)):
        gap = bounds[i] = min(factor * gap + drift, largest_gap)
    return bounds


def _constants(smoothness: object, pl_constant: object, noise: object) -> tuple[float, ...]:
    """L, μ and M. A μ above L contradicts ‖g‖² ≤ 2LΔ."""
    smooth = real("smoothness", smoothness, above=0.0)
    dominance = real("pl_constant", pl_constant, above=0.0)
    if dominance > smooth:
        raise ValueError(f"pl_constant must be at most smoothness = {smooth}, got {pl_constant!r}")
    return smooth, dominance, _not_negative("noise", noise)


def _not_negative(name: str, value: object) -> float:
    if real(name, value) < 0:
        raise ValueError(f"{name} must not be negative, got {value!r}")
    return real(name, value)


def _iterations(iterations: ArrayLike, *, at_least: int) -> Float[Array, "..."]:
    require_unmasked("iterations", iterations)
    steps = np.asarray(iterations, dtype=float)
    if not ((steps >= at_least) & (steps == np.floor(steps)) & (steps < np.inf)).all():
        raise ValueError(f"iterations must be integers of at least {at_least}, got {iterations!r}")
    return steps
