"""What is measured, on what, and what is required of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from benchmarks.plain_optimization import Ascent
from ustat_grpo import Grpo, Oracle, SoftmaxBandit, Vanilla, random_bandit

ESTIMATORS = {"vanilla": Vanilla(), "oracle": Oracle(), "grpo": Grpo()}

SPEED_UPS = {4: 30.0, 16: 15.0, 64: 8.0, 128: 5.0, 1024: 4.0, 4096: 4.0}
"""Replicates per second over the best plain way, by group size."""

OPTIMIZATION_SPEED_UPS = {"torch_runs": 100.0, "numpy_search": 10.0, "numpy_compare": 10.0}
"""Run-iterations per second over each plain way, at every group size."""


@dataclass(frozen=True)
class Settings:
    """One benchmark.

    Args:
        num_prompts: P, each taken once a replicate.
        num_actions: K.
        group_size_target: G* of the random bandit.
        speed_ups: required ratio, by group size.
        chunks: replicates per call that the NumPy ways may choose from.
        repetitions: of every timing; medians are reported.
        seconds: that one timing should take.
        checked_replicates: at most, of each way that is compared with the laws before it is timed.
        checked_runs: of each way that is compared with the others before it is timed.
        memory_replicates: of the run whose peak memory is taken.
        budget: N = B·G, outputs of an iteration of Algorithm 1.
        rate: its constant learning rate.
        optimization_group_sizes: divisors of N at which it is timed.
        optimization_speed_ups: required ratio, by plain way.
        runs_at_once: among which its NumPy way may choose.
        memory_runs: runs and iterations whose peak memory is taken.
        memory_group_size: G of these runs.
    """

    num_prompts: int = 64
    num_actions: int = 16
    group_size_target: float = 16.0
    speed_ups: Mapping[int, float] = field(default_factory=SPEED_UPS.copy)
    chunks: tuple[int, ...] = (4, 8, 16, 32, 128)
    repetitions: int = 7
    seconds: float = 0.25
    checked_replicates: int = 2_000
    checked_runs: int = 256
    memory_replicates: int = 2_000_000
    budget: int = 1024
    rate: float = 8.0
    optimization_group_sizes: tuple[int, ...] = (4, 32, 128)
    optimization_speed_ups: Mapping[str, float] = field(default_factory=OPTIMIZATION_SPEED_UPS.copy)
    runs_at_once: tuple[int, ...] = (16, 32, 64, 128)
    memory_runs: tuple[int, int] = (10_000, 1_000)
    memory_group_size: int = 32

    def bandit(self) -> SoftmaxBandit:
        """The problem, the same on every call."""
        return random_bandit(
            self.num_prompts,
            self.num_actions,
            group_size_target=self.group_size_target,
            rng=np.random.default_rng(0),
        )

    def ascent(self, group_size: int) -> Ascent:
        """Algorithm 1 on the problem, at the budget."""
        return Ascent(self.bandit(), self.budget // group_size, group_size, self.rate)
