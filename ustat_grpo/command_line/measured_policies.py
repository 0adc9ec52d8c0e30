"""What `ustat-grpo measure` measures: a policy, its prompts, and the reward of its outputs."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ustat_grpo.arithmetic.problems import ArithmeticProblem
from ustat_grpo.lm.judging.text_rewards import TextReward
from ustat_grpo.lm.language_model import LanguageModel, Prompts, chosen_device
from ustat_grpo.lm.models.checkpoints import shipped_policy
from ustat_grpo.lm.models.huggingface import load
from ustat_grpo.lm.questions.datasets import Entry, Question, questions_of, select_questions
from ustat_grpo.lm.questions.questions import Questions, arithmetic_questions
from ustat_grpo.lm.questions.rewards import Reward
from ustat_grpo.lm.questions.text_tasks import (
    ACCURACIES,
    LOADERS,
    prompt_text,
    prompts_for,
    require_judgeable,
)
from ustat_grpo.lm.sampling import require_context

NUM_HELD_OUT, HELD_OUT_SEED = 500, 2603
"""The arithmetic questions that the shipped policies have not seen."""

_ACCURACY_OF_TASK = {"arithmetic": "number", "gsm8k": "math", "math": "math"}


class MeasuredPolicy(NamedTuple):
    """A policy, what it is asked, and the reward of its outputs."""

    model: LanguageModel
    prompts: Prompts
    reward: Reward


def measured_policy(args: argparse.Namespace) -> MeasuredPolicy:
    """Return what the options name.

    Raises:
        ValueError: if a file is missing or wrong, there are fewer questions than prompts, or
            outputs may outgrow the model's context.
    """
    return _shipped(args) if args.model is None else _in_folder(args)


def _shipped(args: argparse.Namespace) -> MeasuredPolicy:
    device = chosen_device(args.device)
    # In doubles, which cost these small models little: of ten digits every processor then makes the
    # same, and draws the same outputs.
    model = shipped_policy(args.policy, device=device, dtype=torch.float64)
    questions = Questions(_problems(args), device=device)
    require_context(model, questions.prompts, args.max_tokens, "--max-tokens")
    return MeasuredPolicy(model, questions.prompts, questions.exact_match)


def _in_folder(args: argparse.Namespace) -> MeasuredPolicy:
    reward = args.reward or _ACCURACY_OF_TASK[args.task]
    accuracy = ACCURACIES[reward]()
    questions = _questions(args)
    require_judgeable(questions, reward)
    model, tokenizer = load(
        args.model, dtype=args.dtype, device=args.device, chat=args.chat, name="--model"
    )
    texts = [prompt_text(question) for question in questions]
    prompts = prompts_for(model, tokenizer, texts, max_tokens=args.max_tokens, name="--max-tokens")
    answers = [question.answer for question in questions]
    return MeasuredPolicy(model, prompts, TextReward(answers, tokenizer, accuracy))


def _questions(args: argparse.Namespace) -> Sequence[Question]:
    if args.task == "arithmetic":
        return questions_of(_problems(args))
    every = LOADERS[args.task](args.questions, name="--questions")
    if args.reward == "number":  # in the whole file, since that costs nothing
        require_judgeable(every, args.reward)
    return _drawn(every, args, f"questions of {args.questions}")


def _problems(args: argparse.Namespace) -> Sequence[ArithmeticProblem]:
    rng = np.random.default_rng(HELD_OUT_SEED)
    _, held_out = arithmetic_questions(5, NUM_HELD_OUT, rng=rng)
    return _drawn(held_out.problems, args, "questions of the task arithmetic")


def _drawn(items: Sequence[Entry], args: argparse.Namespace, what: str) -> Sequence[Entry]:
    """Return some of the items, without replacement, in random order."""
    if args.prompts > len(items):
        raise ValueError(f"--prompts must be at most the {len(items)} {what}, got {args.prompts}")
    return select_questions(items, args.prompts, rng=np.random.default_rng(args.seed))
