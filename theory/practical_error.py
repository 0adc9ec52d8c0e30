"""Theorem 12: what re-using outputs costs, to first order in the learning rate.

**Statement.** Let minibatch j meet θ_j = θ_old + δ, let w_t = ∇log π_θ(y_t∣x, y_<t) and
μ_t = π_θ(y_t∣·)/π_old(y_t∣·). Given θ_j the mean update is, with any prompt-level or leave-one-out
baseline,

    sequence ratio   ∇J(θ_j)
    token ratio      Σ_x f Σ_y Z Σ_t ∇π_θ(y_t) Π_{s≠t} π_old(y_s)
    no ratio         E_old[A Σ_t w_t],    A = Z − V_old(x),

so the token ratio's bias is E_old[Z Σ_t μ_t(1 − Π_{s≠t} μ_s) w_t]. With W = Σ_t w_t at θ_old,

    bias = −Cδ + O(‖δ‖²),   C = E[Z Σ_{s≠t} w_t w_sᵀ]  (token),   C = E[A WWᵀ]  (none).

After j − 1 updates of mean g and covariance Γ, E‖bias‖² = η²((j−1)²‖Cg‖² + (j−1) tr(CΓCᵀ)) + O(η³).

**Why.** Prefixes are π_old's, so E_old[μ_t w_t∣x, y_<t] = Σ_v ∇π_θ(v) = 0: a baseline that does
not know the output adds nothing. π_old μ_t w_t = ∇π_θ(y_t) Π_{s≠t} π_old(y_s), and the sequence
ratio puts π_θ for π_old. Expand Π_{s≠t} μ_s = 1 + Σ_{s≠t} w_s·δ + O(‖δ‖²). δ is a sum of j − 1
independent updates, to first order in η alike distributed.

**Note.** The paper has O(m²η²/ε), ε the least probability of a token. The order in η holds and is
attained. The factor is (m−1)² for the mean path; noise adds (m−1) tr(CΓCᵀ), that is m(m−1) times
what Γ of the whole batch would give if one batch is cut into m; both are 0 at m = 1. No probability
is divided by: for softmax logits, whose w_t are bounded, the bias stays bounded as ε → 0. With
std-normalised rewards see `theory.practical_variance`, for penalties `theory.practical_penalty`.
"""

from collections.abc import Iterator

import numpy as np

from theory.claims import (
    ENUMERATION,
    IDENTITY,
    Claim,
    equal,
    limiting_slope,
    rate,
    refuted,
)
from theory.enumeration import Distribution, gradient_distribution, unordered_groups
from theory.token_problems import (
    Start,
    at_zero,
    bias,
    cross_token_matrix,
    output_matrix,
    practical_outcomes,
    rare_token,
    token_problem,
)
from ustat_grpo import Grpo
from ustat_grpo.bandits.token_bandit import TokenSnapshot
from ustat_grpo.optimization.token_updates import mean_ascent, mean_path

ITEM = "Theorem 12"
TITLE = "what re-using outputs costs, to first order in the learning rate"

_EXTRAPOLATED = 1e-7
_STEPS = (8, 4, 2, 1)  # j − 1
_ETA = 1e-3
_AWAY = (0.3, -0.2, 0.4, 0.1)


def claims() -> Iterator[Claim]:
    """Yield means by enumeration, orders with their constants, what noise adds, and coverage."""
    problem = token_problem(1)
    yield from _means(problem)
    yield from _single_tokens()
    yield from _orders(problem)
    yield from _noisy_path()
    yield from _coverage()


def _means(problem: Start) -> Iterator[Claim]:
    """Every group of G = 2 and 3 outputs of π_old, at a θ away from θ_old."""
    now, old = problem.at(_AWAY), problem.old
    laws = {
        "sequence": now.gradient,
        "token": _token_by_token(problem, now, old),
        "none": mean_ascent(now, old, "none"),
    }
    for ratio, law in laws.items():
        obtained = [_enumerated_mean(now, old, ratio, size) for size in (2, 3)]
        statement = f"{ratio} ratio: mean over every group of π_old, G = 2, 3"
        yield equal(statement, ENUMERATION, [law, law], obtained)
    for ratio in ("token", "none"):
        squared = float(np.sum(bias(now, old, ratio) ** 2))
        yield refuted(f"{ratio} ratio: no bias", 0.0, squared)
    at_once = [np.sum(bias(old, old, ratio) ** 2) for ratio in laws]
    yield equal("m = 1: no bias with any ratio", IDENTITY, np.zeros(3), at_once)


def _enumerated_mean(
    now: TokenSnapshot, old: TokenSnapshot, ratio: str, group_size: int
) -> np.ndarray:
    means = [
        gradient_distribution(
            Grpo(), practical_outcomes(now, old, ratio, prompt), group_size=group_size
        ).mean()
        for prompt in range(len(old.prompt_probs))
    ]
    return old.prompt_probs @ np.array(means)


def _token_by_token(problem: Start, now: TokenSnapshot, old: TokenSnapshot) -> np.ndarray:
    """Return Σ_x f Σ_y Z Σ_t ∇π_θ(y_t) Π_{s≠t} π_old(y_s), with products in place of ratios."""
    total = np.zeros(problem.bandit.dimension)
    theirs, ours = np.exp(old.token_log_probs), np.exp(now.token_log_probs)
    for prompt, output in np.ndindex(old.rewards.shape):
        for place in range(ours.shape[-1]):
            others = np.delete(theirs[prompt, output], place).prod()
            moved = ours[prompt, output, place] * now.token_scores[prompt, output, place]
            weight = old.prompt_probs[prompt] * old.rewards[prompt, output]
            total += weight * others * moved
    return total


