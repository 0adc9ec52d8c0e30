"""Second-order U-statistics: values, variances, intervals, Hoeffding's split.

A U-statistic averages a symmetric kernel h over all pairs of distinct observations.
GRPO's policy gradient is one, with kernel ½ (W_i − W_j)(Z_i − Z_j) for scores W and
rewards Z (arXiv 2603.01162, Lemma 1), so what is true of U-statistics is true of GRPO.
Nothing here knows about policies: it is meant for any statistician's kernel.

`docs/ustatistics.md` says which function answers which question.

Reference:
    Hoeffding (1948), A class of statistics with asymptotically normal distribution,
    Ann. Math. Statist. 19. Lee (1990), U-Statistics: Theory and Practice. Serfling
    (1980), Approximation Theorems of Mathematical Statistics, chapter 5.
"""

from .classical import covariance_kernel, gini_kernel, kendall_kernel, variance_kernel
from .complete import jackknife_variance, u_statistic, variance_components, variance_estimate
from .components import VarianceComponents
from .covariance import (
    covariance_u_statistic,
    covariance_variance_components,
    covariance_variance_estimate,
)
from .hoeffding import (
    HoeffdingDecomposition,
    HoeffdingEstimate,
    hoeffding,
    hoeffding_estimate,
    second_projection,
)
from .incomplete import IncompleteUStatistic, incomplete_u_statistic
from .intervals import ConfidenceInterval, confidence_interval

__all__ = [
    "ConfidenceInterval",
    "HoeffdingDecomposition",
    "HoeffdingEstimate",
    "IncompleteUStatistic",
    "VarianceComponents",
    "confidence_interval",
    "covariance_kernel",
    "covariance_u_statistic",
    "covariance_variance_components",
    "covariance_variance_estimate",
    "gini_kernel",
    "hoeffding",
    "hoeffding_estimate",
    "incomplete_u_statistic",
    "jackknife_variance",
    "kendall_kernel",
    "second_projection",
    "u_statistic",
    "variance_components",
    "variance_estimate",
    "variance_kernel",
]
