"""What `ustat-grpo measure` measures: a policy, its prompts, and the reward of its outputs."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from ustat_grpo.arithmetic.problems import ArithmeticProblem
from ustat_grpo.lm.judging.function_rewards import (
    FunctionReward,
    RewardFunction,
    load_function,
)
from ustat_grpo.lm.judging.text_rewards import Reader, TextReward
from ustat_grpo.lm.language_model import LanguageModel, Prompts, chosen_device
from ustat_grpo.lm.models.checkpoints import shipped_policy
from ustat_grpo.lm.models.conversation import Conversation
from ustat_grpo.lm.models.huggingface import load
from ustat_grpo.lm.questions.datasets import Entry, Question, questions_of, select_questions
from ustat_grpo.lm.questions.questions import Questions, arithmetic_questions
from ustat_grpo.lm.questions.reasoning_gym import ReasoningGym
from ustat_grpo.lm.questions.rewards import Reward
from ustat_grpo.lm.questions.text_tasks import (
    ACCURACIES,
    LOADERS,
    OF_NUMBERS,
    prompt_text,
    prompts_for,
    require_judgeable,
)
from ustat_grpo.lm.sampling import require_context

NUM_HELD_OUT, HELD_OUT_SEED = 500, 2603
"""The arithmetic questions that the shipped policies have not seen."""

_ACCURACY_OF_TASK = {"arithmetic": "last-number", "gsm8k": "math", "math": "math"}

_LOADER_OF_EXAMPLES = {"arithmetic": "prompts", "reasoning_gym": "prompts"}
"""How a file of examples is read, where the task itself has no file."""

_MakeReward = Callable[[Sequence[str], Reader], Reward]
"""Makes the reward of the prompts, once they are put into words, by what reads outputs."""


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
    questions, judge = _judged_questions(args)
    examples = () if args.examples is None else _examples(args)
    texts = [prompt_text(question, examples=examples) for question in questions]
    model, tokenizer = load(
        args.model,
        dtype=args.dtype,
        device=args.device,
        conversation=Conversation(
            chat=args.chat,
            system=args.system,
            prefill=args.prefill,
            stop=tuple(args.stop),
            temperature=args.temperature,
        ),
        name="--model",
    )
    prompts = prompts_for(model, tokenizer, texts, max_tokens=args.max_tokens, name="--max-tokens")
    return MeasuredPolicy(model, prompts, judge(texts, tokenizer))


def _judged_questions(args: argparse.Namespace) -> tuple[Sequence[Question], _MakeReward]:
    """Return the questions, and what makes the reward of answers to them, as the options say."""
    if args.task == "reasoning_gym":
        gym = ReasoningGym(args.dataset, args.prompts, args.seed, dict(args.dataset_config))
        questions = gym.questions()
        return questions, partial(_by_function, gym.rewards, args.dataset, questions)
    reward = args.reward or _ACCURACY_OF_TASK[args.task]
    if reward not in ACCURACIES:
        function, questions = load_function(reward, "--reward"), _questions(args)
        return questions, partial(_by_function, function, f"--reward {reward}", questions)
    accuracy, questions = ACCURACIES[reward](), _questions(args)
    require_judgeable(questions, reward)
    return questions, partial(_by_answer, accuracy, questions)


def _by_answer(
    accuracy: Callable[[str, str], float],
    questions: Sequence[Question],
    texts: Sequence[str],
    reader: Reader,
) -> Reward:
    return TextReward([question.answer for question in questions], reader, accuracy)


def _by_function(
    function: RewardFunction,
    name: str,
    questions: Sequence[Question],
    texts: Sequence[str],
    reader: Reader,
) -> Reward:
    columns = [{"answer": each.answer, **each.columns} for each in questions]
    return FunctionReward(function, texts, columns, reader, name)


def _examples(args: argparse.Namespace) -> Sequence[Question]:
    """Return the questions that are shown with their solutions, in the form of the task's file."""
    read = LOADERS[_LOADER_OF_EXAMPLES.get(args.task) or args.task]
    return read(args.examples, name="--examples")


def _questions(args: argparse.Namespace) -> Sequence[Question]:
    if args.task == "arithmetic":
        return questions_of(_problems(args))
    every = LOADERS[args.task](args.questions, name="--questions")
    if args.reward in OF_NUMBERS:  # in the whole file, since that costs nothing
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
