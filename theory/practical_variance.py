"""Theorem 12, the rest: normalisation by a group's deviation, and the variance that it leaves.

**Statement.** Given θ_j let u = Σ_t ρ_t w_t, A = Z − V_old(x), v = E_old[uA∣x], σ² = Var_old(Z∣x)
and se the deviation of the group. For 0/1 rewards the leave-one-out advantages over se have the
mean

    E ĝ(x) = φ_G(V_old)·v,      φ_G → 1/σ, φ_G − 1/σ = O(G⁻¹),

so all that was said of the ratios' bias holds for the objective in which φ_G(V_old) is frozen. For
any rewards, with the influence of one output

    ψ = (uA − v)/σ − v(A² − σ²)/(2σ³),

E‖ĝ(x) − v/σ‖² = tr Cov(ψ)/G + O(G⁻²). For 0/1 rewards p = V_old

    tr Cov(ψ) = (E‖uA‖² − ‖v‖²)/σ² − ¾(1−2p)²‖v‖²/σ⁴.

**Why.** Given an output's own reward, the others' are Binomial(G−1, V_old) whatever the output was,
so its mean advantage depends on its reward only; E_old[u∣x] = 0 for ratios that preserve each
token's mean. ĝ = (mean of uA − (mean of u)(mean of A))·G/((G−1)se): linearise at v and σ². For 0/1
rewards A² − σ² = (1−2p)A. Groups of equal rewards, where se = 0, are exponentially rare.

**Note.** Theorem 12 has tr Σ₁/G. If Σ₁ is the covariance of Lemma 11's limit, the U-statistic over
the *known* σ, it is Cov((uA − v)/σ): the second half of ψ, what estimating σ adds, is of the same
order. For 0/1 rewards it only helps, and the bound holds with room of order 1/G. With three reward
levels it can be larger: then MSE ≤ tr Σ₁/G + O(G⁻²) fails. The residual grows like 1/ε, as the
paper says, ε the success probability. And φ_G(V_old) is that of old outputs: against the
objective that normalises by V_θ itself even the sequence ratio is biased, at T = 1 too, and that
bias is of the same order in η as the ratios'. Only φ₂ = √2 and φ₃ = √3 are constant in V.
"""

from collections.abc import Iterator

import numpy as np
from scipy.special import gammaln

from theory.claims import ENUMERATION, IDENTITY, Claim, equal, limiting_slope, rate, refuted
from theory.enumeration import Outcomes, gradient_distribution, unordered_groups
from theory.token_problems import Start, practical_outcomes, token_problem
from ustat_grpo import OutcomeMoments
from ustat_grpo.estimators.normalised import LeaveOneOutNormalised
from ustat_grpo.laws import binary

ITEM = "Theorem 12 (variance)"
TITLE = "normalisation by a group's deviation, and the variance that it leaves"

_AWAY = (0.3, -0.2, 0.4, 0.1)
_LARGE = 2 ** np.arange(7, 13)


def claims() -> Iterator[Claim]:
    """Yield means, variances and their orders, and what the fixed σ would say."""
    problem = token_problem(1)
    now = problem.at(_AWAY)
    possible = [practical_outcomes(now, problem.old, "token", prompt) for prompt in (0, 1)]
    yield from _against_enumeration(possible)
    yield from _stale_normalisation()
    yield from _leading_order(possible[0])
    yield from _three_levels()
    yield from _coverage()


def _against_enumeration(possible: list[Outcomes]) -> Iterator[Claim]:
    """Outputs of π_old, token ratios at a θ away from it."""
    gains, errors = [], []
    for each in possible:
        for size in (2, 3, 4):
            found = gradient_distribution(
                LeaveOneOutNormalised(), each, group_size=size, groups=unordered_groups
            )
            law = float(binary.gain(binary.leave_one_out_normalised(size), each.value))
            gains.append((law * each.gradient, found.mean()))
            errors.append((_error(each, size), found.error(each.gradient / _deviation(each))))
    statement = "token ratio: E ĝ = φ_G(V_old)·v, G = 2, 3, 4"
    yield equal(statement, ENUMERATION, *np.moveaxis(np.array(gains), 1, 0))
    statement = "token ratio: E‖ĝ − v/σ‖² by laws.binary on u"
    yield equal(statement, ENUMERATION, *np.transpose(errors))


