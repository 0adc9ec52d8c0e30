"""Lemma 11: with std-normalisation GRPO is no U-statistic, but near one for large groups.

**Statement.** Let se be the group's standard deviation (ddof 1) and σ that of the reward given x.
Practical GRPO has advantages (Zᵢ − Z̄⁽⁻ⁱ⁾)/se, so its gradient is ĝ = U/se with the U-statistic U
of Lemma 1 (0 if se = 0), and (1 − 1/G)U/se with the group's own mean. The paper: ĝ is no exact
U-statistic, but tends in probability to one, U/σ, as G → ∞. Exactly, with A = Z − V, v = Var A²:

- *No U-statistic.* One with a fixed kernel has the same mean at every G. For 0/1 rewards E ĝ is
  φ_G(p)·g, and φ_G, a polynomial in p, never reaches its limit 1/√(p(1−p)), which is none.
- *Bias.* E ĝ − g/σ = b/G + O(G⁻²), b = (3v/(8σ⁵))g − (E[WA³] − σ²g)/(2σ³), and g/σ less of it with
  the own mean. For 0/1 rewards b = −(1−2p)²/(8(p(1−p))^{3/2})·g.
- *Distance.* E‖ĝ − U/σ‖² = ‖g‖²v/(4σ⁶G) + O(G⁻²); where g = 0 it is
  (τv + 2‖E[WA³]‖²)/(4σ⁶G²) + O(G⁻³). If ∣A∣ is constant (0/1 rewards at p = ½) v = 0, and the
  distance falls like G⁻² where g ≠ 0 too.

The paper's kernel has also token ratios μ_t, which are 1 at the first update after sampling
(m = 1), and a KL term, which is 0 for κ = 0: both are left out here.

**Why.** se² is the U-statistic of ½(Zᵢ − Zⱼ)², so √G(U − g, se² − σ²) has a normal limit (X, Y),
E‖X‖² = τ − ‖g‖², Var Y = v and Cov(X, Y) = E[WA³] − σ²g. Expand U·(se²)^(−½) at (g, σ²). *Bias:*
½g·¾σ⁻⁵Var Y − ½σ⁻³Cov(X, Y). *Distance:* U(1/se − 1/σ) ≈ −U·Y/(2σ³√G), with U ≈ g, or where g = 0
with U ≈ X/√G and E‖X‖²Y² = E‖X‖²·E Y² + 2‖Cov(X, Y)‖². With finitely many reward levels se is 0 or
at least of order G^(−½), and groups with se far from σ are exponentially rare.
"""

from collections.abc import Callable, Iterator

import numpy as np

from theory.claims import ENUMERATION, IDENTITY, Claim, equal, limiting_slope, rate, refuted
from theory.enumeration import Outcomes, gradient_distribution, outcomes, unordered_groups
from theory.problems import two_actions
from ustat_grpo import Estimator, Grpo, Snapshot, SoftmaxBandit, gradient
from ustat_grpo.estimators import LeaveOneOutNormalised, StdNormalised
from ustat_grpo.laws import binary

ITEM = "Lemma 11"
TITLE = "with std-normalisation GRPO is no U-statistic, but near one for large groups"

Law = Callable[[int], binary.GroupAdvantages]

FORMS: dict[str, Estimator] = {
    "mean of the others": LeaveOneOutNormalised(eps=0.0),
    "own mean": StdNormalised(eps=0.0),
}
LAWS: dict[str, Law] = {
    "mean of the others": binary.leave_one_out_normalised,
    "own mean": lambda size: binary.std_normalised(size, eps=0.0),
}
_ENUMERATED = (8, 16, 32, 64)
_WITHOUT_SIGNAL = (16, 32, 64, 128)
_LARGE = (512, 1024, 2048, 4096)


def claims() -> Iterator[Claim]:
    """Yield that it is none, its bias and its distance to the limit, and wrong exponents."""
    yield from _no_u_statistic()
    for name, estimator in FORMS.items():
        yield from _enumerated(name, estimator)
    yield from _without_signal()
    yield from _binary()


def _three_levels() -> Outcomes:
    """Three actions, one reward level each, and two features: 2145 different groups of 64."""
    bandit = SoftmaxBandit(
        np.array([[[0.3, -1.0], [1.2, 0.4], [-0.7, 0.8]]]),
        np.array([-1.0, 0.5, 2.0]),
        np.eye(3)[None],
    )
    return outcomes(bandit.at([0.3, 0.1]), 0)


