"""Language models as policies: sampling, scores, exact values, moments, errors and training.

What needs torch is imported when it is first used, so that the rest of the library, which shares
the arithmetic problems, does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ustat_grpo.lm.arithmetic import ArithmeticProblem, OperandRanges, arithmetic_problems

if TYPE_CHECKING:
    from ustat_grpo.lm.actor_critic import LearnedCritic, Learner, train_step
    from ustat_grpo.lm.checkpoints import load_policy, save_policy, shipped_policy
    from ustat_grpo.lm.critic import value_network
    from ustat_grpo.lm.ensemble import train_ensemble
    from ustat_grpo.lm.exact import expected_accuracy, objective_gradient, solution_probs
    from ustat_grpo.lm.gradient_error import brute_force_errors
    from ustat_grpo.lm.language_model import LanguageModel, Prompts, Rollouts
    from ustat_grpo.lm.measured_moments import norm_moments
    from ustat_grpo.lm.output_sample import measured_outputs
    from ustat_grpo.lm.policy_gradient import Task
    from ustat_grpo.lm.pool import draw_pool
    from ustat_grpo.lm.pretraining import Pretraining, pretrain
    from ustat_grpo.lm.questions import Questions, arithmetic_questions
    from ustat_grpo.lm.rewards import AccuracyAndFormat, ExactMatch
    from ustat_grpo.lm.sampling import sample_groups
    from ustat_grpo.lm.score_products import probe_norms, score_gram, score_norms
    from ustat_grpo.lm.scoring import Answers, log_probs, weighted_score
    from ustat_grpo.lm.surrogate import practical_gradient
    from ustat_grpo.lm.tokenizer import CharacterTokenizer
    from ustat_grpo.lm.training import TrainingConfig, run_rng, train
    from ustat_grpo.lm.transformer import Transformer, TransformerShape

_HOMES = {
    "AccuracyAndFormat": "rewards",
    "Answers": "scoring",
    "CharacterTokenizer": "tokenizer",
    "ExactMatch": "rewards",
    "LanguageModel": "language_model",
    "LearnedCritic": "actor_critic",
    "Learner": "actor_critic",
    "Pretraining": "pretraining",
    "Prompts": "language_model",
    "Questions": "questions",
    "Rollouts": "language_model",
    "Task": "policy_gradient",
    "TrainingConfig": "training",
    "Transformer": "transformer",
    "TransformerShape": "transformer",
    "arithmetic_questions": "questions",
    "brute_force_errors": "gradient_error",
    "draw_pool": "pool",
    "expected_accuracy": "exact",
    "load_policy": "checkpoints",
    "log_probs": "scoring",
    "measured_outputs": "output_sample",
    "norm_moments": "measured_moments",
    "objective_gradient": "exact",
    "practical_gradient": "surrogate",
    "pretrain": "pretraining",
    "probe_norms": "score_products",
    "run_rng": "training",
    "sample_groups": "sampling",
    "save_policy": "checkpoints",
    "score_gram": "score_products",
    "score_norms": "score_products",
    "shipped_policy": "checkpoints",
    "solution_probs": "exact",
    "train": "training",
    "train_ensemble": "ensemble",
    "train_step": "actor_critic",
    "value_network": "critic",
    "weighted_score": "scoring",
}

__all__ = [
    "AccuracyAndFormat",
    "Answers",
    "ArithmeticProblem",
    "CharacterTokenizer",
    "ExactMatch",
    "LanguageModel",
    "LearnedCritic",
    "Learner",
    "OperandRanges",
    "Pretraining",
    "Prompts",
    "Questions",
    "Rollouts",
    "Task",
    "TrainingConfig",
    "Transformer",
    "TransformerShape",
    "arithmetic_problems",
    "arithmetic_questions",
    "brute_force_errors",
    "draw_pool",
    "expected_accuracy",
    "load_policy",
    "log_probs",
    "measured_outputs",
    "norm_moments",
    "objective_gradient",
    "practical_gradient",
    "pretrain",
    "probe_norms",
    "run_rng",
    "sample_groups",
    "save_policy",
    "score_gram",
    "score_norms",
    "shipped_policy",
    "solution_probs",
    "train",
    "train_ensemble",
    "train_step",
    "value_network",
    "weighted_score",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Name what there is, also what was not used yet."""
    return sorted({*globals(), *__all__})
