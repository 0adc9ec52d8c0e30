"""Compile a loop once, and keep it on disk until any of its sources changes.

What is kept saves time and is no need: where nothing can be written, or what is there is damaged,
the loop is compiled anew, and a line at debug level says so.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

_LOG = logging.getLogger(__name__)

_SOURCES = ("compiled/*.py", "monte_carlo/*.py", "optimization/*.py", "environments/mdp_*.py")
"""Where compiled loops, and what they inline, may stand: all of it counts."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop that allocates nothing, to run without the GIL.

    It then needs no reference counting (`_nrt`), which would cost more than the arithmetic. Sums
    may be reordered into lanes (`reassoc`), always in the same way.
    """
    options = {"nogil": True, "_nrt": False, "fastmath": {"reassoc"}}
    return _kept(njit(**options)(function), function)  # pyright: ignore[reportArgumentType]


def compiled_plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that allocates, with numba's own options."""
    return _kept(njit(function), function)


def _kept(dispatcher: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        dispatcher._cache = _CacheOfAllSources(function)
    except (RuntimeError, OSError) as error:  # no folder that can be written
        _LOG.debug("%s is compiled in every process: %s", function.__name__, error)
    return dispatcher


class _CacheOfAllSources(FunctionCache):
    """Numba's cache, which by itself misses a change in a function inlined from another file.

    It also takes itself for a need: of a truncated file or a full disk it makes an error.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what is kept, or None if that is nothing, or damaged in whatever way."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            _LOG.debug("%s is compiled anew: %r", self._name, error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, if that is possible, in the place of what is damaged."""
        try:
            try:
                super().save_overload(sig, data)
            except (EOFError, ValueError, UnpicklingError):  # of the index that it adds to
                self.flush()
                super().save_overload(sig, data)
        except Exception as error:
            _LOG.debug("%s is not kept: %r", self._name, error)

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), _digest())


def _digest() -> str:
    library = Path(__file__).parents[1]
    files = (path for pattern in _SOURCES for path in sorted(library.glob(pattern)))
    content = b"".join(path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()
