"""Policies of language models, and what they make of a task: panels, and sets to be trained on.

Small ones answer in a few tokens of their own, Hugging Face models are asked in words. Nothing here
imports torch before a policy is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from experiments.tasks.kinds import for_kind
from experiments.tasks.language import (
    Arithmetic,
    LanguageTask,
    Panel,
    ReasoningGymTask,
    Sets,
    TextTask,
    one_of,
)
from ustat_grpo.inputs.checks import integer

if TYPE_CHECKING:
    from ustat_grpo.lm.models.conversation import Conversation
    from ustat_grpo.lm.models.huggingface import HuggingFaceModel, HuggingFaceTokenizer
    from ustat_grpo.lm.models.transformer import Transformer
    from ustat_grpo.lm.questions.datasets import Question

_SHIPPED = Path(str(files("ustat_grpo"))) / "lm" / "policies"


WAYS = ("plain", "chat", "examples")
"""How a model is asked: as `policy.chat` says, in chat in any case, behind solved examples."""


class PolicySource(Protocol):
    """The policies of a configuration."""

    name: str
    device: str

    @property
    def start(self) -> str:
        """The name of the policy at which runs begin."""
        ...

    @property
    def run_beside_each_other(self) -> bool:
        """Whether several runs fit on a machine."""
        ...

    @property
    def knows_solutions(self) -> bool:
        """Whether they answer in tokens in which the one right output is known."""
        ...

    def starting_at(self, start: str) -> "PolicySource":
        """Return the policy at which runs begin, where there are several."""
        ...

    def panels(self, task: LanguageTask) -> dict[str, Panel]:
        """Return what gradient errors are measured on, by name: policies with held-out questions.

        Raises:
            ValueError: if task and policies do not go together, or a file is missing or wrong.
        """
        ...

    def training_sets(self, task: LanguageTask) -> Sets:
        """Return the policy at which runs begin with the train set and the held-out set.

        Raises:
            ValueError: if task and policies do not go together, or a file is missing or wrong.
        """
        ...


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

    @property
    def start(self) -> str:
        """The name of the policy at which runs begin."""
        return self.skills[0]

    @property
    def run_beside_each_other(self) -> bool:
        """Whether several runs fit on a machine: yes."""
        return True

    @property
    def knows_solutions(self) -> bool:
        """Whether they answer in tokens in which the one right output is known: yes."""
        return True

    def starting_at(self, start: str) -> "SmallPolicies":
        """Return the one policy at which runs begin."""
        return replace(self, skills=[start])

    def panels(self, task: LanguageTask) -> dict[str, Panel]:
        """Return every policy with the held-out questions, by panel name.

        Raises:
            ValueError: if the task asks in words, or a file is missing or wrong.
        """
        from ustat_grpo.lm.sampling import require_context

        _, on_cpu = task.questions()
        found = {}
        for name, model in self.models().items():
            questions = replace(on_cpu, device=next(model.parameters()).device)
            reward = getattr(questions, task.reward)
            require_context(model, questions.prompts, task.max_tokens, "task.max_tokens")
            found[f"{task.name}: {name}"] = Panel(
                model, questions.prompts, reward, task.max_tokens, outputs_at_once=2**14
            )
        return found

    def training_sets(self, task: LanguageTask) -> Sets:
        """Return the first policy with the task's train set and its held-out set."""
        (panel, *_) = self.panels(task).values()
        train, held_out = (
            replace(each, device=panel.prompts.tokens.device) for each in task.questions()
        )
        return Sets(
            panel._replace(prompts=train.prompts, reward=getattr(train, task.reward)),
            panel._replace(reward=held_out.exact_match),
        )

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
class HuggingFacePolicy:
    """A causal language model in a local folder, as `save_pretrained` writes it."""

    name: str = "hf"
    path: str = MISSING
    prompts: list[str] = field(default_factory=lambda: ["plain"])  # one panel each; see WAYS
    chat: bool = True  # all through the tokenizer's chat template, if it has one
    system: str | None = None  # what the system says there; null leaves it to the template
    prefill: str = ""  # words with which answers in chat begin
    stop: list[str] = field(default_factory=list)  # texts that end an output
    temperature: float = 1.0
    dtype: str = "float32"
    device: str = "auto"
    outputs_at_once: int = 256  # sampled or scored together; bounds the memory

    def __post_init__(self) -> None:
        """Check the ranges."""
        integer("policy.outputs_at_once", self.outputs_at_once)
        if not self.prompts:
            raise ValueError("policy.prompts must name at least one way to ask, got []")
        for way in self.prompts:
            one_of("policy.prompts", way, WAYS)

    @property
    def inputs(self) -> list[Path]:
        """The folder that numbers depend on by its content."""
        return [Path(self.path)]

    @property
    def start(self) -> str:
        """The name of the policy at which runs begin."""
        return Path(self.path).name

    @property
    def run_beside_each_other(self) -> bool:
        """Whether several runs fit on a machine: no."""
        return False

    @property
    def knows_solutions(self) -> bool:
        """Whether it answers in tokens in which the one right output is known: no."""
        return False

    def starting_at(self, start: str) -> "HuggingFacePolicy":
        """Return the policy itself: there is no other."""
        return self

    def panels(self, task: LanguageTask) -> dict[str, Panel]:
        """Return one panel a way to ask, by panel name.

        Raises:
            ValueError: if the task does not ask so, or a file is missing or wrong.
        """
        task.require_words(self.prompts)
        questions, loaded = task.held_out_in_words(), self._load()
        return {
            f"{task.name}: {self.start}, {way}": self._panel(task, loaded, questions, way)
            for way in self.prompts
        }

    def training_sets(self, task: LanguageTask) -> Sets:
        """Return train set and held-out set; on the latter accuracy alone is rewarded."""
        task.require_words(self.prompts)
        train, held_out = task.train_in_words(), task.held_out_in_words()
        loaded, way = self._load(), self.prompts[0]
        accuracy = task.accuracy_in_words(held_out, loaded.tokenizer)
        return Sets(
            self._panel(task, loaded, train, way),
            self._panel(task, loaded, held_out, way)._replace(reward=accuracy),
        )

    def _load(self) -> "_Loaded":
        from ustat_grpo.lm.models.huggingface import load

        return _Loaded(
            *load(
                self.path,
                dtype=self.dtype,
                device=self.device,
                conversation=self._conversation(self.chat),
                name="policy.path",
            )
        )

    def _conversation(self, chat: bool) -> "Conversation":
        from ustat_grpo.lm.models.conversation import Conversation

        system, prefill = (self.system, self.prefill) if chat else (None, "")
        return Conversation(chat, system, prefill, tuple(self.stop), self.temperature)

    def _panel(
        self,
        task: LanguageTask,
        loaded: "_Loaded",
        questions: Sequence["Question"],
        way: str,
    ) -> Panel:
        from ustat_grpo.lm.questions.text_tasks import prompts_for

        texts = [task.prompt(question, way) for question in questions]
        if way == "chat":
            said = replace(loaded.tokenizer, conversation=self._conversation(True))
            loaded = loaded._replace(tokenizer=said)
        prompts = prompts_for(*loaded, texts, max_tokens=task.max_tokens, name="task.max_tokens")
        reward = task.reward_in_words(questions, loaded.tokenizer)
        return Panel(loaded.model, prompts, reward, task.max_tokens, self.outputs_at_once)


