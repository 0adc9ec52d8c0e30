"""Where plans are made and judged: first batches of a policy, the sweeps from it, its laws."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from experiments.group_size.group_size import predicted
from experiments.planning.planned_config import PlannedGroupSize
from experiments.planning.planned_sweeps import Sweep, measured_sweeps, tabled_sweeps
from experiments.tasks.bandits import bandit_task
from experiments.tasks.subject import DrawFirstBatch, FirstPolicy
from ustat_grpo import laws

GRADIENT_LAW, GAP_LAW = "law (gradient error)", "law (gap)"


class PlannedPolicy(NamedTuple):
    """One policy at which runs begin.

    Args:
        name: of the panel.
        draw: takes a first batch.
        sweeps: from this policy.
        laws: the G that laws want who know the policy, by iteration and rule; none where only
            outputs can be had.
    """

    name: str
    draw: DrawFirstBatch
    sweeps: list[Sweep]
    laws: Mapping[int, Mapping[str, float]]


@contextmanager
def panels(config: PlannedGroupSize) -> Iterator[Iterator[PlannedPolicy]]:
    """Yield the panels of a task; environments are open as long."""
    with config.subject.first_policies(config.threads) as policies:
        yield (_panel(config, policy) for policy in policies)


def _panel(config: PlannedGroupSize, policy: FirstPolicy) -> PlannedPolicy:
    """Return a policy with its sweeps, which are run here if there is no table of them."""
    wanted: dict[str, float] = {}
    if policy.noise is not None:
        wanted = {GRADIENT_LAW: laws.group_size.optimal(policy.noise)}
    if config.sweep is None:
        sweeps, at_points = _run(config, policy.name)
        by_point = {point: wanted | {GAP_LAW: best} for point, best in at_points.items()}
        return PlannedPolicy(policy.name, policy.draw, sweeps, by_point)
    sweeps = tabled(Path(config.sweep), config.budgets, policy.name)
    return PlannedPolicy(
        policy.name, policy.draw, sweeps, {each.iteration: wanted for each in sweeps}
    )


def _run(config: PlannedGroupSize, name: str) -> tuple[list[Sweep], dict[int, float]]:
    """Run the sweeps from a start, and return the G of least gap by the law at each iteration."""
    start = bandit_task(config.task).starts[name]
    jobs = [config.of_budget(budget) for budget in config.budgets or []]
    sweeps = [sweep for job in jobs for sweep in measured_sweeps(job, name, start)]
    at_points = next(iter(predicted(jobs[0], start, jobs[0].compared["grpo"]).values()))
    return sweeps, {law.iteration: law.best_group_size for law in at_points}


def tabled(path: Path, budgets: list[int] | None, name: str) -> list[Sweep]:
    """Return a table's sweeps of a policy at the budgets that are asked for.

    Raises:
        ValueError: if the table has none of the policy, or at one of the budgets.
    """
    found = list(tabled_sweeps(path, name))
    there = sorted({sweep.budget for sweep in found})
    for budget in budgets or []:
        if budget not in there:
            raise ValueError(f"budgets must be among those of the sweep, {there}, got {budget}")
    return [sweep for sweep in found if sweep.budget in (budgets or there)]
