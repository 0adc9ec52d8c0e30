"""Named, independent random streams: a NumPy generator gives one key, coordinates the rest.

A stream is the i-th word mix(start + i·stride) for i = 0, 1, …, as in SplitMix64 (Steele, Lea &
Flood 2014), where start and the odd stride are both hashed from the coordinates of the draw
(replicate, slot of the minibatch). Streams are therefore no shifted copies of one another, need no
state, and do not change when a loop is reordered, split or extended.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, uint64

from ustat_grpo.inputs.checks import generator

_GOLDEN = uint64(0x9E3779B97F4A7C15)


class Stream(NamedTuple):
    """A stream of random words: mix(start + i·stride) for i = 0, 1, …."""

    start: np.uint64
    stride: np.uint64  # odd


def draw_key(rng: np.random.Generator) -> np.uint64:
    """Take the 64-bit key of a family of streams from a NumPy generator.

    Raises:
        TypeError: if `rng` is no numpy.random.Generator.
    """
    return generator(rng).integers(2**64, dtype=np.uint64)


@njit(inline="always")
def mix(word):
    """Scramble 64 bits (the finaliser of SplitMix64)."""
    word = (word ^ (word >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> uint64(27))) * uint64(0x94D049BB133111EB)
    return word ^ (word >> uint64(31))


@njit(inline="always")
def substream(key, coordinate):
    """Derive the key of the family of streams at one value of a coordinate."""
    return mix(key + (uint64(coordinate) + uint64(1)) * _GOLDEN)


@njit(inline="always")
def stream_of(key):
    """Return the `Stream` with this key."""
    return Stream(key, mix(key ^ _GOLDEN) | uint64(1))


@njit(inline="always")
def word_at(stream, position):
    """Return the 64 random bits at a position of a stream."""
    return mix(stream.start + uint64(position) * stream.stride)
