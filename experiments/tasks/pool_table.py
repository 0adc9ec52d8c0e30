"""Gradient errors from a pool of outputs as a table, beside their laws: one row a cell."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments.running.estimators import algorithms
from experiments.tasks import bandits as tasks
from experiments.tasks.errors_table import POOL, GradientError, measured
from experiments.tasks.subject import ErrorsAsked
from ustat_grpo.laws import mse
from ustat_grpo.pools.errors import PromptErrors, pool_errors
from ustat_grpo.pools.measured_moments import MeasuredMoments
from ustat_grpo.pools.prompt_pools import Pool, whole_blocks


def require_pool(num_outputs: int, asked: ErrorsAsked) -> None:
    """Raise unless the pool of every prompt can be cut into two groups of every size."""
    outputs = whole_blocks("task.num_outputs", num_outputs)
    largest = max(asked.group_size)
    if 2 * largest > outputs:
        raise ValueError(
            f"group_size must be at most half of task.num_outputs={outputs}, got {largest}"
        )


def errors_of_pool(
    asked: ErrorsAsked, panel: str, pool: Pool, moments: MeasuredMoments
) -> pd.DataFrame:
    """Return the errors of groups cut from the pool of a panel; all sizes share one order of it.

    Args:
        asked: estimators, group sizes and the like.
        panel: its name.
        pool: of the panel.
        moments: of the pool.
    """
    return measured(_rows(asked, panel, pool, moments), asked, moments)


def _rows(
    asked: ErrorsAsked, panel: str, pool: Pool, moments: MeasuredMoments
) -> Iterator[GradientError]:
    estimators = algorithms(asked.compared)
    for size in asked.group_size:
        rng = tasks.panel_rng(asked.seed, panel)
        for name, errors in pool_errors(pool, estimators, size, rng=rng).items():
            error, std_error = _minibatch(asked, name, size, errors, moments)
            yield GradientError(
                panel,
                name,
                asked.batch_size or len(pool.prompts),
                size,
                errors.num_groups,
                error,
                std_error,
                evidence=POOL,
            )


def _minibatch(
    asked: ErrorsAsked, name: str, size: int, errors: PromptErrors, of_pool: MeasuredMoments
) -> tuple[float, float]:
    """Return the error of a minibatch gradient from those at the prompts, and its error bar."""
    moments = of_pool.moments
    gain = asked.compared[name].gain(size)
    error = mse.minibatch(errors.mean, moments, batch_size=asked.batch_size, gain=gain)
    shares = moments.prompt_probs**2
    if asked.batch_size is not None:
        shares = moments.prompt_probs / asked.batch_size
    return error, float(np.linalg.norm(shares * errors.std_error))
