"""Published formulas of advantage estimators, written as loops over lists of numbers.

The constants (ε = 0.1 or 0.01, λ = 0.4, c = 0.2) are those of `estimator_contracts.CONTRACTS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Rows = list[list[float]]
Formula = Callable[[Rows, list], Rows]

HISTORY = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, 1.0], [-0.5, -0.75, 0.5]])


def mean(z: list[float]) -> float:
    return sum(z) / len(z)


def std(z: list[float], ddof: int = 1) -> float:
    return math.sqrt(sum((x - mean(z)) ** 2 for x in z) / (len(z) - ddof))


def equal(z: list[float]) -> bool:
    return len(set(z)) <= 1


def by_group(advantages: Callable[[list[float], Any], list[float]]) -> Formula:
    return lambda rows, known: [
        advantages(z, side) if z else [] for z, side in zip(rows, known, strict=True)
    ]


def with_baseline(baseline: Callable[[list[float], int, Any], float]) -> Formula:
    """A_i = Z_i − baseline(rewards, i, what is known)."""
    return by_group(lambda z, side: [own - baseline(z, i, side) for i, own in enumerate(z)])


def mean_of_others(z: list[float], i: int, side: Any = None) -> float:
    others = z[:i] + z[i + 1 :]
    return mean(others) if others else z[i]


def weighted_mean_of_others(z: list[float], i: int, weights: list[float]) -> float:
    others = [j for j in range(len(z)) if j != i]
    if not others:
        return z[i]
    return sum(weights[j] * z[j] for j in others) / sum(weights[j] for j in others)


def standardised(z: list[float], side: Any) -> list[float]:
    return [0.0 if equal(z) else (x - mean(z)) / (std(z) + 0.1) for x in z]


def algorithm_2(z: list[float], side: Any) -> list[float]:
    if equal(z):
        return [0.0] * len(z)
    return [(x - mean_of_others(z, i)) / (std(z, 0) + 0.1) for i, x in enumerate(z)]


def best(z: list[float], side: Any) -> list[float]:
    if len(z) < 2:
        return [0.0]
    first, second = sorted(z)[-1], sorted(z)[-2]
    return [(first - second) / (std(z) + 0.1) if x == first else 0.0 for x in z]


def pass_at_2(z: list[float], side: Any) -> list[float]:
    """PKPO's rewards for k = 2, less their mean over the others as `PassAtK` defines it."""
    n, result = len(z), []
    if n < 2:
        return [0.0]
    for own in z:
        j = sum(z) - own
        rho = 1 - (n - 1 - j) / (n - 1)
        baseline = j / (n - 1) * 2 + (n - 1 - j) / (n - 1) * 2 * rho
        result.append((2.0 if own else 2 * rho) - baseline)
    return result


def batch_std(rows: Rows, known: list) -> Rows:
    everything = [x for z in rows for x in z]
    if equal(everything):
        return [[0.0] * len(z) for z in rows]
    return [[(x - mean(z)) / (std(everything) + 0.1) for x in z] for z in rows]


def whitened(rows: Rows, known: list) -> Rows:
    """Group-centred rewards, whitened over tokens: each output repeated as its length says."""
    centred = [[x - mean(z) for x in z] for z in rows]
    pairs = [pair for z, w in zip(centred, known, strict=True) for pair in zip(z, w, strict=True)]
    total = sum(w for _, w in pairs)
    if not total:
        return centred
    average = sum(x * w for x, w in pairs) / total
    variance = sum(w * (x - average) ** 2 for x, w in pairs) / (total - 1)
    return [[(x - average) / math.sqrt(variance + 0.01) for x in z] for z in centred]


def hit_scaled(rows: Rows, known: list) -> Rows:
    everything = [x for z in rows for x in z]
    hits = sum(x != 0 for x in everything)
    factor = len(everything) / hits if hits else 1.0
    return [[factor * (x - mean(z)) for x in z] for z in rows]


def without_equal_groups(rows: Rows, known: list) -> Rows:
    kept = sum(not equal(z) for z in rows)
    inner = with_baseline(lambda z, i, side: 0.6 * mean_of_others(z, i) + 0.08)(rows, known)
    return [
        [0.0 if equal(z) else x * len(rows) / kept for x in a]
        for z, a in zip(rows, inner, strict=True)
    ]


def singletons_kept(z: list[float], side: Any) -> list[float]:
    if len(z) == 1:
        return [z[0] / 1.1]
    return [x - 0.6 * mean_of_others(z, i) - 0.08 for i, x in enumerate(z)]


def james_stein(rows: Rows, known: list) -> Rows:
    result = []
    for b, z in enumerate(rows):
        others = [other for k, other in enumerate(rows) if k != b and other]
        row = []
        for i, own in enumerate(z):
            weight = target = 0.0
            if others:
                target = mean([mean(other) for other in others])
                spread = std([mean(other) for other in others], 0) ** 2
                noises = [std(other) ** 2 for other in others if len(other) > 1] or [0.0]
                noise = mean(noises) / len(z)
                weight = noise / (noise + spread + 0.01) if len(z) > 1 else 1.0
            row.append(own - (1 - weight) * mean_of_others(z, i) - weight * target)
        result.append(row)
    return result


def empirical_bayes(z: list[float], side: Any) -> list[float]:
    """The history is that of `HISTORY`: three groups of three."""
    means = [mean(list(row)) for row in HISTORY]
    within = mean([std(list(row)) ** 2 for row in HISTORY])
    between = std(means) ** 2
    error = max(0.0, between - within / 3) + between / 3
    result = []
    for i, own in enumerate(z):
        noise = within / (len(z) - 1) if len(z) > 1 else math.inf
        weight = noise / (noise + error) if len(z) > 1 else 1.0
        result.append(own - (1 - weight) * mean_of_others(z, i) - weight * mean(means))
    return result


def sign(z: list[float], side: Any) -> list[float]:
    return [0.0 if equal(z) else float(np.sign(x - mean(z))) for x in z]
