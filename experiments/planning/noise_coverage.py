"""Do the 95 % intervals of c₁, c₂, c₃ and of G* cover the truth? Samples of known populations.

Bandits are known exactly. A language model is made to choose among outputs that it gave, which
makes it a softmax policy that is known exactly too, scores and all. Try

    python -m experiments noise_coverage task=bandit replicates=200
    python -m experiments noise_coverage task=arithmetic policy.skills=[intermediate]
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import MISSING
from rich.progress import track

from experiments.planning.populations import Population, population_of_bandit, population_of_policy
from experiments.running.app import App
from experiments.running.options import Scale, require_seed_and_threads
from experiments.running.threads import use_threads
from experiments.tasks import bandits as tasks
from experiments.tasks import language as language_tasks
from experiments.tasks.kinds import for_kind
from experiments.tasks.policies import PosedTask
from ustat_grpo import NoiseComponents
from ustat_grpo.inputs.checks import increasing, integer
from ustat_grpo.laws import group_size as law
from ustat_grpo.laws.group_size import GroupSizeRange
from ustat_grpo.noise import NoiseEstimate, OutputSample, estimate_noise
from ustat_grpo.planner import plan

COMPONENTS = ("prompt", "oracle", "residual")
BUDGET = 1024
"""Of the plans, whose group sizes it bounds."""
_COVERED = [f"{name}_coverage" for name in (*COMPONENTS, "optimal", "surely", "possibly")]
COLUMNS = [
    "task", "num_prompts", "num_outputs", "replicates", "refused", *_COVERED, "surely_claims",
    "lower_bounds", "optimal", "low", "high",
    *(f"{name}{what}" for name in COMPONENTS for what in ("", "_estimate", "_std_error")),
]  # fmt: skip


@dataclass
class NoiseCoverage:
    """The configuration of this app."""

    task: Any = MISSING
    policy: Any = None  # of language models
    scale: Scale = field(default_factory=Scale)
    num_prompts: list[int] = MISSING  # B, of a sample
    num_outputs: list[int] = MISSING  # M, to each of its prompts
    replicates: int = 2000
    num_questions: int = 200  # of those held out, to language models
    seed: int = 0
    threads: int | None = 1
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        increasing("num_prompts", self.num_prompts)
        integer("num_prompts", self.num_prompts[0], at_least=8)
        increasing("num_outputs", self.num_outputs)
        integer("num_outputs", self.num_outputs[0], at_least=3)
        integer("replicates", self.replicates, at_least=2)
        integer("num_questions", self.num_questions, at_least=2)
        require_seed_and_threads(self.seed, self.threads)
        _ = self.populations
        known = getattr(self.task, "num_questions", self.num_questions)
        if self.num_questions > known:
            raise ValueError(
                f"num_questions must be at most task.num_questions = {known}, "
                f"got {self.num_questions}"
            )

    @property
    def populations(self) -> Callable[["NoiseCoverage"], Iterator[tuple[str, Population]]]:
        """What builds the policies of the task, and yields each as a population."""
        return for_kind(self.task, _POPULATIONS, "task must be bandit or arithmetic")


class Truth(NamedTuple):
    """What intervals are to cover."""

    noise: NoiseComponents
    optimal: float
    near_optimal: GroupSizeRange

    @classmethod
    def of(cls, noise: NoiseComponents) -> "Truth":
        """Return the truth of a population."""
        near_optimal = plan(noise, budget=BUDGET).near_optimal
        assert near_optimal is not None  # integers are close to each other
        return cls(noise, law.optimal(noise), near_optimal)


def run(config: NoiseCoverage) -> pd.DataFrame:
    """Return one row a population, number of prompts and number of outputs."""
    rows = []
    for name, population in config.populations(config):
        truth = Truth.of(population.noise)
        cells = [(b, m) for b in config.num_prompts for m in config.num_outputs]
        for num_prompts, num_outputs in track(cells, name):
            cell = f"{name}, {num_prompts} prompts, {num_outputs} outputs"
            streams = tasks.panel_rng(config.seed, cell).spawn(config.replicates)
            row = coverage(population.samples(num_prompts, num_outputs, streams), truth)
            rows.append(
                {"task": name, "num_prompts": num_prompts, "num_outputs": num_outputs, **row}
            )
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def coverage(samples: Iterable[OutputSample], truth: Truth) -> dict[Any, Any]:
    """Return how often 95 % intervals cover, and what the estimates are on average.

    A sample in which no group has rewards that differ is refused; all else is of the others. The
    coverages are shares of them, `lower_bounds` the share whose interval of G* has no upper end.
    `low` and `high` are the medians of its ends. Of the plans, `surely_coverage` is the share that
    call no group size near-optimal for certain that is not, `surely_claims` the share that call
    any so, `possibly_coverage` the share that call all so perhaps that are.

    Args:
        samples: of one size.
        truth: of their population.
    """
    found, refused = [], 0
    for sample in samples:
        if sample.groups.centred.any():
            found.append(_read(sample, truth))
        else:
            refused += 1
    table = pd.DataFrame(found, columns=_OF_SAMPLE, dtype=float)
    row = {
        "replicates": refused + len(found),
        "refused": refused,
        **table[[*_COVERED, "surely_claims"]].mean(),
        "lower_bounds": np.isposinf(table["high"]).mean(),
        "optimal": truth.optimal,
        **table[["low", "high"]].median(),
    }
    for name in COMPONENTS:
        row[name] = getattr(truth.noise, name)
        row[f"{name}_estimate"] = table[name].mean()
        row[f"{name}_std_error"] = table[name].sem()
    return row


_OF_SAMPLE = [*COMPONENTS, *_COVERED, "surely_claims", "low", "high"]


def _read(sample: OutputSample, truth: Truth) -> list[float]:
    """Return the numbers of one sample, in the order of `_OF_SAMPLE`."""
    noise = estimate_noise(sample)
    best = noise.optimal
    components = [getattr(noise, name) for name in COMPONENTS]
    covered = [
        interval.low <= getattr(truth.noise, name) <= interval.high
        for name, interval in zip(COMPONENTS, noise.intervals, strict=True)
    ]
    covered.append(best.low <= truth.optimal <= best.high)
    return [*components, *covered, *_near_optimal(noise, truth.near_optimal), best.low, best.high]


def _near_optimal(noise: NoiseEstimate, truth: GroupSizeRange) -> list[float]:
    """Say if what a plan calls near-optimal for certain is, and if what is it calls so perhaps.

    The third number says whether it calls any group size so for certain. NaN stands for no plan.
    """
    if noise.residual <= 0:
        return [np.nan, np.nan, np.nan]
    made = plan(noise, budget=BUDGET)
    surely, possibly = made.surely_near_optimal, made.possibly_near_optimal
    assert possibly is not None  # the noise is an estimate
    kept = surely is None or (truth.low <= surely.low and surely.high <= truth.high)
    covered = possibly.low <= truth.low and truth.high <= possibly.high
    return [kept, covered, surely is not None]


def _of_bandits(config: NoiseCoverage) -> Iterator[tuple[str, Population]]:
    snapshots = config.task.snapshots.items()
    return ((name, population_of_bandit(snapshot)) for name, snapshot in snapshots)


def _of_policies(config: NoiseCoverage) -> Iterator[tuple[str, Population]]:
    use_threads(config.threads)
    panels = PosedTask(config.task, config.policy).panels()
    return ((name, _of_policy(config, name, panel)) for name, panel in panels.items())


def _of_policy(config: NoiseCoverage, name: str, panel: language_tasks.Panel) -> Population:
    import torch

    seed = int(tasks.panel_rng(config.seed, name).integers(2**32))
    rng = torch.Generator().manual_seed(seed)
    return population_of_policy(panel, config.num_questions, config.task.num_outputs, rng)


_POPULATIONS = {tasks.Bandit: _of_bandits, language_tasks.Arithmetic: _of_policies}


def describe(config: NoiseCoverage) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_B{'-'.join(map(str, config.num_prompts))}_R{config.replicates}"


def prepare(config: NoiseCoverage) -> None:
    """Build the task, or raise."""
    config.populations(config)


APP = App("noise_coverage", NoiseCoverage, run, describe, prepare)
