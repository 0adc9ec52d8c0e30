"""The law of a weighted sum of squared normals, the limit of the suboptimality (Theorem 8).

With the largest weight as unit, E exp(−sQ) = Π (1 + 2w_k s)^(−½) is analytic but for the cut
s ≤ −½. Its inverse Laplace transform is one trapezoidal sum over a hyperbola around that cut,

    s(v) = −½ + μ(2 − cosh v + i√3 sinh v),

whose vertex μ − ½ is the saddle point of the integrand and whose asymptotes lean 30° to the left.
Along rays from a saddle point that lean at most 45° no factor of the transform, taken with its
share of exp(sx), ever grows; so little cancels, few nodes suffice at every rank and ratio of
weights, and both tails keep their relative accuracy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, generator, integer, require_unmasked, unit_interval

CUT = 0.5  # the transform is analytic for s > −½
LEAN = np.sqrt(3.0)
NODES = 100
NEGLIGIBLE = -45.0  # logarithm of what the sum leaves out, relative to its largest term
FARTHEST_NODE = 12.0
HALVINGS = 24
EXTREME = 1e300  # in units of the largest weight; nearer 0 or ∞ the contour would overflow
BLOCK = 2**18  # numbers at once: bounds the memory
CONVERGED = 1e-10  # relative step of Newton, after which the error is its square


@dataclass(frozen=True, eq=False)
class WeightedChiSquared:
    """The law of Q = Σ_k w_k χ²₁ with independent terms.

    Methods take numbers or arrays of any shape and return the same. Where x is NaN, so is the
    answer.

    Args:
        weights: w, positive, shape (r,).

    Raises:
        ValueError: if a weight is not positive.

    Examples:
        >>> from ustat_grpo.laws import WeightedChiSquared
        >>> law = WeightedChiSquared([0.5, 0.5])  # ½χ²₂, the exponential law
        >>> law.mean, law.variance
        (1.0, 1.0)
        >>> round(law.cdf(1.0), 6), round(law.ppf(0.5), 6)  # 1 − 1/e, log 2
        (0.632121, 0.693147)

    Reference:
        Imhof, Biometrika 48 (1961), for the law; Weideman & Trefethen, Math. Comp. 76 (2007), for
        hyperbolic contours.
    """

    weights: Float[Array, " r"]

    def __post_init__(self) -> None:
        """Check the weights and keep a copy."""
        weights = finite("weights", self.weights, ndim=1)
        if (weights <= 0).any():
            raise ValueError(
                f"weights must be positive, got a smallest weight of {weights.min():g}"
            )
        weights.setflags(write=False)
        object.__setattr__(self, "weights", weights)

    @property
    def mean(self) -> float:
        """E[Q] = Σ w_k."""
        return float(self.weights.sum())

    @property
    def variance(self) -> float:
        """Var Q = 2Σ w_k²."""
        return float(2 * (self.weights**2).sum())

    def cdf(self, x: ArrayLike) -> Array | float:
        """P(Q ≤ x); relative accuracy below the mean, 0 for x ≤ 0."""
        return self._on_positive(x, lambda point: self._tails(point)[0], outside=(0.0, 1.0))

    def sf(self, x: ArrayLike) -> Array | float:
        """P(Q > x); relative accuracy above the mean, 1 for x ≤ 0."""
        return self._on_positive(x, lambda point: self._tails(point)[1], outside=(1.0, 0.0))

    def pdf(self, x: ArrayLike) -> Array | float:
        """The density of Q, 0 for x ≤ 0 (a convention at 0, where rank 1 diverges)."""
        return self._on_positive(x, lambda point: self._tails(point)[2], outside=(0.0, 0.0))

    def ppf(self, q: ArrayLike) -> Array | float:
        """Return the x with P(Q ≤ x) = q: 0 for q = 0 and ∞ for q = 1.

        Raises:
            ValueError: if q is not in [0, 1].
        """
        levels = unit_interval("q", q)
        quantiles = np.where(levels == 1, np.inf, 0.0)
        inside = (levels > 0) & (levels < 1)
        if inside.any():
            # Squares of weights may be beyond floating point: a power of two changes no digit.
            _, exponent = np.frexp(self.weights.max())
            unit = WeightedChiSquared(np.ldexp(self.weights, -exponent))
            in_units = unit._in_blocks(unit._quantiles, levels[inside])
            with np.errstate(over="ignore", under="ignore"):
                quantiles[inside] = np.ldexp(in_units, exponent)
        return quantiles if quantiles.ndim else float(quantiles)

    def rvs(self, size: int | tuple[int, ...], *, rng: np.random.Generator) -> Array:
        """Draw independent values of Q, shape `size`."""
        for each in size if isinstance(size, tuple) else (size,):
            integer("size", each, at_least=0)
        total = np.zeros(size)
        for weight in self.weights:
            total += weight * generator(rng).chisquare(1, size)
        return total

    @cached_property
    def _scaled(self) -> tuple[Array, Array]:
        """The different weights in units of the largest, and how often each occurs."""
        different, counts = np.unique(self.weights / self.weights.max(), return_counts=True)
        return different, counts.astype(float)

    def _on_positive(
        self, x: ArrayLike, function: Callable[[Array], Array], *, outside: tuple[float, float]
    ) -> Array | float:
        """Apply a function where 0 < x < ∞, and the two given values outside."""
        require_unmasked("x", x)
        points = np.asarray(x, dtype=float)
        values = np.where(points > 0, outside[1], outside[0])
        values[np.isnan(points)] = np.nan
        inside = (points > 0) & (points < np.inf)
        if inside.any():
            values[inside] = self._in_blocks(function, points[inside])
        return values if values.ndim else float(values)

    def _in_blocks(self, function: Callable[[Array], Array], points: Array) -> Array:
        num_numbers = points.size * NODES * len(self._scaled[0])
        blocks = np.array_split(points, min(points.size, 1 + num_numbers // BLOCK))
        return np.concatenate([function(block) for block in blocks])

    def _tails(self, x: Array) -> tuple[Array, Array, Array]:
        """Return cdf, sf and pdf at positive points, shape (n,); each an integral over v > 0.

        P(Q ≤ x) = (1/2πi)∫ exp(sx)·E exp(−sQ)/s ds for a vertex right of the pole 0, and
        −P(Q > x) left of it; the density is the same without 1/s.
        """
        scale = self.weights.max()
        with np.errstate(over="ignore", under="ignore"):
            x = np.clip(x / scale, 1 / EXTREME, EXTREME)[:, None]
        upper = x > self.mean / scale
        vertex = self._vertex(x, upper)
        step = self._last_node(x, vertex) / NODES
        v = step * np.arange(NODES + 1)
        from_cut = vertex * (2 - np.cosh(v) + 1j * LEAN * np.sinh(v))
        tangent = vertex * (-np.sinh(v) + 1j * LEAN * np.cosh(v)) * step / np.pi
        tangent[:, 0] /= 2
        terms = np.exp(x * (from_cut - CUT) + self._log_transform(from_cut)) * tangent
        density = np.maximum(terms.imag.sum(axis=-1), 0.0) / scale
        tail = np.clip(np.abs((terms / (from_cut - CUT)).imag.sum(axis=-1)), 0.0, 1.0)
        upper = upper[:, 0]
        return np.where(upper, 1 - tail, tail), np.where(upper, tail, 1 - tail), density

    def _log_transform(self, from_cut: NDArray) -> NDArray:
        """log E exp(−sQ) at s = −½ + `from_cut`, where 1 + 2ws = (1−w) + 2w·from_cut."""
        weight, count = self._scaled
        logarithms = np.log((1 - weight) + 2 * weight * from_cut[..., None])
        # Not @, whose threads cost far more than they save on short rows.
        return np.einsum("...r,r->...", logarithms, -count / 2)

    def _vertex(self, x: Array, upper: NDArray[np.bool_]) -> Array:
        """Return μ of the saddle point of exp(sx)·E exp(−sQ)/|s|, left of 0 for upper tails.

        The integrand is log-convex in real s, so that bisection finds its one stationary point
        x = Σ w/(1+2ws) + 1/s. For s > 0 it lies between 1/x and (1 + r/2)/x; for s < 0 the term of
        the largest weight puts μ above 1/(2x + 8).
        """
        weight, count = self._scaled

        def beyond(vertex: Array) -> NDArray[np.bool_]:
            factors = weight / ((1 - weight) + 2 * weight * vertex[..., None])
            return x > np.einsum("...r,r->...", factors, count) + 1 / (vertex - CUT)

        low = np.where(upper, 1 / (2 * x + 8), CUT + 1 / x)
        # One ulp below the pole keeps 1/s finite.
        high = np.where(upper, np.nextafter(CUT, 0), CUT + (1 + len(self.weights) / 2) / x)
        return np.exp(
            _bisect(lambda logarithm: beyond(np.exp(logarithm)), np.log(low), np.log(high))
        )

    def _last_node(self, x: Array, vertex: Array) -> Array:
        """Return the v beyond which the integrand is negligible."""

        def size(v: Array) -> Array:
            from_cut = vertex * (2 - np.cosh(v) + 1j * LEAN * np.sinh(v))
            logarithm = self._log_transform(from_cut) - np.log(from_cut - CUT)
            return np.real(x * from_cut + logarithm)

        start = np.zeros_like(x)
        least = size(start) + NEGLIGIBLE
        return _bisect(lambda v: size(v) < least, start, np.full_like(x, FARTHEST_NODE))

    def _quantiles(self, levels: Array) -> Array:
        """Solve P(Q ≤ x) = q by Newton steps for log x, halving a bracket where they leave it.

        The bracket is w_max χ²₁ ≤ Q ≤ w_max χ²_r, the start a gamma law of equal mean and variance.
        """
        from scipy.special import gammaincinv

        top = self.weights.max()
        low = 1.98 * top * np.maximum(gammaincinv(0.5, levels), 1 / EXTREME)
        high = 2.02 * top * np.maximum(gammaincinv(len(self.weights) / 2, levels), 1 / EXTREME)
        scale = self.variance / self.mean
        x = np.clip(scale * gammaincinv(self.mean / scale, levels), low, high)
        below = levels <= 0.5
        for _ in range(100):
            cdf, sf, pdf = self._tails(x)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                # The smaller of the two tails is the one whose logarithm is accurate.
                excess = np.where(below, np.log(cdf / levels), np.log((1 - levels) / sf))
                moved = x * np.exp(-excess * np.where(below, cdf, sf) / (x * pdf))
            low, high = np.where(excess < 0, x, low), np.where(excess < 0, high, x)
            # At the root rounding may push a step just out of the bracket: no reason to halve it.
            inside = (moved >= low * (1 - CONVERGED)) & (moved <= high * (1 + CONVERGED))
            moved = np.where(inside, moved, np.sqrt(low) * np.sqrt(high))
            x, step = moved, np.abs(moved - x)
            if (step <= CONVERGED * x).all():
                break
        return x


def _bisect(beyond: Callable[[Array], NDArray[np.bool_]], low: Array, high: Array) -> Array:
    """Return where a monotone condition turns true, each entry on its own."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        reached = beyond(middle)
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return (low + high) / 2
