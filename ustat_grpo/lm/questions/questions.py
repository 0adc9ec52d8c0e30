"""Arithmetic problems as questions to a small language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ustat_grpo.arithmetic.problems import (
    KINDS,
    RANGES,
    ArithmeticProblem,
    OperandRanges,
    arithmetic_problems,
)
from ustat_grpo.inputs.checks import integer
from ustat_grpo.lm.language_model import Prompts
from ustat_grpo.lm.models.tokenizer import CharacterTokenizer
from ustat_grpo.lm.questions.rewards import AccuracyAndFormat, ExactMatch
from ustat_grpo.lm.scoring import Answers

CONTEXT_LENGTH = 32
"""Tokens that the shipped policies can read and write together."""

TOKENIZER = CharacterTokenizer()
"""The tokens of the shipped policies."""


@dataclass(frozen=True, eq=False)
class Questions:
    """Problems as prompts such as `3+14-5=`, with the one right output to each.

    Args:
        problems: the problems, each once.
        tokenizer: writes prompts and solutions.
        device: where they lie.

    Raises:
        ValueError: if there are no problems.

    Examples:
        >>> from ustat_grpo.arithmetic import ArithmeticProblem
        >>> from ustat_grpo.arithmetic.expressions import Operation
        >>> from ustat_grpo.lm import Questions
        >>> questions = Questions([ArithmeticProblem(Operation("*", 6, 7))])
        >>> read = questions.tokenizer.decode
        >>> read(questions.prompts.tokens[0].tolist()), read(questions.solutions.tokens[0].tolist())
        ('6*7=', '42')
    """

    problems: Sequence[ArithmeticProblem]
    tokenizer: CharacterTokenizer = TOKENIZER
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        """Check that there are problems."""
        if not self.problems:
            raise ValueError("problems must hold at least one, got none")

    def __len__(self) -> int:
        """The number of questions."""
        return len(self.problems)

    @cached_property
    def prompts(self) -> Prompts:
        """The prompts, left-padded."""
        texts = [problem.text.replace(" ", "") + "=" for problem in self.problems]
        return self.tokenizer.prompts(texts).to(self.device)

    @cached_property
    def solutions(self) -> Answers:
        """The right output to each prompt: the answer's digits and the end token."""
        answers = [str(problem.answer) for problem in self.problems]
        return Answers.of(self.prompts, self.tokenizer.outputs(answers))

    @cached_property
    def exact_match(self) -> ExactMatch:
        """The reward that is 1 for the solution and 0 else."""
        return ExactMatch(self.solutions)

    @cached_property
    def accuracy_and_format(self) -> AccuracyAndFormat:
        """The reward in {0, 1, 2}."""
        return AccuracyAndFormat([problem.answer for problem in self.problems], self.tokenizer)

    @cached_property
    def kinds(self) -> Int[Tensor, " P"]:
        """The place of each problem's kind in `KINDS`."""
        return torch.tensor([KINDS.index(problem.kind) for problem in self.problems])


def arithmetic_questions(
    num_train: int,
    num_held_out: int,
    *,
    rng: np.random.Generator,
    ranges: OperandRanges = RANGES,
    tokenizer: CharacterTokenizer = TOKENIZER,
) -> tuple[Questions, Questions]:
    """Return a train set and a held-out set without a common problem, the five kinds in turn.

    The held-out set depends on its own size, the seed and the ranges only, so train sets of any
    size go with it.

    Raises:
        ValueError: if a number is no positive multiple of five, or the ranges do not hold enough
            distinct problems.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.lm import arithmetic_questions
        >>> train, held_out = arithmetic_questions(10, 5, rng=np.random.default_rng(0))
        >>> train.prompts.tokens.shape[0], held_out.kinds.tolist()  # one of each kind is held out
        (10, [0, 1, 2, 3, 4])
    """
    for name, number in {"num_train": num_train, "num_held_out": num_held_out}.items():
        if integer(name, number) % len(KINDS):
            raise ValueError(
                f"{name} must be a multiple of {len(KINDS)} for equal shares, got {number}"
            )
    problems = arithmetic_problems(num_held_out + num_train, rng=rng, ranges=ranges)
    return (
        Questions(problems[num_held_out:], tokenizer),
        Questions(problems[:num_held_out], tokenizer),
    )
