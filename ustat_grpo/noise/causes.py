"""Which mistake is behind numbers that cannot be: the one without which they can."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from ustat_grpo.arrays import Integers
from ustat_grpo.noise.doubts import NORMALISED, are_normalised
from ustat_grpo.noise.possible import impossible
from ustat_grpo.noise.scale import Measured, in_own_units

_UNKNOWN = (
    "are all norms squared, of whole outputs (no mean over tokens) and of one scale, and are "
    "rewards those that the gradients were taken with?"
)
_FACTORS = [4.0 ** (sign * power) for power in range(1, 25) for sign in (1, -1)]


def likely_cause(given: Measured, batch: Int[Integers, " B"]) -> str:
    """Return what probably went wrong, or all that usually does.

    Args:
        given: what was measured, as it was given.
        batch: the number of each prompt's batch, shape (B,).
    """
    if are_normalised(given.groups):
        return NORMALISED
    for cause, mended in _MISTAKES.items():
        try:
            with np.errstate(over="ignore"):
                other = in_own_units(mended(given))
        except ValueError:  # squares that are no doubles: not that mistake
            continue
        if impossible(other, batch) is None:
            return cause
    return _scaled_column(in_own_units(given), batch) or _UNKNOWN


def _scaled_column(own: Measured, batch: Int[Integers, " B"]) -> str | None:
    """Return which column is off by the smallest factor without which all is possible."""
    for factor in _FACTORS:
        for column, cause in _COLUMNS.items():
            other = replace(own, **{column: factor * getattr(own, column)})
            if impossible(other, batch) is None:
                return f"it is possible with {cause.format(factor=factor)}"
    return None


def _squared_scores(given: Measured) -> Measured:
    return replace(given, score_norms=given.score_norms**2)


def _squared_gradients(given: Measured) -> Measured:
    return replace(given, gradient_norms=given.gradient_norms**2)


def _means_for_sums(given: Measured) -> Measured:
    squares = given.groups.sizes.astype(float) ** 2
    return replace(
        given,
        gradient_norms=given.gradient_norms / squares,
        gradient_products=given.gradient_products / squares,
    )


_COLUMNS = {
    "score_norms": "score_norm times {factor:.3g}: is one column scaled, or a mean over tokens?",
    "gradient_norms": "gradient_norm times {factor:.3g}: is this column scaled?",
    "gradient_products": "gradient_product times {factor:.3g}: is this column scaled?",
}

_MISTAKES: dict[str, Callable[[Measured], Measured]] = {
    "it is possible with score_norm squared: are they norms that were not squared?": (
        _squared_scores
    ),
    "it is possible with gradient_norm squared: are they norms that were not squared?": (
        _squared_gradients
    ),
    "it is possible with all norms squared: are they norms that were not squared?": (
        lambda given: _squared_gradients(_squared_scores(given))
    ),
    "it is possible with gradients over the number of outputs: are they sums, not means?": (
        _means_for_sums
    ),
}
