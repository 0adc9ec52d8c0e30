"""What is measured of a batch, and what no batch of outputs can give, whatever the policy.

With the weights a_i of GRPO's gradient, known from the rewards, and S = Σ_c ĝ_c over a batch
of prompts, of which ‖S‖² = Σ_c p_c,

    2 max_i |a_i|‖W_i‖ − Σ_i |a_i|‖W_i‖ ≤ ‖ĝ_b‖ ≤ Σ_i |a_i|‖W_i‖      (a sum of vectors)
    Σ_c p_c ≥ 0,   |p_b| ≤ ‖ĝ_b‖‖S‖                                   (Cauchy–Schwarz)
    r_b ≤ Σ_{c≠b} r_c,   r_b² = ‖ĝ_b‖² − p_b²/‖S‖²                    (what is orthogonal to S adds
                                                                       up to zero)

In particular ‖ĝ_b‖ = 0 where all rewards of a prompt are equal. The last two lines are all there is
to know of products: if they hold, some vectors have these norms and products.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from ustat_grpo.inputs.arrays import Array, Booleans, Integers, exponent_of
from ustat_grpo.noise.groups import FlatGroups

DIGITS = 0.05
"""What two significant digits of every norm and product leave open, relative."""

REWARD_DIGITS = 0.01
"""What three digits of two rewards leave open, relative to the largest of a prompt."""

SINGLE = 2.0**-20
"""Some roundings in single precision, relative to the largest of all."""

_LARGEST = 900  # doubles end at 2^±1022, and some room is left for sums and ratios


@dataclass(frozen=True, eq=False)
class Measured:
    """What is measured of a batch, in units of its own.

    Args:
        groups: of the rewards.
        score_norms: ‖W_i‖², shape (n,).
        gradient_norms: q, shape (B,).
        gradient_products: p, shape (B,).
        exponent: e: noise components are to be multiplied by 2ᵉ.
    """

    groups: FlatGroups
    score_norms: Float[Array, " n"]
    gradient_norms: Float[Array, " B"]
    gradient_products: Float[Array, " B"]
    exponent: int = 0


def in_own_units(measured: Measured) -> Measured:
    """Return measurements in units in which nothing under- or overflows.

    Raises:
        ValueError: if the noise components themselves would.
    """
    of_rewards, of_norms = exponent_of(measured.groups.rewards), exponent_of(measured.score_norms)
    whole = 2 * of_rewards + of_norms
    if max(abs(of_rewards), abs(of_norms), abs(whole)) > _LARGEST:
        raise ValueError(
            "rewards and score_norms must be of a size at which products of theirs are doubles, "
            f"got a largest of {np.abs(measured.groups.rewards).max():g} and "
            f"{measured.score_norms.max():g}: measure in other units"
        )
    with np.errstate(over="ignore"):  # a gradient that is far too long is refused later
        return Measured(
            groups=replace(measured.groups, rewards=np.ldexp(measured.groups.rewards, -of_rewards)),
            score_norms=np.ldexp(measured.score_norms, -of_norms),
            gradient_norms=np.ldexp(measured.gradient_norms, -whole),
            gradient_products=np.ldexp(measured.gradient_products, -whole),
            exponent=whole,
        )


def impossible(
    measured: Measured, batch: Int[Integers, " B"]
) -> tuple[str, Float[Array, " B"], Float[Array, " B"], Booleans] | None:
    """Return the first thing that cannot be: what, the values, their bounds, and where; or None.

    Args:
        measured: what was measured.
        batch: the number of each prompt's batch, shape (B,).
    """
    for what, values, bounds, wrong in _inequalities(measured, batch):
        if wrong.any():
            return what, values, bounds, wrong
    return None


def _inequalities(
    measured: Measured, batch: Int[Integers, " B"]
) -> Iterator[tuple[str, Array, Array, Booleans]]:
    groups, length = measured.groups, np.sqrt(measured.gradient_norms)
    least, most, slack = length_bounds(measured)
    dead = groups.totals(np.abs(groups.centred)) == 0
    yield DEAD, length**2, 0 * length, dead & (length > slack)
    yield TOO_LONG, length**2, most**2, length > (1 + DIGITS) * most + slack
    short = length < (1 - DIGITS) * least - DIGITS * most - slack
    yield TOO_SHORT, length**2, least**2, short
    yield from _of_products(measured, length, slack, batch)


def _of_products(
    measured: Measured, length: Array, slack: Array, batch: Int[Integers, " B"]
) -> Iterator[tuple[str, Array, Array, Booleans]]:
    products = measured.gradient_products

    def of_batch(values: Array) -> Array:
        return np.bincount(batch, values)[batch].astype(np.float64)

    whole, rounding = of_batch(products), of_batch(SINGLE * length + slack)
    unsure = DIGITS * of_batch(np.abs(products)) + rounding**2
    yield NEGATIVE, whole, 0 * whole, whole < -unsure
    of_sum = np.sqrt(np.maximum(whole + unsure, 0.0))
    bound = ((1 + DIGITS) * length + slack) * (of_sum + rounding)
    yield TOO_LARGE, products, length * of_sum, (1 - DIGITS) * np.abs(products) > bound
    low, high = _rests(products, measured.gradient_norms, whole, unsure)
    others = of_batch(high) - high + rounding
    yield UNEQUAL, low, others, low > others


DEAD = "gradient_norm of prompt {prompt} must be 0, as all its rewards are equal, got {value:.3g}"
TOO_LONG = (
    "gradient_norm of prompt {prompt} must be at most (Σ|a_i|‖W_i‖)² = {bound:.3g}, which its "
    "rewards and score norms allow, got {value:.3g}"
)
TOO_SHORT = (
    "gradient_norm of prompt {prompt} must be at least {bound:.3g}, since one of its outputs "
    "outweighs all others, got {value:.3g}"
)
NEGATIVE = (
    "gradient_product must sum to ‖Σ_c ĝ_c‖² over the prompts of a batch, got a sum of {value:.3g} "
    "over that of prompt {prompt}"
)
TOO_LARGE = (
    "gradient_product of prompt {prompt} must be at most ‖ĝ_b‖‖Σ_c ĝ_c‖ = {bound:.3g} in size, "
    "got {value:.3g}"
)
UNEQUAL = (
    "gradient_norm and gradient_product of prompt {prompt} must be those of gradients that add up "
    "in its batch, got a part of length {value:.3g} that no other gradient cancels"
)


def length_bounds(measured: Measured) -> tuple[Array, Array, Array]:
    """Return the least and the most ‖ĝ_b‖ by rewards and score norms, and what rounding adds."""
    groups, length = measured.groups, np.sqrt(measured.score_norms)
    shares = np.abs(groups.weights) * length
    most, largest = groups.totals(shares), np.zeros(len(groups.sizes))
    np.maximum.at(largest, groups.group, shares)
    rewards, of_prompt = np.abs(groups.rewards), np.zeros(len(groups.sizes))
    np.maximum.at(of_prompt, groups.group, rewards)
    mean_length = groups.totals(length) / groups.sizes
    slack = (REWARD_DIGITS * of_prompt + SINGLE * rewards.max()) * mean_length
    return np.maximum(2 * largest - most, 0.0), most, slack


def _rests(products: Array, norms: Array, whole: Array, unsure: Array) -> tuple[Array, Array]:
    """Return the least and the largest r_b that digits leave open."""
    low_sum, high_sum = np.maximum(whole - unsure, 0.0), whole + unsure
    size = np.abs(products)
    taken_most = np.divide(
        ((1 + DIGITS) * size) ** 2, low_sum, out=np.full_like(size, np.inf), where=low_sum > 0
    )
    taken_least = np.divide(
        ((1 - DIGITS) * size) ** 2, high_sum, out=np.zeros_like(size), where=high_sum > 0
    )
    low = np.sqrt(np.maximum((1 - DIGITS) * norms - taken_most, 0.0))
    return low, np.sqrt(np.maximum((1 + DIGITS) * norms - taken_least, 0.0))