class _Loaded(NamedTuple):
    """A model and its tokenizer."""

    model: "HuggingFaceModel"
    tokenizer: "HuggingFaceTokenizer"


@dataclass(frozen=True)
class PosedTask:
    """The questions of a task, as they are put to policies: both of a configuration in one.

    Args:
        task: the questions, and their reward.
        policies: what answers them.
    """

    task: LanguageTask
    policies: PolicySource

    @property
    def start(self) -> str:
        """The name of the panel at which runs begin."""
        return f"{self.task.name}: {self.policies.start}"

    @property
    def is_exact(self) -> bool:
        """Whether the one right output to each question is known, and with it V(x) and g(x)."""
        return self.policies.knows_solutions and self.task.reward == "exact_match"

    def panels(self) -> dict[str, Panel]:
        """Return every policy with the held-out questions, by name."""
        return self.policies.panels(self.task)

    def training_sets(self) -> Sets:
        """Return the policy at which runs begin, with the train set and the held-out set."""
        return self.policies.training_sets(self.task)


def posed(task: Any, policies: PolicySource) -> PosedTask:
    """Return a task of a configuration with its policies.

    Raises:
        ValueError: if it is no task of a language model.
    """
    known = {Arithmetic: task, TextTask: task, ReasoningGymTask: task}
    return PosedTask(for_kind(task, known, "task must be one of a language model"), policies)


_STORE = ConfigStore.instance()
_STORE.store(group="policy_schema", name="small", node=SmallPolicies)
_STORE.store(group="policy_schema", name="hf", node=HuggingFacePolicy)
