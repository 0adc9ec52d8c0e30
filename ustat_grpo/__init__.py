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
    ConstantBaseline,
    Estimator,
    GroupMean,
    Grpo,
    OptimalBaseline,
    Oracle,
    Shrinkage,
    SideInformation,
    Vanilla,
    gradient,
)
from ustat_grpo.moments import Moments, NoiseComponents, OutcomeMoments
from ustat_grpo.monte_carlo import gradient_mse
from ustat_grpo.optimization import Runs, optimize
from ustat_grpo.practice import Practice
from ustat_grpo.regions import Box
from ustat_grpo.schedules import Constant, Decay, Schedule

__all__ = [
    "Box",
    "Constant",
    "ConstantBaseline",
    "Decay",
    "Estimator",
    "GroupMean",
    "Grpo",
    "Moments",
    "NoiseComponents",
    "OptimalBaseline",
    "Oracle",
    "OutcomeMoments",
    "Practice",
    "Runs",
    "Schedule",
    "Shrinkage",
    "SideInformation",
    "Snapshot",
    "SoftmaxBandit",
    "TugOfWar",
    "Vanilla",
    "arithmetic_choice",
    "gradient",
    "gradient_mse",
    "laws",
    "optimize",
    "random_bandit",
    "train_to",
    "ustatistics",
]
