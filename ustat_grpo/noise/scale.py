"""What is measured of a batch, in units in which products of it are doubles: see `units.py`."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.units import exponent_of
from ustat_grpo.noise.groups import Groups

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

    groups: Groups
    score_norms: Float[Array, " n"]
    gradient_norms: Float[Array, " B"]
    gradient_products: Float[Array, " B"]
    exponent: int = 0


def in_own_units(given: Measured) -> Measured:
    """Return measurements in units in which nothing under- or overflows.

    Raises:
        ValueError: if the noise components themselves would.
    """
    of_rewards, of_norms = exponent_of(given.groups.rewards), exponent_of(given.score_norms)
    whole = 2 * of_rewards + of_norms
    if max(abs(of_rewards), abs(of_norms), abs(whole)) > _LARGEST:
        raise ValueError(
            "rewards and score_norms must be of a size at which products of theirs are doubles, "
            f"got a largest of {np.abs(given.groups.rewards).max():g} and "
            f"{given.score_norms.max():g}: measure in other units"
        )
    with np.errstate(over="ignore"):  # a gradient that is far too long is refused later
        return Measured(
            groups=replace(given.groups, rewards=np.ldexp(given.groups.rewards, -of_rewards)),
            score_norms=np.ldexp(given.score_norms, -of_norms),
            gradient_norms=np.ldexp(given.gradient_norms, -whole),
            gradient_products=np.ldexp(given.gradient_products, -whole),
            exponent=whole,
        )
