"""Tasks of language models: which questions, which reward, and by which policies.

A task and a policy together make panels, one policy each. Nothing here imports torch before panels
are asked for.
"""

from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from ustat_grpo.arithmetic.problems import KINDS, OperandRanges
from ustat_grpo.inputs.checks import integer

if TYPE_CHECKING:
    from ustat_grpo.lm.language_model import LanguageModel, Prompts
    from ustat_grpo.lm.models.transformer import Transformer
    from ustat_grpo.lm.questions.questions import Questions
    from ustat_grpo.lm.questions.rewards import Reward

_SHIPPED = Path(str(files("ustat_grpo"))) / "lm" / "policies"


def use_threads(threads: int | None) -> None:
    """Let torch use so many threads, or as many as it likes.

    Operations of small models are too short for more than one, and on a busy machine several cost
    tenfold.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


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


@dataclass
class Ranges:
    """From where the numbers of problems are drawn; see `ustat_grpo.lm.OperandRanges`."""

    sums: list[int] = field(default_factory=lambda: [1, 20])
    factors: list[int] = field(default_factory=lambda: [2, 99])
    multipliers: list[int] | None = field(default_factory=lambda: [2, 9])
    divisors: list[int] = field(default_factory=lambda: [2, 9])
    quotients: list[int] = field(default_factory=lambda: [2, 99])

    def build(self) -> OperandRanges:
        """Return the ranges of the library."""
        given = {name: pair and tuple(pair) for name, pair in asdict(self).items()}
        return OperandRanges(**given)


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
        _one_of("task.reward", self.reward, ("exact_match", "accuracy_and_format"))

    def questions(self) -> tuple["Questions", "Questions"]:
        """Return the train set and the held-out set."""
        from ustat_grpo.lm.questions.questions import arithmetic_questions

        rng = np.random.default_rng(self.seed)
        return arithmetic_questions(
            self.num_train, self.num_questions, rng=rng, ranges=self.ranges.build()
        )


@dataclass
class SmallPolicies:
    """The transformers that come with the package, or others that `pretrain` wrote."""

    name: str = "small"
    skills: list[str] = field(default_factory=lambda: ["beginner", "intermediate", "advanced"])
    folder: str | None = None  # null takes those of the package
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check that there is a policy."""
        if not self.skills:
            raise ValueError("policy.skills must name at least one policy, got []")

    @property
    def inputs(self) -> list[Path]:
        """The files that numbers depend on by their content."""
        folder = _SHIPPED if self.folder is None else Path(self.folder)
        return [folder / f"{skill}.safetensors" for skill in self.skills]

    def models(self) -> dict[str, "Transformer"]:
        """Return the policies by name.

        Raises:
            ValueError: if a file is missing or wrong, or a policy knows other tokens.
        """
        from ustat_grpo.lm.language_model import chosen_device
        from ustat_grpo.lm.models.checkpoints import load_policy, shipped_policy
        from ustat_grpo.lm.questions.questions import TOKENIZER

        found, device = {}, chosen_device(self.device)
        for skill in self.skills:
            if self.folder is None:
                model = shipped_policy(skill, device=device)
            else:
                model = load_policy(Path(self.folder) / f"{skill}.safetensors", device=device)
            if model.shape.vocabulary_size != TOKENIZER.vocabulary_size:
                raise ValueError(
                    f"policy.skills must know the {TOKENIZER.vocabulary_size} tokens of the "
                    f"questions, got {skill} with {model.shape.vocabulary_size}"
                )
            found[skill] = model
        return found


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
        _one_of("task.reward", self.reward, ("accuracy", "accuracy_and_format"))

    @property
    def inputs(self) -> list[Path]:
        """The files that numbers depend on by their content."""
        return [Path(path) for path in (self.path, self.train_path) if path is not None]


@dataclass
class HuggingFacePolicy:
    """A causal language model in a local folder, as `save_pretrained` writes it."""

    name: str = "hf"
    path: str = MISSING
    prompts: list[str] = field(default_factory=lambda: ["plain"])  # one panel each; or examples
    chat: bool = True  # through the tokenizer's chat template, if it has one
    dtype: str = "float32"
    device: str = "auto"
    outputs_at_once: int = 256  # sampled or scored together; bounds the memory

    def __post_init__(self) -> None:
        """Check the ranges."""
        integer("policy.outputs_at_once", self.outputs_at_once)
        if not self.prompts:
            raise ValueError("policy.prompts must name at least one way to ask, got []")
        for way in self.prompts:
            _one_of("policy.prompts", way, ("plain", "examples"))

    @property
    def inputs(self) -> list[Path]:
        """The folder that numbers depend on by its content."""
        return [Path(self.path)]


LanguageTask = Arithmetic | TextTask


class Sets(NamedTuple):
    """A policy with the questions it learns from, and those on which its accuracy is taken."""

    train: Panel
    held_out: Panel


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


_STORE = ConfigStore.instance()
_STORE.store(group="task_schema", name="arithmetic", node=Arithmetic)
_STORE.store(group="task_schema", name="text", node=TextTask)
_STORE.store(group="policy_schema", name="small", node=SmallPolicies)
_STORE.store(group="policy_schema", name="hf", node=HuggingFacePolicy)
