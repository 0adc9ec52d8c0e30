"""Gradient errors of language models: one pool of outputs for all group sizes, and brute force."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from rich.progress import track

from experiments.gradient_error.pool_table import errors_of_pool, with_laws
from experiments.running.estimators import algorithms
from experiments.tasks import bandits as tasks
from experiments.tasks.language import Panel, use_threads
from experiments.tasks.panels import panels
from ustat_grpo.lm.questions.rewards import ExactMatch
from ustat_grpo.lm.scores.gradient_error import brute_force_errors
from ustat_grpo.lm.scores.pool import draw_pool
from ustat_grpo.pools.moments import pool_moments


def measure(config: Any) -> pd.DataFrame:
    """Measure every estimator at every group size, for each policy of `config`.

    Args:
        config: of `gradient_mse`, with a task of `experiments.tasks.language`.
    """
    use_threads(config.threads or 1)
    tables = []
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
        whole = list(_brute_force(config, panel, rng))
        tables.append(errors_of_pool(config, name, pool, moments))
        tables.append(with_laws(config, name, whole, moments))
    return pd.concat(tables, ignore_index=True)


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
    estimators = algorithms(config.compared)
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
