"""Speed and memory of Algorithm 1 over many runs, as rows of the same table."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.plain_optimization import WAYS, Ascent, Way
from benchmarks.settings import Settings
from benchmarks.timing import AtLeast, AtMost, Row, Run, best_chunk, rates, row
from benchmarks.timing import peak_memory as peak_memory_of
from ustat_grpo import Constant, Grpo, TrainingConfig, optimize
from ustat_grpo.compiled import thread_limit

LARGEST_COST_PER_OUTPUT = AtMost(12.0)  # ns
COSTLY_GROUP_SIZES = (32, 128)  # at which that is required
LARGEST_PEAK_MEMORY = AtMost(1000.0)  # MB

THREADS = 2
RUNS_AT_ONCE = 64

_MANY_RUNS = """
import numpy as np
from benchmarks.settings import Settings
from ustat_grpo import Constant, Grpo, TrainingConfig, optimize
from ustat_grpo.compiled import thread_limit
settings = Settings(num_prompts={settings.num_prompts}, num_actions={settings.num_actions})
bandit = settings.bandit()
config = TrainingConfig(
    estimator=Grpo(), batch_size={batch_size}, group_size={group_size},
    num_iterations={iterations}, schedule=Constant({settings.rate}),
)
start, rng = np.zeros(bandit.dimension), np.random.default_rng(0)
with thread_limit({threads}):
    optimize(bandit, config, theta0=start, num_runs={runs}, rng=rng)
"""


def throughput(settings: Settings, group_size: int) -> Iterator[Row]:
    """Yield run-iterations per second of every way, ours, and the ratios to the plain ones."""
    ascent = settings.ascent(group_size)
    runs: dict[str, Run] = {name: _chunked(way, settings, ascent) for name, way in WAYS.items()}
    runs["optimize"] = partial(_ours, ascent)
    paces = rates(runs, settings.seconds, settings.repetitions)
    for name, each in paces.items():
        median = float(np.median(each))
        yield row("optimisation throughput", group_size, name, "run-iterations/s", median)
    for name in WAYS:
        ratio = float(np.median(paces["optimize"] / paces[name]))
        required = settings.optimization_speed_ups[name]
        yield row(
            "optimisation speed-up", group_size, f"over {name}", "×", ratio, AtLeast(required)
        )
    if group_size in COSTLY_GROUP_SIZES:
        outputs = ascent.batch_size * group_size
        cost = 1e9 / float(np.median(paces["optimize"])) / outputs
        quantity, way = "optimisation cost per output", f"optimize, {THREADS} threads"
        yield row(quantity, group_size, way, "ns", cost, LARGEST_COST_PER_OUTPUT)


def peak_memory(settings: Settings) -> Row:
    """Take the resident memory at its highest of a process that makes many runs."""
    num_runs, num_iterations = settings.memory_runs
    group_size = settings.memory_group_size
    script = _MANY_RUNS.format(
        settings=settings,
        batch_size=settings.budget // group_size,
        group_size=group_size,
        iterations=num_iterations,
        runs=num_runs,
        threads=THREADS,
    )
    way = f"{num_runs:,} runs × {num_iterations:,} iterations"
    quantity = "optimisation peak memory"
    return row(quantity, group_size, way, "MB", peak_memory_of(script), LARGEST_PEAK_MEMORY)


def _ours(ascent: Ascent, run_iterations: int) -> None:
    config = TrainingConfig(
        estimator=Grpo(),
        batch_size=ascent.batch_size,
        group_size=ascent.group_size,
        num_iterations=max(1, run_iterations // RUNS_AT_ONCE),
        schedule=Constant(ascent.rate),
    )
    start, rng = np.zeros(ascent.bandit.dimension), np.random.default_rng(2)
    with thread_limit(THREADS):
        optimize(ascent.bandit, config, theta0=start, num_runs=RUNS_AT_ONCE, rng=rng)


def _chunked(way: Way, settings: Settings, ascent: Ascent) -> Run:
    """Make as many runs at once as is best; torch makes them one by one anyway."""
    rng = np.random.default_rng(3)

    def run(num_runs: int, run_iterations: int) -> None:
        way(ascent, num_runs, max(1, run_iterations // num_runs), rng)

    sizes = [1] if way is WAYS["torch_runs"] else list(settings.runs_at_once)
    return partial(run, best_chunk(run, sizes))
