"""Policy-gradient estimators: rewards of a group of outputs in, advantages out.

An estimator differs from the next only in what it makes of the rewards. The gradient is the same
for all: the mean over the group of advantage × score,

    ĝ(x) = (1/G) Σ_i W_i A_i,

with A_i = Z_i for vanilla, Z_i − V(x) for the oracle and Z_i less the mean of the *other* rewards
for GRPO (Table 1 of arXiv 2603.01162). NumPy arrays and torch tensors both work, over any leading
axes; the result lives where the rewards live.

A NaN reward marks an output that could not be scored, or one that a smaller group does not have.
It is left out of its group: it enters no baseline, its advantage is 0, and `gradient` averages over
the other outputs. In a group with a single scorable output there are no others to compare it with:
the leave-one-out mean is then the reward itself.
"""

from ustat_grpo.estimators.baselines import ConstantBaseline, OptimalBaseline, Oracle, Vanilla
from ustat_grpo.estimators.group import GroupMean, Grpo, Shrinkage
from ustat_grpo.estimators.interface import NOTHING, Estimator, SideInformation, gradient

__all__ = [
    "NOTHING",
    "ConstantBaseline",
    "Estimator",
    "GroupMean",
    "Grpo",
    "OptimalBaseline",
    "Oracle",
    "Shrinkage",
    "SideInformation",
    "Vanilla",
    "gradient",
]
