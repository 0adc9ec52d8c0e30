"""Gradient errors of language models: one pool of outputs for all group sizes, and brute force."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import track

from experiments import compared, tasks
from experiments.language_tasks import Panel, panels, use_threads
from ustat_grpo.laws import mse
from ustat_grpo.lm.gradient_error import PromptErrors, brute_force_errors, pool_errors
from ustat_grpo.lm.measured_moments import MeasuredMoments, pool_moments
from ustat_grpo.lm.pool import NUM_BLOCKS, Pool, draw_pool
from ustat_grpo.lm.rewards import ExactMatch


def measure(config: Any) -> pd.DataFrame:
    """Measure every estimator at every group size, for each policy of `config`.

    Args:
        config: of `experiments.gradient_mse`, with a task of `experiments.language_tasks`.
    """
    use_threads(config.threads or 1)
    rows: list[dict[str, Any]] = []
    found = panels(config.task, config.policy)
    for name, panel in track(found.items(), config.task.name):
        rng = torch.Generator().manual_seed(int(tasks.panel_rng(config.seed, name).integers(2**62)))
        pool = draw_pool(
            panel.model,
            panel.prompts,
            panel.reward,
            config.task.num_outputs,
            max_tokens=panel.max_tokens,
            rng=rng,
            outputs_at_once=panel.outputs_at_once,
        )
        moments = pool_moments(pool)
        for row in [*_from_pool(config, name, pool, moments), *_brute_force(config, panel, rng)]:
            law, std_error = moments.estimate(_law(config, row))
            rows.append({"task": name, **row, "law": law, "law_std_error": std_error})
    return pd.DataFrame(rows)


def require_pool(config: Any) -> None:
    """Raise unless the pool of every question can be cut into two groups of every size."""
    outputs, largest = config.task.num_outputs, max(config.group_size)
    if outputs % NUM_BLOCKS or outputs < 2 * NUM_BLOCKS:
        raise ValueError(
            f"task.num_outputs must be a multiple of {NUM_BLOCKS}, at least {2 * NUM_BLOCKS}, "
            f"got {outputs}"
        )
    if 2 * largest > outputs:
        raise ValueError(
            f"group_size must be at most half of task.num_outputs={outputs}, got {largest}"
        )


def _law(config: Any, row: Mapping[str, Any]) -> Any:
    name, size = row["estimator"], row["group_size"]
    parameters = config.estimators[name]
    return lambda moments: compared.law(name, parameters, moments, size, config.batch_size)


def _from_pool(
    config: Any, panel: str, pool: Pool, moments: MeasuredMoments
) -> Iterator[dict[str, Any]]:
    """Yield the errors of groups cut from the pool; all group sizes share one order of it."""
    estimators = compared.build(config.estimators)
    for size in config.group_size:
        rng = tasks.panel_rng(config.seed, panel)
        for name, errors in pool_errors(pool, estimators, size, rng=rng).items():
            error, std_error = _minibatch(config, name, size, errors, moments)
            yield {
                "estimator": name,
                "batch_size": config.batch_size or len(pool.prompts),
                "group_size": size,
                "replications": errors.num_groups,
                "mse": error,
                "std_error": std_error,
                "evidence": "pool",
            }


def _minibatch(
    config: Any, name: str, size: int, errors: PromptErrors, measured: MeasuredMoments
) -> tuple[float, float]:
    """Return the error of a minibatch gradient from those at the prompts, and its error bar."""
    moments = measured.moments
    gain = compared.gain(name, size)
    error = mse.minibatch(errors.mean, moments, batch_size=config.batch_size, gain=gain)
    shares = moments.prompt_probs**2
    if config.batch_size is not None:
        shares = moments.prompt_probs / config.batch_size
    return error, float(np.linalg.norm(shares * errors.std_error))


def _brute_force(config: Any, panel: Panel, rng: torch.Generator) -> Iterator[dict[str, Any]]:
    """Yield the errors of whole minibatch gradients at one group size, where ∇J is exact.

    The optimal baseline is left out: it is measured, by the pool.
    """
    task = config.task
    if not (
        task.brute_force_replications
        and isinstance(panel.reward, ExactMatch)
        and config.batch_size is None
    ):
        return
    estimators = compared.build(config.estimators)
    found = brute_force_errors(
        panel.model,
        panel.prompts,
        panel.reward,
        {name: each for name, each in estimators.items() if name != "optimal_baseline"},
        task.brute_force_group_size,
        num_replications=task.brute_force_replications,
        max_tokens=panel.max_tokens,
        rng=rng,
    )
    for name, errors in found.items():
        yield {
            "estimator": name,
            "batch_size": len(panel.prompts),
            "group_size": task.brute_force_group_size,
            "replications": len(errors),
            "mse": errors.mean(),
            "std_error": errors.std(ddof=1) / len(errors) ** 0.5,
            "evidence": "brute force",
        }
