"""Tasks of language models: which questions, and which reward.

Questions are asked in the tokens of small policies, or in words. Nothing here imports torch before
questions are asked for.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from ustat_grpo.arithmetic.problems import KINDS, OperandRanges
from ustat_grpo.inputs.checks import integer

if TYPE_CHECKING:
    from ustat_grpo.lm.judging.text_rewards import Reader, TextReward
    from ustat_grpo.lm.language_model import LanguageModel, Prompts
    from ustat_grpo.lm.questions.datasets import Question
    from ustat_grpo.lm.questions.questions import Questions
    from ustat_grpo.lm.questions.reasoning_gym import ReasoningGym
    from ustat_grpo.lm.questions.rewards import ExactMatch, Reward
    from ustat_grpo.lm.task import Task


@dataclass
class Ranges:
    """From where the numbers of arithmetic questions are drawn; see `ustat_grpo.arithmetic`."""

    sums: list[int] = field(default_factory=lambda: [1, 20])
    factors: list[int] = field(default_factory=lambda: [2, 99])
    multipliers: list[int] | None = field(default_factory=lambda: [2, 9])
    divisors: list[int] = field(default_factory=lambda: [2, 9])
    quotients: list[int] = field(default_factory=lambda: [2, 99])

    def build(self) -> OperandRanges:
        """Return the ranges of the library."""
        ranges = {name: pair and tuple(pair) for name, pair in asdict(self).items()}
        return OperandRanges(**ranges)


class Panel(NamedTuple):
    """A policy and what it is asked.

    Args:
        model: the policy.
        prompts: the questions.
        reward: of its outputs.
        max_tokens: the most tokens of an output, the end token included.
        outputs_at_once: sampled or scored together; bounds the memory.
    """

    model: "LanguageModel"
    prompts: "Prompts"
    reward: "Reward"
    max_tokens: int
    outputs_at_once: int

    @property
    def task(self) -> "Task":
        """The questions, the reward and the length of outputs, as the library takes them."""
        from ustat_grpo.lm.task import Task

        return Task(self.prompts, self.reward, self.max_tokens)

    @property
    def is_exact(self) -> bool:
        """Whether the one right output to each question is known, and with it V(x) and g(x)."""
        return self.task.is_exact

    @property
    def exact_match(self) -> "ExactMatch":
        """The reward that knows the one right output to each question.

        Raises:
            ValueError: if the reward knows no such output.
        """
        return self.task.exact_match

    def first(self, number: int) -> "Panel":
        """Return the policy with the first questions only."""
        from ustat_grpo.lm.questions.rewards import ExactMatch

        prompts, reward = self.prompts[:number], self.reward
        if self.is_exact:
            reward = ExactMatch(self.exact_match.solutions[:number])
        return self._replace(prompts=prompts, reward=reward)


@dataclass
class Arithmetic:
    """Arithmetic questions of the paper's five kinds to token-generating policies."""

    name: str = "arithmetic"
    num_questions: int = 500  # held out from the shipped policies' training
    num_train: int = 2000  # on which policies are optimised; none of the held-out questions
    reward: str = "exact_match"  # or accuracy_and_format
    num_outputs: int = 256  # to each question: the pool that serves every group size
    brute_force_group_size: int = 16  # measured by whole minibatch gradients too
    brute_force_replications: int = 8  # 0 for none
    max_tokens: int = 6
    ranges: Ranges = field(default_factory=Ranges)
    wording: str = "instruction"  # in words: calculated as told, or the left side of an equation
    judge: str = "last-number"  # in words: which number of an output counts, or first-number
    seed: int = 2603

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("num_questions", "num_train", "num_outputs", "max_tokens"):
            integer(f"task.{name}", getattr(self, name))
        for name in ("num_questions", "num_train"):
            if (number := getattr(self, name)) % len(KINDS):
                raise ValueError(
                    f"task.{name} must be a multiple of {len(KINDS)} for equal shares, got {number}"
                )
        integer("task.brute_force_group_size", self.brute_force_group_size, at_least=2)
        integer("task.brute_force_replications", self.brute_force_replications, at_least=0)
        integer("task.seed", self.seed, at_least=0)
        if self.brute_force_replications == 1:
            raise ValueError("task.brute_force_replications must be 0 or at least 2, got 1")
        one_of("task.reward", self.reward, ("exact_match", "accuracy_and_format"))
        one_of("task.wording", self.wording, ("instruction", "equation"))
        one_of("task.judge", self.judge, ("last-number", "first-number"))

    def questions(self) -> tuple["Questions", "Questions"]:
        """Return the train set and the held-out set."""
        from ustat_grpo.lm.questions.questions import arithmetic_questions

        rng = np.random.default_rng(self.seed)
        return arithmetic_questions(
            self.num_train, self.num_questions, rng=rng, ranges=self.ranges.build()
        )

    def require_exact_match(self) -> None:
        """Raise unless one output alone is rewarded: without a sum over outputs V(x) is known."""
        if self.reward != "exact_match":
            raise ValueError(f"task.reward must be exact_match, got {self.reward}")

    def require_words(self, ways: Sequence[str]) -> None:
        """Raise unless the questions can be asked in words, in each of these ways."""
        if self.reward != "exact_match":
            raise ValueError(f"task.reward must be exact_match for policy=hf, got {self.reward}")

    def train_in_words(self) -> Sequence["Question"]:
        """Return the train set in words."""
        from ustat_grpo.lm.questions.datasets import questions_of

        return questions_of(self.questions()[0].problems)

    def held_out_in_words(self) -> Sequence["Question"]:
        """Return the held-out set in words."""
        from ustat_grpo.lm.questions.datasets import questions_of

        return questions_of(self.questions()[1].problems)

    def prompt(self, question: "Question", way: str) -> str:
        """Return how a question is put: alone, or behind one example of each kind."""
        from ustat_grpo.lm.questions import instructions
        from ustat_grpo.lm.questions.datasets import questions_of

        if self.wording == "instruction":
            wording, shown = instructions.CALCULATED, instructions.example_problems()
            examples = instructions.example_questions(shown)
        else:
            wording = instructions.ASKED if way == "chat" else instructions.EQUATED
            examples = questions_of(instructions.small_example_problems())
        return wording.prompt(question, examples if way == "examples" else ())

    def reward_in_words(self, questions: Sequence["Question"], reader: "Reader") -> "TextReward":
        """Return the reward of answers in words: 1 for the right number."""
        from ustat_grpo.lm.judging.text_rewards import TextReward
        from ustat_grpo.lm.questions.text_tasks import ACCURACIES

        accuracy = ACCURACIES[self.judge]()
        return TextReward([question.answer for question in questions], reader, accuracy)

    def accuracy_in_words(self, questions: Sequence["Question"], reader: "Reader") -> "Reward":
        """Return what an answer's accuracy is taken by: the reward itself."""
        return self.reward_in_words(questions, reader)


