"""Language models as policies: sampling, scores, exact values, moments, errors and training."""

from ustat_grpo.inputs.extras import MissingExtraError

try:
    import torch as _torch  # noqa: F401  (all of this room needs both)
except ImportError as error:
    raise MissingExtraError("torch", error) from error
try:
    import safetensors as _safetensors  # noqa: F401
except ImportError as error:
    raise MissingExtraError("safetensors", error) from error

from ustat_grpo.lm.exact import expected_accuracy, objective_gradient, solution_probs
from ustat_grpo.lm.judging.function_rewards import FunctionReward
from ustat_grpo.lm.language_model import LanguageModel, Prompts, Rollouts
from ustat_grpo.lm.models.checkpoints import load_policy, save_policy, shipped_policy
from ustat_grpo.lm.models.conversation import Conversation
from ustat_grpo.lm.models.tokenizer import CharacterTokenizer
from ustat_grpo.lm.models.transformer import Transformer, TransformerShape
from ustat_grpo.lm.questions.questions import Questions, arithmetic_questions
from ustat_grpo.lm.questions.rewards import AccuracyAndFormat, ExactMatch
from ustat_grpo.lm.sampling import sample_groups
from ustat_grpo.lm.scores.known_solutions import brute_force_errors, norm_moments
from ustat_grpo.lm.scores.output_pool import draw_pool
from ustat_grpo.lm.scores.output_sample import measured_outputs
from ustat_grpo.lm.scores.products import probe_norms, score_gram, score_norms
from ustat_grpo.lm.scoring import Answers, log_probs, weighted_score
from ustat_grpo.lm.task import Task
from ustat_grpo.lm.training.actor_critic import (
    ActorCritic,
    LearnedCritic,
    Learner,
    train_step,
    value_network,
)
from ustat_grpo.lm.training.ensemble import train_ensemble
from ustat_grpo.lm.training.model_training import AdamW, ModelTraining, Sgd
from ustat_grpo.lm.training.pretraining import Pretraining, pretrain
from ustat_grpo.lm.training.surrogate import practical_gradient
from ustat_grpo.lm.training.training import run_rng, train

__all__ = [
    "AccuracyAndFormat",
    "ActorCritic",
    "AdamW",
    "Answers",
    "CharacterTokenizer",
    "Conversation",
    "ExactMatch",
    "FunctionReward",
    "LanguageModel",
    "LearnedCritic",
    "Learner",
    "ModelTraining",
    "Pretraining",
    "Prompts",
    "Questions",
    "Rollouts",
    "Sgd",
    "Task",
    "Transformer",
    "TransformerShape",
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