def _single_tokens() -> Iterator[Claim]:
    problem = token_problem(2, num_tokens=1)
    now, old = problem.at(_AWAY), problem.old
    squared = float(np.sum(bias(now, old, "token") ** 2))
    yield equal("T = 1: no bias of the token ratio at any θ", IDENTITY, 0.0, squared)


def _orders(problem: Start) -> Iterator[Claim]:
    """Slopes and constants along the mean path of Algorithm 2."""
    etas = 2.0 ** -np.arange(6, 12)
    for ratio, matrix in {
        "token": cross_token_matrix(problem.old),
        "none": output_matrix(problem.old),
    }.items():
        squared = [_squared_bias(problem, ratio, eta, 3) for eta in etas]
        in_eta = limiting_slope(1 / etas, squared)
        squared = [_squared_bias(problem, ratio, _ETA, steps) for steps in _STEPS]
        in_steps = limiting_slope(1 / np.array(_STEPS), squared)
        for wrong in (1.0, 3.0):
            not_so = f"not {wrong:g}"
            yield rate(f"{ratio}, m = 4: slope in 1/η ({not_so})", -2.0, *in_eta, -wrong)
            yield rate(f"{ratio}: slope in 1/(m−1) ({not_so})", -2.0, *in_steps, -wrong)
        constant = float(np.sum((matrix @ problem.old.gradient) ** 2))
        limits = [_limit(problem, ratio, steps) for steps in _STEPS]
        law = constant * np.square(_STEPS, dtype=float)
        statement = f"{ratio}: squared bias / η² → (m−1)²‖Cg‖², m = 9, 5, 3, 2"
        yield equal(statement, IDENTITY, law, limits, _EXTRAPOLATED)
        yield refuted(f"{ratio}: m²‖Cg‖² at m = 2", 4 * constant, limits[-1])


def _limit(problem: Start, ratio: str, steps: int) -> float:
    """Return the limit of the squared bias over η²."""
    return float(at_zero(lambda eta: _squared_bias(problem, ratio, eta, steps) / eta**2))


def _squared_bias(problem: Start, ratio: str, learning_rate: float, steps: int) -> float:
    path = mean_path(
        problem.bandit,
        problem.theta,
        lambda now, old: mean_ascent(now, old, ratio),
        learning_rate=learning_rate,
        num_minibatches=steps + 1,
    )
    return float(np.sum(bias(path[-1], path[0], ratio) ** 2))


def _noisy_path() -> Iterator[Claim]:
    """Every path of minibatches of one prompt and G = 2 outputs."""
    problem = token_problem(3, num_tokens=2, dimension=3)
    first = _minibatches(problem.old, problem.old)
    mean = problem.old.gradient
    centred = first.gradients - mean
    noise = (centred.T * first.probs) @ centred
    matrix = cross_token_matrix(problem.old)
    drift, spread = (
        float(np.sum((matrix @ mean) ** 2)),
        float(np.trace(matrix @ noise @ matrix.T)),
    )
    for steps in (1, 2):
        limit = float(at_zero(lambda eta, n=steps: _expected_bias(problem, eta, n) / eta**2))
        law = steps**2 * drift + steps * spread
        statement = f"every path, m = {steps + 1}: (m−1)²‖Cg‖² + (m−1) tr(CΓCᵀ)"
        yield equal(statement, ENUMERATION, law, limit, _EXTRAPOLATED)
    yield refuted("every path, m = 3: the squared bias of the mean path", 4 * drift, limit)
    yield refuted("every path, m = 3: (m−1)² times that at m = 2", 4 * (drift + spread), limit)


def _minibatches(now: TokenSnapshot, old: TokenSnapshot) -> Distribution:
    """Return ĝ of every minibatch of one prompt, two outputs of π_old and token ratios."""
    parts = [
        gradient_distribution(
            Grpo(),
            practical_outcomes(now, old, "token", prompt),
            group_size=2,
            groups=unordered_groups,
        )
        for prompt in range(len(old.prompt_probs))
    ]
    probs = [prob * part.probs for prob, part in zip(old.prompt_probs, parts, strict=True)]
    return Distribution(np.concatenate([part.gradients for part in parts]), np.concatenate(probs))


def _expected_bias(problem: Start, learning_rate: float, steps: int) -> float:
    """Return E‖bias‖² after so many updates, over every path."""

    def expected(displacement: np.ndarray, left: int) -> float:
        now = problem.at(displacement)
        if not left:
            return float(np.sum(bias(now, problem.old, "token") ** 2))
        gradients, probs = _minibatches(now, problem.old)
        after = [expected(displacement + learning_rate * step, left - 1) for step in gradients]
        return float(probs @ after)

    return expected(np.zeros(problem.bandit.dimension), steps)


def _coverage() -> Iterator[Claim]:
    """One token of one prefix gets rare; the constant ‖Cg‖² does not grow."""
    rarities = 2.0 ** np.arange(14, 21)
    constants = []
    for rarity in rarities:
        old = rare_token(rarity).old
        constants.append(float(np.sum((cross_token_matrix(old) @ old.gradient) ** 2)))
    slope = limiting_slope(rarities, constants)
    yield rate("token: slope of ‖Cg‖² in 1/ε, softmax logits (not 1)", 0.0, *slope, wrong=1.0)
