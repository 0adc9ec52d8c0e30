"""Hugging Face models as policies: what they are asked, in words, and how answers are judged."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.language_tasks import Arithmetic, HuggingFacePolicy, LanguageTask, Panel, TextTask
from ustat_grpo.lm import instructions
from ustat_grpo.lm.datasets import (
    Question,
    load_gsm8k,
    load_math,
    questions_of,
    select_questions,
)
from ustat_grpo.lm.huggingface import HuggingFaceTokenizer, load
from ustat_grpo.lm.sampling import require_context
from ustat_grpo.lm.text_rewards import Equivalent, TextReward, is_boxed, same_number

_LOADERS = {"gsm8k": load_gsm8k, "math": load_math}


def text_panels(task: LanguageTask, policy: HuggingFacePolicy) -> dict[str, Panel]:
    """Return one panel a way to ask; see `experiments.language_tasks.panels`."""
    if isinstance(task, TextTask) and "examples" in policy.prompts:
        raise ValueError(
            f"policy.prompts must be [plain] for task={task.name}, got {policy.prompts}"
        )
    if isinstance(task, Arithmetic) and task.reward != "exact_match":
        raise ValueError(f"task.reward must be exact_match for policy=hf, got {task.reward}")
    questions = _questions(task)
    model, tokenizer = load(
        policy.path,
        dtype=policy.dtype,
        device=policy.device,
        chat=policy.chat,
        name="policy.path",
    )
    device = next(model.parameters()).device
    found = {}
    for way in policy.prompts:
        prompts = tokenizer.prompts([_ask(task, question, way) for question in questions])
        require_context(model, prompts, task.max_tokens, "task.max_tokens")
        found[f"{task.name}: {Path(policy.path).name}, {way}"] = Panel(
            model,
            prompts.to(device),
            _reward(task, questions, tokenizer),
            task.max_tokens,
            policy.outputs_at_once,
        )
    return found


def _questions(task: LanguageTask) -> Sequence[Question]:
    if isinstance(task, Arithmetic):
        return questions_of(task.questions()[1].problems)
    read = _LOADERS[task.name](task.path, name="task.path")
    return select_questions(read, task.num_questions, rng=np.random.default_rng(task.seed))


def _ask(task: LanguageTask, question: Question, way: str) -> str:
    if isinstance(task, TextTask):
        return instructions.math_prompt(question)
    examples = instructions.example_problems() if way == "examples" else ()
    return instructions.arithmetic_prompt(question, examples=examples)


def _reward(
    task: LanguageTask, questions: Sequence[Question], tokenizer: HuggingFaceTokenizer
) -> TextReward:
    answers = [question.answer for question in questions]
    if isinstance(task, Arithmetic):
        return TextReward(answers, tokenizer, same_number)
    form = is_boxed if task.reward == "accuracy_and_format" else None
    return TextReward(answers, tokenizer, Equivalent(), form)
