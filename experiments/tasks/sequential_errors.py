"""Gradient errors on sequential tasks: simulated on a table, or from a pool of episodes."""

import numpy as np
import pandas as pd
from rich.progress import track

from experiments.running.estimators import algorithms
from experiments.tasks import bandits as tasks
from experiments.tasks.errors_table import simulated
from experiments.tasks.pool_table import errors_of_pool
from experiments.tasks.sequential import FrozenLake, Gym
from experiments.tasks.subject import ErrorsAsked
from ustat_grpo.pools.moments import pool_moments


def on_table(task: FrozenLake, asked: ErrorsAsked) -> pd.DataFrame:
    """Simulate minibatches; laws are exact, by dynamic programming."""
    from ustat_grpo.environments import gradient_errors, snapshot

    estimators, tables = algorithms(asked.compared), []
    for name, panel in track(task.snapshots.items(), task.name):
        table = gradient_errors(
            panel.mdp,
            panel.policy,
            panel.theta,
            estimators,
            asked.group_size,
            asked.batch_size,
            precision=asked.precision,
            rng=tasks.panel_rng(asked.seed, name),
            num_threads=asked.threads,
        )
        moments = snapshot(panel.mdp, panel.policy, panel.theta).moments
        tables.append(simulated(table, asked, name, moments))
    return pd.concat(tables, ignore_index=True)


def from_episodes(task: Gym, asked: ErrorsAsked) -> pd.DataFrame:
    """Cut one pool of episodes to each start into groups; laws are of moments of that pool."""
    tables = []
    with task.copies() as copies:
        for name, panel in track(task.snapshots.items(), task.name):
            # Not the stream of the panel, by which the pool is cut into groups.
            rng = np.random.default_rng(tasks.panel_rng(asked.seed, name).integers(2**63))
            pool = task.pool(copies, panel, rng)
            tables.append(errors_of_pool(asked, name, pool, pool_moments(pool)))
    return pd.concat(tables, ignore_index=True)
