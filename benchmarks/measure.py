"""Speed and memory of the gradient-error harness, as rows of one tidy table."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.plain import WAYS, Way
from benchmarks.settings import ESTIMATORS, Settings
from benchmarks.timing import AtLeast, AtMost, Row, Run, best_chunk, median_time, rates, row
from benchmarks.timing import peak_memory as peak_memory_of
from ustat_grpo import Snapshot, laws
from ustat_grpo.monte_carlo import gradient_mse

LARGEST_COST_PER_OUTPUT = AtMost(6.0)  # ns, at G = 64
LARGEST_COST_RATIO = AtMost(2.0)  # G = 4096 : 128
LARGEST_MOMENTS_TIME = AtMost(5.0)  # ms
LARGEST_LAW_TIME = AtMost(50.0)  # µs
LARGEST_PEAK_MEMORY = AtMost(400.0)  # MB

_MANY_REPLICATES = """
import numpy as np
from benchmarks.settings import ESTIMATORS, Settings
from ustat_grpo.monte_carlo.harness import gradient_mse
snapshot = Settings(num_prompts={prompts}, num_actions={actions}).bandit().at(np.zeros({size}))
rng = np.random.default_rng(0)
gradient_mse(snapshot, ESTIMATORS, [4], None, replications={replications}, rng=rng)
"""


def throughput(settings: Settings, snapshot: Snapshot, group_size: int) -> Iterator[Row]:
    """Yield replicates per second of every way, ours, and the ratio to the best plain one."""
    runs: dict[str, Run] = {
        name: _chunked(way, settings, snapshot, group_size) for name, way in WAYS.items()
    }
    runs["gradient_mse"] = partial(_ours, snapshot, group_size)
    paces = rates(runs, settings.seconds, settings.repetitions)
    for name, each in paces.items():
        yield row("throughput", group_size, name, "replicates/s", float(np.median(each)))
    best = max(WAYS, key=lambda name: float(np.median(paces[name])))
    ratio = float(np.median(paces["gradient_mse"] / np.max([paces[n] for n in WAYS], axis=0)))
    required = settings.speed_ups[group_size]
    yield row("speed-up", group_size, f"over {best}", "×", ratio, AtLeast(required))
    if group_size == 64:
        outputs = settings.num_prompts * group_size
        cost = 1e9 / float(np.median(paces["gradient_mse"])) / outputs
        yield row("cost per output", 64, "gradient_mse", "ns", cost, LARGEST_COST_PER_OUTPUT)


def cost_ratio(settings: Settings, snapshot: Snapshot, small: int, large: int) -> Row:
    """Compare a replicate of large groups with one of small groups, in runs of a second or so.

    The run of large groups begins with its Poisson tables, which take some 40 ms.
    """
    runs: dict[str, Run] = {str(size): partial(_ours, snapshot, size) for size in (small, large)}
    paces = rates(runs, 4 * settings.seconds, settings.repetitions)
    ratio = float(np.median(paces[str(small)] / paces[str(large)]))
    return row("cost ratio", large, f"to G = {small}", "×", ratio, LARGEST_COST_RATIO)


def exact(settings: Settings) -> Iterator[Row]:
    """Yield the time of exact moments, each from a fresh snapshot, and of a law given moments."""
    bandit, theta = settings.bandit(), np.zeros(settings.num_prompts * settings.num_actions)
    seconds = median_time(lambda: bandit.at(theta).moments, settings.repetitions, calls=5)
    yield row("exact moments", None, "snapshot", "ms", seconds * 1e3, LARGEST_MOMENTS_TIME)
    moments = bandit.at(theta).moments

    def law() -> float:
        errors = laws.mse.grpo(moments, group_size=64)
        return laws.mse.minibatch(errors, moments, batch_size=8)

    seconds = median_time(law, settings.repetitions, calls=200)
    yield row("law of one G", 64, "laws.mse.grpo", "µs", seconds * 1e6, LARGEST_LAW_TIME)


def peak_memory(settings: Settings) -> Row:
    """Take the resident memory at its highest of a process that runs many replicates."""
    script = _MANY_REPLICATES.format(
        prompts=settings.num_prompts,
        actions=settings.num_actions,
        size=settings.num_prompts * settings.num_actions,
        replications=settings.memory_replicates,
    )
    way = f"{settings.memory_replicates:,} replicates"
    return row("peak memory", 4, way, "MB", peak_memory_of(script), LARGEST_PEAK_MEMORY)


def _ours(snapshot: Snapshot, group_size: int, replications: int) -> None:
    rng = np.random.default_rng(2)
    gradient_mse(
        snapshot, ESTIMATORS, [group_size], None, replications=max(2, replications), rng=rng
    )


def _chunked(way: Way, settings: Settings, snapshot: Snapshot, group_size: int) -> Run:
    """Run a plain way in its best chunk size; torch takes replicates one by one anyway."""
    rng = np.random.default_rng(3)

    def run(chunk: int, replications: int) -> None:
        for _ in range(max(1, replications // chunk)):
            way(snapshot, group_size, chunk, rng)

    outputs = settings.num_prompts * group_size
    fitting = [chunk for chunk in settings.chunks if chunk * outputs <= 4_000_000]
    if way is WAYS["torch_backward"]:
        fitting = fitting[:1]
    return partial(run, best_chunk(run, fitting or [1]))
