"""How many runs it takes to see a difference."""

import numpy as np
from scipy.special import gammainc, nctdtr, ndtri, stdtrit

from ustat_grpo.inputs.checks import integer, real

_KNOWN_SPREAD_FROM = 1000  # from here on Student's and the normal law give the same number

_FAR = 1e5
"""Standard errors from which on the numerator of t may stand still; SciPy gives NaN far beyond."""


def seeds_needed(
    difference: float, spread: float, *, level: float = 0.05, power: float = 0.8
) -> float:
    """Return the least number of seeds at which a two-sided paired t-test finds a difference.

    The test of n normal differences has the power P(T > t), T noncentral of n − 1 degrees of
    freedom around √n·difference/spread. The search begins at ((z_{1−α/2} + z_power)·spread/
    difference)², what it takes if the spread is known, and from 1000 seeds on is the answer.

    Args:
        difference: of the mean outcomes of two choices.
        spread: standard deviation over seeds of the difference of their outcomes, from a pilot.
        level: α of the test.
        power: the chance to find the difference.

    Returns:
        At least 2; infinite if there is no difference.

    Raises:
        ValueError: if a number is not finite, the spread is negative, or level or power is not
            between 0 and 1.

    Examples:
        >>> from ustat_grpo.planner import seeds_needed
        >>> seeds_needed(difference=1.0, spread=1.0), seeds_needed(difference=0.1, spread=1.0)
        (10.0, 787.0)
    """
    size, deviation = abs(real("difference", difference)), real("spread", spread)
    if deviation < 0:
        raise ValueError(f"spread must not be negative, got {spread!r}")
    alpha = real("level", level, above=0.0, below=1.0)
    wanted = real("power", power, above=0.0, below=1.0)
    if size == 0:
        return np.inf
    quantiles = float(ndtri(wanted) - ndtri(alpha / 2))
    ratio = np.float64(max(quantiles, 0.0) * deviation / size)
    with np.errstate(over="ignore"):  # more seeds than there are numbers
        seeds = max(2.0, float(np.ceil(ratio**2)))
    if deviation == 0:
        return seeds
    effect = size / deviation
    while seeds < _KNOWN_SPREAD_FROM and _power(seeds, effect, alpha) < wanted:
        seeds += 1
    return seeds


def _power(seeds: float, effect: float, level: float) -> float:
    """Return P(T > t) for a mean of `effect` standard deviations.

    T = (λ + Z)/√(χ²_m/m) with m = n − 1 and λ = √n·effect. Where λ is large, Z is nothing beside
    it: P(T > t) = P(χ²_m < m (λ/t)²), up to 1/λ².
    """
    freedom, centre = seeds - 1, seeds**0.5 * effect
    critical = -stdtrit(freedom, level / 2)
    if centre > _FAR:
        with np.errstate(over="ignore"):  # the power is one
            return float(gammainc(freedom / 2, freedom * np.square(centre / critical) / 2))
    return float(1 - nctdtr(freedom, centre, critical))


def seeds_to_see(first_error: float, second_error: float, *, directions: int = 1) -> float:
    """Return how many seeds show that two choices of G differ, if only by gradient noise.

    Where training has converged to its noise floor, a run's gap to the best objective is a
    quadratic form of a normal vector whose mean is proportional to the error of the gradient. With
    d equally strong directions its standard deviation is √(2/d) of the mean. So the runs' gaps
    differ by e₁ − e₂ in the mean, and a pair of independent runs has the spread √(2(e₁² + e₂²)/d):
    the number of `seeds_needed` for these. It is the number of minibatches, too, after which the
    squared errors of single gradients can be told apart.

    Many directions make the difference easier to see, d = 1 is the worst case. What else varies
    between runs, an evaluation on few questions or an early stop far from the floor, makes it
    harder: with a pilot's difference and spread use `seeds_needed` itself.

    Args:
        first_error: e₁, positive, in any unit.
        second_error: e₂, positive, in the same unit.
        directions: d.

    Raises:
        ValueError: if an error or the number of directions is not positive.

    Examples:
        >>> from ustat_grpo.planner import seeds_needed, seeds_to_see
        >>> seeds_to_see(2.0, 1.0), seeds_needed(difference=1.0, spread=10**0.5)  # √(2(4 + 1))
        (81.0, 81.0)
    """
    first = real("first_error", first_error, above=0.0)
    second = real("second_error", second_error, above=0.0)
    spread = np.sqrt(2 * (first**2 + second**2) / integer("directions", directions))
    return seeds_needed(first - second, float(spread))
