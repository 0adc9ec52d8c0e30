"""Moments of score and reward at every prompt from a pool of outputs, with their error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from ustat_grpo.inputs.arrays import Array, Booleans
from ustat_grpo.moments import Moments, OutcomeMoments
from ustat_grpo.pools.prompt_pools import NUM_BLOCKS, Pool, PromptPool


@dataclass(frozen=True, eq=False)
class MeasuredMoments:
    """Moments from a whole pool, and from the pool without one part, for each of K parts.

    Args:
        moments: from the whole pool.
        left_out: without each part.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.pools import Pool, PromptPool, pool_moments
        >>> rewards = np.tile([1.0, 0.0], 16)  # 32 outputs, W = Z − ½
        >>> prompt = PromptPool(np.outer([1, -1], [1, -1]) / 4, np.tile([0, 1], 16), rewards)
        >>> measured = pool_moments(Pool([prompt], gradient_products=np.full((16, 16), 1 / 16)))
        >>> value, std_error = measured.estimate(lambda moments: float(moments.value[0]))
        >>> value, round(std_error, 3)  # 16 parts, of which 8 have successes only: √(¼/15)
        (0.5, 0.129)
    """

    moments: Moments
    left_out: Sequence[Moments]

    def estimate(self, statistic: Callable[[Moments], float]) -> tuple[float, float]:
        """Return a statistic and its standard error by the delete-a-part jackknife.

        The bias of order 1/M that a nonlinear statistic has is removed. The error is that of the
        outputs: the prompts are taken as given.

        Reference: Shao & Tu, The Jackknife and Bootstrap (1995), section 2.3.
        """
        whole = statistic(self.moments)
        parts = np.array([statistic(moments) for moments in self.left_out])
        count = len(parts)
        corrected = count * whole - (count - 1) * parts.mean()
        return float(corrected), float(np.sqrt((count - 1) * parts.var()))


def pool_moments(pool: Pool) -> MeasuredMoments:
    """Return the moments of every prompt of a pool, each prompt with weight 1/P.

    With the exact-match reward see `exact_match_moments`; with other rewards all moments are
    U-statistics of the pool, unbiased one by one.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.pools import Pool, PromptPool, pool_moments
        >>> rewards = np.tile([1.0, 0.0], 16)  # 32 outputs, W = Z − ½
        >>> prompt = PromptPool(np.outer([1, -1], [1, -1]) / 4, np.tile([0, 1], 16), rewards)
        >>> moments = pool_moments(Pool([prompt], np.full((16, 16), 1 / 16))).moments
        >>> moments.value.tolist(), moments.score_norm_squared.tolist()
        ([0.5], [0.25])
        >>> moments.reward_variance.round(4).tolist()  # with ddof 1: ¼ · 32/31
        [0.2581]
    """
    if not pool.exact:
        whole = _sampled(pool, None)
        return MeasuredMoments(whole, [_sampled(pool, block) for block in range(NUM_BLOCKS)])
    return exact_match_moments(
        np.array([prompt.value for prompt in pool.prompts]),
        np.array([prompt.gram[prompt.solution, prompt.solution] for prompt in pool.prompts]),
        np.array([prompt.norms for prompt in pool.prompts]),
        np.array([prompt.rewards == 0 for prompt in pool.prompts]),
        pool.gradient_products.item(),
    )


def exact_match_moments(
    value: Float[Array, " P"],
    solution_norms: Float[Array, " P"],
    norms: Float[Array, "P M"],
    failed: Bool[Booleans, "P M"],
    objective_gradient_norm_squared: float,
) -> MeasuredMoments:
    """Return the moments of every prompt when one output is right.

    V, σ², ‖g(x)‖², E[‖W‖²∣Z=1] and c₁ are exact; all that is measured is u = E[‖W‖²1{Z=0}∣x], in
    which s = V·E[‖W‖²∣Z=1] + u, τ and m are linear.

    Args:
        value: V(x), exact.
        solution_norms: ‖W‖² of the solution.
        norms: ‖W_i‖² of M sampled outputs to every prompt.
        failed: which of them are wrong.
        objective_gradient_norm_squared: ‖∇J‖², exact.
    """

    def moments(block: int | None) -> Moments:
        kept = _kept(norms.shape[1], block)
        failure = _failure_norms(norms[:, kept], failed[:, kept], value)
        return _exact(value, solution_norms, failure, objective_gradient_norm_squared)

    return MeasuredMoments(moments(None), [moments(block) for block in range(NUM_BLOCKS)])


def _kept(count: int, block: int | None) -> NDArray[np.bool_]:
    """Return which outputs remain when a part is left out."""
    kept = np.ones(count, dtype=bool)
    if block is not None:
        kept[block::NUM_BLOCKS] = False
    return kept


def _failure_norms(
    norms: Float[Array, "P M"], failed: Bool[Booleans, "P M"], value: Array
) -> Float[Array, " P"]:
    """Return E[‖W‖²1{Z=0}∣x] at every prompt, unbiased.

    The mean of (‖W‖² − c)1{Z=0} plus c·(1 − V), with c from the *other* prompts: the number of
    failures in the pool, whose expectation is known, adds little noise, and a prompt that never
    failed in the pool is no special case.
    """
    sums, counts = (norms * failed).sum(axis=1), failed.sum(axis=1)
    others = counts.sum() - counts
    typical = np.divide(sums.sum() - sums, others, out=np.zeros(len(sums)), where=others > 0)
    return ((norms - typical[:, None]) * failed).mean(axis=1) + typical * (1 - value)


def _exact(value: Array, success: Array, failure: Array, objective_norm: float) -> Moments:
    gradient, fails = value**2 * success, 1 - value
    return Moments(
        prompt_probs=np.full(len(value), 1 / len(value)),
        value=value,
        reward_variance=value * fails,
        score_norm_squared=value * success + failure,
        oracle_norm_squared=value * fails**2 * success + value**2 * failure,
        score_norm_reward_covariance=value * (fails * success - failure),
        gradient_norm_squared=gradient,
        prompt_noise=max(float(gradient.mean()) - objective_norm, 0.0),  # rounding may pass zero
        outcome=OutcomeMoments(
            value, success, np.divide(failure, fails, out=np.zeros_like(value), where=fails > 0)
        ),
    )


def _sampled(pool: Pool, block: int | None) -> Moments:
    rows = np.array(
        [_u_statistics(prompt, _kept(len(prompt.rewards), block)) for prompt in pool.prompts]
    )
    value, variance, norm, oracle, covariance, gradient = rows.T
    kept = _kept(len(pool.gradient_products), block)
    products = pool.gradient_products[np.ix_(kept, kept)]
    count = len(products)
    objective = (products.sum() - products.trace()) / (count * (count - 1))
    return Moments(
        prompt_probs=np.full(len(value), 1 / len(value)),
        value=value,
        reward_variance=variance,
        score_norm_squared=norm,
        oracle_norm_squared=oracle,
        score_norm_reward_covariance=covariance,
        gradient_norm_squared=gradient,
        prompt_noise=float(gradient.mean() - objective),
    )


def _u_statistics(prompt: PromptPool, kept: NDArray[np.bool_]) -> tuple[float, ...]:
    """Return V, σ², s, τ, m and ‖g(x)‖², each unbiased.

    τ averages ‖W_i‖²(Z_i − Z_j)(Z_i − Z_k) over distinct i, j, k; ‖g(x)‖² averages
    W_i·W_j (Z_i − C)(Z_j − C) over i ≠ j, C the mean of all other rewards.
    """
    norms, offset = prompt.norms[kept], prompt.rewards[kept][0]
    # All but V are the same for Z − c; squares of a large offset would cancel. Exact for 0/1.
    rewards = prompt.rewards[kept] - offset
    count, total = len(rewards), rewards.sum()
    from_others = count * rewards - total  # Σ_j (Z_i − Z_j)
    squares = count * rewards**2 - 2 * rewards * total + (rewards**2).sum()
    oracle = norms @ (from_others**2 - squares) / (count * (count - 1) * (count - 2))
    others = (total - rewards[:, None] - rewards) / (count - 2)
    pairs = (rewards[:, None] - others) * (rewards - others) * prompt.products[np.ix_(kept, kept)]
    return (
        offset + total / count,
        rewards.var(ddof=1),
        norms.mean(),
        oracle,
        norms @ from_others / (count * (count - 1)),
        (pairs.sum() - pairs.trace()) / (count * (count - 1)),
    )
