"""Questions of reasoning-gym, the data sets that others made, with their own judges.

Reference: Stojanovski et al. 2025, "Reasoning Gym", arXiv 2505.24760.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ustat_grpo.inputs.checks import integer
from ustat_grpo.inputs.extras import from_extra
from ustat_grpo.inputs.quoting import one_line
from ustat_grpo.lm.questions.datasets import PROMPT, Question

_logger = logging.getLogger(__name__)

_NO_ANSWER = "(none)"
"""Stands for an answer that a data set does not tell; its judge does without."""


@dataclass(frozen=True)
class ReasoningGym:
    """A data set of reasoning-gym: questions that are generated, and a judge of answers.

    Args:
        name: such as `gcd` or `letter_counting`.
        size: the number of questions.
        seed: of the generator.
        config: the data set's own parameters; those that are not given keep its defaults.

    Raises:
        ValueError: if there is no such data set, its parameters are wrong, or the extra
            `reasoning` is not installed.
    """

    name: str
    size: int
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    dataset: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Generate nothing yet, but let the data set check what it is asked."""
        library = from_extra("reasoning_gym")
        size, seed = integer("size", self.size), integer("seed", self.seed, at_least=0)
        try:
            made = library.create_dataset(self.name, size=size, seed=seed, **self.config)
        except Exception as error:  # of many kinds, by data set: assertions, too
            raise ValueError(
                "dataset must be one of reasoning-gym with parameters that it takes, got "
                f"{self.name!r} with {dict(self.config)} "
                f"({type(error).__name__}: {one_line(error)})"
            ) from error
        object.__setattr__(self, "dataset", made)

    def questions(self) -> tuple[Question, ...]:
        """Return the questions, each asked word for word; `entry` is all that the data set says."""
        return tuple(
            Question(
                entry["question"].strip(),
                str(entry["answer"] or "").strip() or _NO_ANSWER,
                PROMPT,
                place=f"{self.name}, question {number}",
                columns={"entry": entry},
            )
            for number, entry in enumerate(self.dataset)
        )

    def rewards(self, completions: Sequence[str], entry: Sequence[Any], **_: Any) -> list[float]:
        """Return what the data set's own judge says of answers, in [0, 1].

        It is a reward function, see `function_rewards`. An answer at which the judge raises is
        worth 0; how many these are is logged as a warning.
        """
        scores, failed = [], 0
        for text, asked in zip(completions, entry, strict=True):
            try:
                scores.append(float(self.dataset.score_answer(text.strip(), asked)))
            except Exception:  # of many kinds, by data set and answer
                scores.append(0.0)
                failed += 1
        if failed:
            _logger.warning("%d of %d answers made the judge raise: worth 0", failed, len(scores))
        return scores
