"""Streams of random words: the reference sequence, uniform, and independent of their neighbours."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numba import njit

from ustat_grpo.compiled.rng import Stream, draw_key, stream_of, substream, word_at

LONGEST = 512
GOLDEN = 0x9E3779B97F4A7C15


@njit
def _families(key, words):
    """Fill words[replicate, slot, position] as the compiled loops address them."""
    for replicate in range(words.shape[0]):
        replicate_key = substream(key, replicate)
        for slot in range(words.shape[1]):
            stream = stream_of(substream(replicate_key, slot))
            for position in range(words.shape[2]):
                words[replicate, slot, position] = word_at(stream, position)


@njit
def _shifted_copies(key, words):
    """The prototype's mistake: neighbours start one stride apart on the same sequence."""
    stride = substream(key, 1) | np.uint64(1)
    for replicate in range(words.shape[0]):
        for slot in range(words.shape[1]):
            start = key + np.uint64(replicate * words.shape[1] + slot) * stride
            stream = Stream(start, stride)
            for position in range(words.shape[2]):
                words[replicate, slot, position] = word_at(stream, position)


@pytest.fixture(scope="module")
def words() -> np.ndarray:
    words = np.empty((32, 32, LONGEST), np.uint64)
    _families(np.uint64(20260301), words)
    return words


@pytest.fixture(scope="module")
def shifted() -> np.ndarray:
    words = np.empty((8, 8, LONGEST), np.uint64)
    _shifted_copies(np.uint64(20260301), words)
    return words


def byte_scores(words: np.ndarray) -> np.ndarray:
    """Chi-square statistics of the eight bytes of each word, in standard deviations."""
    values = words.ravel().view(np.uint8).reshape(-1, 8)
    counts = np.stack([np.bincount(values[:, place], minlength=256) for place in range(8)])
    expected = len(values) / 256
    chi_square = ((counts - expected) ** 2).sum(axis=1) / expected
    return (chi_square - 255) / np.sqrt(2 * 255)


def lagged_correlations(words: np.ndarray, axis: int) -> np.ndarray:
    """√n × correlation of neighbours along an axis, one position late, in step, one early."""
    uniform = (words / 2.0**64 - 0.5) * np.sqrt(12)
    here, next_ = np.delete(uniform, -1, axis), np.delete(uniform, 0, axis)
    pairs = [(here, next_), (here[..., 1:], next_[..., :-1]), (here[..., :-1], next_[..., 1:])]
    return np.array([(a * b).mean() * np.sqrt(a.size) for a, b in pairs])


def test_substreams_of_key_zero_are_the_published_splitmix64_sequence():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(substream(np.uint64(0), i)) for i in range(3)] == published


def test_a_stride_is_odd_and_differs_between_streams():
    """An even stride would repeat a stream after 2⁶³ words or sooner."""
    keys = [np.uint64(substream(np.uint64(7), i)) for i in range(1000)]
    strides = [int(stream_of(key).stride) for key in keys]
    assert all(stride % 2 == 1 for stride in strides)
    assert len(set(strides)) == len(strides)
    assert GOLDEN not in strides


def test_no_word_occurs_twice_among_neighbours(words):
    """Half a million words of 1024 streams; by chance two agree with probability 1e-8."""
    assert len(np.unique(words)) == words.size


def test_shifted_copies_of_one_sequence_would_be_caught(shifted):
    """Catches the mutant whose means look right but whose errors are 6 % off at G = 1024."""
    np.testing.assert_array_equal(shifted[:, :-1, 1:], shifted[:, 1:, :-1])
    assert len(np.unique(shifted)) < 0.1 * shifted.size
    assert abs(byte_scores(shifted)).max() > 4
    assert lagged_correlations(shifted, axis=1)[1] > 100


@pytest.mark.parametrize("across", ["all", "first words", "last words"])
def test_bytes_are_uniform(words, across):
    chosen = {"all": words, "first words": words[..., 0], "last words": words[..., -1]}[across]
    if across != "all":
        chosen = words[..., :64] if across == "first words" else words[..., -64:]
    assert abs(byte_scores(np.ascontiguousarray(chosen))).max() <= 4


@pytest.mark.parametrize("axis", [0, 1], ids=["replicates", "slots"])
def test_neighbouring_streams_are_uncorrelated(words, axis):
    """Half a million pairs: a correlation of 0.006 would be seen."""
    assert abs(lagged_correlations(words, axis)).max() <= 4


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["replicates", "slots", "positions"])
def test_neighbours_differ_in_half_of_their_bits(words, axis):
    """Each bit on its own: a bit that follows its neighbour 0.3 % too often would be seen."""
    differing = np.ascontiguousarray(np.delete(words, -1, axis) ^ np.delete(words, 0, axis))
    bits = np.unpackbits(differing.ravel().view(np.uint8)).reshape(-1, 64)
    scores = (bits.mean(axis=0) - 0.5) * 2 * np.sqrt(len(bits))
    assert abs(scores).max() <= 4


def test_a_key_comes_from_the_generator_alone():
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    assert draw_key(first) == draw_key(second)
    assert draw_key(first) != draw_key(np.random.default_rng(3))
    assert draw_key(first).dtype == np.uint64


@pytest.mark.parametrize(
    "wrong",
    [None, 7, np.random.RandomState(0), np.random],
    ids=["None", "7", "RandomState", "module"],  # the same in every process of a parallel run
)
def test_anything_but_a_generator_is_refused(wrong):
    with pytest.raises(TypeError, match=re.escape("rng must be a numpy.random.Generator, got")):
        draw_key(wrong)
