"""Where plans are made and judged: first batches of a policy, the sweeps from it, its laws."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from experiments.group_size.group_size import predicted
from experiments.planning import first_batches
from experiments.planning.first_batches import Draw
from experiments.planning.planned_sweeps import Sweep, measured_sweeps, tabled_sweeps
from experiments.tasks import language as language_tasks
from experiments.tasks import panels as policy_panels
from experiments.tasks.bandits import Start, Task
from experiments.tasks.sequential import FrozenLake, SequentialTask
from ustat_grpo import laws

GRADIENT_LAW, GAP_LAW = "law (gradient error)", "law (gap)"


class Panel(NamedTuple):
    """One policy at which runs begin.

    Args:
        name: of the panel.
        draw: takes a first batch.
        sweeps: from this policy.
        laws: the G that laws want who know the policy, by iteration and rule; none where only
            outputs can be had.
    """

    name: str
    draw: Draw
    sweeps: list[Sweep]
    laws: Mapping[int, Mapping[str, float]]


@contextmanager
def panels(config: Any) -> Iterator[Iterator[Panel]]:
    """Yield the panels of a task; environments are open as long.

    Args:
        config: of `experiments.planning.planned_group_size`.
    """
    if isinstance(config.task, Task):
        yield (_of_bandit(config, *each) for each in config.task.starts.items())
    elif isinstance(config.task, SequentialTask):
        with first_batches.episodes(config.task) as draw:
            yield iter([_of_environment(config, draw)])
    else:
        yield iter([_of_language(config)])


def _of_bandit(config: Any, name: str, start: Start) -> Panel:
    snapshot = start.bandit.at(start.theta0)
    jobs = [config.of_budget(budget) for budget in config.budgets]
    sweeps = [sweep for job in jobs for sweep in measured_sweeps(job, name, start)]
    at_points = next(iter(predicted(jobs[0], start, jobs[0].compared["grpo"]).values()))
    known = laws.group_size.optimal(snapshot.noise)
    wanted = {
        law.iteration: {GRADIENT_LAW: known, GAP_LAW: law.best_group_size} for law in at_points
    }
    return Panel(name, partial(_bandit_draw, snapshot), sweeps, wanted)


def _bandit_draw(snapshot: Any, size: first_batches.FirstBatch, rng: Any) -> Any:
    return first_batches.bandit_sample(snapshot, *size, rng)


def _of_environment(config: Any, draw: Draw) -> Panel:
    from ustat_grpo.environments import snapshot

    name, start = next(iter(config.task.snapshots.items()))
    sweeps, wanted = _tabled(config, name), {}
    if isinstance(config.task, FrozenLake):
        known = laws.group_size.optimal(snapshot(*start).moments.noise)
        wanted = {sweep.iteration: {GRADIENT_LAW: known} for sweep in sweeps}
    return Panel(name, draw, sweeps, wanted)


def _of_language(config: Any) -> Panel:
    language_tasks.use_threads(config.threads or 1)
    policy = policy_panels.training_sets(config.task, config.policy).train
    name = f"{config.task.name}: {config.start}"
    draw = partial(first_batches.language_sample, policy)
    return Panel(name, draw, _tabled(config, name), {})


def _tabled(config: Any, name: str) -> list[Sweep]:
    """Return a table's sweeps at the budgets that are asked for."""
    found = list(tabled_sweeps(Path(config.sweep), name))
    there = sorted({sweep.budget for sweep in found})
    for budget in config.budgets or []:
        if budget not in there:
            raise ValueError(f"budgets must be among those of the sweep, {there}, got {budget}")
    return [sweep for sweep in found if sweep.budget in (config.budgets or there)]