def _no_signal() -> Outcomes:
    """Two actions of the same mean reward, 0.8, one of them with a skewed reward: g = 0."""
    bandit = SoftmaxBandit(
        np.array([[[0.0], [1.0]]]),
        np.array([-1.0, 0.8, 2.0]),
        np.array([[[0.4, 0.0, 0.6], [0.0, 1.0, 0.0]]]),
    )
    return outcomes(bandit.at([-0.5]), 0)


def _no_u_statistic() -> Iterator[Claim]:
    """A U-statistic of degree below G is the mean of itself over the G subsets of G − 1."""
    possible = _three_levels()
    group = np.array([0, 1, 1, 2, 2, 0, 2])
    scores, rewards = possible.scores[group], possible.rewards[group]

    def over_subsets(estimator: Estimator) -> np.ndarray:
        rest = [np.delete(np.arange(len(group)), left_out) for left_out in range(len(group))]
        return np.mean([gradient(estimator, scores[i], rewards[i]) for i in rest], axis=0)

    whole = gradient(Grpo(), scores, rewards)
    statement = "U is the mean of U over the subsets of G − 1 outputs"
    yield equal(statement, IDENTITY, whole, over_subsets(Grpo()))
    for name, estimator in FORMS.items():
        whole = gradient(estimator, scores, rewards)
        statement = f"so is the normalised gradient, {name} (first entry)"
        yield refuted(statement, float(over_subsets(estimator)[0]), float(whole[0]))
    means = {
        size: gradient_distribution(
            FORMS["mean of the others"], possible, group_size=size, groups=unordered_groups
        ).mean()
        for size in (32, 64)
    }
    statement = "its mean is the same at G = 32 and 64 (first entry)"
    yield refuted(statement, float(means[32][0]), float(means[64][0]))


