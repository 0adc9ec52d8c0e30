"""Kernels that everybody uses, written once and in the package's convention.

Each receives blocks of observations whose two leading axes broadcast; see
`u_statistic`.
"""

from __future__ import annotations

import numpy as np

from .pairs import Array


def variance_kernel(a: Array, b: Array) -> Array:
    """½ (a − b)²: its U-statistic is the sample variance (ddof 1).

    Examples:
        >>> from ustat_grpo.ustatistics import u_statistic, variance_kernel
        >>> float(u_statistic([1, 2, 3], variance_kernel))  # deviations −1, 0, 1: 2/(3 − 1)
        1.0
    """
    return (a - b) ** 2 / 2


def gini_kernel(a: Array, b: Array) -> Array:
    """|a − b|: its U-statistic is Gini's mean difference.

    Examples:
        >>> from ustat_grpo.ustatistics import gini_kernel, u_statistic
        >>> float(u_statistic([0, 1, 6], gini_kernel))  # (1 + 6 + 5)/3
        4.0
    """
    return np.abs(a - b)


def kendall_kernel(a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
    """sign(x_i − x_j) sign(y_i − y_j) on (x, y): its U-statistic is Kendall's tau-a.

    Ties count as 0 and still count as pairs: `scipy.stats.kendalltau` gives tau-b, which leaves
    them out of its denominator and is larger where there are ties.

    Examples:
        >>> from ustat_grpo.ustatistics import kendall_kernel, u_statistic
        >>> print(round(u_statistic(([1, 1, 2], [1, 2, 3]), kendall_kernel), 6))  # tau-b: 0.816497
        0.666667
    """
    return np.sign(a[0] - b[0]) * np.sign(a[1] - b[1])


def covariance_kernel(a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
    """½ (x_i − x_j)(z_i − z_j) on (x, z), x a d-vector and z a number.

    With x the score and z the reward of an output this is the kernel of GRPO's
    policy gradient; `covariance_u_statistic` gives its U-statistic in O(nd).

    Args:
        a: x (r, c, d) and z (r, c), up to broadcasting.
        b: The same for the other observation of each pair.

    Returns:
        (r, c, d) kernel values.

    Examples:
        >>> from ustat_grpo.ustatistics import covariance_kernel, u_statistic
        >>> scores, rewards = [[2, 0], [0, 2]], [1, 0]
        >>> u_statistic((scores, rewards), covariance_kernel).tolist()  # GRPO's gradient
        [1.0, -1.0]

    Reference:
        arXiv 2603.01162, Lemma 1.
    """
    return (a[0] - b[0]) * ((a[1] - b[1]) / 2)[..., None]
