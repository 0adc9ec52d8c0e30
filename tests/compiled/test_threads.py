"""How many threads compiled loops take: as many as the context around them allows."""

from __future__ import annotations

import os
import re
import threading

import numpy as np
import pytest

from ustat_grpo.compiled import available_threads, thread_limit
from ustat_grpo.compiled.threads import in_parts


def parts_of(count):
    """The parts that a count is cut into, each with the thread that did it."""
    done = []
    in_parts(count, lambda first, last: done.append((first, last, threading.get_ident())))
    return sorted(done)


def test_all_cores_are_taken_without_a_limit():
    assert available_threads() == (os.cpu_count() or 1)
    with thread_limit(None):
        assert available_threads() == (os.cpu_count() or 1)


def test_the_innermost_limit_holds_and_ends_with_its_context():
    with thread_limit(5):
        with thread_limit(2):
            assert available_threads() == 2
        with thread_limit(None):
            assert available_threads() == (os.cpu_count() or 1)
        assert available_threads() == 5
    assert available_threads() == (os.cpu_count() or 1)


def test_an_error_inside_ends_the_limit_too():
    with pytest.raises(KeyError), thread_limit(3):
        raise KeyError
    assert available_threads() == (os.cpu_count() or 1)


def test_a_limit_is_of_its_own_thread():
    """Would catch: a global that another thread's work finds changed."""
    seen = []
    with thread_limit(7):
        other = threading.Thread(target=lambda: seen.append(available_threads()))
        other.start()
        other.join()
    assert seen == [os.cpu_count() or 1]


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_parts_follow_each_other_and_are_no_more_than_the_limit(limit):
    with thread_limit(limit):
        done = parts_of(10)
    ends = [last for _, last, _ in done]
    assert [first for first, _, _ in done] == [0, *ends[:-1]] and ends[-1] == 10
    assert len(done) == min(limit, 10)


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "2"])
def test_a_limit_is_a_positive_integer(count):
    message = f"thread_limit must be an integer of at least 1, got {count!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"), thread_limit(count):
        pass
    with thread_limit(np.int64(2)):
        assert available_threads() == 2
