"""Supervised training of a small transformer on arithmetic, up to stated accuracies."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ustat_grpo.arithmetic.problems import (
    KINDS,
    RANGES,
    ArithmeticProblem,
    OperandRanges,
    draw_problem,
)
from ustat_grpo.inputs.checks import generator, integer, real
from ustat_grpo.lm.exact import solution_probs
from ustat_grpo.lm.models.transformer import Transformer
from ustat_grpo.lm.questions.questions import Questions
from ustat_grpo.lm.scoring import Answers, log_probs


@dataclass(frozen=True)
class Pretraining:
    """How a policy is trained: AdamW on log π(y*∣x), batches with the five kinds in equal share.

    Args:
        batch_size: problems in a step, a multiple of five.
        num_steps: of the run.
        learning_rate: the largest; falls in a line to a thirtieth of it at the last step.
        warmup: steps over which the learning rate rises.
        weight_decay: of AdamW.
        problems_per_kind: draws of each kind for the corpus; those of the held-out set are left
            out, and of equal ones all but one.
        steps_per_check: steps between two looks at the held-out accuracy.

    Raises:
        ValueError: if a number is out of range.

    Examples:
        >>> from ustat_grpo.lm import Pretraining
        >>> settings = Pretraining(batch_size=50, num_steps=100, warmup=5)
        >>> settings.batch_size // 5, settings.learning_rate  # of each kind in a step
        (10, 0.003)
    """

    batch_size: int = 200
    num_steps: int = 14_000
    learning_rate: float = 3e-3
    warmup: int = 200
    weight_decay: float = 0.1
    problems_per_kind: int = 20_000
    steps_per_check: int = 100

    def __post_init__(self) -> None:
        """Check the ranges."""
        sizes = ("batch_size", "num_steps", "warmup", "problems_per_kind", "steps_per_check")
        for name in sizes:
            integer(name, getattr(self, name))
        real("learning_rate", self.learning_rate, above=0.0)
        if real("weight_decay", self.weight_decay) < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if self.batch_size % len(KINDS):
            raise ValueError(
                f"batch_size must be a multiple of {len(KINDS)}, got {self.batch_size}"
            )


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Args:
        step: optimiser steps so far.
        loss: mean negative log-likelihood of a solution over the last steps, in nats.
        accuracy: expected accuracy of sampled outputs on the held-out set, exact.
        by_kind: the same by kind of problem.
    """

    step: int
    loss: float
    accuracy: float
    by_kind: Mapping[str, float]


def pretrain(
    model: Transformer,
    held_out: Questions,
    settings: Pretraining,
    *,
    rng: np.random.Generator,
    ranges: OperandRanges = RANGES,
) -> Iterator[Progress]:
    """Train a transformer in place; yield where it stands every few steps and after the last.

    The caller keeps the weights it likes, and may stop early.

    Args:
        model: to train, in place.
        held_out: questions that are left out of the corpus, and on which accuracy is exact.
        settings: how to train.
        rng: draws the corpus and the batches.
        ranges: from where the corpus' numbers are drawn.

    Raises:
        ValueError: if a kind has no problem outside of the held-out set.
        FloatingPointError: if the loss is not finite; names the step.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import lm
        >>> tokenizer = lm.CharacterTokenizer()
        >>> shape = lm.TransformerShape(tokenizer.vocabulary_size, width=8, num_heads=2)
        >>> policy, rng = lm.Transformer(shape), np.random.default_rng(0)
        >>> _, held_out = lm.arithmetic_questions(5, 5, rng=rng)
        >>> settings = lm.Pretraining(batch_size=10, num_steps=2, warmup=1, problems_per_kind=20)
        >>> for progress in lm.pretrain(policy, held_out, settings, rng=rng):
        ...     print(progress.step, progress.loss > 0, len(progress.by_kind))
        2 True 5
    """
    corpus = _corpus(held_out, settings.problems_per_kind, ranges, generator(rng))
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
    )
    losses = []
    for step in range(1, settings.num_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(settings, step)
        batch = _batch(corpus, settings.batch_size, rng)
        loss = -log_probs(model, batch, share_prompts=False).sum(dim=-1).mean()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss must be finite, got {loss.item()} at step {step}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % settings.steps_per_check == 0 or step == settings.num_steps:
            yield _progress(model, held_out, step, float(np.mean(losses)))
            losses = []


def _learning_rate(settings: Pretraining, step: int) -> float:
    rising = min(1.0, step / settings.warmup)
    falling = max(1.0 - step / settings.num_steps, 1 / 30)
    return settings.learning_rate * rising * falling


def _progress(model: Transformer, held_out: Questions, step: int, loss: float) -> Progress:
    chances = solution_probs(model, held_out.solutions).double()
    by_kind = {
        kind: float(chances[held_out.kinds == place].mean()) for place, kind in enumerate(KINDS)
    }
    return Progress(step, loss, float(chances.mean()), by_kind)


def _corpus(
    held_out: Questions, num_draws: int, ranges: OperandRanges, rng: np.random.Generator
) -> Questions:
    """Return distinct problems of all kinds, none of them held out."""
    left_out = set(held_out.problems)
    corpus: list[ArithmeticProblem] = []
    for kind in KINDS:
        drawn = dict.fromkeys(draw_problem(kind, ranges=ranges, rng=rng) for _ in range(num_draws))
        problems = [problem for problem in drawn if problem not in left_out]
        if not problems:
            raise ValueError(
                f"ranges must hold a {kind} problem that is not held out, got {ranges}"
            )
        corpus += problems
    return Questions(corpus, held_out.tokenizer)


def _batch(corpus: Questions, batch_size: int, rng: np.random.Generator) -> Answers:
    """Draw as many solved problems of each kind."""
    rows = [
        rng.choice(places, batch_size // len(KINDS))
        for places in (np.flatnonzero(corpus.kinds == kind) for kind in range(len(KINDS)))
    ]
    return corpus.solutions[torch.from_numpy(np.concatenate(rows))]
