"""What a language model is asked, how long its outputs may be, and how they are rewarded."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from ustat_grpo.inputs.checks import capable, instance, integer
from ustat_grpo.lm.exact import require_possible
from ustat_grpo.lm.language_model import LanguageModel, Prompts
from ustat_grpo.lm.questions.rewards import ExactMatch, Reward
from ustat_grpo.lm.scoring import Answers

Value = Callable[[LanguageModel, Int[Tensor, " B"]], Float[Tensor, " B"]]
"""Returns V(x) under a policy at some questions of a set."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned, or measured.

    Args:
        prompts: the P questions.
        reward: of outputs; where it returns NaN, an output could not be scored and counts for
            nothing.
        max_tokens: T, the most tokens of an output, the end token included.
        value: V(x), for estimators that need to know it in training; None for those that do not,
            since it costs a pass over the prompts at every step.
        reference: π_ref, from which a penalty keeps the policy; None takes θ_0.

    Raises:
        TypeError: if prompts, reward or value is an object of another kind.
        ValueError: if `max_tokens` is no positive integer.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.lm import Task, arithmetic_questions
        >>> questions, _ = arithmetic_questions(10, 5, rng=np.random.default_rng(0))
        >>> task = Task(questions.prompts, questions.exact_match, max_tokens=6)
        >>> len(task.prompts.tokens), task.value is None  # 10 questions; only the oracle needs V(x)
        (10, True)
    """

    prompts: Prompts
    reward: Reward
    max_tokens: int
    value: Value | None = None
    reference: LanguageModel | None = None

    def __post_init__(self) -> None:
        """Check each part."""
        instance("prompts", self.prompts, Prompts, "Prompts.of([[2, 3]], pad_token=0)")
        capable("reward", self.reward, "__call__", "ExactMatch(solutions)")
        if self.value is not None:
            capable("value", self.value, "__call__", "lambda model, questions: ...")
        integer("max_tokens", self.max_tokens)

    @property
    def is_exact(self) -> bool:
        """Whether the one right output to each prompt is known, and with it V(x) and g(x)."""
        return isinstance(self.reward, ExactMatch)

    @property
    def exact_match(self) -> ExactMatch:
        """The reward, which knows the one right output to each prompt.

        Raises:
            ValueError: if it knows no such output.
        """
        if not isinstance(self.reward, ExactMatch):
            raise ValueError(
                "reward must know the one right output to each question, got "
                f"{type(self.reward).__name__}"
            )
        return self.reward


def require_solutions(model: LanguageModel, task: Task) -> Answers:
    """Return the right output to each prompt, if sampling at this length can return all of them.

    Raises:
        ValueError: if the reward knows none, or those of other prompts, or one cannot be sampled.
    """
    solutions = task.exact_match.solutions
    if len(task.prompts) != len(solutions):
        raise ValueError(
            f"prompts must be those of the {len(solutions)} solutions, one each, "
            f"got {len(task.prompts)}"
        )
    require_possible(model, solutions, task.max_tokens)
    return solutions
