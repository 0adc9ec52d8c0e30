"""Coverage of `confidence_interval`, measured in O(n): laws, kernels, methods, replicates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import norm, t

from ustat_grpo.ustatistics import covariance_variance_components
from ustat_grpo.ustatistics.skewness import error_and_asymmetry, longer_interval

LEVEL = 0.95
METHODS = ("jackknife", "normal", "skewness")
_AT_ONCE = 10_000

# Draws of a shape, and the variance of one.
LAWS = {
    "normal": (np.random.Generator.standard_normal, 1.0),
    "exponential": (np.random.Generator.standard_exponential, 1.0),
    "lognormal": (lambda rng, size: rng.lognormal(size=size), (np.e - 1) * np.e),
}


@dataclass(frozen=True)
class CoverageCase:
    """A kernel, a law and a sample size."""

    kernel: str
    law: str
    count: int

    def samples(self, rng, replicates):
        """x and z of shape (n, replicates): for the covariance u + v and u + w, else equal.

        All of u, v and w are independent draws of the law, so either kernel expects its variance.
        """
        draw, _ = LAWS[self.law]
        if self.kernel == "variance":
            x = draw(rng, (self.count, replicates))
            return x, x
        shared, first, second = draw(rng, (3, self.count, replicates))
        return shared + first, shared + second

    @cache  # noqa: B019  (cells are few)
    def coverage(self, replicates, seed):
        """The share of replicates whose interval holds the expectation, by method."""
        rng, (_, target) = np.random.default_rng(seed), LAWS[self.law]
        hits = dict.fromkeys(METHODS, 0)
        for start in range(0, replicates, _AT_ONCE):
            x, z = self.samples(rng, min(_AT_ONCE, replicates - start))
            for method, (low, high) in intervals(x, z).items():
                hits[method] += np.sum((low <= target) & (target <= high))
        return {method: count / replicates for method, count in hits.items()}


def intervals(x, z):
    """What `confidence_interval` gives for columns of x and z by each method, without its pairs.

    With a, b the centred columns, R_i = n/2 (a_i b_i − mean of a b).
    """
    count = len(x)
    products = (x - x.mean(axis=0)) * (z - z.mean(axis=0))
    mean = products.sum(axis=0) / (count - 1)
    pseudo_deviations = (products - products.mean(axis=0)) * count / (count - 2)
    error, asymmetry = error_and_asymmetry(pseudo_deviations)
    quantile = t(count - 1).ppf((1 + LEVEL) / 2)
    parts = covariance_variance_components(x.T[..., None], z.T)
    least = np.maximum(parts.kernel_variance, 0) / (count * (count - 1) / 2)
    normal_margin = norm.ppf((1 + LEVEL) / 2) * np.sqrt(np.maximum(parts.variance(count), least))
    return {
        "jackknife": (mean - quantile * error, mean + quantile * error),
        "normal": (mean - normal_margin, mean + normal_margin),
        "skewness": longer_interval(mean, error, asymmetry, quantile),
    }


def quoted(text: str) -> Iterator[tuple[CoverageCase, str, float]]:
    """Yield what a document says: rows of kernel, law, method, one coverage a sample size."""
    (header,) = re.findall(r"^\W*kernel\W+law\W+method\W.*$", text, re.M)
    counts = [int(number) for number in re.findall(r"n = (\d+)", header)]
    methods = "|".join(METHODS)
    row = rf"^\W*(variance|covariance)\W+(\w+)\W+({methods})((?:[| ]+0\.\d{{3}})+)[| ]*$"
    for kernel, law, method, shares in re.findall(row, text, re.M):
        found = re.findall(r"0\.\d{3}", shares)
        for count, share in zip(counts, found, strict=True):
            yield CoverageCase(kernel, law, count), method, float(share)
