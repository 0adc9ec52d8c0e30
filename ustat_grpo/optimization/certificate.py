"""Certified constants of a bandit over a compact set: what Lemma 6 and Theorem 8 assume.

Along a unit vector u let c = u·(φ − E[φ∣x]) and a = E[Z∣x, y] − V(x). The derivatives of V(x) are
covariances of the mean reward, of range R, with functions of c, of range at most D, the diameter of
the features: E[ac] ≤ RD/4, E[ac²] ≤ RD²/(6√3) and E[ac³] − 3E[ac]E[c²] ≤ RD³/8. By the last, what
holds at the centre of a cell proves what holds in it, up to the rounding errors of floats.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.bandits.snapshot import Snapshot
from ustat_grpo.bandits.softmax import SoftmaxBandit
from ustat_grpo.bandits.tug_of_war import TugOfWar
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, integer
from ustat_grpo.optimization.regions import Box

Bound = Float[Array, " r"] | float

_MOST_AXES = 3
_CHUNK = 1_000_000  # probabilities at a time, so that a fine grid does not fill the memory


@dataclass(frozen=True, eq=False)
class Certificate:
    """Constants of J that hold on all of Θ, and its optimum there.

    Args:
        smoothness: L ≥ ‖∇²J‖, the spectral norm.
        pl_constant: μ ≤ ‖∇J‖²/(2Δ), the Polyak–Łojasiewicz inequality; 0 if none is certified.
        concavity: μ_w ≤ ⟨∇J, Π(θ) − θ⟩/d²(θ, Θ*), Theorem 8's weak strong concavity, Π(θ) the
            point of Θ* nearest to θ. If positive, J rises all the way to Θ*: the optimum is proved.
        largest_gap: at least sup Δ.
        best_objective: J*.
        optimum: the shortest point of Θ*, shape (d,).
        curvature: rising eigenvalues of −∇²J on Θ*, without those of flat directions, shape (r,).
        hessian_lipschitz: K ≥ ‖∇²J(θ) − ∇²J(θ′)‖/‖θ − θ′‖, on all of ℝ^d.
        resolution: ρ, distance of a cell's centre from its corners, in θ.

    Examples:
        >>> from ustat_grpo import TugOfWar
        >>> from ustat_grpo.optimization import certify_tug_of_war
        >>> certificate = certify_tug_of_war(TugOfWar(), low=0.0, high=2.0, cells=100)
        >>> certificate.optimum.round(3).tolist()  # t = θ₁ + θ₂ = 1
        [0.5, 0.5]
        >>> 0 < certificate.pl_constant < certificate.smoothness
        True
    """

    smoothness: float
    pl_constant: float
    concavity: float
    largest_gap: float
    best_objective: float
    optimum: Float[Array, " d"]
    curvature: Float[Array, " r"]
    hessian_lipschitz: float
    resolution: float


def certify(
    bandit: SoftmaxBandit,
    *,
    low: Bound,
    high: Bound,
    cells: int,
    axes: ArrayLike | None = None,
) -> Certificate:
    """Bound smoothness, PL constant, weak strong concavity and gap on Θ = {low ≤ Rθ ≤ high}.

    With the gradient g, Hessian H and gap Δ_c at the centre c of a cell of half-diagonal ρ, in it
    ‖∇²J‖ ≤ ℓ = ‖H‖ + Kρ, ‖∇J‖ ≥ ‖g‖ − ℓρ, Δ ≤ Δ_c + ‖g‖ρ + ℓρ²/2, and at most d away from θ*
    ⟨∇J, θ*−θ⟩ ≥ ⟨g, θ*−c⟩ − ‖g‖ρ − ℓρd. At θ* the ratios are 0/0; but if −H − Kρ ≥ m > 0 in all
    cells not farther than d, J is m-strongly concave on the way to θ*, and m bounds μ and μ_w. Each
    cell takes the better of the two. The loss is of order ρ, or √ρ if the worst cell is near θ*.

    Args:
        bandit: the problem, with one optimum in Θ (as a set of policies), in its interior.
        low: lower bounds of t = Rθ, shape (r,) with r ≤ 3, or one number for all.
        high: upper bounds, likewise.
        cells: number of cells along each axis.
        axes: R, orthogonal rows, shape (r, d), through which alone θ moves the policy; None for
            the coordinates of θ themselves.

    Raises:
        ValueError: if an argument is out of its range, or no such optimum is found.

    Examples:
        >>> from ustat_grpo.bandits import one_axis
        >>> from ustat_grpo.optimization import certify
        >>> bandit = one_axis(success=[[0.2, 0.8], [0.8, 0.2]], shifts=[0.0, 2.0])
        >>> certificate = certify(bandit, low=0.0, high=2.0, cells=100)
        >>> certificate.optimum.round(3).tolist(), certificate.concavity > 0  # proved
        ([1.0], True)
    """
    problem = _Problem.on(bandit, low, high, axes)
    bottom, top = problem.box
    ticks = (np.arange(integer("cells", cells)) + 0.5) / cells
    centres = _product(bottom + (top - bottom) * ticks[:, None])
    radius = float(np.linalg.norm((top - bottom) / cells)) / 2
    value, gradient, hessian = problem.derivatives(centres)
    best, objective, curvature = _optimum(problem, centres[value.argmax()])
    lipschitz, bends = problem.hessian_lipschitz, np.linalg.eigvalsh(hessian)
    slope = np.linalg.norm(gradient, axis=-1)
    smooth = np.abs(bends).max(axis=-1) + lipschitz * radius
    gap = np.maximum(objective - value, 0) + slope * radius + smooth * radius**2 / 2
    steepness = np.maximum(slope - smooth * radius, 0)
    distance = np.linalg.norm(centres - best, axis=-1)
    near, far = distance - radius, distance + radius
    pull = np.einsum("nr,nr->n", gradient, best - centres) - (slope + smooth * far) * radius
    with np.errstate(divide="ignore"):  # −∞ in the cell of θ*, where the other bound is taken
        pull = pull / np.where(pull >= 0, far, np.maximum(near, 0)) ** 2
    order = np.argsort(near)
    least = np.minimum.accumulate(-bends[order].max(axis=-1)) - lipschitz * radius
    concave = least[np.searchsorted(near[order], far, side="right") - 1]
    return Certificate(
        smoothness=float(smooth.max()),
        pl_constant=float(np.maximum(steepness**2 / (2 * gap), concave).min()),
        concavity=float(np.maximum(pull, concave).min()),
        largest_gap=float(gap.max()),
        best_objective=objective,
        optimum=best @ problem.basis,
        curvature=curvature,
        hessian_lipschitz=lipschitz,
        resolution=radius,
    )


def certify_tug_of_war(problem: TugOfWar, *, low: Bound, high: Bound, cells: int) -> Certificate:
    """Certify a tug of war of any number of axes, one axis at a time.

    J(θ) = (1/r) Σ_k J_k(t_k) along orthogonal axes, so ∇²J is block diagonal and ‖∇J‖² =
    Σ ‖∇J_k‖²/r² ≥ Σ 2μ_kΔ_k/r² ≥ 2(min μ_k/r)Δ: 1/r times the largest L and K, the least μ and μ_w.

    Args:
        problem: the tug of war.
        low: lower bounds of t, shape (r,), or one number for all.
        high: upper bounds, likewise.
        cells: number of cells along each axis.

    Raises:
        ValueError: as for `certify`.

    Examples:
        >>> from ustat_grpo import TugOfWar
        >>> from ustat_grpo.optimization import certify_tug_of_war
        >>> one = certify_tug_of_war(TugOfWar(num_axes=1), low=0.0, high=2.0, cells=100)
        >>> two = certify_tug_of_war(TugOfWar(num_axes=2), low=0.0, high=2.0, cells=100)
        >>> round(one.pl_constant / two.pl_constant, 6)  # each axis has half the prompts
        2.0
    """
    count, box = problem.num_axes, Box(low, high, problem.axes)
    parts, optimum = [], []
    for separation, bottom, top in np.broadcast(problem.separation, box.low, box.high):
        one = TugOfWar(problem.signal, 1, 0, float(separation))
        parts.append(certify(one.bandit, low=bottom, high=top, cells=cells, axes=one.axes))
        optimum.append(float((one.axes @ parts[-1].optimum)[0]))
    return Certificate(
        smoothness=max(part.smoothness for part in parts) / count,
        pl_constant=min(part.pl_constant for part in parts) / count,
        concavity=min(part.concavity for part in parts) / count,
        largest_gap=float(np.mean([part.largest_gap for part in parts])),
        best_objective=float(np.mean([part.best_objective for part in parts])),
        optimum=problem.theta(optimum),
        curvature=np.sort(np.concatenate([part.curvature for part in parts])) / count,
        hessian_lipschitz=max(part.hessian_lipschitz for part in parts) / count,
        resolution=max(part.resolution for part in parts),
    )


def smoothness_bound(bandit: SoftmaxBandit) -> float:
    """Return L = E[R(X)D(X)²]/(6√3) ≥ ‖∇²J(θ)‖ for every θ, outside of Θ too; it takes no grid.

    R(x) is the range of a prompt's mean rewards, D(x) the diameter of its features. One-hot
    features have D² = 2 and no parameter in common: L = max f(x)R(x)/(3√3). Two actions with
    probabilities ½ ± 1/√12, one right and one wrong, attain it.

    Note:
        Proof, at R = D = 1. E[ac²] is linear in the mean rewards, so at most what it is if they
        are 1 on some event A and 0 off it: pq(E[c²∣A] − E[c²∣not A]), p = 1 − q = P(A). Let c lie
        in [−m, 1−m] and ν = E[c∣A], positive (else reflect). Then c² ≤ m(1−m) + (1−2m)c,
        E[c∣not A] = −pν/q ≥ −m, and E[ac²] ≤ pq(m(1−m) + (1−2m)ν − (pν/q)²). Over m this is
        largest at ½ − ν, where it is at most max(pq²/2, pq/4) ≤ 2/27, or, if ν > q/2, at the end
        m = pν/q ≤ p, where it is qm(1−2m): at most 3/32 for p ≥ ¼, else pq(1−2p) ≤ 1/(6√3).
    """
    weights = _weights(bandit) / (6 * np.sqrt(3))
    if bandit.features is None:
        return float(2 * weights.max())
    return float(weights @ _diameters(bandit.features) ** 2)


def largest_error(
    bandit: SoftmaxBandit,
    error: Callable[[Snapshot], float],
    *,
    low: Bound,
    high: Bound,
    cells: int,
    axes: ArrayLike | None = None,
) -> float:
    """Return the largest `error` over Θ = {low ≤ Rθ ≤ high}: its maximum on a grid plus a margin.

    The grid: corners of cells. The margin: the largest difference of neighbours, which is no proof.

    Args:
        bandit: the problem.
        error: what to bound, say the law of an estimator's minibatch error (M of Lemma 6).
        low: lower bounds of t = Rθ, as for `certify`.
        high: upper bounds.
        cells: number of cells along each axis.
        axes: R.

    Raises:
        ValueError: if an argument is out of its range.
    """
    problem = _Problem.on(bandit, low, high, axes)
    bottom, top = problem.box
    corners = _product(np.linspace(bottom, top, integer("cells", cells) + 1))
    values = [error(bandit.at(theta)) for theta in corners @ problem.basis]
    errors = np.reshape(values, (cells + 1,) * len(problem.basis))
    margin = max(np.abs(np.diff(errors, axis=axis)).max() for axis in range(errors.ndim))
    return float(errors.max() + margin)


@dataclass(frozen=True, eq=False)
class _Problem:
    """A bandit, and Θ, in orthonormal coordinates of the directions that move the policy."""

    bandit: SoftmaxBandit
    basis: Float[Array, "r d"]
    lengths: Float[Array, " r"]
    features: Float[Array, "P K r"]
    box: Float[Array, "2 r"]

    @classmethod
    def on(
        cls, bandit: SoftmaxBandit, low: Bound, high: Bound, axes: ArrayLike | None
    ) -> "_Problem":
        size = bandit.dimension
        rows = np.eye(size) if axes is None else finite("axes", axes, ndim=2)
        if rows.shape[1] != size or len(rows) > _MOST_AXES or not rows.any(axis=1).all():
            required = f"at most {_MOST_AXES} nonzero rows of length {size}"
            raise ValueError(f"axes must be {required}, got {len(rows)} of {rows.shape[1]}")
        box, features, lengths = Box(low, high, rows), bandit.features, np.linalg.norm(rows, axis=1)
        if features is None:
            features = np.eye(size).reshape(*bandit.reward_probs.shape[:2], size)
        basis, moves = rows / lengths[:, None], features - features[:, :1]
        lost = np.abs(moves - moves @ basis.T @ basis).max()
        if lost > 1e-9 * np.abs(moves).max():
            raise ValueError(f"axes must span all that moves the policy, got {lost:.3g} outside")
        return cls(bandit, basis, lengths, moves @ basis.T, np.array([box.low, box.high]) / lengths)

    @property
    def hessian_lipschitz(self) -> float:
        """K = E[R(X)D(X)³]/8, attained by two actions of probability ½, one right, one wrong.

        The third derivative is Cov(r, h), h = c³ − 3vc, v = E[c²], at most (R/2)√Var h. As E h = 0,
        Var h ≤ −min h·max h (Bhatia & Davis), which is at most D⁶/16: let D = 1, c ∈ [−m, M] with
        m + M = 1, s = √v ≤ √(mM), f(y) = y³ − 3s²y. Both factors are at most 2s³, or f(m) and f(M).
        4s⁶ ≤ 1/16, f(m)f(M) ≤ (mM)³ ≤ 1/64, and 2s³f(y) < 0.05: it is at most 4y⁶/5^{5/2} (put
        s² = y²/5) where y ≤ 5/6, else with z = 1 − y (put s² = yz) at most 2z^{3/2}(1−4z).
        """
        return float(_weights(self.bandit) @ _diameters(self.features) ** 3) / 8

    def derivatives(self, points: Float[Array, "N r"]) -> list[Array]:
        """J, ∇J and ∇²J at each point; shapes (N,), (N, r) and (N, r, r)."""
        parts = np.array_split(points, 1 + points.size * self.features[..., 0].size // _CHUNK)
        return [np.concatenate(each) for each in zip(*map(self._derivatives, parts), strict=True)]

    def _derivatives(self, points: Float[Array, "N r"]) -> tuple[Array, Array, Array]:
        """E[ac cᵀ] = E[aφφᵀ] − g φ̄ᵀ − φ̄ gᵀ at each prompt, since E[a] = 0."""
        bandit, features = self.bandit, self.features
        assert bandit.offsets is not None and bandit.prompt_probs is not None
        logits = np.tensordot(points, features, (1, 2)) + bandit.offsets
        probs = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probs /= probs.sum(axis=-1, keepdims=True)
        reward = bandit.reward_probs @ bandit.reward_levels
        value = np.einsum("npk,pk->np", probs, reward)
        centred = bandit.prompt_probs[:, None] * probs * (reward - value[..., None])
        gradients = np.einsum("npk,pkr->npr", centred, features)
        squares = np.einsum("pkr,pks->pkrs", features, features)
        cross = np.einsum("npr,npk,pks->nrs", gradients, probs, features, optimize=True)
        hessian = np.tensordot(centred, squares, 2) - cross - np.swapaxes(cross, 1, 2)
        return value @ bandit.prompt_probs, gradients.sum(axis=1), hessian


def _optimum(problem: _Problem, start: Array) -> tuple[Array, float, Array]:
    """The maximum to which the best cell ascends, J and the curvatures there."""
    from scipy.optimize import minimize

    def descent(point: Array) -> tuple[float, Array]:
        value, gradient, _ = problem.derivatives(point[None])
        return -float(value[0]), -gradient[0]

    point = minimize(descent, start, jac=True, bounds=problem.box.T, tol=1e-15).x
    _, gradient, hessian = problem.derivatives(point[None])
    curvature = np.linalg.eigvalsh(-hessian[0]).astype(float)
    # One step of Newton's gives the digits that a comparison of values cannot.
    step = np.linalg.lstsq(-hessian[0], gradient[0])[0]
    point = point + step
    inside = (np.diff([problem.box[0], point, problem.box[1]], axis=0) > 0).all()
    if not (inside and curvature[0] > 0 and np.abs(step).max() < 1e-5):
        cell = f"the best cell at t = {np.round(start * problem.lengths, 6).tolist()}"
        raise ValueError(f"low and high must enclose one strict maximum of J, got {cell}")
    return point, -descent(point)[0], curvature


def _product(ticks: Float[Array, "n r"]) -> Float[Array, "N r"]:
    """All combinations of the entries of the columns, the last one fastest; N = n^r."""
    return np.stack(np.meshgrid(*ticks.T, indexing="ij"), axis=-1).reshape(-1, ticks.shape[1])


def _weights(bandit: SoftmaxBandit) -> Float[Array, " P"]:
    """f(x)R(x), R the range of a prompt's mean rewards."""
    return bandit.prompt_probs * np.ptp(bandit.reward_probs @ bandit.reward_levels, axis=-1)


def _diameters(features: Float[Array, "P K d"]) -> Float[Array, " P"]:
    """The largest distance between the features of two actions, at each prompt."""
    return np.array([np.linalg.norm(f[:, None] - f, axis=-1).max() for f in features])
