"""Compile a loop once, and keep it on disk until any of its sources changes."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

_SOURCES = (
    "rng.py", "draws.py", "layout.py", "tiles.py", "kernels.py", "policy_rows.py", "ascent.py",
    "practical_ascent.py", "environments/mdp_kernels.py", "environments/mdp_ascent.py",
)  # fmt: skip


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop that allocates nothing, to run without the GIL.

    It then needs no reference counting (`_nrt`), which would cost more than the arithmetic. Sums
    may be reordered into lanes (`reassoc`), always in the same way.
    """
    options = {"nogil": True, "_nrt": False, "fastmath": {"reassoc"}}
    dispatcher = njit(**options)(function)  # pyright: ignore[reportArgumentType, reportCallIssue]
    dispatcher._cache = _CacheOfAllSources(function)  # pyright: ignore[reportAttributeAccessIssue]
    return dispatcher


class _CacheOfAllSources(FunctionCache):
    """Numba's cache, which by itself misses a change in a function inlined from another file."""

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), _digest())


def _digest() -> str:
    folder = Path(__file__).parent
    content = b"".join((folder / name).read_bytes() for name in _SOURCES)
    return hashlib.sha256(content).hexdigest()
