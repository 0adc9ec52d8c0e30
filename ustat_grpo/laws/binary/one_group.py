"""Mean and error of one group's gradient for 0/1 rewards and any `GroupAdvantages`.

E_n[f(j)] is a mean over j ~ Binomial(n, p), the number of successes among n other outputs. See
`theory.group_advantages` for the derivations.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import ROUNDING, integer, numbers, unit_interval, without_rounding
from ustat_grpo.laws.binary.advantages import GroupAdvantages
from ustat_grpo.laws.binary.binomial import binomial_weights
from ustat_grpo.moments import Moments, OutcomeMoments

PerPrompt = Float[Array, " P"]


def outcome_moments(moments: Moments) -> OutcomeMoments:
    """Return the moments given success and failure, or raise unless the rewards are 0 and 1.

    Raises:
        ValueError: if the problem has other reward levels.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit
        >>> from ustat_grpo.laws import binary
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])
        >>> outcome = binary.outcome_moments(coin.moments)
        >>> outcome.success_probability.tolist(), outcome.success_score_norm_squared.tolist()
        ([0.5], [0.5])
    """
    if moments.outcome is None:
        raise ValueError(
            "reward levels must be 0 and 1 for laws.binary, got moments without outcome"
        )
    return moments.outcome


def gain(advantages: GroupAdvantages, success_probability: ArrayLike) -> Array:
    """The φ of E ĝ(x) = φ_G(p)·g(x): φ_G(p) = E_{G−1}[a₁(j+1) − a₀(j)].

    Args:
        advantages: of the estimator.
        success_probability: p, shape (...), or (P,) if the advantages have one row a prompt.

    Returns:
        φ_G(p) of the shape of p.

    Raises:
        ValueError: if p lies outside [0, 1] or does not fit the advantages.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> binary.gain(binary.grpo(8), [0.1, 0.5]).round(6).tolist()  # unbiased
        [1.0, 1.0]
        >>> binary.gain(binary.group_mean(8), [0.1, 0.5]).round(6).tolist()  # 1 − 1/G
        [0.875, 0.875]
        >>> binary.gain(binary.std_normalised(8), [0.1, 0.5]).round(2).tolist()  # biased
        [2.18, 1.74]
    """
    prob = _probability(advantages, success_probability)
    steps, chances = _difference(advantages), binomial_weights(advantages.group_size - 1, prob)
    mean = _mean(steps, chances)
    # Steps of both signs may cancel; what they add up to is asked for where it can matter only.
    if (np.abs(mean) > ROUNDING * np.abs(steps).max()).all():
        return mean
    return without_rounding(mean, _mean(np.abs(steps), chances))


def implied_objective(advantages: GroupAdvantages, success_probability: ArrayLike) -> Array:
    """The F of which the estimator ascends E F_G(V(X)): F_G(p) = ∫₀^p φ_G.

    F_G(p) = (1/G) Σ_k Binom(G, p)(k)·Σ_{j<k} [a₁(j+1) − a₀(j)], a polynomial of degree G.

    Args:
        advantages: of the estimator; if they depend on V(x) they are held fixed.
        success_probability: p, shape (...), or (P,) if the advantages have one row a prompt.

    Raises:
        ValueError: if p lies outside [0, 1] or does not fit the advantages.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> binary.implied_objective(binary.grpo(8), [0.1, 0.5]).round(6).tolist()  # V itself
        [0.1, 0.5]
        >>> binary.implied_objective(binary.pass_at_k(8, k=2), 0.5).round(6).tolist()  # pass@2
        0.75
    """
    prob = _probability(advantages, success_probability)
    steps = np.cumsum(_difference(advantages), axis=-1)
    none = np.zeros((*steps.shape[:-1], 1))
    size = advantages.group_size
    return _mean(np.concatenate([none, steps], axis=-1), binomial_weights(size, prob)) / size


def second_moment(
    advantages: GroupAdvantages, outcome: OutcomeMoments, gradient_norm_squared: ArrayLike
) -> PerPrompt:
    """E‖ĝ(x)‖², exactly.

    (1/G)(p·s₁·E_{G−1}[a₁(j+1)²] + (1−p)·s₀·E_{G−1}[a₀(j)²])
    + ((G−1)/G)·‖g‖²·E_{G−2}[a₁(j+2)² + a₀(j)² − 2a₁(j+1)a₀(j+1)].

    Args:
        advantages: of the estimator.
        outcome: p = P(Z=1), s₁ = E[‖W‖²∣Z=1] and s₀ = E[‖W‖²∣Z=0], each of shape (P,).
        gradient_norm_squared: ‖g(x)‖², shape (P,).

    Raises:
        ValueError: if p lies outside [0, 1] or does not fit the advantages.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit
        >>> from ustat_grpo.laws import binary
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])  # ‖g‖² = ⅛
        >>> square = binary.second_moment(binary.grpo(2), coin.moments.outcome, [0.125])
        >>> square.round(6).tolist()  # ‖g‖² and an error of ⅛
        [0.25]
    """
    prob = _probability(advantages, outcome.success_probability)
    norm = numbers("gradient_norm_squared", gradient_norm_squared)
    if norm.shape != prob.shape:
        raise ValueError(
            f"gradient_norm_squared must have the shape of success_probability, {prob.shape}, "
            f"got {norm.shape}"
        )
    success, failure, size = advantages.success, advantages.failure, advantages.group_size
    others = binomial_weights(size - 1, prob)
    single = prob * outcome.success_score_norm_squared * _mean(success[..., 1:] ** 2, others)
    single += (
        (1 - prob) * outcome.failure_score_norm_squared * _mean(failure[..., :-1] ** 2, others)
    )
    if size == 1:
        return single
    alike = success[..., 2:] ** 2 + failure[..., :-2] ** 2
    unlike = success[..., 1:-1] * failure[..., 1:-1]
    pair = _mean(alike - 2 * unlike, binomial_weights(size - 2, prob))
    return single / size + (size - 1) / size * norm * pair


def variance(
    advantages: GroupAdvantages, outcome: OutcomeMoments, gradient_norm_squared: ArrayLike
) -> PerPrompt:
    """Return tr Var ĝ(x) = E‖ĝ‖² − φ²‖g‖², shape (P,); arguments as for `second_moment`.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit
        >>> from ustat_grpo.laws import binary
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])  # ‖g‖² = ⅛
        >>> noise = binary.variance(binary.group_mean(2), coin.moments.outcome, [0.125])
        >>> noise.round(6).tolist()  # a quarter of GRPO's ⅛
        [0.03125]
    """
    second = second_moment(advantages, outcome, gradient_norm_squared)
    squared_mean = _mean_norm_squared(advantages, outcome, gradient_norm_squared)
    return without_rounding(second - squared_mean, second)


def mse(
    advantages: GroupAdvantages, outcome: OutcomeMoments, gradient_norm_squared: ArrayLike
) -> PerPrompt:
    """E‖ĝ(x) − g(x)‖² = E‖ĝ‖² − (2φ − 1)‖g‖², shape (P,); arguments as for `second_moment`.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])  # ‖g‖² = ⅛
        >>> error = laws.binary.mse(laws.binary.grpo(5), coin.moments.outcome, [0.125])
        >>> error.round(6).tolist(), laws.mse.grpo(coin.moments, group_size=5).round(6).tolist()
        ([0.0125], [0.0125])
    """
    second = second_moment(advantages, outcome, gradient_norm_squared)
    factor = 2 * gain(advantages, outcome.success_probability) - 1
    return second - factor * np.asarray(gradient_norm_squared, dtype=float)


def scale_free_error(
    advantages: GroupAdvantages, outcome: OutcomeMoments, gradient_norm_squared: ArrayLike
) -> PerPrompt:
    """The error that no step size changes: tr Var ĝ(x)/‖E ĝ(x)‖², shape (P,).

    Infinite where the mean is zero. Arguments as for `second_moment`.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit
        >>> from ustat_grpo.laws import binary
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])  # ‖g‖² = ⅛
        >>> for advantages in (binary.grpo(2), binary.group_mean(2)):  # a factor is no difference
        ...     error = binary.scale_free_error(advantages, coin.moments.outcome, [0.125])
        ...     print(error.round(6).tolist())
        [1.0]
        [1.0]
    """
    mean = _mean_norm_squared(advantages, outcome, gradient_norm_squared)
    return _ratio(variance(advantages, outcome, gradient_norm_squared), mean)


def effective_sample_size(
    advantages: GroupAdvantages, outcome: OutcomeMoments, gradient_norm_squared: ArrayLike
) -> PerPrompt:
    """The number of outputs from which the oracle would have the same scale-free error.

    With the value as baseline G′ outputs have the scale-free error (τ − ‖g‖²)/(G′‖g‖²), so

        G′ = φ²(τ − ‖g‖²)/tr Var ĝ,   τ = p(1−p)((1−p)s₁ + p·s₀).

    It may exceed G where V(x) is not the best baseline. Infinite where ĝ does not vary. Arguments
    as for `second_moment`.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit
        >>> from ustat_grpo.laws import binary
        >>> tilted = SoftmaxBandit.tabular([0, 1], [[[0.6, 0.4], [0.4, 0.6]]]).at([0, 0]).moments
        >>> norm = tilted.gradient_norm_squared
        >>> size = binary.effective_sample_size(binary.grpo(8), tilted.outcome, norm)
        >>> size.round(2).tolist()  # what the group mean makes of 8 outputs
        [6.93]
    """
    prob = _probability(advantages, outcome.success_probability)
    score_norm = (1 - prob) * outcome.success_score_norm_squared
    score_norm = score_norm + prob * outcome.failure_score_norm_squared
    square = np.asarray(gradient_norm_squared, dtype=float)
    oracle = without_rounding(prob * (1 - prob) * score_norm - square, square)
    spread = variance(advantages, outcome, gradient_norm_squared)
    return _ratio(gain(advantages, prob) ** 2 * oracle, spread)


def limiting_gain(success_probability: ArrayLike) -> Array:
    """1/√(p(1−p)), to which φ_G of the normalised estimators tends; ∞ at p = 0 and 1.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> binary.limiting_gain([0.5, 0.1]).round(3).tolist()  # 1/√¼, 1/0.3
        [2.0, 3.333]
        >>> binary.gain(binary.std_normalised(4096), 0.5).round(3).tolist()
        1.999
    """
    prob = unit_interval("success_probability", success_probability)
    return _ratio(np.ones_like(prob), np.sqrt(prob * (1 - prob)))


def limiting_objective(success_probability: ArrayLike) -> Array:
    """2 arcsin √p, to which F_G of the normalised estimators tends (Proposition 13).

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.laws import binary
        >>> (binary.limiting_objective([0, 0.5, 1]) / np.pi).round(6).tolist()
        [0.0, 0.5, 1.0]
    """
    return 2 * np.arcsin(np.sqrt(unit_interval("success_probability", success_probability)))


def dead_group_probability(success_probability: ArrayLike, group_size: int) -> Array:
    """The probability p^G + (1−p)^G that all rewards of a group are equal.

    Args:
        success_probability: p, shape (...).
        group_size: G.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> dead = binary.dead_group_probability([0.5, 0.1], group_size=2)
        >>> dead.round(6).tolist()  # ¼ + ¼ and 0.01 + 0.81
        [0.5, 0.82]
    """
    prob, size = (
        unit_interval("success_probability", success_probability),
        integer("group_size", group_size),
    )
    return prob**size + (1 - prob) ** size


def _probability(advantages: GroupAdvantages, value: ArrayLike) -> Array:
    """Check p, and that advantages with one row a prompt have as many rows as p entries."""
    prob, rows = unit_interval("success_probability", value), advantages.success.shape[:-1]
    if rows not in ((), prob.shape):
        raise ValueError(
            f"success_probability must have the shape of the prompts in advantages, {rows}, "
            f"got {prob.shape}"
        )
    return prob


def _difference(advantages: GroupAdvantages) -> Array:
    """a₁(j+1) − a₀(j): what success gains one output when j of the others succeed."""
    return advantages.success[..., 1:] - advantages.failure[..., :-1]


def _mean_norm_squared(
    advantages: GroupAdvantages, outcome: OutcomeMoments, gradient_norm_squared: ArrayLike
) -> Array:
    """‖E ĝ(x)‖² = φ²‖g‖²."""
    factor = gain(advantages, outcome.success_probability)
    return factor**2 * np.asarray(gradient_norm_squared, dtype=float)


def _mean(values: Array, weights: Array) -> Array:
    return np.einsum("...j,...j->...", weights, values)


def _ratio(numerator: Array, denominator: Array) -> Array:
    infinite = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.inf)
    return np.divide(numerator, denominator, out=infinite, where=denominator > 0)
