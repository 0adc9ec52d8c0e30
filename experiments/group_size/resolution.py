"""Can a sweep tell two group sizes apart? Paired tests, seeds needed, and the noise floor.

Runs of one seed share questions and random numbers at every group size, so accuracies are compared
seed by seed.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from experiments.group_size.confidence import confidence_set
from ustat_grpo import NoiseComponents
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.laws import group_size as law
from ustat_grpo.planner import seeds_needed

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


class NoiseFloor(NamedTuple):
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
    differences = (accuracies[first] - accuracies[second]).to_numpy()
    if differences.mean() < 0:
        first, second, differences = second, first, -differences
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    std_error = spread / len(differences) ** 0.5
    statistic = mean / std_error if std_error > 0 else np.inf if mean > 0 else 0.0
    p_value = float(2 * stats.t.sf(statistic, len(differences) - 1))
    needed = seeds_needed(mean, spread, level=LEVEL, power=POWER)
    return Comparison(first, second, mean, std_error, p_value, needed)


def best_and_rival(accuracies: pd.DataFrame) -> Comparison:
    """Compare the two group sizes of largest mean accuracy."""
    best, rival = accuracies.mean().sort_values(ascending=False).index[:2]
    return compare_two(accuracies, int(best), int(rival))


def best_sizes(accuracies: pd.DataFrame) -> list[int]:
    """Return the group sizes that may be the best, with 95 % confidence."""
    sizes = [int(size) for size in accuracies.columns]
    return confidence_set(1 - accuracies.to_numpy(), sizes)


def noise_floor(accuracies: pd.DataFrame) -> NoiseFloor:
    """Compare the first half of the seeds with the second: the same runs, repeated."""
    half = len(accuracies) // 2
    first, second = accuracies.iloc[:half].mean(), accuracies.iloc[half : 2 * half].mean()
    floor = float(np.sqrt(((first - second) ** 2).mean()))
    return NoiseFloor(floor, float(first.std(ddof=1)), half)


def components(rows: pd.DataFrame) -> NoiseComponents:
    """Return the mean noise components of the rows in which they were measured."""
    return NoiseComponents(*rows[_COMPONENTS].mean())


def optimal(rows: pd.DataFrame) -> Float[Array, " n"]:
    """Return G* = 1 + √(c₃/c₁) of every row in which the components were measured."""
    measured = rows.dropna(subset=["prompt"])
    return np.array(
        [law.optimal(NoiseComponents(*each)) for each in measured[_COMPONENTS].to_numpy()]
    )


def predicted_interval(rows: pd.DataFrame) -> law.GroupSizeRange:
    """Return the group sizes within 5 % of the least gradient error at the start of training."""
    start = rows.loc[(rows["iteration"] == 0) & rows["prompt"].notna()]
    return law.near_optimal(components(start))


class Resolution(NamedTuple):
    """What a sweep says at one budget and checkpoint, and whether it can say it.

    Args:
        budget: N.
        optimizer: of the runs.
        iteration: n.
        seeds: runs of each group size.
        accuracy: mean accuracy by group size.
        may_be_best: group sizes that may be the best, with 95 % confidence.
        rivals: the two of largest mean accuracy.
        noise: of repeating the runs.
        optimal: mean G* = 1 + √(c₃/c₁) at this checkpoint.
        predicted: group sizes within 5 % of the least gradient error where the runs begin.
    """

    budget: int
    optimizer: str
    iteration: int
    seeds: int
    accuracy: pd.Series
    may_be_best: list[int]
    rivals: Comparison
    noise: NoiseFloor
    optimal: float
    predicted: law.GroupSizeRange


def summary(data: pd.DataFrame) -> list[Resolution]:
    """Return what the sweeps of a table say, checkpoint by checkpoint."""
    found = []
    for job in _parts(data, "optimizer", "budget"):
        predicted = predicted_interval(job)
        for at_point in _parts(job.query("iteration > 0"), "iteration"):
            accuracies, first = by_seed(at_point), at_point.iloc[0]
            found.append(
                Resolution(
                    int(first["budget"]),
                    str(first["optimizer"]),
                    int(first["iteration"]),
                    len(accuracies),
                    accuracies.mean(),
                    best_sizes(accuracies),
                    best_and_rival(accuracies),
                    noise_floor(accuracies),
                    float(np.mean(optimal(at_point))),
                    predicted,
                )
            )
    return found


def _parts(data: pd.DataFrame, *columns: str) -> list[pd.DataFrame]:
    return [part for _, part in data.groupby(list(columns), sort=False)]
