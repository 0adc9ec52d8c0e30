"""Can a sweep tell two group sizes apart? Paired tests, seeds needed, and the noise floor.

Runs of one seed share questions and random numbers at every group size, so accuracies are compared
seed by seed.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from experiments.confidence import confidence_set
from ustat_grpo import NoiseComponents
from ustat_grpo.laws import group_size as law

LEVEL = 0.05
POWER = 0.8
_COMPONENTS = ["prompt", "oracle", "residual"]


class Comparison(NamedTuple):
    """Accuracy of a group size less that of another, over paired seeds.

    Args:
        better: the group size of larger mean accuracy.
        worse: the other.
        difference: of their mean accuracies.
        std_error: of the difference.
        p_value: of the two-sided paired t-test.
        seeds_needed: for that test to find such a difference at level 5 % with power 80 %.
    """

    better: int
    worse: int
    difference: float
    std_error: float
    p_value: float
    seeds_needed: float


class Noise(NamedTuple):
    """What repeating the same runs with other seeds changes.

    Args:
        floor: root mean square difference between the mean accuracies of the two halves of the
            seeds, over group sizes.
        spread: standard deviation of the mean accuracies of the first half over group sizes.
        seeds: in each half.
    """

    floor: float
    spread: float
    seeds: int


def by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies at one budget and iteration: one row a seed, one column a group size."""
    return rows.pivot(index="seed", columns="group_size", values="accuracy")


def compare_two(accuracies: pd.DataFrame, first: int, second: int) -> Comparison:
    """Compare two group sizes, seed by seed.

    Args:
        accuracies: of `by_seed`.
        first: a group size.
        second: another.
    """
    means = accuracies.mean()
    better, worse = (first, second) if means[first] >= means[second] else (second, first)
    differences = (accuracies[better] - accuracies[worse]).to_numpy()
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    p_value = float(stats.ttest_rel(accuracies[better], accuracies[worse]).pvalue)
    return Comparison(
        better, worse, mean, spread / len(differences) ** 0.5, p_value, seeds_needed(mean, spread)
    )


def seeds_needed(mean: float, spread: float) -> float:
    """Return how many seeds a paired test needs: ((z_{1−α/2} + z_{power})·sd/mean)², at least 2."""
    if mean == 0:
        return float("inf")
    quantiles = stats.norm.isf(LEVEL / 2) + stats.norm.isf(1 - POWER)
    return max(2.0, float(np.ceil((quantiles * spread / mean) ** 2)))


def best_and_rival(accuracies: pd.DataFrame) -> Comparison:
    """Compare the two group sizes of largest mean accuracy."""
    best, rival = accuracies.mean().sort_values(ascending=False).index[:2]
    return compare_two(accuracies, int(best), int(rival))


def best_sizes(accuracies: pd.DataFrame) -> list[int]:
    """Return the group sizes that may be the best, with 95 % confidence."""
    sizes = [int(size) for size in accuracies.columns]
    return confidence_set(1 - accuracies.to_numpy(), sizes)


def noise_floor(accuracies: pd.DataFrame) -> Noise:
    """Compare the first half of the seeds with the second: the same runs, repeated."""
    half = len(accuracies) // 2
    first, second = accuracies.iloc[:half].mean(), accuracies.iloc[half : 2 * half].mean()
    floor = float(np.sqrt(((first - second) ** 2).mean()))
    return Noise(floor, float(first.std(ddof=1)), half)


def components(rows: pd.DataFrame) -> NoiseComponents:
    """Return the mean noise components of the rows in which they were measured."""
    return NoiseComponents(*rows[_COMPONENTS].mean())


def optimal(rows: pd.DataFrame) -> Float[NDArray[np.float64], " n"]:
    """Return G* = 1 + √(c₃/c₁) of every row in which the components were measured."""
    measured = rows.dropna(subset=["prompt"])
    return np.array(
        [law.optimal(NoiseComponents(*each)) for each in measured[_COMPONENTS].to_numpy()]
    )


def predicted_interval(rows: pd.DataFrame) -> law.Interval:
    """Return the group sizes within 5 % of the least gradient error at the start of training."""
    start = rows.loc[(rows["iteration"] == 0) & rows["prompt"].notna()]
    return law.near_optimal(components(start))


def summary(data: pd.DataFrame) -> pd.DataFrame:
    """Return one row a budget and checkpoint: which sizes may be best, and what it would take."""
    rows = []
    for (budget, optimizer), job in data.groupby(["budget", "optimizer"], sort=False):
        low, high = predicted_interval(job)
        for iteration, at_point in job[job["iteration"] > 0].groupby("iteration"):
            accuracies = by_seed(at_point)
            found, noise = best_and_rival(accuracies), noise_floor(accuracies)
            rows.append(
                {
                    "budget": budget,
                    "optimizer": optimizer,
                    "iteration": iteration,
                    "accuracy": accuracies.mean().max(),
                    "best": found.better,
                    "may_be_best": best_sizes(accuracies),
                    "rival": found.worse,
                    "difference": found.difference,
                    "std_error": found.std_error,
                    "p_value": found.p_value,
                    "seeds": len(accuracies),
                    "seeds_needed": found.seeds_needed,
                    "noise_floor": noise.floor,
                    "spread": noise.spread,
                    "optimal": float(np.mean(optimal(at_point))),
                    "near_optimal_low": low,
                    "near_optimal_high": high,
                }
            )
    return pd.DataFrame(rows)
