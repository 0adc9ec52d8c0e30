r"""Rewards of outputs that answer in words: accuracy, and accuracy plus format.

Arithmetic is judged by the last number of the text, as the gradient-error figure of arXiv
2603.01162 does; GSM8K and MATH by math-verify, which knows that \frac{1}{2} is 0.5. A text that is
cut off is read as far as it goes.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ustat_grpo.inputs.checks import integer
from ustat_grpo.inputs.extras import from_extra
from ustat_grpo.lm.judging.boxes import last_boxed
from ustat_grpo.lm.judging.equivalence import decided
from ustat_grpo.lm.judging.judge_process import JUDGE
from ustat_grpo.lm.judging.written_numbers import as_number, first_number, last_number
from ustat_grpo.lm.language_model import Rollouts

_logger = logging.getLogger(__name__)


class Reader(Protocol):
    """What turns an output back into text: any tokenizer of ours."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text before the end token."""
        ...


@dataclass(frozen=True, eq=False)
class TextReward:
    """Accuracy of the text, plus its format if that counts: in [0, 1] or in [0, 2].

    Meets `ustat_grpo.lm.questions.rewards.Reward`. An output that could not be judged has reward
    NaN, which the estimators leave out of its group; how many these are is logged as a warning.

    Args:
        answers: the right answer to each question of the set.
        reader: decodes outputs.
        accuracy: judges a text by the right answer, such as `same_number` or `Equivalent()`.
        form: judges the form of a text, such as `is_boxed`; None if it does not count.

    Raises:
        ValueError: if numbers shall be compared with an answer that is none.
    """

    answers: Sequence[str]
    reader: Reader
    accuracy: Callable[[str, str], float]
    form: Callable[[str], float] | None = None

    def __post_init__(self) -> None:
        """Check that there are numbers to compare with."""
        if self.accuracy in (same_number, same_first_number):
            for question, answer in enumerate(self.answers):
                if as_number(answer) is None:
                    raise ValueError(
                        f"answers must be numbers for {getattr(self.accuracy, '__name__', '')}, "
                        f"got {answer!r} to question {question}"
                    )

    def __call__(self, rollouts: Rollouts, questions: Int[Tensor, " B"]) -> Float[Tensor, "B G"]:
        """Return the reward of each output; equal texts are judged once. See `Reward`."""
        groups = [
            [
                (self.reader.decode(output[real].tolist()), self.answers[int(question)])
                for output, real in zip(outputs, mask, strict=True)
            ]
            for outputs, mask, question in zip(
                rollouts.outputs.cpu(), rollouts.mask.cpu(), questions.tolist(), strict=True
            )
        ]
        pairs = list(dict.fromkeys(pair for group in groups for pair in group))
        judged = dict(zip(pairs, self._judged(pairs), strict=True))
        like = rollouts.log_probs
        rewards = torch.tensor(
            [[judged[pair] for pair in group] for group in groups],
            dtype=like.dtype,
            device=like.device,
        )
        unjudged = int(rewards.isnan().sum())
        if unjudged:
            _logger.warning("%d of %d outputs had no verdict", unjudged, rewards.numel())
        return rewards

    def judge(self, text: str, answer: str) -> float:
        """Return the reward of one text."""
        return self._judged([(text, answer)])[0]

    def _judged(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        verdicts = verdicts_of(self.accuracy, pairs)
        forms = [self.form(text) if self.form else 0.0 for text, _ in pairs]
        return [verdict + form for verdict, form in zip(verdicts, forms, strict=True)]


def verdicts_of(
    accuracy: Callable[[str, str], float], pairs: Sequence[tuple[str, str]]
) -> list[float]:
    """Return what a judge says of each text and right answer, all at once if it can do that."""
    if isinstance(accuracy, Equivalent):
        return accuracy.verdicts(pairs)
    return [accuracy(text, answer) for text, answer in pairs]


def same_number(text: str, answer: str) -> float:
    """Return 1 if the last number of the text is the answer, else 0.

    `ustat_grpo.lm.judging.written_numbers` says what is a number; `1,234`, `58.0` and `-$5` are the
    numbers 1234, 58 and -5. An answer that is none, as a whole, is no text's last number.
    """
    wanted = as_number(answer)
    return float(wanted is not None and last_number(text) == str(wanted))


def same_first_number(text: str, answer: str) -> float:
    """Return 1 if the first number of the text is the answer, else 0; see `same_number`."""
    wanted = as_number(answer)
    return float(wanted is not None and first_number(text) == str(wanted))


def same_boxed(text: str, answer: str) -> float:
    r"""Return 1 if the last \boxed{} of the text holds the answer, else 0.

    Numbers may be written otherwise than in the answer, other answers must be its very letters.
    """
    inside = last_boxed(text)
    if inside is None:
        return 0.0
    number, wanted = as_number(inside), as_number(answer)
    if number is not None and wanted is not None:
        return float(str(number) == str(wanted))
    return float(inside.strip() == answer.strip())


def is_boxed(text: str) -> float:
    r"""Return 1 if the text has an answer in a \boxed{}, else 0."""
    return float(last_boxed(text) is not None)


@dataclass(frozen=True)
class Equivalent:
    r"""1 if math-verify finds the text's answer equivalent to the right one, else 0.

    A `\boxed{}` answer is preferred to other formulas and numbers; what is decided before
    math-verify is asked, `ustat_grpo.lm.judging.equivalence` says. It works in a process of its
    own, within a limit of processor time, so that neither the load of the machine nor the thread
    that asks changes a verdict. If it fails, runs out of time or of memory, the verdict is NaN.

    Args:
        seconds: the most processor time for a text.

    Raises:
        ValueError: if `seconds` is no positive integer, or math-verify is not installed.
    """

    seconds: int = 5

    def __post_init__(self) -> None:
        """Check the limit, and that the extra is installed."""
        integer("seconds", self.seconds)
        from_extra("math_verify")

    def __call__(self, text: str, answer: str) -> float:
        """Return 0, 1 or NaN."""
        return self.verdicts([(text, answer)])[0]

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return 0, 1 or NaN for each text and right answer, which costs less than one by one."""
        decisions = [decided(text, answer) for text, answer in pairs]
        posed = [each for each in decisions if isinstance(each, tuple)]
        unjudged = [question for questions in posed for question in questions]
        answers = iter(JUDGE.verdicts(unjudged, self.seconds) if unjudged else ())
        return [
            _any([next(answers) for _ in each]) if isinstance(each, tuple) else each
            for each in decisions
        ]


def _any(verdicts: Sequence[float]) -> float:
    """Return 1 if one is; else NaN if one is."""
    return 1.0 if 1.0 in verdicts else sum(verdicts)
