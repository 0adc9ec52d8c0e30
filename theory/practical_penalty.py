"""Theorem 12, the penalty: what a KL term on old outputs costs.

**Statement.** A penalty κΣ_t k(ℓ_t) on outputs of π_old, ℓ = log π_θ − log π_ref, adds −κh_old(θ)
to the mean update, h_old(θ) = E_old[Σ_t k′(ℓ_t) w_t]; outputs of π_θ would add −κh_θ(θ). With
δ = θ − θ_old and W = Σ_t w_t the difference is

    κ(h_θ − h_old) = κDδ + O(‖δ‖²),    D = E[(Σ_t k′(ℓ_t) w_t) Wᵀ] at θ_old,

also for outputs of one token, where the token ratio has no bias. Along the mean path δ is
(m−1)η(g − κh), so the whole squared bias is

    (m−1)²η²‖(C − κD)(g − κh)‖² + O(η³).

**Why.** h_θ − h_old = E_old[(Π_s μ_s − 1)Σ_t k′ w_t], and Π_s μ_s − 1 = W·δ + O(‖δ‖²). The penalty
is not weighed by a ratio, so T = 1 is no exception.

**Note.** The paper has O(κ²m²η²/ε³) beside a first term without κ. At a given displacement the two
parts are −Cδ and κDδ, and the second is quadratic in κ exactly; but the displacement is made of
g − κh, so without any reward the squared bias is κ⁴(m−1)²η²‖Dh‖². At π_ref = π_old all ℓ_t start at
zero, D and h vanish, and the penalty's bias is of second order. For softmax logits D stays bounded
as ε → 0; what grows like 1/ε is the variance of K3's term, E‖Σ_t k′ w_t‖². All this is bias against
the same penalty on fresh outputs: K3's mean is not ∇KL(π_θ ‖ π_ref) even there, and that distance
does not vanish with η.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from theory.claims import IDENTITY, Claim, equal, limiting_slope, rate, refuted
from theory.token_problems import (
    Start,
    at_zero,
    bias,
    cross_token_matrix,
    penalty_bias,
    penalty_matrix,
    rare_token,
    token_problem,
)
from ustat_grpo.bandits.token_bandit import TokenSnapshot
from ustat_grpo.optimization.practice import PENALTIES
from ustat_grpo.optimization.token_updates import (
    mean_ascent,
    mean_path,
    mean_penalty,
    penalty_slopes,
)

ITEM = "Theorem 12 (penalty)"
TITLE = "what a KL term on old outputs costs"

_EXTRAPOLATED = 1e-7
_MINIBATCHES = 4
_REFERENCE = 0.6
_STEP = 0.004  # κ = 2 goes far


def claims() -> Iterator[Claim]:
    """Yield the penalty's first order, how it joins the ratio's, and coverage."""
    problem = token_problem(1)
    yield from _first_order(problem)
    yield from _joint(problem)
    yield from _special_cases(problem)
    yield from _coverage()


def _first_order(problem: Start) -> Iterator[Claim]:
    old, reference = problem.old, problem.at(_REFERENCE)
    along = problem.old.gradient
    for penalty in PENALTIES:
        matrix = penalty_matrix(old, penalty_slopes(old, reference, penalty))

        def squared(eta: float, penalty: str = penalty) -> float:
            found = penalty_bias(problem.at(eta * along), old, reference, penalty)
            return float(found @ found)

        etas = 2.0 ** -np.arange(6, 12)
        slope = limiting_slope(1 / etas, [squared(eta) for eta in etas])
        for wrong in (1.0, 3.0):
            yield rate(f"{penalty}: slope in 1/η (not {wrong:g})", -2.0, *slope, -wrong)
        limit = at_zero(lambda eta, f=squared: f(eta) / eta**2)
        law = float(np.sum((matrix @ along) ** 2))
        yield equal(f"{penalty}: squared bias → ‖Dδ‖²", IDENTITY, law, limit, _EXTRAPOLATED)


def _joint(problem: Start) -> Iterator[Claim]:
    """Reward and penalty together, along the mean path of both."""
    old, reference = problem.old, problem.at(_REFERENCE)
    across = cross_token_matrix(old)
    matrix = penalty_matrix(old, penalty_slopes(old, reference, "k3"))
    pull = mean_penalty(old, old, reference, "k3")
    silent = replace(problem, bandit=replace(problem.bandit, rewards=0 * problem.bandit.rewards))
    for name, case, cross, ascent in (
        ("token ratio and K3", problem, across, old.gradient),
        ("Z = 0", silent, 0 * across, 0 * old.gradient),
    ):
        limits, laws = [], []
        for weight in (0.0, 0.5, 1.0, 2.0):
            limit = at_zero(
                lambda eta, c=case, k=weight: _whole(c, reference, k, eta) / eta**2, _STEP
            )
            constant = (cross - weight * matrix) @ (ascent - weight * pull)
            limits.append(float(limit))
            laws.append((_MINIBATCHES - 1) ** 2 * float(constant @ constant))
        statement = f"{name}: (m−1)²‖(C − κD)(g − κh)‖², m = 4, κ = 0, ½, 1, 2"
        yield equal(statement, IDENTITY, laws, limits, _EXTRAPOLATED)
    quadratic, quartic = 4 * limits[2], 16 * limits[2]
    yield equal("Z = 0, a run's own path: κ⁴", IDENTITY, quartic, limits[3], _EXTRAPOLATED)
    yield refuted("Z = 0, a run's own path: κ²", quadratic, limits[3])
    now = problem.at((0.3, -0.2, 0.4, 0.1))
    parts = [
        silent_bias @ silent_bias
        for silent_bias in (_update_bias(silent, now, reference, weight) for weight in (1.0, 3.0))
    ]
    yield equal("Z = 0, a given displacement: κ²", IDENTITY, 9 * parts[0], parts[1])


def _whole(problem: Start, reference: TokenSnapshot, weight: float, eta: float) -> float:
    """Return the squared bias at the last minibatch of the mean path."""
    path = mean_path(
        problem.bandit,
        problem.theta,
        lambda now, old: (
            mean_ascent(now, old, "token") - weight * mean_penalty(now, old, reference, "k3")
        ),
        learning_rate=eta,
        num_minibatches=_MINIBATCHES,
    )
    found = _update_bias(problem, path[-1], reference, weight)
    return float(found @ found)


def _update_bias(
    problem: Start, now: TokenSnapshot, reference: TokenSnapshot, weight: float
) -> np.ndarray:
    old = problem.old
    now = replace(now, rewards=old.rewards)
    return bias(now, old, "token") - weight * penalty_bias(now, old, reference, "k3")


def _special_cases(problem: Start) -> Iterator[Claim]:
    single = token_problem(2, num_tokens=1)
    now, reference = single.at((0.3, -0.2, 0.4, 0.1)), single.at(_REFERENCE)
    ratio = bias(now, single.old, "token")
    penalty = penalty_bias(now, single.old, reference, "k3")
    yield equal("T = 1: the token ratio has no bias", IDENTITY, 0.0, ratio @ ratio)
    yield refuted("T = 1: the penalty has no bias", 0.0, float(penalty @ penalty))

    etas, along = 2.0 ** -np.arange(6, 12), problem.old.gradient
    moved = [penalty_bias(problem.at(e * along), problem.old, problem.old, "k3") for e in etas]
    slope = limiting_slope(1 / etas, [float(each @ each) for each in moved])
    yield rate("π_ref = π_old: slope in 1/η (not 2)", -4.0, *slope, -2.0)

    divergence = mean_penalty(now, now, reference, "k2")  # T = 1: ∇KL(π_θ ‖ π_ref)
    on_policy = mean_penalty(now, now, reference, "k3")
    apart = float(np.sum((on_policy - divergence) ** 2))
    yield refuted("T = 1, fresh outputs: K3's mean is ∇KL(π_θ ‖ π_ref)", 0.0, apart)


def _coverage() -> Iterator[Claim]:
    """One token of one prefix gets rare under π_old, not under π_ref."""
    rarities = 2.0 ** np.arange(14, 21)
    reference = token_problem(1).old
    constants, noises = [], []
    for rarity in rarities:
        old = rare_token(rarity).old
        slopes = penalty_slopes(old, reference, "k3")
        along = penalty_matrix(old, slopes) @ old.gradient
        constants.append(float(along @ along))
        terms = np.einsum("pmt,pmti->pmi", slopes, old.token_scores)
        weights = old.prompt_probs[:, None] * old.output_probs
        noises.append(float(np.einsum("pm,pmi,pmi->", weights, terms, terms)))
    slope = limiting_slope(rarities, constants)
    yield rate("K3: slope of ‖Dg‖² in 1/ε, softmax logits (not 1)", 0.0, *slope, wrong=1.0)
    slope = limiting_slope(rarities, noises)
    yield rate("K3: slope of E‖Σ_t k′w_t‖² in 1/ε (not 0)", 1.0, *slope, wrong=0.0)
