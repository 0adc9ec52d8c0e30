"""The complete U-statistic of order two."""

from __future__ import annotations

from typing import Any

import numpy as np

from .pairs import Kernel, Sample, prepare


def u_statistic(sample: Sample, kernel: Kernel, *, block_size: int | None = None) -> Any:
    """Average a symmetric kernel over all pairs of distinct observations.

    U_n = 2/(n(n−1)) Σ_{i<j} h(X_i, X_j),

    the minimum-variance unbiased estimate of E h(X, X′) when nothing is known of
    the distribution. Each pair is evaluated once, in blocks, in
    O(block_size² q) memory; block_size changes the result only by rounding.

    The kernel convention, the same in this whole package: `kernel(a, b)` receives
    two arrays with two leading *pair axes* that broadcast against each other, (r, 1)
    against (1, c) or (r, 1) against (r, 1), followed by the axes of one observation.
    It returns (r, c) values, or (r, c, q) for a vector-valued kernel. When the
    sample is a tuple of arrays, a and b are tuples of arrays.

    Args:
        sample: (n, ...) array, or a tuple of arrays with a common first axis.
            Integers and booleans become floats. A NaN observation makes the result
            NaN; nothing is dropped.
        kernel: Symmetric in its arguments; checked on a few pairs. It is never
            evaluated at an observation and itself.
        block_size: Observations on each side of a block; None fits the cache.

    Returns:
        A number for a scalar kernel, (q,) for a vector-valued one; float32 if the
        kernel returns float32, else float64. Sums run in float64.

    Raises:
        TypeError: If the sample does not hold real numbers.
        ValueError: If n < 2, the arrays disagree on n, block_size < 1, or the kernel
            is not symmetric, does not broadcast, or returns a wrong shape.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.ustatistics import u_statistic
        >>> x = np.array([1.0, 2.0, 4.0])
        >>> print(u_statistic(x, lambda a, b: (a - b) ** 2 / 2))
        2.3333333333333335
        >>> points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
        >>> print(u_statistic(points, lambda a, b: abs(a - b)))  # one value a coordinate
        [2.         2.66666667]

    Reference:
        Hoeffding (1948), A class of statistics with asymptotically normal
        distribution, Ann. Math. Statist. 19.
    """
    pairs = prepare(sample, kernel, block_size)
    total = np.zeros_like(pairs.pilot)
    for _, _, values in pairs.blocks():
        total += values.sum(axis=(0, 1))
    num_pairs = pairs.count * (pairs.count - 1) / 2
    return pairs.present(pairs.pilot + total / num_pairs, 1)
