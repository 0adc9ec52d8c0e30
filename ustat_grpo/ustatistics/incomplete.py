"""Incomplete U-statistics: a stated budget of randomly drawn pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ustat_grpo.inputs.arrays import exponents_of

from .pairs import Array, Kernel, Pairs, Sample, prepare

Design = Literal["without_replacement", "with_replacement"]


@dataclass(frozen=True)
class IncompleteUStatistic:
    """A U-statistic over a random subset of pairs, with its error.

    Attributes:
        estimate: Mean of the kernel over the drawn pairs, a number or (q,).
        std_error: √ of `variance`, or of its part for Var h₁ = 0 where that is larger, so
            that it is always real. NaN if no two drawn pairs are disjoint.
        variance: Unbiased for the variance of `estimate`, coordinate by coordinate, over
            draws of pairs *and* of data. May be negative. NaN as above.
        num_pairs: M, the number of draws.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.ustatistics import gini_kernel, incomplete_u_statistic
        >>> rng = np.random.default_rng(0)
        >>> result = incomplete_u_statistic([0, 1, 5, 2], gini_kernel, num_pairs=6, rng=rng)
        >>> round(float(result.estimate), 6)  # here all pairs: (1 + 5 + 2 + 4 + 1 + 3)/6
        2.666667
    """

    estimate: Any
    std_error: Any
    variance: Any
    num_pairs: int


def incomplete_u_statistic(
    sample: Sample,
    kernel: Kernel,
    *,
    num_pairs: int,
    rng: np.random.Generator,
    design: Design = "without_replacement",
    block_size: int | None = None,
) -> IncompleteUStatistic:
    """Average a kernel over M randomly drawn pairs, in O(M) kernel values.

    With P = n(n−1)/2 pairs and U_n complete, Ũ is unbiased and

    Var Ũ = Var U_n + (Var h − Var U_n)/M            with replacement,
    Var Ũ = Var U_n + (Var h − Var U_n)(P−M)/(M(P−1))   without,

    so M of a few n already brings most of what all n²/2 pairs would. The variance is
    estimated given the drawn pairs, which say nothing about the data. Two draws have
    covariance Var h, Var h₁ or 0 if they share two, one or no observations. Let N_k count
    the ordered pairs of draws that share k, and Γ_k be their mean ½ (h_e − h_f)²; then
    E Γ₀ = Var h and E Γ₁ = Var h − Var h₁, so that

    ((N₂ + N₁) Γ₀ − N₁ Γ₁) / M²

    is unbiased; it equals `variance_estimate` when all pairs are drawn.

    Args:
        sample: As in `u_statistic`.
        kernel: As in `u_statistic`.
        num_pairs: M ≥ 2 draws; at most P without replacement.
        rng: Source of the draws.
        design: "without_replacement" or "with_replacement".
        block_size: Pairs are evaluated block_size² at a time; None fits the cache.

    Returns:
        Estimate and error; O(M q + n q) memory and one block of kernel values.

    Raises:
        ValueError: If num_pairs is out of range, design is unknown, or as in
            `u_statistic`.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.ustatistics import incomplete_u_statistic
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=10_000)
        >>> result = incomplete_u_statistic(x, lambda a, b: abs(a - b), num_pairs=40_000, rng=rng)
        >>> print(bool(abs(result.estimate - 2 / np.sqrt(np.pi)) < 4 * result.std_error))
        True

    Reference:
        Blom (1976), Some properties of incomplete U-statistics, Biometrika 63; Lee
        (1990), U-Statistics, chapter 4.
    """
    pairs = prepare(sample, kernel, block_size)
    first, second, repeats = _draw(pairs.count, num_pairs, design, rng)
    values = _values(pairs, first, second)
    mean = repeats @ values / num_pairs
    centred = values - mean
    exponents = exponents_of(centred)  # the error is a double where the variance is none
    centred = np.ldexp(centred, -exponents)
    variance, smallest = _variances(pairs.count, first, second, repeats, centred)
    error = np.ldexp(np.sqrt(np.maximum(variance, smallest)), exponents)
    return IncompleteUStatistic(
        estimate=pairs.present(pairs.pilot + mean, 1),
        std_error=pairs.present(error, 1),
        variance=pairs.present(_squared_units(variance, exponents), 1),
        num_pairs=num_pairs,
    )


def _squared_units(variance: Array, exponents: Array) -> Array:
    """Return variances in units of 2²ᵉ as numbers, infinite or zero past doubles."""
    with np.errstate(over="ignore"):
        return np.ldexp(variance, 2 * exponents)


def _draw(
    count: int, num_pairs: int, design: Design, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Distinct pairs i < j and how often each was drawn."""
    total = count * (count - 1) // 2
    if num_pairs < 2:
        raise ValueError(f"num_pairs must be at least 2, got {num_pairs}")
    if design == "without_replacement":
        if num_pairs > total:
            raise ValueError(
                f"num_pairs must be at most {total}, the pairs of {count} observations, "
                f"without replacement, got {num_pairs}"
            )
        codes = np.sort(rng.choice(total, size=num_pairs, replace=False, shuffle=False))
        repeats = np.ones(num_pairs)
    elif design == "with_replacement":
        codes, counts = np.unique(rng.integers(total, size=num_pairs), return_counts=True)
        repeats = counts.astype(np.float64)
    else:
        raise ValueError(
            f"design must be 'without_replacement' or 'with_replacement', got {design!r}"
        )
    return *_decode(codes), repeats


def _decode(codes: Array) -> tuple[Array, Array]:
    """Invert code = j(j−1)/2 + i, 0 ≤ i < j."""
    second = ((1 + np.sqrt(1 + 8 * codes.astype(np.float64))) / 2).astype(np.int64)
    # The square root may round across an integer; one step either way repairs it.
    second -= second * (second - 1) // 2 > codes
    second += second * (second + 1) // 2 <= codes
    return codes - second * (second - 1) // 2, second


def _values(pairs: Pairs, first: Array, second: Array) -> Array:
    values = np.empty((len(first), len(pairs.pilot)))
    step = pairs.block_size**2
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        values[part] = pairs.at(first[part], second[part])
    return values


def _variances(
    count: int, first: Array, second: Array, repeats: Array, values: Array
) -> tuple[Array, Array]:
    """Unbiased variance, and its part for Var h₁ = 0, from centred (p, q) values."""
    draws, num_same = repeats.sum(), repeats @ repeats
    degrees = np.bincount(first, repeats, count) + np.bincount(second, repeats, count)
    # For each distinct pair: the draws that share one observation with it, and none.
    touching = degrees[first] + degrees[second]
    num_one, num_none = touching - 2 * repeats, draws - touching + repeats
    total_one, total_none = repeats @ num_one, repeats @ num_none
    if total_none == 0:
        unknown = np.full(values.shape[1], np.nan)
        return unknown, unknown

    sums = np.zeros((count, values.shape[1]))
    weighted = repeats[:, None] * values
    np.add.at(sums, first, weighted)
    np.add.at(sums, second, weighted)
    # Products over draws that share both, one, no observations; together (Σ h̃)² = 0.
    same = np.einsum("pq,pq->q", weighted, weighted)
    one = np.einsum("nq,nq->q", sums, sums) - 2 * same
    none = -same - one
    squares = weighted * values
    gap_one = num_one @ squares - one
    gap_none = (num_none @ squares - none) / total_none
    variance = ((num_same + total_one) * gap_none - gap_one) / draws**2
    return variance, num_same * np.maximum(gap_none, 0) / draws**2
