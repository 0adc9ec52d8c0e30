"""Gradient errors on sequential tasks: simulated on a table, or from a pool of episodes."""

from typing import Any

import numpy as np
import pandas as pd
from rich.progress import track

from experiments.gradient_error.pool_table import errors_of_pool
from experiments.running.estimators import algorithms
from experiments.tasks import bandits as tasks
from experiments.tasks.sequential import FrozenLake, Gym
from ustat_grpo.environments import gradient_errors, snapshot
from ustat_grpo.pools.moments import pool_moments


def measure(config: Any) -> pd.DataFrame:
    """Measure every estimator at every group size, for each policy of the task.

    Args:
        config: of `gradient_mse`, with a task of `experiments.tasks.sequential`.
    """
    on_table = isinstance(config.task, FrozenLake)
    return _on_table(config) if on_table else _from_episodes(config)


def _on_table(config: Any) -> pd.DataFrame:
    """Simulate minibatches; laws are exact, by dynamic programming."""
    estimators, tables = algorithms(config.compared), []
    for name, panel in track(config.task.snapshots.items(), config.task.name):
        table = gradient_errors(
            panel.mdp,
            panel.policy,
            panel.theta,
            estimators,
            config.group_size,
            config.batch_size,
            precision=config.scale.precision,
            rng=tasks.panel_rng(config.seed, name),
            num_threads=config.threads,
        )
        moments = snapshot(panel.mdp, panel.policy, panel.theta).moments
        table.insert(0, "task", name)
        table["law"] = [
            config.compared[each].law(moments, size, config.batch_size)
            for each, size in zip(table["estimator"], table["group_size"], strict=True)
        ]
        tables.append(table)
    return pd.concat(tables, ignore_index=True).assign(law_std_error=0.0, evidence="simulation")


def _from_episodes(config: Any) -> pd.DataFrame:
    """Cut one pool of episodes to each start into groups; laws are of moments of that pool."""
    task: Gym = config.task
    tables = []
    with task.copies() as copies:
        for name, panel in track(task.snapshots.items(), task.name):
            # Not the stream of the panel, by which the pool is cut into groups.
            rng = np.random.default_rng(tasks.panel_rng(config.seed, name).integers(2**63))
            pool = task.pool(copies, panel, rng)
            tables.append(errors_of_pool(config, name, pool, pool_moments(pool)))
    return pd.concat(tables, ignore_index=True)
