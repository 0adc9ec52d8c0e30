"""Transformers of one layer that learnt a little arithmetic, in files as the apps read them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from experiments.tasks.language import Ranges
from ustat_grpo.lm.models.checkpoints import save_policy
from ustat_grpo.lm.models.transformer import Transformer, TransformerShape
from ustat_grpo.lm.questions.questions import CONTEXT_LENGTH, TOKENIZER, arithmetic_questions
from ustat_grpo.lm.training.pretraining import Pretraining, pretrain

RANGES = {
    "sums": [1, 3],
    "factors": [2, 5],
    "multipliers": [2, 4],
    "divisors": [2, 4],
    "quotients": [2, 5],
}
"""Twelve products and twelve quotients; answers from -5 to 20."""

SHAPE = TransformerShape(TOKENIZER.vocabulary_size, CONTEXT_LENGTH, 16, 1, 2, 32)
STEPS = {"beginner": 30, "intermediate": 100}
EASY = tuple(f"task.ranges.{name}={bounds}".replace(" ", "") for name, bounds in RANGES.items())
"""Overrides of an app."""


def untrained(**sizes) -> Transformer:
    """Return a policy of random weights, the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Transformer(replace(SHAPE, **sizes))


@cache
def trained() -> dict[str, dict[str, torch.Tensor]]:
    """Return weights by skill: an accuracy of about a tenth, which takes a second."""
    model, rng, ranges = untrained(), np.random.default_rng(2603), Ranges(**RANGES).build()
    _, held_out = arithmetic_questions(25, 25, rng=rng, ranges=ranges)
    settings = Pretraining(
        batch_size=50, num_steps=100, learning_rate=0.02, warmup=5, problems_per_kind=200,
        steps_per_check=10,
    )  # fmt: skip
    found = {}
    for progress in pretrain(model, held_out, settings, rng=rng, ranges=ranges):
        for skill, step in STEPS.items():
            if progress.step == step:
                found[skill] = {name: each.clone() for name, each in model.state_dict().items()}
    return found


def save_all(folder: Path) -> Path:
    """Write a file for each skill; return the folder."""
    model = untrained()
    for skill, weights in trained().items():
        model.load_state_dict(weights)
        save_policy(model, folder / f"{skill}.safetensors")
    return folder


def asked(folder: Path, *skills: str) -> tuple[str, ...]:
    """Return the overrides by which an app asks these policies 25 easy questions."""
    return (
        "task=arithmetic",
        "task.num_questions=25",
        "task.num_train=25",
        *EASY,
        f"policy.folder={folder}",
        f"policy.skills=[{','.join(skills or STEPS)}]",
        "policy.device=cpu",
    )
