"""Which mistake is behind numbers that cannot be: the one without which they can."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from ustat_grpo.inputs.arrays import Integers
from ustat_grpo.noise.doubts import NORMALISED, are_normalised
from ustat_grpo.noise.possible import (
    DEAD,
    NEGATIVE,
    TOO_LARGE,
    UNEQUAL,
    Measured,
    impossible,
    in_own_units,
)

_UNKNOWN = (
    "are all norms squared, of whole outputs (no mean over tokens) and of one scale, and are "
    "rewards those that the gradients were taken with?"
)
_ROWS = (
    "are the gradients those of these rewards, prompt by prompt, and were they taken with "
    "advantages that are centred within each group?"
)
_PART_OF_BATCH = (
    " Or is this a part of a batch, whose gradient_product is the one with all prompts of it?"
)
_OF_PRODUCTS = (NEGATIVE, TOO_LARGE, UNEQUAL)
_REVERSED = "it is possible with gradient_product times −1: is its sign reversed?"
_FACTORS = [4.0 ** (sign * power) for power in range(1, 11) for sign in (1, -1)]
"""Up to a million: beyond, a larger column is not a cause but room for any mistake."""


def likely_cause(what: str, measured: Measured, batch: Int[Integers, " B"]) -> str:
    """Return what probably went wrong, or all that usually does.

    Where no column of another size helps, none is named: a gradient of equal rewards must be 0 in
    every unit, and what products of gradients can be does not depend on the scores. Where products
    are too large, prompts that are missing would explain them as well as any factor: with the
    gradients of enough others every product is possible.

    Args:
        what: is impossible.
        measured: what was measured, in the units in which it was.
        batch: the number of each prompt's batch, shape (B,).
    """
    if are_normalised(measured.groups):
        return NORMALISED
    if what == DEAD:
        return _ROWS
    is_of_products = what in _OF_PRODUCTS
    cause = _mended(measured, batch, is_of_products=is_of_products)
    return cause + _PART_OF_BATCH if is_of_products and cause != _REVERSED else cause


def _mended(measured: Measured, batch: Int[Integers, " B"], *, is_of_products: bool) -> str:
    """Return the mistake without which all is possible, or all that usually are."""
    for cause, mended in _MISTAKES.items():
        if is_of_products and mended is _squared_scores:
            continue
        try:
            with np.errstate(over="ignore"):
                other = in_own_units(mended(measured))
        except ValueError:  # squares that are no doubles: not that mistake
            continue
        if impossible(other, batch) is None:
            return cause
    columns = dict(_COLUMNS)
    if is_of_products:
        del columns["score_norms"]
    return _scaled_column(in_own_units(measured), batch, columns) or _UNKNOWN


def _scaled_column(
    own: Measured, batch: Int[Integers, " B"], columns: dict[str, str]
) -> str | None:
    """Return which column is off by the smallest factor without which all is possible."""
    for factor in _FACTORS:
        for column, cause in columns.items():
            other = replace(own, **{column: factor * getattr(own, column)})
            if impossible(other, batch) is None:
                return f"it is possible with {cause.format(factor=factor)}"
    return None


def _squared_scores(measured: Measured) -> Measured:
    return replace(measured, score_norms=measured.score_norms**2)


def _squared_gradients(measured: Measured) -> Measured:
    return replace(measured, gradient_norms=measured.gradient_norms**2)


def _reversed_products(measured: Measured) -> Measured:
    return replace(measured, gradient_products=-measured.gradient_products)


def _means_for_sums(measured: Measured) -> Measured:
    squares = measured.groups.sizes.astype(float) ** 2
    return replace(
        measured,
        gradient_norms=measured.gradient_norms / squares,
        gradient_products=measured.gradient_products / squares,
    )


_COLUMNS = {
    "score_norms": "score_norm times {factor:.3g}: is one column scaled, or a mean over tokens?",
    "gradient_norms": "gradient_norm times {factor:.3g}: is this column scaled?",
    "gradient_products": "gradient_product times {factor:.3g}: is this column scaled?",
}

_MISTAKES: dict[str, Callable[[Measured], Measured]] = {
    _REVERSED: _reversed_products,
    "it is possible with score_norm squared: are they norms that were not squared?": (
        _squared_scores
    ),
    "it is possible with gradient_norm squared: are they norms that were not squared?": (
        _squared_gradients
    ),
    "it is possible with all norms squared: are they norms that were not squared?": (
        lambda measured: _squared_gradients(_squared_scores(measured))
    ),
    "it is possible with gradients over the number of outputs: are they sums, not means?": (
        _means_for_sums
    ),
}
