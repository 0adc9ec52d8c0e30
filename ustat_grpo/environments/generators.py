"""Random generators that a step could draw from beside `np_random`: global ones, and held ones.

Held is what can be reached from an environment and its wrappers: attributes of attributes,
containers, closures, bound methods, what classes hold and what their modules name. Generators are
those of NumPy, of `random`, and of torch where it is imported.
"""

import gc
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

_MOST_OBJECTS = 100_000
"""So many are looked at, which takes some 0.1 s; few environments hold a hundredth of them."""

_PLAIN = {type(None), bool, int, float, complex, str, bytes, np.ndarray, np.float64, np.int64}
_PLAIN |= {np.float32, np.bool_, ModuleType, CodeType}
_LIBRARIES = {*sys.stdlib_module_names, "gymnasium", "numpy", "scipy", "torch", "pygame"}
"""Their classes hold no generator of an environment; objects of these classes may."""


class Watched(NamedTuple):
    """A generator: how an error calls it, and a function that returns its state."""

    name: str
    state: Callable[[], bytes]


def generators(environment: gym.Env[Any, Any]) -> list[Watched]:
    """Return all generators but the environment's `np_random`, as far as they can be found."""
    found = [
        Watched("NumPy's global generator", lambda: pickle.dumps(np.random.get_state())),
        Watched("the global generator of random", lambda: pickle.dumps(random.getstate())),
    ]
    torch = sys.modules.get("torch")
    if torch is not None:
        found.append(Watched("torch's global generator", partial(_state, torch.default_generator)))
    kinds, seen = _kinds(), _known(environment)
    for name, root in _attributes(environment):
        reached = [root]
        while reached and len(seen) < _MOST_OBJECTS:
            held = reached.pop()
            if type(held) in _PLAIN or id(held) in seen:
                continue
            seen.add(id(held))
            if isinstance(held, kinds):
                label = name if held is root else f"a generator that {name} leads to"
                found.append(Watched(label, partial(_state, held)))
            else:
                reached += _within(held, kinds)
    return found


def _attributes(environment: gym.Env) -> Iterator[tuple[str, Any]]:
    """Yield what an environment, its wrappers and their classes hold, by name."""
    level = environment
    while True:
        yield from vars(level).items()
        for kind in type(level).__mro__:
            if not _is_library(kind):
                yield from vars(kind).items()
        if not isinstance(level, gym.Wrapper):
            return
        level = level.env


def _within(held: Any, kinds: tuple[type, ...]) -> list[Any]:
    """Return what an object holds; of a function's module only generators, not the whole module."""
    if isinstance(held, type):
        return [] if _is_library(held) else list(vars(held).values())
    if isinstance(held, FunctionType):
        named = [each for each in held.__globals__.values() if isinstance(each, kinds)]
        return [*named, held.__closure__, held.__defaults__, held.__kwdefaults__, vars(held)]
    return [each for each in gc.get_referents(held) if type(each) not in _PLAIN]


def _known(environment: gym.Env) -> set[int]:
    """Return the ids of generators that may be drawn from, or go by another name."""
    own, torch = environment.unwrapped.np_random, sys.modules.get("torch")
    legacy = np.random.mtrand._rand  # pyright: ignore[reportPrivateUsage]
    known = [own, own.bit_generator, legacy, legacy._bit_generator, random._inst]  # pyright: ignore
    return {id(each) for each in (*known, *([torch.default_generator] if torch else []))}


def _kinds() -> tuple[type, ...]:
    torch = sys.modules.get("torch")
    plain = np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random
    return (*plain, torch.Generator) if torch else plain


def _state(held: Any) -> bytes:
    """Return all that a generator's future depends on; nothing, if that is not its own."""
    if isinstance(held, random.SystemRandom):
        return b""
    if isinstance(held, np.random.Generator | np.random.RandomState | np.random.BitGenerator):
        return pickle.dumps(held)
    if isinstance(held, random.Random):
        return pickle.dumps(held.getstate())
    return held.get_state().numpy().tobytes()


def _is_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _LIBRARIES
