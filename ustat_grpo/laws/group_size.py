"""Which group size? Consequences of MSE(B, G) = c₁/B + c₂/(BG) + c₃/(BG(G−1)).

At a fixed budget N = BG the error is (c₁G + c₂ + c₃/(G−1))/N: many prompts fight the prompt noise
c₁, large groups the residual noise c₃ (Theorem 7 with its constants exact).
"""

from math import isqrt
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.polynomial import Polynomial

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import first_smallest, integer, real, without_rounding
from ustat_grpo.moments import Moments, NoiseComponents


class GroupSizeRange(NamedTuple):
    """A closed interval of group sizes.

    Examples:
        >>> from ustat_grpo import NoiseComponents, laws
        >>> noise = NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0)  # G* = 4
        >>> interval = laws.group_size.near_optimal(noise)  # within 5 % of the least error
        >>> round(interval.low, 1), round(interval.high, 1)
        (3.0, 5.4)
    """

    low: float
    high: float


def error_at_budget(noise: NoiseComponents, *, group_size: float, budget: float) -> float:
    """Return (c₁G + c₂ + c₃/(G−1))/N, the error of GRPO with N = BG outputs; G may be real.

    Examples:
        >>> from ustat_grpo import NoiseComponents, laws
        >>> noise = NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0)
        >>> laws.group_size.error_at_budget(noise, group_size=4, budget=36)  # (4 + 2 + 3)/36
        0.25
    """
    size = real("group_size", group_size, above=1.0)
    numerator = noise.prompt * size + noise.oracle + noise.residual / (size - 1)
    return numerator / real("budget", budget, above=0.0)


def optimal(noise: NoiseComponents) -> float:
    """Return G* = 1 + √(c₃/c₁), the group size of least error at any fixed budget.

    Without prompt noise more outputs are always better: G* = ∞.

    Note:
        Theorem 7 has √(c₃/c₁), the limit for large G: its proof replaces G(G−1) by G². The exact
        value is never below 1 + √2: ‖g(x)‖² ≤ sσ² (Cauchy–Schwarz) gives c₃ ≥ 2c₁.

    Examples:
        >>> from ustat_grpo import NoiseComponents, laws
        >>> laws.group_size.optimal(NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0))  # 1 + √9
        4.0
    """
    if noise.prompt == 0:
        return np.inf
    return 1 + float(np.sqrt(noise.residual / noise.prompt))


def near_optimal(noise: NoiseComponents, *, tolerance: float = 0.05) -> GroupSizeRange:
    """Return the interval of G whose error is within `tolerance` of the best, relative.

    With u = G − 1: c₁u + c₃/u ≤ (1+tolerance)·M − c₁ − c₂, M the least value of
    c₁G + c₂ + c₃/(G−1). The interval is symmetric on a log scale in G − 1, and flat: tens of
    per cent of tolerance buy a factor of several in G.

    Raises:
        ValueError: if `tolerance` is not positive.

    Examples:
        >>> from ustat_grpo import NoiseComponents, laws
        >>> noise = NoiseComponents(prompt=1.0, oracle=0.0, residual=16.0)  # G* = 5
        >>> low, high = laws.group_size.near_optimal(noise, tolerance=2 / 9)  # where u + 16/u ≤ 10
        >>> round(low, 6), round(high, 6)
        (3.0, 9.0)
    """
    slack = real("tolerance", tolerance, above=0.0)
    if noise.prompt == 0:
        # The error falls in G toward c₂/N: the interval begins where c₃/u ≤ tolerance·c₂.
        low = np.inf if noise.oracle == 0 else 1 + noise.residual / (slack * noise.oracle)
        return GroupSizeRange(low, np.inf)
    root = np.sqrt(noise.prompt * noise.residual)
    least = noise.prompt + noise.oracle + 2 * root
    half = root + slack * least / 2
    # The roots multiply to c₃/c₁: take the larger, where nothing cancels, and divide.
    high = (half + np.sqrt(half**2 - root**2)) / noise.prompt
    low = noise.residual / noise.prompt / high
    return GroupSizeRange(1 + float(low), 1 + float(high))


def best_divisor(noise: NoiseComponents, *, budget: int) -> int:
    """Return the G ≥ 2 that divides N = BG and has the least error; of two that tie the smaller.

    Raises:
        ValueError: if `budget` is below 2, or above 2⁵³.

    Examples:
        >>> from ustat_grpo import NoiseComponents, laws
        >>> noise = NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0)  # G* = 4
        >>> [laws.group_size.best_divisor(noise, budget=N) for N in (10, 12, 14)]
        [5, 4, 7]
    """
    sizes = divisors(integer("budget", budget, at_least=2, at_most=2**53))[1:]
    return sizes[int(first_smallest([_numerator(noise, size) for size in sizes]))]


