"""A claim: two sides of a statement, each computed in its own way, and how far apart they are."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ustat_grpo.inputs.checks import first_largest

IDENTITY = "identity"
"""Two ways of computing one number; they agree to rounding."""
ENUMERATION = "enumeration"
"""A sum over every possible outcome, against a law; they agree to rounding."""
SIMULATION = "simulation"
"""A sample mean, against a law; the error is counted in standard errors."""
RATE = "rate"
"""A slope on log scales, within its own interval, which excludes the nearest wrong exponent."""
COUNTEREXAMPLE = "counterexample"
"""`expected` is what a wrong statement says, `obtained` the truth: the error must be *large*."""

AGREEMENT = 1e-12
"""Two ways of computing one number agree if they differ by no more than this share of it."""
STANDARD_ERRORS = 4.0
REFUTED = 1e-3
"""Relative distance from the truth beyond which a wrong statement counts as refuted."""


@dataclass(frozen=True)
class Claim:
    """A statement with the evidence for it.

    Args:
        statement: one sentence.
        evidence: one of the kinds above.
        expected: what the statement says.
        obtained: what was computed without it.
        error: distance between the two, in the unit of `tolerance`.
        tolerance: the largest error at which they agree.
        std_error: of `obtained`, where it is a sample mean.
    """

    statement: str
    evidence: str
    expected: float
    obtained: float
    error: float
    tolerance: float
    std_error: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the two sides agree or, for a counterexample, differ."""
        if self.evidence == COUNTEREXAMPLE:
            return self.error > self.tolerance
        return self.error <= self.tolerance


def equal(
    statement: str,
    evidence: str,
    expected: ArrayLike,
    obtained: ArrayLike,
    tolerance: float = AGREEMENT,
) -> Claim:
    """Claim that two numbers, or arrays of one shape, agree; else the worst entry is reported.

    The error is relative to the largest expected entry, absolute if that is zero.

    Raises:
        ValueError: if the shapes differ, which broadcasting would hide.
    """
    left, right = np.asarray(expected, dtype=float), np.asarray(obtained, dtype=float)
    if left.shape != right.shape:
        raise ValueError(f"expected and obtained differ in shape: {left.shape} and {right.shape}")
    gap = np.abs(right - left).ravel()
    scale = float(np.abs(left).max()) or 1.0
    # Where rounding is worst differs between machines: of what agrees, show the largest entry.
    agrees = gap.max() <= max(tolerance, AGREEMENT) * scale
    worst = int(first_largest(np.abs(left).ravel()) if agrees else np.argmax(gap))
    sides = float(left.flat[worst]), float(right.flat[worst])
    return Claim(statement, evidence, *sides, float(gap.max()) / scale, tolerance)


def below(
    statement: str, evidence: str, bound: float, obtained: float, margin: float = 1e-9
) -> Claim:
    """Claim that `obtained` lies below `bound`, clear of rounding by `margin`, absolute.

    The error is signed, how far `obtained` lies above the bound; a margin of 0 allows equality.
    """
    return Claim(statement, evidence, bound, obtained, obtained - bound, -margin)


def simulated(statement: str, expected: float, sample: ArrayLike) -> Claim:
    """Claim that `expected` is the mean of the distribution that a sample was drawn from."""
    values = np.asarray(sample, dtype=float)
    mean, std_error = float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))
    error = abs(mean - expected) / std_error
    return Claim(statement, SIMULATION, expected, mean, error, STANDARD_ERRORS, std_error)


def rate(statement: str, exponent: float, slope: float, half_width: float, wrong: float) -> Claim:
    """Claim that a slope on log scales is `exponent` and not the nearest `wrong` one.

    The error is infinite if the interval slope ± half_width does not exclude the wrong exponent:
    an interval too wide to tell is no evidence.
    """
    excluded = abs(slope - wrong) > half_width
    error = abs(slope - exponent) if excluded else math.inf
    return Claim(statement, RATE, exponent, slope, error, half_width)


def refuted(statement: str, wrong: float, truth: float, tolerance: float = REFUTED) -> Claim:
    """Claim that a wrong statement, which gives `wrong`, is off the truth by more than rounding.

    The error is relative to the larger of the two.
    """
    error = abs(wrong - truth) / (max(abs(wrong), abs(truth)) or 1.0)
    return Claim(f"refuted: {statement}", COUNTEREXAMPLE, wrong, truth, error, tolerance)


def limiting_slope(sizes: ArrayLike, values: ArrayLike) -> tuple[float, float]:
    """Return the slope of log values against log sizes for large sizes, and its half-width.

    For exact values, whose slope between neighbours approaches its limit like 1/size: the slopes
    of the last two doublings give the limit, and the last step toward it the half-width.

    Args:
        sizes: at least three, each twice the one before.
        values: positive, one for each size.
    """
    slopes = np.diff(np.log(values)) / np.diff(np.log(np.asarray(sizes, dtype=float)))
    limit = 2 * slopes[-1] - slopes[-2]
    return float(limit), float(abs(limit - slopes[-1]))
