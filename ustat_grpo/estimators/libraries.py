"""The advantage estimators of the libraries that people train with, with their constants."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ustat_grpo.estimators.baselines import GreedyBaseline, Vanilla
from ustat_grpo.estimators.batch import BatchStdNormalised, HitScaled, Whitened
from ustat_grpo.estimators.group import GroupMean, Grpo, LengthWeightedMean
from ustat_grpo.estimators.interface import Estimator
from ustat_grpo.estimators.normalised import LeaveOneOutNormalised, StdNormalised
from ustat_grpo.estimators.pass_at_k import BestOfGroup
from ustat_grpo.estimators.selection import DropEqualGroups, KeepSingletons


@dataclass(frozen=True)
class LibraryForm:
    """An estimator as a library has it.

    Args:
        library: who has it.
        option: how it is asked for there.
        estimator: with that library's constants.

    Examples:
        >>> from ustat_grpo.estimators import LIBRARIES
        >>> LIBRARIES["trl_rloo"]
        LibraryForm(library='TRL', option='RLOOTrainer', estimator=Grpo())
        >>> LIBRARIES["trl_dr_grpo"].estimator.advantages([1, 0]).tolist()
        [0.5, -0.5]
    """

    library: str
    option: str
    estimator: Estimator


_VERL_GRPO = KeepSingletons(StdNormalised(eps=1e-6), eps=1e-6)

LIBRARIES: Mapping[str, LibraryForm] = MappingProxyType(
    {
        "paper_algorithm_2": LibraryForm(
            "arXiv 2603.01162", "Algorithm 2", LeaveOneOutNormalised(eps=0.0)
        ),
        "trl_grpo": LibraryForm("TRL", 'scale_rewards="group"', StdNormalised(eps=1e-4)),
        "trl_grpo_batch": LibraryForm("TRL", 'scale_rewards="batch"', BatchStdNormalised(eps=1e-4)),
        "trl_dr_grpo": LibraryForm("TRL", 'scale_rewards="none"', GroupMean()),
        "trl_rloo": LibraryForm("TRL", "RLOOTrainer", Grpo()),
        "trl_rloo_normalised": LibraryForm(
            "TRL",
            "RLOOTrainer, normalize_advantages=True",
            Whitened(Grpo(), eps=1e-4, place="std", per_token=False, keep_singletons=False),
        ),
        "verl_grpo": LibraryForm("verl", "grpo", _VERL_GRPO),
        "verl_dr_grpo": LibraryForm(
            "verl", "grpo, norm_adv_by_std_in_grpo=False", KeepSingletons(GroupMean())
        ),
        "verl_grpo_passk": LibraryForm("verl", "grpo_passk", BestOfGroup(eps=1e-6)),
        "verl_rloo": LibraryForm("verl", "rloo", KeepSingletons(Grpo())),
        "verl_rloo_vectorized": LibraryForm("verl", "rloo_vectorized", Grpo()),
        "verl_opo": LibraryForm("verl", "opo", KeepSingletons(LengthWeightedMean())),
        "verl_remax": LibraryForm("verl", "remax", GreedyBaseline()),
        "verl_gpg": LibraryForm("verl", "gpg", HitScaled(KeepSingletons(GroupMean()))),
        "verl_reinforce_plus_plus": LibraryForm(
            "verl", "reinforce_plus_plus", Whitened(Vanilla(), eps=1e-8)
        ),
        "verl_reinforce_plus_plus_baseline": LibraryForm(
            "verl", "reinforce_plus_plus_baseline", Whitened(KeepSingletons(GroupMean()), eps=1e-8)
        ),
        "verl_dapo": LibraryForm(
            "verl", "filter_groups", DropEqualGroups(_VERL_GRPO, keep_singletons=True)
        ),
        "openrlhf_group_norm": LibraryForm("OpenRLHF", "group_norm", StdNormalised(eps=1e-9)),
        "openrlhf_dr_grpo": LibraryForm("OpenRLHF", "dr_grpo", GroupMean()),
        "openrlhf_rloo": LibraryForm("OpenRLHF", "rloo", Grpo()),
        "openrlhf_reinforce": LibraryForm(
            "OpenRLHF", "reinforce", Whitened(Vanilla(), eps=1e-8, ddof=0, place="floor")
        ),
        "openrlhf_reinforce_baseline": LibraryForm(
            "OpenRLHF",
            "reinforce_baseline",
            Whitened(GroupMean(), eps=1e-8, ddof=0, place="floor"),
        ),
    }
)
"""By name: library form → who has it, how it is asked for, and the estimator. The table of the zoo.

All take the reward of a whole output, without discounting or a KL term in it. Where all rewards of
a batch are equal, all of them but ReMax give 0, as the libraries do up to rounding."""
