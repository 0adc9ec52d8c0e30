"""Gradient errors of language models: one pool of outputs for all group sizes, and brute force."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pandas as pd
from rich.progress import track

from experiments.running.estimators import algorithms
from experiments.running.threads import use_threads
from experiments.tasks import bandits as tasks
from experiments.tasks.errors_table import BRUTE_FORCE, GradientError, measured
from experiments.tasks.language import LanguageTask, Panel
from experiments.tasks.pool_table import errors_of_pool
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
        whole = list(_brute_force(task, name, panel, asked, rng))
        tables.append(errors_of_pool(asked, name, pool, moments))
        if whole:
            tables.append(measured(whole, asked, moments))
    return pd.concat(tables, ignore_index=True)


def _brute_force(
    task: LanguageTask, name: str, panel: Panel, asked: ErrorsAsked, rng: "torch.Generator"
) -> Iterator[GradientError]:
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
        {each: rule for each, rule in estimators.items() if each != "optimal_baseline"},
        task.brute_force_group_size,
        num_replications=task.brute_force_replications,
        rng=rng,
    )
    for estimator, errors in found.items():
        yield GradientError(
            name,
            estimator,
            len(panel.prompts),
            task.brute_force_group_size,
            len(errors),
            float(errors.mean()),
            float(errors.std(ddof=1) / len(errors) ** 0.5),
            evidence=BRUTE_FORCE,
        )
