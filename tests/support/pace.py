"""How long calls take, in a unit that fast and slow, idle and busy machines share."""

from __future__ import annotations

import time
from collections.abc import Callable


def loops(call: Callable[[], object], repeats: int) -> float:
    """Return the least CPU time of a call, in those of 10⁶ turns of an empty loop of Python.

    Such a loop takes some 20 ms; it is timed between the calls, when the machine is as busy.
    """
    called, looped = [], []
    for turn in range(repeats):
        called.append(_seconds(call))
        if turn % 10 == 0:
            looped.append(_seconds(_a_million_turns))
    return min(called) / min(looped)


def _a_million_turns() -> None:
    for _ in range(10**6):
        pass


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start
