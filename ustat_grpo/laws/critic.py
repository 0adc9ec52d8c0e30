"""What a critic V̂(x) costs a gradient, and when it is worth having one.

A baseline V̂(x) that is free of the outputs has the oracle's error plus `excess`/G. GRPO has the
oracle's error plus (sσ² + ‖g‖²)/(G(G−1)). Notation as in `ustat_grpo.laws.mse`.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import leave_one_out_group_size, numbers, without_rounding
from ustat_grpo.laws import mse
from ustat_grpo.moments import Moments, NoiseComponents

Errors = Float[Array, " P"]


def excess(moments: Moments, prediction: ArrayLike) -> Errors:
    """Return e²s + 2(V − V̂)m with e = V̂ − V: G times what a given V̂ adds to the oracle's error.

    Over critics without bias, E[V̂∣x] = V, the second term is 0 on average. A given critic that is
    nearer to b* = V + m/s than V is costs less than nothing: it does better than the oracle.

    Args:
        moments: of the problem.
        prediction: V̂(x), shape (P,).

    Returns:
        One number a prompt, shape (P,).

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])  # V = s = ½, m = 0
        >>> laws.critic.excess(coin.moments, [0.7]).round(6).tolist()  # (0.7 − 0.5)²·½
        [0.02]
    """
    error = numbers("prediction", prediction) - moments.value
    of_critic = mse.critic(moments, group_size=1, mean_error=error, mean_square_error=error**2)
    return of_critic - mse.oracle(moments, group_size=1)


def break_even_error(moments: Moments, *, group_size: int) -> Errors:
    """Return the RMSE below which a learned critic beats the group mean of the same (B, G).

    A critic with E(V̂−V)² = e², independent of the outputs and unbiased (or with m = 0), adds e²s/G
    to the oracle's error where the group mean adds (sσ² + ‖g‖²)/(G(G−1)); they are equal at
    e = σ√((1 + ‖g‖²/(sσ²))/(G−1)), shape (P,). Infinite where the policy is certain (s = 0), since
    no baseline matters there. For a given critic see `excess`.

    Raises:
        ValueError: if `group_size` is below 2.

    Examples:
        A prompt with a wrong and a right answer, equally likely: sσ² + ‖g‖² = ¼, s = ½.

        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])
        >>> laws.critic.break_even_error(coin.moments, group_size=3).round(6).tolist()  # √(½/2)
        [0.5]
    """
    others = leave_one_out_group_size(group_size) - 1
    norm = moments.score_norm_squared
    square = np.divide(
        moments.residual_norm_squared, norm, out=np.full_like(norm, np.inf), where=norm > 0
    )
    return np.sqrt(square / others)


def break_even_group_size(moments: Moments, prediction: ArrayLike) -> float:
    """Return the G from which on GRPO does as well as the critic of the same (B, G).

    1 + c₃/E[excess]; infinite for a critic that is no worse than the oracle.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])  # c₃ = ¼, s = ½
        >>> round(laws.critic.break_even_group_size(coin.moments, [0.75]), 6)  # 1 + ¼/(¼²·½)
        9.0
    """
    probs, added = moments.prompt_probs, excess(moments, prediction)
    total = float(without_rounding(probs @ added, probs @ np.abs(added)))
    return 1 + moments.noise.residual / total if total > 0 else np.inf


def tolerable_excess(noise: NoiseComponents, *, group_size: int) -> float:
    """Return the mean excess at which N prompts with one output each do as well as GRPO at N = B·G.

    c₁(G−1) + c₃/(G−1): one output a prompt also saves prompt noise, so the critic may be worse than
    `break_even_error` says. The least over G is 2√(c₁c₃), at G* = 1 + √(c₃/c₁).

    Raises:
        ValueError: if `group_size` is below 2.

    Examples:
        >>> from ustat_grpo import NoiseComponents, laws
        >>> noise = NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0)
        >>> laws.critic.tolerable_excess(noise, group_size=4)  # 1·3 + 9/3
        6.0
    """
    others = leave_one_out_group_size(group_size) - 1
    return noise.prompt * others + noise.residual / others
