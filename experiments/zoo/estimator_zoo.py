"""Which advantage estimator, and at what G? Every one that trainers ship, in one honest table.

Minibatches of B i.i.d. prompts; exact where an estimator has a law, else simulated on draws that
all of them share. They differ in scale, so what counts is tr Var ĝ/‖E ĝ‖², which no step size
changes, and the direction of E ĝ. Try

    python -m experiments estimator_zoo task=arithmetic_choice
    python -m experiments estimator_zoo task=bandit group_size=[8] batch_size=8
    python -m experiments estimator_zoo task=success_probability
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import MISSING
from rich.console import Console
from rich.progress import track

from experiments.running.app import App
from experiments.running.options import Scale, group_sizes, require_seed_and_threads
from experiments.tasks import bandits as tasks
from experiments.zoo import entries as zoo
from experiments.zoo.moments import MeanAndSecond, jackknife, simulate
from experiments.zoo.table import WIDTH, show
from ustat_grpo.inputs.checks import integer, without_rounding

MEASURES = ("gain", "squared_bias", "squared_sine", "variance", "scale_free_error")
COLUMNS = [
    "task", "estimator", "family", "library", "objective", "batch_size", "group_size", "evidence",
    *(f"{name}{suffix}" for name in MEASURES for suffix in ("", "_std_error")),
    "cost", "relative_error", "relative_error_std_error", "oracle_outputs", "dead_groups",
]  # fmt: skip

_NO_GRADIENT = 1e-20


@dataclass
class EstimatorZoo:
    """The configuration of this app; simulated are 8 · `scale.runs` minibatches, and a few more."""

    task: Any = MISSING
    scale: Scale = field(default_factory=Scale)
    group_size: Any = MISSING
    batch_size: int = MISSING
    seed: int = 0
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        self.group_size = group_sizes(self.group_size)
        for size in self.group_size:
            integer("group_size", size, at_least=2)
        integer("batch_size", self.batch_size, at_least=2)
        require_seed_and_threads(self.seed, None)


def run(config: EstimatorZoo) -> pd.DataFrame:
    """Compare all estimators at every group size, for each panel of the task.

    Where there is only one prompt, estimators that look at the whole batch are left out.
    """
    rows = []
    for panel in track(panels(config), config.task.name):
        for size in config.group_size:
            rows += [each | {"task": panel} for each in _compared(config, panel, size)]
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def panels(config: EstimatorZoo) -> list[str]:
    """Return the panels of the task, but for those where ∇J = 0: nothing is relative to it.

    Raises:
        ValueError: if there is none.
    """
    found = []
    for panel, snapshot in tasks.finite_task(config.task).snapshots.items():
        by_prompt = snapshot.prompt_probs @ snapshot.moments.gradient_norm_squared
        if zoo.norm_squared(snapshot) > _NO_GRADIENT * by_prompt:
            found.append(panel)
    if not found:
        raise ValueError(f"task must have a policy with ∇J ≠ 0, got {config.task.name}")
    return found


def _compared(config: EstimatorZoo, panel: str, size: int) -> Iterator[dict[str, Any]]:
    """Yield one row an estimator, the simulated ones on shared draws."""
    problem = zoo.PromptProblem(tasks.finite_task(config.task).snapshots[panel])
    found = _by_law(problem, size) | _by_simulation(config, panel, size)
    oracle = found["oracle"]["scale_free_error"]
    for name, entry in zoo.ZOO.items():
        if name not in found:
            continue
        measured = found[name]
        cost = entry.cost(problem, size)
        relative = cost / oracle
        yield measured | {
            "estimator": name,
            "family": entry.family,
            "library": entry.library,
            "objective": entry.objective,
            "batch_size": config.batch_size,
            "group_size": size,
            "evidence": "simulation" if entry.law is None else "law",
            "cost": cost,
            "relative_error": relative * measured["scale_free_error"],
            "relative_error_std_error": relative * measured["scale_free_error_std_error"],
            "oracle_outputs": _oracle_outputs(problem, measured["scale_free_error"]),
            "dead_groups": problem.dead_groups(size),
        }


def _by_law(problem: zoo.PromptProblem, size: int) -> dict[str, dict[str, float]]:
    """Return the measures of the estimators that have a law, without noise."""
    target = zoo.norm_squared(problem.snapshot)
    found = {}
    for name, entry in zoo.ZOO.items():
        if entry.law is not None and size >= entry.least:
            law = entry.law(problem, size)
            norm = law.mean_norm_squared
            along = law.cosine * np.sqrt(norm * target)
            of_group = MeanAndSecond(*np.atleast_1d(along, norm, norm * (1 + law.scale_free_error)))
            exact = {key: float(each[0]) for key, each in measures(of_group, target, 1).items()}
            found[name] = exact | {f"{key}_std_error": 0.0 for key in exact}
    return found


def _by_simulation(config: EstimatorZoo, panel: str, size: int) -> dict[str, dict[str, float]]:
    """Return the measures of the others, with standard errors."""
    snapshot = tasks.finite_task(config.task).snapshots[panel]
    if len(snapshot.prompt_probs) == 1:
        return {}
    estimators = {
        name: entry.estimator
        for name, entry in zoo.ZOO.items()
        if entry.law is None and entry.estimator is not None and size >= entry.least
    }
    shape = -(-config.scale.runs // 2), config.batch_size, size
    rng = tasks.panel_rng(config.seed, f"{panel}, {size}")
    target = zoo.norm_squared(snapshot)
    found = {}
    for name, moments in simulate(snapshot, estimators, shape, zoo.tell, rng).items():
        found[name] = {}
        for key, samples in measures(moments, target, config.batch_size).items():
            found[name][key], found[name][f"{key}_std_error"] = jackknife(samples)
    return found


def measures(
    moments: MeanAndSecond, target: float, batch_size: int
) -> dict[str, NDArray[np.float64]]:
    """Say how far the mean of ĝ is from ∇J, and how far ĝ from its mean.

    Args:
        moments: of a minibatch of B groups.
        target: ‖∇J‖².
        batch_size: B.

    Returns:
        gain ⟨E ĝ, ∇J⟩/‖∇J‖², squared bias ‖E ĝ − ∇J‖²/‖∇J‖², squared sine of the angle between E ĝ
        and ∇J, variance B tr Var ĝ/‖∇J‖² and scale-free error B tr Var ĝ/‖E ĝ‖².
    """
    along, norm, second = moments
    noise = batch_size * (second - norm)
    # Both are differences that vanish for what is unbiased: rounding may not show as a bias.
    bias = without_rounding(norm - 2 * along + target, norm + target)
    sine = without_rounding(1 - along**2 / (norm * target), 1.0)
    values = (
        along / target,
        bias / target,
        sine,
        noise / target,
        noise / norm,
    )
    return dict(zip(MEASURES, values, strict=True))


def _oracle_outputs(problem: zoo.PromptProblem, error: float) -> float:
    """Return the G from which the oracle would have a scale-free error; ∞ if no G is enough."""
    noise = problem.moments.noise
    rest = error * zoo.norm_squared(problem.snapshot) - noise.prompt
    return noise.oracle / rest if rest > 0 else np.inf


def describe(config: EstimatorZoo) -> str:
    """Return the readable part of the results folder's name."""
    sizes = "-".join(map(str, config.group_size))
    return f"{config.task.name}_B{config.batch_size}_G{sizes}"


APP = App(
    "estimator_zoo",
    EstimatorZoo,
    run,
    describe,
    panels,
    report=lambda data: show(data, Console(width=WIDTH)),
)
