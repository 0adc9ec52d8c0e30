"""How good is a GRPO policy gradient, and how many outputs per prompt should be sampled?

Estimators turn rewards into advantages, `laws` say exactly how wrong each is, `gradient_mse`
measures it, and they agree. Reference: arXiv 2603.01162.
"""

from ustat_grpo import laws, ustatistics
from ustat_grpo.bandits import (
    Snapshot,
    SoftmaxBandit,
    TugOfWar,
    arithmetic_choice,
    random_bandit,
    train_to,
)
from ustat_grpo.estimators import (
    BatchStdNormalised,
    BestOfGroup,
    ConstantBaseline,
    Critic,
    DropEqualGroups,
    EmpiricalBayes,
    Estimator,
    GreedyBaseline,
    GroupMean,
    Grpo,
    HitScaled,
    JamesStein,
    KeepSingletons,
    LeaveOneOutNormalised,
    LengthWeightedMean,
    OptimalBaseline,
    Oracle,
    PassAtK,
    RunningRewards,
    ScoreWeightedMean,
    Shrinkage,
    SideInformation,
    Sign,
    StdNormalised,
    Vanilla,
    Whitened,
    gradient,
    groups_per_kept_group,
)
from ustat_grpo.estimators.flat import from_flat, from_index
from ustat_grpo.moments import Moments, NoiseComponents, OutcomeMoments
from ustat_grpo.monte_carlo import gradient_mse
from ustat_grpo.optimization import Runs, optimize
from ustat_grpo.optimization.practice import Practice
from ustat_grpo.optimization.regions import Box
from ustat_grpo.optimization.schedules import Constant, Decay, Schedule

__all__ = [
    "BatchStdNormalised",
    "BestOfGroup",
    "Box",
    "Constant",
    "ConstantBaseline",
    "Critic",
    "Decay",
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
    "Moments",
    "NoiseComponents",
    "OptimalBaseline",
    "Oracle",
    "OutcomeMoments",
    "PassAtK",
    "Practice",
    "RunningRewards",
    "Runs",
    "Schedule",
    "ScoreWeightedMean",
    "Shrinkage",
    "SideInformation",
    "Sign",
    "Snapshot",
    "SoftmaxBandit",
    "StdNormalised",
    "TugOfWar",
    "Vanilla",
    "Whitened",
    "arithmetic_choice",
    "from_flat",
    "from_index",
    "gradient",
    "gradient_mse",
    "groups_per_kept_group",
    "laws",
    "optimize",
    "random_bandit",
    "train_to",
    "ustatistics",
]