def _stale_normalisation() -> Iterator[Claim]:
    """T = 1, where every ratio gives φ_G(V_old)·∇V."""
    problem = token_problem(2, num_tokens=1)
    etas = 2.0 ** -np.arange(6, 12)
    for size in (4, 8):
        squared = [_stale(problem, eta, size) for eta in etas]
        slope = limiting_slope(1 / etas, squared)
        for wrong in (1.0, 3.0):
            statement = f"T = 1, G = {size}, against ∇E F_G(V): slope in 1/η (not {wrong:g})"
            yield rate(statement, -2.0, *slope, -wrong)
    constant = [_stale(problem, 0.1, size) for size in (2, 3)]
    yield equal("T = 1, G = 2 and 3: φ_G is constant, no bias", IDENTITY, [0.0, 0.0], constant)


def _stale(problem: Start, learning_rate: float, group_size: int) -> float:
    """Return ‖Σ_x f (φ_G(V_old) − φ_G(V_θ))∇V_θ‖²."""
    old, advantages = problem.old, binary.leave_one_out_normalised(group_size)
    now = problem.at(learning_rate * old.gradient)
    gap = binary.gain(advantages, old.value) - binary.gain(advantages, now.value)
    weights = (now.prompt_probs * gap)[:, None] * now.output_probs * now.rewards
    return float(np.sum(np.einsum("pm,pmd->d", weights, now.scores) ** 2))


def _leading_order(possible: Outcomes) -> Iterator[Claim]:
    errors = np.array([_error(possible, int(size)) for size in _LARGE])
    exact, fixed = _first_order(possible), _known_deviation(possible)
    residual = limiting_slope(_LARGE, np.abs(errors - exact / _LARGE))
    for wrong in (-1.0, -3.0):
        statement = f"error − tr Cov(ψ)/G: slope in G (not {wrong:g})"
        yield rate(statement, -2.0, *residual, wrong)
    residual = limiting_slope(_LARGE, fixed / _LARGE - errors)
    yield rate("tr Σ₁/G − error, σ known: slope in G (not −2)", -1.0, *residual, -2.0)
    yield refuted("G·error → tr Σ₁, σ known", fixed, exact)
    chance, variance = possible.value, _deviation(possible) ** 2
    norm = float(possible.gradient @ possible.gradient)
    law = fixed - 0.75 * (1 - 2 * chance) ** 2 * norm / variance**2
    yield equal("0/1: tr Cov(ψ) = tr Σ₁ − ¾(1−2p)²‖v‖²/σ⁴", IDENTITY, law, exact)
    bias = [
        float(binary.gain(binary.leave_one_out_normalised(int(size)), chance)) - variance**-0.5
        for size in _LARGE
    ]
    slope = limiting_slope(_LARGE, np.square(bias) * norm)
    yield rate("squared bias (φ_G − 1/σ)²‖v‖²: slope in G (not −1)", -2.0, *slope, -1.0)


def _three_levels() -> Iterator[Claim]:
    """One token of three values, worth 0, 1 and 2: every group, by how often each occurs."""
    probs = np.array([0.05, 0.455, 0.495])
    possible = Outcomes(np.eye(3) - probs, np.array([0.0, 1.0, 2.0]), probs)
    exact, fixed = _first_order(possible), _known_deviation(possible)
    sizes = (64, 128, 256, 512)
    errors = np.array([_counted_error(possible, size) for size in sizes])
    few = gradient_distribution(
        LeaveOneOutNormalised(), possible, group_size=4, groups=unordered_groups
    )
    law = few.error(possible.gradient / _deviation(possible))
    yield equal("Z ∈ {0, 1, 2}, G = 4: by counts", ENUMERATION, law, _counted_error(possible, 4))
    slope = limiting_slope(sizes, np.abs(errors - exact / np.array(sizes)))
    yield rate("Z ∈ {0, 1, 2}: error − tr Cov(ψ)/G: slope (not −1)", -2.0, *slope, -1.0)
    slope = limiting_slope(sizes, errors - fixed / np.array(sizes))
    yield rate("Z ∈ {0, 1, 2}: error − tr Σ₁/G > 0: slope (not −2)", -1.0, *slope, -2.0)
    yield refuted("Z ∈ {0, 1, 2}: G·error ≤ tr Σ₁, at G = 512", fixed, 512 * errors[-1])


