"""Sequential tasks as subjects: a table of which all is known, or an environment that is played."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.progress import track

from experiments.running.estimators import algorithms
from experiments.tasks.bandits import panel_rng
from experiments.tasks.errors_table import simulated
from experiments.tasks.pool_table import errors_of_pool, require_pool
from experiments.tasks.sequential import FrozenLake, Gym, SampledPanel, TabularPanel
from experiments.tasks.subject import (
    DrawFirstBatch,
    ErrorsAsked,
    FirstBatch,
    FirstPolicy,
    TrainingAsked,
)
from ustat_grpo import Precision
from ustat_grpo.noise import OutputSample
from ustat_grpo.pools.measured_moments import pool_moments

_MOST_REPLICATIONS = 1_000_000
"""After which errors are as precise as they get: returns of few episodes vary too much for more."""


@dataclass(frozen=True)
class TableSubject:
    """Policies on a finite decision process; see `experiments.tasks.subject.Subject`."""

    task: FrozenLake

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    def prepare(self) -> Mapping[str, TabularPanel]:
        """Build the policies, or raise."""
        return self.task.snapshots

    def require_errors(self, asked: ErrorsAsked) -> None:
        """Accept every group size: as many episodes are drawn as it takes."""

    def gradient_errors(self, asked: ErrorsAsked) -> pd.DataFrame:
        """Simulate minibatches; laws are exact."""
        from ustat_grpo.environments import gradient_errors, snapshot

        estimators, tables = algorithms(asked.compared), []
        for name, panel in track(self.task.snapshots.items(), self.task.name):
            here = snapshot(panel.mdp, panel.policy, panel.theta)
            table = gradient_errors(
                here,
                estimators,
                asked.group_size,
                asked.batch_size,
                replications=Precision(asked.precision, _MOST_REPLICATIONS),
                rng=panel_rng(asked.seed, name),
            )
            tables.append(simulated(table, asked, name, here.moments))
        return pd.concat(tables, ignore_index=True)

    def training_runs(self, asked: TrainingAsked) -> pd.DataFrame:
        """Run Algorithm 1 compiled, from the first policy; objectives are exact."""
        from experiments.tasks import sequential_training

        return sequential_training.on_table(self.task, asked)

    @contextmanager
    def first_policies(self, threads: int | None) -> Iterator[Iterator[FirstPolicy]]:
        """Open copies of the environment for the first policy, whose noise is known."""
        from ustat_grpo.environments import snapshot

        name, panel = next(iter(self.task.snapshots.items()))
        with episodes(self.task) as draw:
            yield iter([FirstPolicy(name, draw, snapshot(*panel).moments.noise)])


@dataclass(frozen=True)
class EpisodeSubject:
    """Policies of which only episodes can be had; see `experiments.tasks.subject.Subject`."""

    task: Gym

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    def prepare(self) -> Mapping[str, SampledPanel]:
        """Train the policies, or raise."""
        return self.task.snapshots

    def require_errors(self, asked: ErrorsAsked) -> None:
        """Check that groups can be cut from the episodes of each start."""
        require_pool(self.task.num_outputs, asked)

    def gradient_errors(self, asked: ErrorsAsked) -> pd.DataFrame:
        """Measure them by a pool of episodes."""
        tables = []
        with self.task.copies() as copies:
            for name, panel in track(self.task.snapshots.items(), self.task.name):
                # Not the stream of the panel, by which the pool is cut into groups.
                rng = np.random.default_rng(panel_rng(asked.seed, name).integers(2**63))
                pool = self.task.pool(copies, panel, rng)
                tables.append(errors_of_pool(asked, name, pool, pool_moments(pool)))
        return pd.concat(tables, ignore_index=True)

    def training_runs(self, asked: TrainingAsked) -> pd.DataFrame:
        """Play and learn, a process a run, from the first policy; objectives are mean returns."""
        from experiments.tasks import sequential_training

        return sequential_training.on_environment(self.task, asked)

    @contextmanager
    def first_policies(self, threads: int | None) -> Iterator[Iterator[FirstPolicy]]:
        """Open copies of the environment for the first policy."""
        with episodes(self.task) as draw:
            yield iter([FirstPolicy(next(iter(self.task.snapshots)), draw, None)])


@contextmanager
def episodes(task: FrozenLake | Gym) -> Iterator[DrawFirstBatch]:
    """Open copies of a task's environment, and yield what plays first batches of its first policy.

    Starts are drawn i.i.d., as runs draw them; see `start_seeds` of the task.
    """
    from ustat_grpo.environments import episode_scores, group_rollouts

    panel = next(iter(task.snapshots.values()))
    with task.copies() as copies:

        def draw(size: FirstBatch, rng: np.random.Generator) -> OutputSample:
            seeds = task.start_seeds(size.num_prompts, rng)
            played = group_rollouts(
                copies, panel.policy, panel.theta, seeds, size.num_outputs, rng=rng
            )
            scores = episode_scores(panel.policy, panel.theta, played)
            return OutputSample.from_scores(list(scores), list(played.returns))

        yield draw