@dataclass
class TextTask:
    """Questions of a local GSM8K or MATH file to a Hugging Face model."""

    name: str = MISSING
    path: str = MISSING  # a .jsonl or .parquet file in the published form
    train_path: str | None = None  # the file of the train set, for optimisation
    num_questions: int = 500
    num_train: int | None = None  # null takes the whole train set
    reward: str = "accuracy_and_format"  # or accuracy
    num_outputs: int = 128  # to each question
    brute_force_group_size: int = 16
    brute_force_replications: int = 0  # would need the exact gradient
    max_tokens: int = 512
    seed: int = 2603

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("num_questions", "num_outputs", "max_tokens"):
            integer(f"task.{name}", getattr(self, name))
        integer("task.seed", self.seed, at_least=0)
        one_of("task.reward", self.reward, ("accuracy", "accuracy_and_format"))

    @property
    def inputs(self) -> list[Path]:
        """The files that numbers depend on by their content."""
        return [Path(path) for path in (self.path, self.train_path) if path is not None]

    def questions(self) -> tuple["Questions", "Questions"]:
        """Refuse: small policies know no words."""
        raise ValueError(f"policy must be hf for task={self.name}, got small")

    def require_words(self, ways: Sequence[str]) -> None:
        """Raise if questions are to be asked with the examples of arithmetic."""
        _require_no_examples(self.name, ways)

    def train_in_words(self) -> Sequence["Question"]:
        """Return the train set, all of it or some.

        Raises:
            ValueError: if there is none, or its file is wrong.
        """
        if self.train_path is None:
            raise ValueError(f"task.train_path must name the {self.name} train set, got None")
        read = self._read(self.train_path, "task.train_path")
        return self._some(read, len(read) if self.num_train is None else self.num_train)

    def held_out_in_words(self) -> Sequence["Question"]:
        """Return some of the questions that are held out."""
        return self._some(self._read(self.path, "task.path"), self.num_questions)

    def reward_in_words(self, questions: Sequence["Question"], reader: "Reader") -> "TextReward":
        """Return the reward of answers in words: 1 for what is equal to the answer, 1 for a box."""
        from ustat_grpo.lm.judging.text_rewards import Equivalent, TextReward, is_boxed
        from ustat_grpo.lm.questions.text_tasks import require_judgeable

        answers = [question.answer for question in questions]
        require_judgeable(questions, "math")
        form = is_boxed if self.reward == "accuracy_and_format" else None
        return TextReward(answers, reader, Equivalent(), form)

    def accuracy_in_words(self, questions: Sequence["Question"], reader: "Reader") -> "Reward":
        """Return what an answer's accuracy is taken by: the reward without that of the form."""
        return replace(self.reward_in_words(questions, reader), form=None)

    def prompt(self, question: "Question", way: str) -> str:
        """Return how a question is put, with an instruction."""
        from ustat_grpo.lm.questions.text_tasks import prompt_text

        return prompt_text(question)

    def _read(self, path: str, name: str) -> Sequence["Question"]:
        from ustat_grpo.lm.questions.text_tasks import LOADERS

        return LOADERS[self.name](path, name=name)

    def _some(self, questions: Sequence["Question"], count: int) -> Sequence["Question"]:
        from ustat_grpo.lm.questions.datasets import select_questions

        return select_questions(questions, count, rng=np.random.default_rng(self.seed))