def _coverage() -> Iterator[Claim]:
    """Success gets rare: one token of two values, the second with probability ε."""
    rarities = 2.0 ** np.arange(4, 9)
    residuals = []
    for rarity in rarities:
        probs = np.array([1 - 1 / rarity, 1 / rarity])
        possible = Outcomes(np.eye(2) - probs, np.array([0.0, 1.0]), probs)
        size = int(2**9 * rarity)  # so that no group is without success
        excess = _error(possible, size) - _first_order(possible) / size
        residuals.append(abs(excess) * size**2)
    slope = limiting_slope(rarities, residuals)
    yield rate("residual · G²: slope in 1/ε (not 0)", 1.0, *slope, 0.0)
    yield rate("residual · G²: slope in 1/ε (not 2)", 1.0, *slope, 2.0)


def _deviation(possible: Outcomes) -> float:
    """σ."""
    return float(np.sqrt(possible.probs @ (possible.rewards - possible.value) ** 2))


def _influence(possible: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """Return both parts of ψ: with σ known, and what estimating it adds."""
    centred, sigma = possible.rewards - possible.value, _deviation(possible)
    known = (possible.scores * centred[:, None] - possible.gradient) / sigma
    return known, -np.outer(centred**2 - sigma**2, possible.gradient) / (2 * sigma**3)


def _first_order(possible: Outcomes) -> float:
    """Return tr Cov(ψ)."""
    return float(possible.probs @ np.sum(np.add(*_influence(possible)) ** 2, axis=-1))


def _known_deviation(possible: Outcomes) -> float:
    """Return tr Σ₁ of the U-statistic over the known σ."""
    return float(possible.probs @ np.sum(_influence(possible)[0] ** 2, axis=-1))


def _error(possible: Outcomes, group_size: int) -> float:
    """Return E‖ĝ − v/σ‖² by the law for 0/1 rewards, with u in the place of the score."""
    chance, norms = possible.value, np.sum(possible.scores**2, axis=-1)
    success = possible.probs * possible.rewards
    outcome = OutcomeMoments(
        np.array([chance]),
        np.array([success @ norms / chance]),
        np.array([(possible.probs - success) @ norms / (1 - chance)]),
    )
    norm = possible.gradient @ possible.gradient
    advantages = binary.leave_one_out_normalised(group_size)
    second = binary.second_moment(advantages, outcome, np.array([norm]))
    cross = (
        2 * binary.gain(advantages, chance) / _deviation(possible) - 1 / _deviation(possible) ** 2
    )
    return float(second[0] - cross * norm)


def _counted_error(possible: Outcomes, group_size: int) -> float:
    """Return E‖ĝ − v/σ‖² of three outcomes over every triple of counts."""
    pairs = np.moveaxis(np.indices((group_size + 1,) * 2), 0, -1).reshape(-1, 2)
    pairs = pairs[pairs.sum(axis=-1) <= group_size]
    counts = np.column_stack([pairs, group_size - pairs.sum(axis=-1)])
    log_probs = gammaln(group_size + 1) - gammaln(counts + 1).sum(axis=-1)
    probs = np.exp(log_probs + counts @ np.log(possible.probs))
    means = counts @ possible.rewards / group_size
    centred = possible.rewards - means[:, None]
    spread = np.sqrt(np.sum(counts * centred**2, axis=-1) / (group_size - 1))
    alike = (counts == group_size).any(axis=-1)
    scale = np.where(alike, 0.0, 1 / np.where(alike, 1.0, spread)) / (group_size - 1)
    gradients = (counts * centred * scale[:, None]) @ possible.scores
    target = possible.gradient / _deviation(possible)
    return float(probs @ np.sum((gradients - target) ** 2, axis=-1))
