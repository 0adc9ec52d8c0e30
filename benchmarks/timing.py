"""How rates, times and memory are taken, and a row of the table with its verdict.

Rates are medians over repetitions in which all ways take turns, and a speed-up is the median of the
ratios within a repetition: what slows the machine down for a while slows both sides.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

COLUMNS = ["quantity", "group_size", "way", "unit", "value", "required", "verdict"]

Row = dict[str, object]
Run = Callable[[int], object]  # how much to do: replicates, or iterations of all runs together


@dataclass(frozen=True)
class AtMost:
    """What a value must not exceed."""

    bound: float

    def is_met(self, value: float) -> bool:
        """Say whether a value fulfils it."""
        return value <= self.bound

    def __str__(self) -> str:
        return f"≤ {self.bound:g}"


@dataclass(frozen=True)
class AtLeast:
    """What a value must reach."""

    bound: float

    def is_met(self, value: float) -> bool:
        """Say whether a value fulfils it."""
        return value >= self.bound

    def __str__(self) -> str:
        return f"≥ {self.bound:g}"


_PRINT_PEAK = """
import resource
from pathlib import Path
status = Path("/proc/self/status")
if status.exists():  # ru_maxrss counts what the parent had before this process began
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024 / 1e6)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)  # bytes on macOS
"""


def rates(runs: dict[str, Run], seconds: float, repetitions: int) -> dict[str, np.ndarray]:
    """Rates of each run, repetition by repetition, all taking turns of about `seconds`."""
    numbers = {}
    for name, run in runs.items():
        run(16)  # compiles, and fills caches
        number, pace = 16, rate(run, 16)
        while number / pace < 0.5 * seconds:  # fixed costs hide the rate of short runs
            number = int(number * min(8.0, 1.1 * seconds * pace / number))
            pace = rate(run, number)
        numbers[name] = number
    turns = [
        {name: rate(run, numbers[name]) for name, run in runs.items()} for _ in range(repetitions)
    ]
    return {name: np.array([turn[name] for turn in turns]) for name in runs}


def rate(run: Run, number: int) -> float:
    """What is done in a second."""
    start = time.perf_counter()
    run(number)
    return number / (time.perf_counter() - start)


def best_chunk(run: Callable[[int, int], object], chunks: list[int]) -> int:
    """The chunk size in which `run(chunk, number)` is fastest."""
    trials = {chunk: rate(partial(run, chunk), 2 * chunk) for chunk in chunks}
    trials = {c: rate(partial(run, c), max(c, int(0.05 * pace))) for c, pace in trials.items()}
    return max(trials, key=lambda chunk: trials[chunk])


def median_time(call: Callable[[], object], repetitions: int, calls: int) -> float:
    """Seconds a call takes."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - start) / calls)
    return float(np.median(times))


def peak_memory(script: str) -> float:
    """Resident memory, in MB, at its highest of a process that runs a script."""
    command = [sys.executable, "-c", script + _PRINT_PEAK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def row(
    quantity: str,
    group_size: int | None,
    way: str,
    unit: str,
    value: float,
    required: AtMost | AtLeast | None = None,
) -> Row:
    """One line of the table; the verdict is empty where nothing is required."""
    bound, verdict = None, ""
    if required is not None:
        bound = str(required)
        verdict = "met" if required.is_met(value) else "missed"
    entries = (quantity, group_size, way, unit, value, bound, verdict)
    return dict(zip(COLUMNS, entries, strict=True))
