r"""Rewards of outputs that answer in words: accuracy, and accuracy plus format.

Arithmetic is judged by the last number of the text, as the gradient-error figure of arXiv
2603.01162 does; GSM8K and MATH by math-verify, which knows that \frac{1}{2} is 0.5. A text that is
cut off is read as far as it goes.
"""

import logging
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ustat_grpo.checks import integer
from ustat_grpo.lm.datasets import last_boxed
from ustat_grpo.lm.extras import from_extra
from ustat_grpo.lm.language_model import Rollouts

_NUMBER = re.compile(r"[0-9]+(?:,[0-9]{3})*(?![0-9])(?:\.[0-9]+)?|(?<![A-Za-z])\.[0-9]+")
_logger = logging.getLogger(__name__)


class Reader(Protocol):
    """What turns an output back into text: any tokenizer of ours."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text before the end token."""
        ...


@dataclass(frozen=True, eq=False)
class TextReward:
    """Accuracy of the text, plus its format if that counts: in [0, 1] or in [0, 2].

    Meets `ustat_grpo.lm.rewards.Reward`. An output that could not be judged has reward NaN, which
    the estimators leave out of its group.

    Args:
        answers: the right answer to each question of the set.
        reader: decodes outputs.
        accuracy: judges a text by the right answer: `same_number` or `Equivalent()`.
        form: judges the form of a text, such as `is_boxed`; None if it does not count.
    """

    answers: Sequence[str]
    reader: Reader
    accuracy: Callable[[str, str], float]
    form: Callable[[str], float] | None = None

    def __call__(self, rollouts: Rollouts, questions: Int[Tensor, " B"]) -> Float[Tensor, "B G"]:
        """Return the reward of each output; equal texts are judged once. See `Reward`."""
        judged = lru_cache(maxsize=None)(self.judge)
        rewards = [
            [
                judged(self.reader.decode(output[real].tolist()), self.answers[question])
                for output, real in zip(outputs, mask, strict=True)
            ]
            for outputs, mask, question in zip(
                rollouts.outputs.cpu(), rollouts.mask.cpu(), questions.tolist(), strict=True
            )
        ]
        like = rollouts.log_probs
        return torch.tensor(rewards, dtype=like.dtype, device=like.device)

    def judge(self, text: str, answer: str) -> float:
        """Return the reward of one text."""
        return self.accuracy(text, answer) + (self.form(text) if self.form else 0.0)


def same_number(text: str, answer: str) -> float:
    """Return 1 if the last number of the text is the answer, else 0.

    `1,234` and `58.0` are the numbers 1234 and 58. A minus belongs to the number unless it stands
    between two, as in `27-4`.
    """
    wanted = last_number(answer)
    return float(wanted is not None and last_number(text) == wanted)


def last_number(text: str) -> str | None:
    """Return the last number of a text, without leading and trailing zeros, or None."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    last = numbers[-1]
    whole, _, fraction = last.group().replace(",", "").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    size = f"{whole}.{fraction}" if fraction else whole
    return f"-{size}" if size != "0" and _negative(text[: last.start()]) else size


def _negative(before: str) -> bool:
    """Return whether the minus at the end of a text, if any, is a sign and no operator."""
    if not before.endswith(("-", "\N{MINUS SIGN}")):
        return False
    return not re.search(r"([^\W_]|[)\]}])\Z|[0-9)\]}] +\Z", before[:-1])


def is_boxed(text: str) -> float:
    r"""Return 1 if the text has an answer in a \boxed{}, else 0."""
    return float(last_boxed(text) is not None)


@dataclass(frozen=True)
class Equivalent:
    r"""1 if math-verify finds the text's answer equivalent to the right one, else 0.

    A `\boxed{}` answer is preferred to other formulas and numbers. If math-verify fails or runs
    out of time, the verdict is NaN. Its limit on time is an alarm signal, which only the main
    thread may set: in another thread there is no limit, and a text such as 9^{9^{9^9}} may take
    forever.

    Args:
        seconds: the most time for reading a text, and for comparing it.

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
        verify = from_extra("math_verify").verify
        timeout = from_extra("math_verify.errors").TimeoutException  # no Exception, to math-verify
        main = threading.current_thread() is threading.main_thread()
        limit = self.seconds if main else None
        try:
            right = _parsed(f"\\boxed{{{answer}}}", limit)
            given = _parsed(text, limit)
            return float(verify(right, given, timeout_seconds=limit, raise_on_error=True))
        except (Exception, timeout) as error:
            _logger.info("could not judge a text: %s", type(error).__name__)
            return float("nan")


def _parsed(text: str, limit: int | None) -> list[Any]:
    """Return what math-verify reads in a text, boxed answers first."""
    library = from_extra("math_verify")
    forms = [library.LatexExtractionConfig(boxed_match_priority=0), library.ExprExtractionConfig()]
    return library.parse(text, forms, parsing_timeout=limit, raise_on_error=True)
