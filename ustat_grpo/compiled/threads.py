"""Work that releases the GIL, cut into one part a thread."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def in_parts(count: int, num_threads: int, part: Callable[[int, int], None]) -> None:
    """Call `part(first, last)` for consecutive parts of 0, …, count − 1, each on its own thread.

    Args:
        count: how much there is, at least 1.
        num_threads: the most threads to use.
        part: does what lies between the first (included) and the last (not included).
    """
    cuts = np.linspace(0, count, min(num_threads, count) + 1).astype(int)
    with ThreadPoolExecutor(len(cuts) - 1) as pool:
        list(pool.map(part, cuts[:-1], cuts[1:]))
