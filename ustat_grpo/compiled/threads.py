"""Work that releases the GIL, cut into one part a thread."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from ustat_grpo.inputs.checks import integer

_LIMIT: ContextVar[int | None] = ContextVar("thread_limit", default=None)


@contextmanager
def thread_limit(count: int | None) -> Iterator[None]:
    """Let compiled loops use at most so many threads while the context is open.

    Without it they use all cores. No result depends on it.

    Args:
        count: the most threads; None for all cores.

    Raises:
        ValueError: if the count is below 1.

    Examples:
        >>> from ustat_grpo.compiled.threads import available_threads, thread_limit
        >>> with thread_limit(2):
        ...     available_threads()
        2
    """
    if count is not None:
        integer("thread_limit", count)
    before = _LIMIT.set(count)
    try:
        yield
    finally:
        _LIMIT.reset(before)


def available_threads() -> int:
    """Return how many threads a compiled loop may use here: see `thread_limit`.

    Examples:
        >>> from ustat_grpo.compiled.threads import available_threads
        >>> available_threads() >= 1
        True
    """
    return _LIMIT.get() or os.cpu_count() or 1


def in_parts(count: int, part: Callable[[int, int], None]) -> None:
    """Call `part(first, last)` for consecutive parts of 0, …, count − 1, each on its own thread.

    Args:
        count: how much there is, at least 1.
        part: does what lies between the first (included) and the last (not included).
    """
    cuts = np.linspace(0, count, min(available_threads(), count) + 1).astype(int)
    with ThreadPoolExecutor(len(cuts) - 1) as pool:
        list(pool.map(part, cuts[:-1], cuts[1:]))