def _differences(
    estimator: Estimator, possible: Outcomes, sizes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return E ĝ − g/σ and E‖ĝ − U/σ‖² at each G, shapes (S, d) and (S,)."""
    deviation = np.sqrt(possible.probs @ (possible.rewards - possible.value) ** 2)
    means, distances = [], []
    for size in sizes:
        normalised, plain = (
            gradient_distribution(each, possible, group_size=size, groups=unordered_groups)
            for each in (estimator, Grpo())
        )
        means.append(normalised.mean() - possible.gradient / deviation)
        apart = normalised.gradients - plain.gradients / deviation
        distances.append(plain.probs @ np.sum(apart**2, axis=-1))
    return np.array(means), np.array(distances)


def _central(possible: Outcomes) -> tuple[float, float, np.ndarray]:
    """Return σ², v = Var A² and E[WA³]."""
    centred = possible.rewards - possible.value
    variance = float(possible.probs @ centred**2)
    spread = float(possible.probs @ centred**4) - variance**2
    return variance, spread, (possible.probs * centred**3) @ possible.scores


def _enumerated(name: str, estimator: Estimator) -> Iterator[Claim]:
    """Three reward levels: every group of up to 64 outputs."""
    possible, sizes = _three_levels(), np.array(_ENUMERATED)
    variance, spread, cubic = _central(possible)
    means, distances = _differences(estimator, possible, _ENUMERATED)
    bias = 3 * spread / (8 * variance**2.5) * possible.gradient
    bias = bias - (cubic - variance * possible.gradient) / (2 * variance**1.5)
    if isinstance(estimator, StdNormalised):
        bias = bias - possible.gradient / np.sqrt(variance)
    slope = limiting_slope(sizes, _norms(means))
    yield rate(f"{name}: the bias falls like G⁻¹ (not G⁻²)", -1.0, *slope, wrong=-2.0)
    slope = limiting_slope(sizes, _norms(means - bias / sizes[:, None]))
    statement = f"{name}: bias less b/G falls like G⁻² (with a wrong b like G⁻¹)"
    yield rate(statement, -2.0, *slope, wrong=-1.0)
    yield from _orders(name, sizes, distances, np.sum(possible.gradient**2) * spread, variance)


def _orders(
    name: str, sizes: np.ndarray, distances: np.ndarray, numerator: float, variance: float
) -> Iterator[Claim]:
    """The distance falls like G⁻¹, and what its first term leaves like G⁻²."""
    slope = limiting_slope(sizes, distances)
    yield rate(f"{name}: E‖ĝ − U/σ‖² falls like G⁻¹ (not G⁻²)", -1.0, *slope, wrong=-2.0)
    left = np.abs(distances - numerator / (4 * variance**3 * sizes))
    statement = f"{name}: less ‖g‖²v/(4σ⁶G) like G⁻² (with a wrong constant like G⁻¹)"
    yield rate(statement, -2.0, *limiting_slope(sizes, left), wrong=-1.0)


def _without_signal() -> Iterator[Claim]:
    possible, sizes = _no_signal(), np.array(_WITHOUT_SIGNAL)
    variance, spread, cubic = _central(possible)
    yield equal("no signal: g", ENUMERATION, np.zeros(1), possible.gradient)
    centred = (possible.rewards - possible.value) ** 2
    tau = float((possible.probs * centred) @ np.sum(possible.scores**2, axis=-1))
    numerator = tau * spread + 2 * float(cubic @ cubic)
    for name, estimator in FORMS.items():
        distances = _differences(estimator, possible, _WITHOUT_SIGNAL)[1]
        slope = limiting_slope(sizes, distances)
        yield rate(f"g = 0, {name}: falls like G⁻² (not G⁻¹)", -2.0, *slope, wrong=-1.0)
        left = np.abs(distances - numerator / (4 * variance**3 * sizes**2))
        slope = limiting_slope(sizes, left)
        yield rate(f"g = 0, {name}: less its first term like G⁻³", -3.0, *slope, wrong=-2.0)


def _binary() -> Iterator[Claim]:
    """0/1 rewards: the law gives bias and distance exactly, at any G."""
    skewed, even = two_actions(0.3, [0.2, 1.0]), two_actions(0.5, [0.3, 0.7])
    yield from _small_groups(skewed)
    for name, law in LAWS.items():
        distances = np.array([_distance(law, skewed, size) for size in _LARGE])
        prob = float(skewed.value[0])
        variance, spread = prob * (1 - prob), prob * (1 - prob) * (1 - 2 * prob) ** 2
        numerator = float(skewed.moments.gradient_norm_squared[0]) * spread
        sizes = np.array(_LARGE)
        yield from _orders(f"0/1, p = 0.44, {name}", sizes, distances, numerator, variance)
        slope = limiting_slope(_LARGE, [_distance(law, even, size) for size in _LARGE])
        statement = f"0/1, p = ½, {name}: falls like G⁻² although g ≠ 0 (not G⁻¹)"
        yield rate(statement, -2.0, *slope, wrong=-1.0)


def _small_groups(problem: Snapshot) -> Iterator[Claim]:
    """Both forms at G = 2, …, 9: enumerated, and by the law."""
    possible, prob = outcomes(problem, 0), problem.value
    limit = float(binary.limiting_gain(prob)[0])
    sizes = range(2, 10)
    for name, law in LAWS.items():
        biases, distances = _differences(FORMS[name], possible, tuple(sizes))
        expected = [(binary.gain(law(size), prob)[0] - limit) * possible.gradient for size in sizes]
        statement = f"0/1, {name}: bias (φ_G − 1/σ)g at G = 2, …, 9"
        yield equal(statement, ENUMERATION, expected, biases)
        expected = [_distance(law, problem, size) for size in sizes]
        statement = f"0/1, {name}: E‖ĝ − U/σ‖² at G = 2, …, 9"
        yield equal(statement, ENUMERATION, expected, distances)


def _distance(law: Law, problem: Snapshot, size: int) -> float:
    """E‖ĝ − U/σ‖²: the difference has advantages of its own."""
    outcome = binary.outcome_moments(problem.moments)
    limit = binary.limiting_gain(problem.value)[0]
    normalised, plain = law(size), binary.grpo(size)
    difference = binary.GroupAdvantages(
        normalised.success - limit * plain.success, normalised.failure - limit * plain.failure
    )
    norm = problem.moments.gradient_norm_squared
    return float(binary.second_moment(difference, outcome, norm)[0])


def _norms(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)
