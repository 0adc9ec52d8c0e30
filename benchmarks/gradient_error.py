"""Time of the language models' gradient-error figure: one pool of outputs against brute force.

Brute force draws minibatches, back-propagates, and averages ‖ĝ − ∇J‖². It is timed for a few
replicates at every group size; from their spread follows how many it would need to be as precise
as the pool is.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.timing import AtLeast, Row, row
from ustat_grpo import Grpo
from ustat_grpo.lm.models.checkpoints import shipped_policy
from ustat_grpo.lm.questions.questions import Questions, arithmetic_questions
from ustat_grpo.lm.scores.known_solutions import brute_force_errors
from ustat_grpo.lm.scores.output_pool import draw_pool
from ustat_grpo.lm.task import Task
from ustat_grpo.pools.errors import pool_errors

SIZES = (4, 8, 16, 32, 64)
NUM_QUESTIONS, NUM_OUTPUTS, MAX_TOKENS, REPLICATES = 500, 256, 6, 8
LEAST_SPEED_UP = AtLeast(20.0)


def rows(
    num_questions: int = NUM_QUESTIONS,
    num_outputs: int = NUM_OUTPUTS,
    sizes: Sequence[int] = SIZES,
) -> list[Row]:
    """Return the times of both ways for GRPO at every group size, and their ratio."""
    model = shipped_policy("intermediate")
    _, questions = arithmetic_questions(5, num_questions, rng=np.random.default_rng(2603))
    started = time.perf_counter()
    precision = _pool(model, questions, num_outputs, sizes)
    seconds = time.perf_counter() - started
    brute = sum(_brute_force(model, questions, size, precision[size]) for size in sizes)
    return [
        row("language figure", None, "pool", "s", seconds),
        row("language figure", None, "brute force, at equal error", "s", brute),
        row("language speed-up", None, "over brute force", "×", brute / seconds,
            LEAST_SPEED_UP),
    ]  # fmt: skip


def _pool(
    model: torch.nn.Module, questions: Questions, num_outputs: int, sizes: Sequence[int]
) -> dict[int, float]:
    """Return the relative standard error of GRPO's error at every group size."""
    pool = draw_pool(
        model,  # pyright: ignore[reportArgumentType]
        Task(questions.prompts, questions.exact_match, MAX_TOKENS),
        num_outputs,
        rng=torch.Generator().manual_seed(0),
    )
    found = {}
    for size in sizes:
        errors = pool_errors(pool, {"grpo": Grpo()}, size, rng=np.random.default_rng(0))["grpo"]
        found[size] = float(np.linalg.norm(errors.std_error) / errors.mean.sum())
    return found


def _brute_force(
    model: torch.nn.Module, questions: Questions, size: int, precision: float
) -> float:
    """Return the seconds that brute force takes to that relative standard error."""
    started = time.perf_counter()
    errors = brute_force_errors(
        model,  # pyright: ignore[reportArgumentType]
        Task(questions.prompts, questions.exact_match, MAX_TOKENS),
        {"grpo": Grpo()},
        size,
        num_replications=REPLICATES,
        rng=torch.Generator().manual_seed(size),
    )["grpo"]
    each = (time.perf_counter() - started) / REPLICATES
    needed = (errors.std(ddof=1) / errors.mean() / precision) ** 2
    return float(each * needed)
