"""Does the first order hold? The gap once more, with θ as spread out as the noise spreads it.

`laws.path` takes gradient, curvature and noise from the path of exact ascent. Where θ_n strays so
far that they are others, it is void, and cannot say so. Here they are averages over the spread:

    m ← E[θ + ηg(θ)],   C ← Cov(θ + ηg(θ)) + η² E Cov(ĝ∣θ),   θ ~ N(m, C),   E Δ_n = J* − E J(θ_n).

To first order in C, E g = g + ½∇³J[C] and Cov(θ + ηg) = (I + ηH)C(I + ηH), the recursions of
`laws.path`. So the two differ by terms of second order in the noise: an estimate of what the first
order leaves out. It sees how gradient, curvature and noise change with θ; it does not see that θ
and ĝ are skewed, nor a second hill on which some runs end. Where every minibatch can be summed
over, it finds from half of the true second order to all of it
(`tests/laws/test_laws_spread.py`). It is a warning, not a better law.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, integer
from ustat_grpo.laws.covariance import NoiseMatrices, minibatch_weights
from ustat_grpo.laws.path import LocalExpansion, expected_gap
from ustat_grpo.moments import ScoreMoments

LARGEST_SHARE = 0.1
"""Up to this share the first order is taken to hold; the true share may be twice what is seen."""

_NOISE_SCALES = 1.0, 0.5, 0.25
_GAUSSIAN_KURTOSIS = 3.0


@dataclass(frozen=True)
class SecondOrder:
    """What noise adds to E Δ_n at one (B, G), and how much of it the first order misses.

    Args:
        first: a₁/B + a₂/(BG) + a₃/(BG(G−1)) of `laws.path`.
        size: the same sum over absolute values; larger than ∣first∣ where parts cancel.
        seconds: what the spread of θ adds to it, seen at the noise itself, at half and at a quarter
            of it, and scaled back with the square. They agree where B is large.

    Examples:
        >>> from ustat_grpo.laws.spread import SecondOrder
        >>> order = SecondOrder(first=0.5, size=0.5, seconds=(0.125, 0.0625, 0.0625))
        >>> order.share, order.first_order_holds  # a quarter of what noise adds is missed
        (0.25, False)
    """

    first: float
    size: float
    seconds: tuple[float, ...]

    @property
    def second(self) -> float:
        """What the spread of θ adds to E Δ_n, in all orders: E Δ_n − first − Δ(m_n)."""
        return self.seconds[0]

    @property
    def share(self) -> float:
        """The largest ∣second∣ over size: the relative error of the first order; 0 without noise.

        The largest, because the orders beyond the second may cancel it at one size of the noise.
        """
        return max(map(abs, self.seconds)) / self.size if self.size > 0 else 0.0

    @property
    def first_order_holds(self) -> bool:
        """Whether the share is at most `LARGEST_SHARE`; elsewhere the law gives no best G."""
        return self.share <= LARGEST_SHARE


def second_order(
    expand: Callable[[Array], LocalExpansion],
    noise: Callable[[ScoreMoments], NoiseMatrices],
    *,
    theta0: ArrayLike,
    rates: ArrayLike,
    batch_size: int,
    group_size: int,
) -> SecondOrder:
    """Return what the first order misses of the mean gap after all rates, at one (B, G).

    A best G by `laws.path` is to be believed if the first order holds at it and at the G that it is
    compared with. It tends to fail first at the largest G, where few prompts are drawn. Takes
    6k + 3 expansions an iteration, k the number of parameters in a block.

    Args:
        expand: gives the expansion of the problem at any θ.
        noise: of the estimator, a function of `laws.covariance`.
        theta0: shape (d,).
        rates: η₁, …, η_n, shape (n,), at least one.
        batch_size: B.
        group_size: G.

    Raises:
        ValueError: if B or G is not a positive integer, or there are no rates.

    Examples:
        >>> from ustat_grpo import TugOfWar, laws
        >>> from ustat_grpo.bandits import expand
        >>> task = TugOfWar()
        >>> for B in (2, 200):  # more prompts, less noise, and less that the first order misses
        ...     order = laws.spread.second_order(
        ...         expand(task.at),
        ...         laws.covariance.grpo,
        ...         theta0=task.theta(0.0),
        ...         rates=[4.0] * 10,
        ...         batch_size=B,
        ...         group_size=2,
        ...     )
        ...     print(B, round(order.share, 3), order.first_order_holds)
        2 0.46 False
        200 0.003 True
    """
    weights = np.array(
        minibatch_weights(integer("batch_size", batch_size), integer("group_size", group_size))
    )
    steps, theta = finite("rates", rates, ndim=1), finite("theta0", theta0, ndim=1)
    (law,) = expected_gap(
        expand, noise, theta0=theta, rates=steps, checkpoints=[len(steps)], best_objective=0.0
    )
    effects = weights * (law.prompt, law.output, law.pair)
    first = float(effects.sum())
    start = _Spread.at(theta, expand(theta).hessian.shape)

    def second(scale: float) -> float:
        spread = start
        for rate in steps:
            spread = _advance(spread, expand, noise, rate, scale * weights)
        objectives = [expand(point.ravel()).objective for point in spread.points]
        missed = -float(spread.weights @ objectives) - law.path_gap - scale * first
        rounding = np.finfo(float).eps * len(steps) * np.abs(objectives).max()
        return missed / scale**2 if abs(missed) > rounding else 0.0

    return SecondOrder(first, float(np.abs(effects).sum()), tuple(map(second, _NOISE_SCALES)))


@dataclass(frozen=True, eq=False)
class _Spread:
    """θ ~ N(m, C) in M blocks of k parameters, of which no two share a term of J."""

    mean: Float[Array, "M k"]
    covariance: Float[Array, "M k k"]

    @classmethod
    def at(cls, theta: Array, shape: tuple[int, ...]) -> "_Spread":
        """All of θ at one point."""
        return cls(theta.reshape(shape[:-1]), np.zeros(shape))

    @property
    def weights(self) -> Float[Array, " 2k+1"]:
        """Weights of the points, none negative."""
        k = self.mean.shape[-1]
        reach = max(k, _GAUSSIAN_KURTOSIS)
        return np.array([1 - k / reach, *np.full(2 * k, 1 / (2 * reach))])

    @property
    def points(self) -> Float[Array, "2k+1 M k"]:
        """Points with the Gaussian's first three moments; the middle, then ± along each axis of C.

        They lie √max(k, 3) standard deviations away. At three the fourth moment along an axis is
        right as well; with more axes than three the middle would need a negative weight.

        Reference: Julier & Uhlmann, Proc. IEEE 92 (2004); Arasaratnam & Haykin, Cubature Kalman
        filters, IEEE Trans. Autom. Control 54 (2009).
        """
        reach = max(self.mean.shape[-1], _GAUSSIAN_KURTOSIS)
        variances, axes = np.linalg.eigh(self.covariance)
        # The smallest variances may be rounding below zero.
        steps = axes * np.sqrt(reach * np.maximum(variances, 0.0))[:, None, :]
        steps = np.moveaxis(steps, -1, 0)
        return self.mean + np.concatenate([np.zeros_like(self.mean)[None], steps, -steps])


def _advance(
    spread: _Spread,
    expand: Callable[[Array], LocalExpansion],
    noise: Callable[[ScoreMoments], NoiseMatrices],
    rate: float,
    parts: Array,
) -> _Spread:
    """One iteration of Algorithm 1; the blocks move together, since none feels another."""
    moved, noises = [], []
    for point in spread.points:
        here = expand(point.ravel())
        moved.append(point + rate * here.gradient)
        noises.append(np.tensordot(parts, np.stack(noise(here.score_moments)), 1))
    weights = spread.weights
    mean = np.tensordot(weights, moved, 1)
    deviations = np.array(moved) - mean
    covariance = np.einsum("p,pmi,pmj->mij", weights, deviations, deviations)
    return _Spread(mean, covariance + rate**2 * np.tensordot(weights, noises, 1))
