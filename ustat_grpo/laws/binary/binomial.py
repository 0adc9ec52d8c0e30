"""Probabilities of binomial counts, accurate to rounding for thousands of outputs."""

from functools import lru_cache

import numpy as np
from scipy.special import gammaln, xlog1py

from ustat_grpo.inputs.arrays import Array

_SERIES_FROM = 16  # from here on five terms of Stirling's series are exact to rounding


def binomial_weights(trials: int, prob: Array) -> Array:
    """Return P(k successes in n trials) for k = 0, …, n, shape (..., n+1); rows sum to one.

    With m = np, by Loader's saddle-point form,

        P(k) = b(k)·exp(−k log(k/m) − (n−k) log((n−k)/(n−m))),

    b(k) the probability of k where it is the mean. The logarithms are those of 1 + (k−m)/m and
    1 − (k−m)/(n−m): near the mean nothing large cancels.

    Args:
        trials: n ≥ 0.
        prob: of success, shape (...).

    Reference:
        Loader, Fast and accurate computation of binomial probabilities (2000).
    """
    count = np.arange(trials + 1.0)
    prob = prob[..., None]
    rest = 1 - prob
    # n·p is rounded, so take the smaller of the means and the other as its complement.
    mean = np.where(prob <= 0.5, trials * prob, trials - trials * rest)
    other = np.where(prob <= 0.5, trials - trials * prob, trials * rest)
    certain = (mean == 0) | (other == 0)
    above = count - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = xlog1py(count, above / mean) + xlog1py(trials - count, -above / other)
        weights = np.exp(_log_at_mean(trials) - exponent)
    weights = np.where(certain, np.abs(above) < 0.5, weights)
    return weights / weights.sum(axis=-1, keepdims=True)


@lru_cache(maxsize=64)
def _log_at_mean(trials: int) -> Array:
    """log b(k), b(k) = C(n, k)(k/n)^k((n−k)/n)^(n−k), shape (n+1,)."""
    logarithm = np.zeros(trials + 1)
    inner = np.arange(1.0, trials)
    error = _stirling_error(np.arange(1.0, trials + 1))
    logarithm[1:-1] = (
        error[-1:]
        - error[:-1]
        - error[:-1][::-1]
        + 0.5 * np.log(trials / (2 * np.pi * inner * (trials - inner)))
    )
    logarithm.setflags(write=False)
    return logarithm


def _stirling_error(n: Array) -> Array:
    """log n! − log(√(2πn)(n/e)^n)."""
    square = n**2
    series = 1 / 1188 / square
    for denominator in (-1680, 1260, -360, 12):
        series = (1 / denominator + series) / square
    direct = gammaln(n + 1) - (n + 0.5) * np.log(n) + n - 0.5 * np.log(2 * np.pi)
    return np.where(n < _SERIES_FROM, direct, series * n)
