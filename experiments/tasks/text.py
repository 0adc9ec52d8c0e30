"""Hugging Face models as policies: what they are asked, in words, and how answers are judged."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.tasks.language import (
    Arithmetic,
    HuggingFacePolicy,
    LanguageTask,
    Panel,
    Sets,
    TextTask,
)
from ustat_grpo.lm.judging.text_rewards import Equivalent, TextReward, is_boxed, same_number
from ustat_grpo.lm.models.huggingface import HuggingFaceModel, HuggingFaceTokenizer, load
from ustat_grpo.lm.questions import instructions
from ustat_grpo.lm.questions.datasets import Question, questions_of, select_questions
from ustat_grpo.lm.questions.text_tasks import LOADERS, posed, prompt_text, require_judgeable


class Loaded(NamedTuple):
    """A model and its tokenizer."""

    model: HuggingFaceModel
    tokenizer: HuggingFaceTokenizer


def text_panels(task: LanguageTask, policy: HuggingFacePolicy) -> dict[str, Panel]:
    """Return one panel a way to ask; see `experiments.tasks.panels.panels`."""
    _require_compatible(task, policy)
    questions = _questions(task)
    loaded = _load(policy)
    return {
        f"{task.name}: {Path(policy.path).name}, {way}": _panel(
            task, policy, loaded, questions, _ask(way)
        )
        for way in policy.prompts
    }


def text_training_sets(task: LanguageTask, policy: HuggingFacePolicy) -> Sets:
    """Return train set and held-out set; see `experiments.tasks.panels.training_sets`.

    On the held-out set accuracy alone is rewarded.
    """
    _require_compatible(task, policy)
    train, held_out = _train_questions(task), _questions(task)
    loaded, ask = _load(policy), _ask(policy.prompts[0])
    shown = _panel(task, policy, loaded, held_out, ask)
    assert isinstance(shown.reward, TextReward)
    return Sets(
        _panel(task, policy, loaded, train, ask),
        shown._replace(reward=replace(shown.reward, form=None)),
    )


def _require_compatible(task: LanguageTask, policy: HuggingFacePolicy) -> None:
    if isinstance(task, TextTask) and "examples" in policy.prompts:
        raise ValueError(
            f"policy.prompts must be [plain] for task={task.name}, got {policy.prompts}"
        )
    if isinstance(task, Arithmetic) and task.reward != "exact_match":
        raise ValueError(f"task.reward must be exact_match for policy=hf, got {task.reward}")


def _load(policy: HuggingFacePolicy) -> Loaded:
    return Loaded(
        *load(
            policy.path,
            dtype=policy.dtype,
            device=policy.device,
            chat=policy.chat,
            name="policy.path",
        )
    )


def _panel(
    task: LanguageTask,
    policy: HuggingFacePolicy,
    loaded: Loaded,
    questions: Sequence[Question],
    ask: Callable[[Question], str],
) -> Panel:
    texts = [ask(question) for question in questions]
    prompts = posed(*loaded, texts, max_tokens=task.max_tokens, name="task.max_tokens")
    reward = _reward(task, questions, loaded.tokenizer)
    return Panel(loaded.model, prompts, reward, task.max_tokens, policy.outputs_at_once)


def _questions(task: LanguageTask) -> Sequence[Question]:
    if isinstance(task, Arithmetic):
        return questions_of(task.questions()[1].problems)
    read = LOADERS[task.name](task.path, name="task.path")
    return select_questions(read, task.num_questions, rng=np.random.default_rng(task.seed))


def _train_questions(task: LanguageTask) -> Sequence[Question]:
    if isinstance(task, Arithmetic):
        return questions_of(task.questions()[0].problems)
    if task.train_path is None:
        raise ValueError(f"task.train_path must name the {task.name} train set, got None")
    read = LOADERS[task.name](task.train_path, name="task.train_path")
    count = len(read) if task.num_train is None else task.num_train
    return select_questions(read, count, rng=np.random.default_rng(task.seed))


def _ask(way: str) -> Callable[[Question], str]:
    """Return what turns a question into a prompt: a way that is asked of arithmetic, or math."""
    examples = instructions.example_problems() if way == "examples" else ()
    return partial(prompt_text, examples=examples)


def _reward(
    task: LanguageTask, questions: Sequence[Question], tokenizer: HuggingFaceTokenizer
) -> TextReward:
    answers = [question.answer for question in questions]
    if isinstance(task, Arithmetic):
        return TextReward(answers, tokenizer, same_number)
    require_judgeable(questions, "math")
    form = is_boxed if task.reward == "accuracy_and_format" else None
    return TextReward(answers, tokenizer, Equivalent(), form)
