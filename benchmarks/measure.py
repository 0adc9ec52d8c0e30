"""The timings, as rows of one tidy table with a unit, a requirement and a verdict each.

Rates are medians over repetitions in which all ways take turns, and a speed-up is the median of the
ratios within a repetition: what slows the machine down for a while slows both sides.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.plain import WAYS, Way
from benchmarks.settings import ESTIMATORS, Settings
from ustat_grpo import Snapshot, laws
from ustat_grpo.monte_carlo import gradient_mse

COLUMNS = ["quantity", "group_size", "way", "unit", "value", "required", "verdict"]
LARGEST_COST_PER_OUTPUT = 6.0  # ns, at G = 64
LARGEST_COST_RATIO = 2.0  # G = 4096 : 128
LARGEST_MOMENTS_TIME = 5.0  # ms
LARGEST_LAW_TIME = 50.0  # µs
LARGEST_PEAK_MEMORY = 400.0  # MB

Row = dict[str, object]
Run = Callable[[int], object]  # replicates to run

_PEAK_MEMORY = """
import resource
import numpy as np
from pathlib import Path
from benchmarks.settings import ESTIMATORS, Settings
from ustat_grpo.monte_carlo import gradient_mse
snapshot = Settings(num_prompts={prompts}, num_actions={actions}).bandit().at(np.zeros({size}))
rng = np.random.default_rng(0)
gradient_mse(snapshot, ESTIMATORS, [4], None, replications={replications}, rng=rng)
status = Path("/proc/self/status")
if status.exists():  # ru_maxrss counts what the parent had before this process began
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024 / 1e6)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)  # bytes on macOS
"""


def throughput(settings: Settings, snapshot: Snapshot, group_size: int) -> Iterator[Row]:
    """Yield replicates per second of every way, ours, and the ratio to the best plain one."""
    runs: dict[str, Run] = {
        name: _chunked(way, settings, snapshot, group_size) for name, way in WAYS.items()
    }
    runs["gradient_mse"] = partial(_ours, snapshot, group_size)
    rates = _rates(runs, settings)
    for name, each in rates.items():
        yield _row("throughput", group_size, name, "replicates/s", float(np.median(each)))
    best = max(WAYS, key=lambda name: float(np.median(rates[name])))
    ratio = float(np.median(rates["gradient_mse"] / np.max([rates[n] for n in WAYS], axis=0)))
    required = settings.speed_ups[group_size]
    yield _row("speed-up", group_size, f"over {best}", "×", ratio, at_least=required)
    if group_size == 64:
        outputs = settings.num_prompts * group_size
        cost = 1e9 / float(np.median(rates["gradient_mse"])) / outputs
        yield _row("cost per output", 64, "gradient_mse", "ns", cost, LARGEST_COST_PER_OUTPUT)


def cost_ratio(settings: Settings, snapshot: Snapshot, small: int, large: int) -> Row:
    """Compare a replicate of large groups with one of small groups, in runs of a second or so.

    The run of large groups begins with its Poisson tables, which take some 40 ms.
    """
    settings = replace(settings, seconds=4 * settings.seconds)
    runs: dict[str, Run] = {str(size): partial(_ours, snapshot, size) for size in (small, large)}
    rates = _rates(runs, settings)
    ratio = float(np.median(rates[str(small)] / rates[str(large)]))
    return _row("cost ratio", large, f"to G = {small}", "×", ratio, LARGEST_COST_RATIO)


def exact(settings: Settings) -> Iterator[Row]:
    """Yield the time of exact moments, each from a fresh snapshot, and of a law given moments."""
    bandit, theta = settings.bandit(), np.zeros(settings.num_prompts * settings.num_actions)
    seconds = _median_time(lambda: bandit.at(theta).moments, settings.repetitions, calls=5)
    yield _row("exact moments", None, "snapshot", "ms", seconds * 1e3, LARGEST_MOMENTS_TIME)
    moments = bandit.at(theta).moments

    def law() -> float:
        errors = laws.mse.grpo(moments, group_size=64)
        return laws.mse.minibatch(errors, moments, batch_size=8)

    seconds = _median_time(law, settings.repetitions, calls=200)
    yield _row("law of one G", 64, "laws.mse.grpo", "µs", seconds * 1e6, LARGEST_LAW_TIME)


def peak_memory(settings: Settings) -> Row:
    """Take the resident memory at its highest of a process that runs many replicates."""
    script = _PEAK_MEMORY.format(
        prompts=settings.num_prompts,
        actions=settings.num_actions,
        size=settings.num_prompts * settings.num_actions,
        replications=settings.memory_replicates,
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    way = f"{settings.memory_replicates:,} replicates"
    return _row("peak memory", 4, way, "MB", float(done.stdout), LARGEST_PEAK_MEMORY)


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
    trials = {chunk: _rate(partial(run, chunk), 2 * chunk) for chunk in fitting or [1]}
    trials = {c: _rate(partial(run, c), max(c, int(0.05 * rate))) for c, rate in trials.items()}
    return partial(run, max(trials, key=lambda chunk: trials[chunk]))


def _rates(runs: dict[str, Run], settings: Settings) -> dict[str, np.ndarray]:
    """Replicates per second of each run, repetition by repetition, all taking turns."""
    numbers = {}
    for name, run in runs.items():
        run(16)  # compiles, and fills caches
        number, rate = 16, _rate(run, 16)
        while number / rate < 0.5 * settings.seconds:  # fixed costs hide the rate of short runs
            number = int(number * min(8.0, 1.1 * settings.seconds * rate / number))
            rate = _rate(run, number)
        numbers[name] = number
    turns = [
        {name: _rate(run, numbers[name]) for name, run in runs.items()}
        for _ in range(settings.repetitions)
    ]
    return {name: np.array([turn[name] for turn in turns]) for name in runs}


def _rate(run: Run, replications: int) -> float:
    start = time.perf_counter()
    run(replications)
    return replications / (time.perf_counter() - start)


def _median_time(call: Callable[[], object], repetitions: int, calls: int) -> float:
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - start) / calls)
    return float(np.median(times))


def _row(
    quantity: str,
    group_size: int | None,
    way: str,
    unit: str,
    value: float,
    at_most: float | None = None,
    *,
    at_least: float | None = None,
) -> Row:
    """One line of the table; the verdict is empty where nothing is required."""
    bound = at_most if at_least is None else at_least
    required, verdict = None, ""
    if bound is not None:
        met = value <= bound if at_least is None else value >= bound
        required = f"{'≤' if at_least is None else '≥'} {bound:g}"
        verdict = "met" if met else "missed"
    entries = (quantity, group_size, way, unit, value, required, verdict)
    return dict(zip(COLUMNS, entries, strict=True))