def divisors(budget: int) -> list[int]:
    """Return every divisor of a budget, from 1 to itself.

    Raises:
        ValueError: if `budget` is below 1, or above 2⁵³: they are found one by one.

    Examples:
        >>> from ustat_grpo import laws
        >>> laws.group_size.divisors(12)
        [1, 2, 3, 4, 6, 12]
    """
    total = integer("budget", budget, at_least=1, at_most=2**53)
    small = [size for size in range(1, isqrt(total) + 1) if total % size == 0]
    return sorted({*small, *(total // size for size in small)})


def cost_aware(noise: NoiseComponents, *, cost_per_prompt: float, cost_per_output: float) -> float:
    """Return the G of least error at a fixed cost B(a + bG) a step.

    Minimises (c₁ + c₂/G + c₃/(G(G−1)))(a + bG) over G > 1; a > 0 (prefill, say) pushes G* up.
    The stationary points are the roots of a quartic.

    Args:
        noise: the components.
        cost_per_prompt: a, not negative.
        cost_per_output: b, positive, in the same unit.

    Raises:
        ValueError: if a cost has the wrong sign, or c₃ = 0.

    Examples:
        >>> from ustat_grpo import NoiseComponents, laws
        >>> noise = NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0)
        >>> for prefill in (0, 10):  # in units of the cost of an output
        ...     G = laws.group_size.cost_aware(noise, cost_per_prompt=prefill, cost_per_output=1)
        ...     print(prefill, round(G, 2))
        0 4.0
        10 7.77
    """
    fixed = real("cost_per_prompt", cost_per_prompt)
    if fixed < 0:
        raise ValueError(f"cost_per_prompt must not be negative, got {cost_per_prompt!r}")
    variable = real("cost_per_output", cost_per_output, above=0.0)
    real("noise.residual", noise.residual, above=0.0)
    if noise.prompt == 0:
        return np.inf  # the product then falls in G toward b·c₂
    pairs = Polynomial([0.0, -1.0, 1.0])  # G(G−1)
    top = noise.prompt * pairs + noise.oracle * Polynomial([-1.0, 1.0]) + noise.residual
    top = top * Polynomial([fixed, variable])
    candidates = (top.deriv() * pairs - top * pairs.deriv()).roots().real
    candidates = candidates[candidates > 1]
    return float(candidates[np.argmin(top(candidates) / pairs(candidates))])


def vanilla_crossover(moments: Moments) -> Float[Array, " P"]:
    """Return, at each prompt, the G above which GRPO has a smaller error than vanilla.

    G = 1 + (sσ² + ‖g‖²)/(V²s + 2Vm), shape (P,); ∞ where vanilla is at least as good for every G.
    For 0/1 rewards of small signal it is near 1/V: on prompts solved less than once a group
    REINFORCE has the smaller error. Corollary 5 is asymptotic and does not see this.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]])  # wrong or right
        >>> laws.group_size.vanilla_crossover(coin.at([0, 0]).moments).round(6).tolist()  # 1 + ¼/⅛
        [3.0]
        >>> hard = SoftmaxBandit.tabular([0, 1], [[[0.9, 0.1], [0.9, 0.1]]])  # whatever is answered
        >>> laws.group_size.vanilla_crossover(hard.at([0, 0]).moments).round(6).tolist()  # 1/V
        [10.0]
    """
    gain = _vanilla_excess(moments)
    ratio = np.full_like(gain, np.inf)
    np.divide(moments.residual_norm_squared, gain, out=ratio, where=gain > 0)
    return 1 + ratio


def vanilla_crossover_minibatch(moments: Moments) -> float:
    """Return the G above which GRPO beats vanilla over i.i.d. prompts: 1 + c₃/E[V²s + 2Vm].

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> coins = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]] * 2)  # two prompts
        >>> moments = coins.at([0, 0, 3, 0]).moments  # V = ½ and V = 0.05
        >>> round(laws.group_size.vanilla_crossover_minibatch(moments), 2)
        2.94
    """
    gain = float(moments.prompt_probs @ _vanilla_excess(moments))
    return 1 + moments.noise.residual / gain if gain > 0 else np.inf


def _numerator(noise: NoiseComponents, size: int) -> float:
    return noise.prompt * size + noise.oracle + noise.residual / (size - 1)


def _vanilla_excess(moments: Moments) -> Float[Array, " P"]:
    """G times (vanilla's error less the oracle's): V²s + 2Vm, 0 where the two cancel."""
    value = moments.value
    cross = 2 * value * moments.score_norm_reward_covariance
    square = value**2 * moments.score_norm_squared
    return without_rounding(square + cross, square)
