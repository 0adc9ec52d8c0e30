"""Gradient errors of language models: one pool of outputs for all group sizes, and brute force."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.progress import track

from experiments.running.estimators import algorithms
from experiments.running.threads import use_threads
from experiments.tasks import bandits as tasks
from experiments.tasks.language import LanguageTask, Panel
from experiments.tasks.pool_table import errors_of_pool, with_laws
from experiments.tasks.subject import ErrorsAsked
from ustat_grpo.pools.measured_moments import pool_moments

if TYPE_CHECKING:
    import torch


def measure(task: LanguageTask, panels: Mapping[str, Panel], asked: ErrorsAsked) -> pd.DataFrame:
    """Measure every estimator at every group size, for each policy.

    Args:
        task: says how many outputs.
        panels: policies with its questions, by name.
        asked: estimators, group sizes and the like.
    """
    import torch

    from ustat_grpo.lm.scores.output_pool import draw_pool

    use_threads(asked.threads or 1)
    tables = []
    for name, panel in track(panels.items(), task.name):
        rng = torch.Generator().manual_seed(int(tasks.panel_rng(asked.seed, name).integers(2**62)))
        pool = draw_pool(
            panel.model,
            panel.task,
            task.num_outputs,
            rng=rng,
            outputs_at_once=panel.outputs_at_once,
        )
        moments = pool_moments(pool)
        whole = list(_brute_force(task, panel, asked, rng))
        tables.append(errors_of_pool(asked, name, pool, moments))
        tables.append(with_laws(asked, name, whole, moments))
    return pd.concat(tables, ignore_index=True)


def _brute_force(
    task: LanguageTask, panel: Panel, asked: ErrorsAsked, rng: "torch.Generator"
) -> Iterator[dict[str, Any]]:
    """Yield the errors of whole minibatch gradients at one group size, where ∇J is exact.

    The optimal baseline is left out: it is measured, by the pool.
    """
    from ustat_grpo.lm.scores.known_solutions import brute_force_errors

    if not (task.brute_force_replications and panel.is_exact and asked.batch_size is None):
        return
    estimators = algorithms(asked.compared)
    found = brute_force_errors(
        panel.model,
        panel.task,
        {name: each for name, each in estimators.items() if name != "optimal_baseline"},
        task.brute_force_group_size,
        num_replications=task.brute_force_replications,
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