@dataclass
class ReasoningGymTask:
    """Questions of a data set of reasoning-gym to a Hugging Face model, with its own judge."""

    name: str = MISSING  # of the data set
    config: dict[str, Any] = field(default_factory=dict)  # its own parameters
    num_questions: int = 100
    num_train: int = 200
    reward: str = "its own"
    num_outputs: int = 128  # to each question
    brute_force_group_size: int = 16
    brute_force_replications: int = 0  # would need the exact gradient
    max_tokens: int = 16
    seed: int = 2603

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("num_questions", "num_train", "num_outputs", "max_tokens"):
            integer(f"task.{name}", getattr(self, name))
        integer("task.seed", self.seed, at_least=0)

    def questions(self) -> tuple["Questions", "Questions"]:
        """Refuse: small policies know no words."""
        raise ValueError(f"policy must be one in words for task={self.name}, got small")

    def require_words(self, ways: Sequence[str]) -> None:
        """Raise if questions are to be asked with examples, of which there are none."""
        _require_no_examples(self.name, ways)

    def train_in_words(self) -> Sequence["Question"]:
        """Return the train set: what comes behind the held-out questions, and is none of them."""
        every = self._generated.questions()
        held_out = {question.text for question in every[: self.num_questions]}
        return [each for each in every[self.num_questions :] if each.text not in held_out]

    def held_out_in_words(self) -> Sequence["Question"]:
        """Return the held-out questions."""
        return self._generated.questions()[: self.num_questions]

    def prompt(self, question: "Question", way: str) -> str:
        """Return the question, which is asked word for word."""
        return question.text

    def reward_in_words(self, questions: Sequence["Question"], reader: "Reader") -> "Reward":
        """Return the data set's own judge, in [0, 1]."""
        from ustat_grpo.lm.judging.function_rewards import FunctionReward

        texts, columns = [each.text for each in questions], [each.columns for each in questions]
        return FunctionReward(self._generated.rewards, texts, columns, reader, self.name)

    def accuracy_in_words(self, questions: Sequence["Question"], reader: "Reader") -> "Reward":
        """Return what an answer's accuracy is taken by: the reward itself."""
        return self.reward_in_words(questions, reader)

    @cached_property
    def _generated(self) -> "ReasoningGym":
        from ustat_grpo.lm.questions.reasoning_gym import ReasoningGym

        size = self.num_questions + self.num_train
        return ReasoningGym(self.name, size, self.seed, dict(self.config))


LanguageTask = Arithmetic | TextTask | ReasoningGymTask


def _require_no_examples(task: str, ways: Sequence[str]) -> None:
    if "examples" in ways:
        raise ValueError(f"policy.prompts must be plain or chat for task={task}, got {list(ways)}")


class Sets(NamedTuple):
    """A policy with the questions it learns from, and those on which its accuracy is taken."""

    train: Panel
    held_out: Panel


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise unless a word of a configuration is known."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


_STORE = ConfigStore.instance()
_STORE.store(group="task_schema", name="arithmetic", node=Arithmetic)
_STORE.store(group="task_schema", name="text", node=TextTask)
_STORE.store(group="task_schema", name="reasoning_gym", node=ReasoningGymTask)
