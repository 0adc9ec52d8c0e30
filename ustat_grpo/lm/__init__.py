"""Small language models and the arithmetic they are asked.

What needs torch is imported when it is first used, so that the rest of the library, which shares
the arithmetic problems, does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ustat_grpo.lm.arithmetic import ArithmeticProblem, OperandRanges, arithmetic_problems

if TYPE_CHECKING:
    from ustat_grpo.lm.language_model import LanguageModel, Prompts, Rollouts
    from ustat_grpo.lm.sampling import sample_groups
    from ustat_grpo.lm.scoring import Answers, log_probs, weighted_score
    from ustat_grpo.lm.tokenizer import CharacterTokenizer
    from ustat_grpo.lm.transformer import Transformer, TransformerShape

_HOMES = {
    "Answers": "scoring",
    "CharacterTokenizer": "tokenizer",
    "LanguageModel": "language_model",
    "Prompts": "language_model",
    "Rollouts": "language_model",
    "Transformer": "transformer",
    "TransformerShape": "transformer",
    "log_probs": "scoring",
    "sample_groups": "sampling",
    "weighted_score": "scoring",
}

__all__ = [
    "Answers",
    "ArithmeticProblem",
    "CharacterTokenizer",
    "LanguageModel",
    "OperandRanges",
    "Prompts",
    "Rollouts",
    "Transformer",
    "TransformerShape",
    "arithmetic_problems",
    "log_probs",
    "sample_groups",
    "weighted_score",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
