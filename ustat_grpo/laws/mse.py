"""Exact mean squared error of each estimator's gradient, one function per estimator.

Each law takes the `Moments` of a problem and a group size G and returns E‖ĝ(x) − g(x)‖² at every
prompt, shape (P,): no O(·), no asymptotics. Notation: s = E‖W‖², σ² = Var Z, τ = E‖W‖²A²,
m = E‖W‖²A with A = Z − V, all given x; their derivations stand in `theory/`.
`minibatch` turns the per-prompt errors into that of a whole minibatch.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import (
    ROUNDING,
    integer,
    leave_one_out_group_size,
    not_negative,
    numbers,
    real,
)
from ustat_grpo.moments import Moments

Errors = Float[Array, " P"]


def oracle(moments: Moments, *, group_size: int) -> Errors:
    """Error with the value as baseline: (τ − ‖g‖²)/G (Theorem 2's leading term).

    Examples:
        A prompt with a wrong and a right answer, equally likely: W ∝ A.

        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])
        >>> laws.mse.oracle(coin.moments, group_size=4).round(6).tolist()  # no noise
        [0.0]
    """
    return _prompt_only(moments, group_size, moments.value)


def vanilla(moments: Moments, *, group_size: int) -> Errors:
    """Error without a baseline: (τ + 2Vm + V²s − ‖g‖²)/G.

    Examples:
        A prompt with a wrong and a right answer, equally likely: V = s = ½, τ = ‖g‖² = ⅛.

        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])
        >>> laws.mse.vanilla(coin.moments, group_size=4).round(6).tolist()  # V²s/G
        [0.03125]
    """
    return _prompt_only(moments, group_size, 0.0)


def constant_baseline(moments: Moments, *, group_size: int, baseline: float) -> Errors:
    """Error with one baseline c for all prompts: (τ + 2(V−c)m + (V−c)²s − ‖g‖²)/G.

    Examples:
        A prompt with a wrong and a right answer, equally likely: V = s = ½, τ = ‖g‖² = ⅛.

        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])
        >>> laws.mse.constant_baseline(coin.moments, group_size=2, baseline=1.0).round(6).tolist()
        [0.0625]
    """
    return _prompt_only(moments, group_size, real("baseline", baseline))


def optimal_baseline(moments: Moments, *, group_size: int) -> Errors:
    """Error with the best prompt-only baseline b* = V + m/s: (τ − m²/s − ‖g‖²)/G.

    Reference: Greensmith, Bartlett & Baxter, JMLR 5 (2004), for b*.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]])  # wrong or right
        >>> rare = coin.at([np.log(9), 0]).moments  # V = 0.1, ‖W‖² = 1.62 or 0.02
        >>> laws.mse.oracle(rare, group_size=1).round(6).tolist()
        [0.1152]
        >>> abs(laws.mse.optimal_baseline(rare, group_size=1)).round(6).tolist()  # b* = 0.9
        [0.0]
    """
    norm = moments.score_norm_squared
    shift = np.divide(
        moments.score_norm_reward_covariance, norm, out=np.zeros_like(norm), where=norm > 0
    )
    return _prompt_only(moments, group_size, moments.value + shift)


def grpo(moments: Moments, *, group_size: int) -> Errors:
    """Error with the leave-one-out mean: (τ − ‖g‖²)/G + (sσ² + ‖g‖²)/(G(G−1)).

    Theorem 2 states the second term as O(E‖W‖²/G²); this is its exact value, the variance of the
    degenerate part of the U-statistic of Lemma 1.

    Raises:
        ValueError: if `group_size` is below 2.

    Examples:
        A prompt with a wrong and a right answer, equally likely: sσ² = ⅛, τ = ‖g‖² = ⅛.

        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])
        >>> laws.mse.grpo(coin.moments, group_size=2).round(6).tolist()  # (⅛ + ⅛)/(2·1)
        [0.125]
        >>> laws.mse.grpo(coin.moments, group_size=5).round(6).tolist()  # (⅛ + ⅛)/(5·4)
        [0.0125]
    """
    size = leave_one_out_group_size(group_size)
    first_order = oracle(moments, group_size=size)
    return first_order + moments.residual_norm_squared / (size * (size - 1))


def group_mean(moments: Moments, *, group_size: int) -> Errors:
    """Error with the mean of the whole group: ((G−1)/G)²·MSE_GRPO + ‖g‖²/G².

    The estimator is (G−1)/G times GRPO's (see `group_mean_gain`), so it trades bias for variance.

    Raises:
        ValueError: if `group_size` is below 2.

    Examples:
        A prompt with a wrong and a right answer, equally likely: ‖g‖² = ⅛, GRPO has ⅛.

        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])
        >>> laws.mse.group_mean(coin.moments, group_size=2).round(6).tolist()  # (½)²·⅛ + ⅛/2²
        [0.0625]
    """
    gain = group_mean_gain(group_size)
    bias = moments.gradient_norm_squared * (1 - gain) ** 2
    return gain**2 * grpo(moments, group_size=group_size) + bias


def shrinkage(
    moments: Moments, *, group_size: int, weight: float, target: ArrayLike = 0.0
) -> Errors:
    """Error with the baseline (1−λ)Z̄^(−i) + λc, c free of the group.

    (τ + 2λ(V−c)m + λ²(V−c)²s − ‖g‖²)/G + (1−λ)²(sσ² + ‖g‖²)/(G(G−1)).

    Args:
        moments: of the problem.
        group_size: G, at least 2.
        weight: λ.
        target: c, one number or one for each prompt, shape (P,).

    Raises:
        ValueError: if `group_size` is below 2, or a number is not finite.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])  # V = ½
        >>> for weight in (0.0, 0.5, 1.0):  # from GRPO's error, toward a target that is right
        ...     error = laws.mse.shrinkage(coin.moments, group_size=2, weight=weight, target=0.5)
        ...     print(weight, error.round(5).tolist())
        0.0 [0.125]
        0.5 [0.03125]
        1.0 [0.0]
    """
    size = leave_one_out_group_size(group_size)
    weight = real("weight", weight)
    shrunk = moments.value + weight * (numbers("target", target) - moments.value)
    first_order = _prompt_only(moments, size, shrunk)
    return first_order + (1 - weight) ** 2 * moments.residual_norm_squared / (size * (size - 1))


def critic(
    moments: Moments, *, group_size: int, mean_error: ArrayLike, mean_square_error: ArrayLike
) -> Errors:
    """Error with a predicted value as baseline: the oracle's + (e²s − 2m·E[V̂−V])/G.

    Holds for any V̂ that is independent of the outputs given x, random or not.

    Args:
        moments: of the problem.
        group_size: G.
        mean_error: E[V̂(x) − V(x)], one number or shape (P,).
        mean_square_error: e² = E(V̂(x) − V(x))², one number or shape (P,).

    Raises:
        ValueError: if a mean square error is less than the square of the mean error, or a number
            is not finite.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])  # s = ½, m = 0
        >>> error = laws.mse.critic(
        ...     coin.moments, group_size=2, mean_error=0.0, mean_square_error=0.04
        ... )
        >>> error.round(6).tolist()  # e²s/G
        [0.01]
    """
    bias = numbers("mean_error", mean_error)
    square = numbers("mean_square_error", mean_square_error)
    least = bias**2
    if not (square >= least * (1 - ROUNDING)).all():  # equal up to rounding where V̂ is certain
        raise ValueError(
            "mean_square_error must not be less than the square of mean_error, "
            f"got a difference of {np.min(square - least):g}"
        )
    added = square * moments.score_norm_squared - 2 * bias * moments.score_norm_reward_covariance
    return oracle(moments, group_size=group_size) + added / group_size


def greedy_baseline(
    moments: Moments, *, group_size: int, mean: ArrayLike, variance: ArrayLike
) -> Errors:
    """Error with the reward r of another, most likely output: that of b = E r, plus Var(r)s/G.

    Args:
        moments: of the problem.
        group_size: G.
        mean: E[r∣x], the mean reward of the most likely output, one number or shape (P,).
        variance: Var(r∣x), 0 where its reward is certain, one number or shape (P,).

    Raises:
        ValueError: if a variance is negative, or a number is not finite.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])  # V = s = ½
        >>> for mean, variance in ((0.5, 0.0), (0.5, 0.25), (1.0, 0.0)):  # V, a coin, a success
        ...     error = laws.mse.greedy_baseline(
        ...         coin.moments, group_size=2, mean=mean, variance=variance
        ...     )
        ...     print(mean, variance, error.round(6).tolist())
        0.5 0.0 [0.0]
        0.5 0.25 [0.0625]
        1.0 0.0 [0.0625]

    Reference:
        Li et al., ReMax (arXiv 2310.10505).
    """
    reward = numbers("mean", mean)
    bias = reward - moments.value
    scale = 1.0 + np.square(reward)  # E r², of which a variance is a difference
    spread = not_negative("variance", numbers("variance", variance), scale=scale)
    return critic(
        moments, group_size=group_size, mean_error=bias, mean_square_error=spread + bias**2
    )


def group_mean_gain(group_size: int) -> float:
    """Return (G−1)/G, the factor between the mean of the group-mean estimator and g(x).

    Examples:
        >>> from ustat_grpo import laws
        >>> laws.mse.group_mean_gain(4)
        0.75
    """
    size = leave_one_out_group_size(group_size)
    return (size - 1) / size


def minibatch(
    errors: ArrayLike, moments: Moments, *, batch_size: int | None, gain: float = 1.0
) -> float:
    """Turn per-prompt errors into the error of a minibatch: E‖ĝ − g‖² (Proposition 3, exact).

    With B i.i.d. prompts, ĝ the mean of the B gradients, and E[ĝ(x)] = αg(x),

        MSE = (E[MSE(X)] + (2α−1)c₁)/B + (1 − 1/B)(1−α)²‖g‖²,

    which is (E[MSE(X)] + c₁)/B for an unbiased estimator. With `batch_size=None` every prompt is
    taken once, ĝ = Σ f(x)ĝ(x), the paper's aggregate over its question set; prompt noise is gone:

        MSE = Σ f(x)²(MSE(x) − (1−α)²‖g(x)‖²) + (1−α)²‖g‖².

    Args:
        errors: E‖ĝ(x) − g(x)‖² at each prompt, shape (P,), from a law of this module.
        moments: of the same problem.
        batch_size: B, or None for every prompt once.
        gain: α; 1 for unbiased estimators, `group_mean_gain(G)` for the group mean.

    Raises:
        ValueError: if `batch_size` is not positive, or an error or the gain is not finite.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coins = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]] * 2).at([0] * 4)  # c₁ = 1/16
        >>> errors = laws.mse.grpo(coins.moments, group_size=2)  # ⅛ at both prompts
        >>> round(laws.mse.minibatch(errors, coins.moments, batch_size=3), 6)  # (⅛ + 1/16)/3
        0.0625
        >>> round(laws.mse.minibatch(errors, coins.moments, batch_size=None), 6)  # ⅛/2: c₁ is gone
        0.0625
    """
    probs = moments.prompt_probs
    per_prompt, gain = numbers("errors", errors), real("gain", gain)
    bias = (1 - gain) ** 2
    if batch_size is None:
        variance = per_prompt - bias * moments.gradient_norm_squared
        return float(probs**2 @ variance + bias * moments.objective_gradient_norm_squared)
    size = integer("batch_size", batch_size)
    single = probs @ per_prompt + (2 * gain - 1) * moments.prompt_noise
    shared = (1 - 1 / size) * bias * moments.objective_gradient_norm_squared
    return float(single / size + shared)


def _prompt_only(
    moments: Moments, group_size: int, baseline: NDArray[np.float64] | float
) -> Errors:
    """(τ + 2(V−b)m + (V−b)²s − ‖g‖²)/G, for any baseline b(x) that ignores the outputs."""
    size = integer("group_size", group_size)
    offset = moments.value - baseline
    second_moment = (
        moments.oracle_norm_squared
        + 2 * offset * moments.score_norm_reward_covariance
        + offset**2 * moments.score_norm_squared
    )
    return (second_moment - moments.gradient_norm_squared) / size
