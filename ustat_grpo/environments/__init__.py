"""Gymnasium environments as problems for group estimators: a prompt is a reset seed.

Importing this registers the environments `ustat_grpo/ContextualBandit-v0`, `ustat_grpo/TugOfWar-v0`
and `ustat_grpo/Arithmetic-v0`. Only `MlpPolicy` needs torch, imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ustat_grpo.inputs.extras import MissingExtraError, from_extra

try:
    import gymnasium as _gymnasium  # noqa: F401  (all of this room needs it)
except ImportError as error:
    raise MissingExtraError("gymnasium", error) from error

from ustat_grpo.environments import registration as registration
from ustat_grpo.environments.copies import EnvironmentCopies
from ustat_grpo.environments.episode_pools import episode_pool
from ustat_grpo.environments.features import Affine, OneHot, Quadratic
from ustat_grpo.environments.mdp import TabularMdp, frozen_lake, make_frozen_lake, tabular_mdp
from ustat_grpo.environments.mdp_errors import gradient_errors
from ustat_grpo.environments.mdp_moments import (
    MdpSnapshot,
    best_objective,
    objective,
    snapshot,
    train_to,
)
from ustat_grpo.environments.mdp_training import optimize_mdp
from ustat_grpo.environments.policies import LinearSoftmax, Policy, tabular_softmax
from ustat_grpo.environments.rollouts import Episodes, episode_scores, group_rollouts
from ustat_grpo.environments.training import TrainedRun, train

if TYPE_CHECKING:
    from ustat_grpo.environments.mlp import MlpPolicy

__all__ = [
    "Affine",
    "EnvironmentCopies",
    "Episodes",
    "LinearSoftmax",
    "MdpSnapshot",
    "MlpPolicy",
    "OneHot",
    "Policy",
    "Quadratic",
    "TabularMdp",
    "TrainedRun",
    "best_objective",
    "episode_pool",
    "episode_scores",
    "frozen_lake",
    "gradient_errors",
    "group_rollouts",
    "make_frozen_lake",
    "objective",
    "optimize_mdp",
    "snapshot",
    "tabular_mdp",
    "tabular_softmax",
    "train",
    "train_to",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name == "MlpPolicy":
        from_extra("torch")
        return import_module("ustat_grpo.environments.mlp").MlpPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
