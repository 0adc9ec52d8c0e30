"""Policy-gradient estimators: rewards of a group of outputs in, advantages out.

An estimator differs from the next only in what it makes of the rewards. The gradient is the same
for all: the mean over the group of advantage × score,

    ĝ(x) = (1/G) Σ_i W_i A_i,

with A_i = Z_i for vanilla, Z_i − V(x) for the oracle and Z_i less the mean of the *other* rewards
for GRPO (Table 1 of arXiv 2603.01162). NumPy arrays and torch tensors both work, over any leading
axes; the result lives where the rewards live.

A reward that is not finite (NaN, ±∞, masked, None in a list) marks an output that could not be
scored, or one that a smaller group does not have. It is left out of its group: it enters no
baseline, its advantage is 0, and `gradient` averages over the other outputs. In a group with a
single scorable output there are no others to compare it with: the leave-one-out mean is then the
reward itself. `KeepSingletons` does otherwise, as verl does.

Most estimators look at one group; `BatchStdNormalised`, `Whitened`, `HitScaled`, `DropEqualGroups`
and `JamesStein` look at a batch of them, rewards (..., B, G). `LIBRARIES` lists what trainers ship.
"""

from ustat_grpo.estimators.baselines import (
    ConstantBaseline,
    Critic,
    GreedyBaseline,
    OptimalBaseline,
    Oracle,
    Vanilla,
)
from ustat_grpo.estimators.batch import BatchStdNormalised, HitScaled, Whitened
from ustat_grpo.estimators.group import (
    GroupMean,
    Grpo,
    LengthWeightedMean,
    ScoreWeightedMean,
    Shrinkage,
)
from ustat_grpo.estimators.interface import NOTHING, Estimator, SideInformation, gradient
from ustat_grpo.estimators.libraries import LIBRARIES, LibraryForm
from ustat_grpo.estimators.normalised import LeaveOneOutNormalised, Sign, StdNormalised
from ustat_grpo.estimators.pass_at_k import BestOfGroup, PassAtK
from ustat_grpo.estimators.selection import (
    DropEqualGroups,
    KeepSingletons,
    groups_per_kept_group,
)
from ustat_grpo.estimators.shrunk import EmpiricalBayes, JamesStein, RunningRewards

__all__ = [
    "LIBRARIES",
    "NOTHING",
    "BatchStdNormalised",
    "BestOfGroup",
    "ConstantBaseline",
    "Critic",
    "DropEqualGroups",
    "EmpiricalBayes",
    "Estimator",
    "GreedyBaseline",
    "GroupMean",
    "Grpo",
    "HitScaled",
    "JamesStein",
    "KeepSingletons",
    "LeaveOneOutNormalised",
    "LengthWeightedMean",
    "LibraryForm",
    "OptimalBaseline",
    "Oracle",
    "PassAtK",
    "RunningRewards",
    "ScoreWeightedMean",
    "Shrinkage",
    "SideInformation",
    "Sign",
    "StdNormalised",
    "Vanilla",
    "Whitened",
    "gradient",
    "groups_per_kept_group",
]
