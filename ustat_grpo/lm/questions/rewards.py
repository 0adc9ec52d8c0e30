"""Rewards of outputs that answer a question with a number."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ustat_grpo.lm.language_model import Rollouts
from ustat_grpo.lm.models.tokenizer import CharacterTokenizer
from ustat_grpo.lm.scoring import Answers


class Reward(Protocol):
    """Rewards the outputs to some questions of a set."""

    def __call__(self, rollouts: Rollouts, questions: Int[Tensor, " B"]) -> Float[Tensor, "B G"]:
        """Return the reward Z of each output.

        Args:
            rollouts: the outputs.
            questions: which questions of the set the prompts are.
        """
        ...


@dataclass(frozen=True, eq=False)
class ExactMatch:
    """1 for the one right output, token by token with its end token, else 0.

    Hence V(x) = π(y*∣x), which `ustat_grpo.lm.exact` computes without sampling.

    Args:
        solutions: the right output to each question of the set.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from ustat_grpo.lm import arithmetic_questions, sample_groups, shipped_policy
        >>> _, questions = arithmetic_questions(5, 5, rng=np.random.default_rng(0))
        >>> policy, rng = shipped_policy("advanced"), torch.Generator().manual_seed(0)
        >>> outputs = sample_groups(policy, questions.prompts, 8, max_tokens=6, rng=rng)
        >>> rewards = questions.exact_match(outputs, torch.arange(5))  # to which questions
        >>> tuple(rewards.shape), set(rewards.unique().tolist()) <= {0.0, 1.0}
        ((5, 8), True)
    """

    solutions: Answers

    def __call__(self, rollouts: Rollouts, questions: Int[Tensor, " B"]) -> Float[Tensor, "B G"]:
        """Return 1 where output and solution agree; see `Reward`."""
        wanted = self.solutions.tokens.masked_fill(~self.solutions.mask, -1)[questions]
        outputs = rollouts.outputs.masked_fill(~rollouts.mask, -1)
        longest = max(wanted.shape[-1], outputs.shape[-1])
        wanted = functional.pad(wanted, (0, longest - wanted.shape[-1]), value=-1)
        outputs = functional.pad(outputs, (0, longest - outputs.shape[-1]), value=-1)
        return (outputs == wanted[:, None]).all(dim=-1).to(rollouts.log_probs.dtype)


@dataclass(frozen=True, eq=False)
class AccuracyAndFormat:
    """Accuracy (0 or 1) plus format (0 or 1), as GRPO's rewards are in the paper.

    Accurate is a finished output whose number is the answer, also with leading zeros; well-formed
    is a finished output that is a number as one writes it.

    Args:
        answers: the right number to each question of the set.
        tokenizer: reads the outputs.

    Examples:
        >>> import torch
        >>> from ustat_grpo.lm import AccuracyAndFormat, CharacterTokenizer, Prompts, Rollouts
        >>> tokenizer = CharacterTokenizer()
        >>> texts = ["42", "7", "+7", "042"]  # the last is right, but not well-formed
        >>> tokens = [tokenizer.outputs([text])[0].tolist() for text in texts]
        >>> outputs = torch.tensor([[each + [0] * (4 - len(each)) for each in tokens]])
        >>> prompts = tokenizer.prompts(["6*7="])
        >>> rollouts = Rollouts(prompts, outputs, mask=outputs != 0, log_probs=torch.zeros(1, 4, 4))
        >>> AccuracyAndFormat([42], tokenizer)(rollouts, torch.tensor([0])).tolist()
        [[2.0, 1.0, 0.0, 1.0]]
    """

    answers: Sequence[int]
    tokenizer: CharacterTokenizer

    def __call__(self, rollouts: Rollouts, questions: Int[Tensor, " B"]) -> Float[Tensor, "B G"]:
        """Return 0, 1 or 2; see `Reward`."""
        rewards = [
            [
                self._reward(output[real].tolist(), self.answers[question])
                for output, real in zip(outputs, mask, strict=True)
            ]
            for outputs, mask, question in zip(
                rollouts.outputs.cpu(), rollouts.mask.cpu(), questions.tolist(), strict=True
            )
        ]
        like = rollouts.log_probs
        return torch.tensor(rewards, dtype=like.dtype, device=like.device)

    def _reward(self, tokens: list[int], answer: int) -> float:
        text = self.tokenizer.decode(tokens)
        number = re.fullmatch("(-?)0*([0-9]+)", text)
        if tokens[-1] != self.tokenizer.end_token or not number:
            return 0.0
        sign, digits = number.groups()  # as text: int() refuses more than 4300 digits
        written = digits if digits == "0" else sign + digits
        return float(written == str(answer)) + float(written == text)
