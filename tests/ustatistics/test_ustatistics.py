"""U-statistics against double loops, known estimators and each other."""

from __future__ import annotations

import doctest
import itertools
import tracemalloc
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ustat_grpo import ustatistics
from ustat_grpo.ustatistics import (
    covariance_kernel,
    covariance_u_statistic,
    gini_kernel,
    kendall_kernel,
    u_statistic,
    variance_kernel,
)

RNG_SEED = 20260301


def squared_distance(a, b):
    return np.sum((a - b) ** 2, axis=-1)


def coulomb(a, b):
    """Singular on the diagonal."""
    return 1 / np.abs(a - b)


def moments(a, b):
    """Vector-valued: three kernels at once."""
    return np.stack([a * b, (a - b) ** 2, np.cos(a) + np.cos(b)], axis=-1)


def draw(shape):
    return np.random.default_rng(RNG_SEED).normal(size=shape)


def close(left, right):
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)


def brute_force(sample, kernel):
    """Average over a double loop, one pair at a time."""
    parts = sample if isinstance(sample, tuple) else (sample,)
    values = []
    for i, j in itertools.combinations(range(len(parts[0])), 2):
        a = tuple(part[i][None, None] for part in parts)
        b = tuple(part[j][None, None] for part in parts)
        value = kernel(a, b) if isinstance(sample, tuple) else kernel(a[0], b[0])
        values.append(value[0, 0])
    return np.mean(values, axis=0)


CASES = {
    "variance": (draw(23), variance_kernel),
    "gini": (draw(23), gini_kernel),
    "coulomb": (draw(23), coulomb),
    "vector": (draw(23), moments),
    "squared distance": (draw((23, 4)), squared_distance),
    "kendall": ((draw((2, 23))[0], draw((2, 23))[1]), kendall_kernel),
    "grpo": ((draw((23, 5)), draw((2, 23))[1]), covariance_kernel),
}


class TestIdentity:
    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("block_size", [1, 2, 7, 22, 23, 100, None])
    def test_equals_double_loop_at_any_block_size(self, case, block_size):
        sample, kernel = CASES[case]
        expected = brute_force(sample, kernel)
        result = u_statistic(sample, kernel, block_size=block_size)
        assert np.shape(result) == np.shape(expected)
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_smallest_samples(self, count):
        x = draw(count)
        np.testing.assert_allclose(
            u_statistic(x, moments), brute_force(x, moments), rtol=1e-12, atol=1e-12
        )

    def test_known_estimators(self):
        x, y = draw((2, 40))
        np.testing.assert_allclose(u_statistic(x, variance_kernel), np.var(x, ddof=1), rtol=1e-12)
        order, count = np.sort(x), len(x)
        spacings = (2 * np.arange(1, count + 1) - count - 1) @ order * 2 / (count * (count - 1))
        np.testing.assert_allclose(u_statistic(x, gini_kernel), spacings, rtol=1e-12)
        np.testing.assert_allclose(u_statistic(x, lambda a, b: (a + b) / 2), x.mean(), rtol=1e-12)
        from scipy.stats import kendalltau

        tau = cast(Any, kendalltau(x, y)).statistic  # no ties, so tau-b is tau-a
        np.testing.assert_allclose(u_statistic((x, y), kendall_kernel), tau, rtol=1e-12)

    def test_large_common_offset_does_not_cancel(self):
        x = draw(50)
        shifted = u_statistic(x + 1e8, lambda a, b: a + b)
        assert abs(shifted - 2e8 - 2 * x.mean()) < 1e-6


class TestCovariance:
    def test_grpo_gradient_four_ways(self):
        scores, rewards = draw((9, 5)), draw(9) > 0
        leave_one_out = (rewards.sum() - rewards) / 8
        grpo = np.mean(scores * (rewards - leave_one_out)[:, None], axis=0)
        matrix = np.cov(scores.T, rewards, ddof=1)[:-1, -1]
        pairs = u_statistic((scores, rewards), covariance_kernel)
        for other in (grpo, matrix, pairs):
            np.testing.assert_allclose(
                covariance_u_statistic(scores, rewards), other, rtol=1e-12, atol=1e-14
            )

    def test_mutant_ddof_zero_is_caught(self):
        scores, rewards = draw((9, 5)), draw(9)
        mutant = covariance_u_statistic(scores, rewards) * 8 / 9
        pairs = u_statistic((scores, rewards), covariance_kernel)
        assert not np.allclose(mutant, pairs, rtol=1e-3)

    def test_batches_and_several_responses(self):
        x, z = draw((2, 3, 6, 4)), draw((2, 3, 6, 5))
        full = covariance_u_statistic(x, z)
        assert full.shape == (2, 3, 4, 5)
        for index in np.ndindex(2, 3):
            expected = np.cov(x[index].T, z[index].T)[:4, 4:]
            np.testing.assert_allclose(full[index], expected, atol=1e-13)
        np.testing.assert_allclose(
            covariance_u_statistic(x, z[..., 0]), full[..., 0], rtol=1e-12, atol=1e-14
        )

    @settings(max_examples=40, deadline=None)
    @given(shift=st.floats(-1e3, 1e3), scale=st.floats(-10, 10), seed=st.integers(0, 2**32 - 1))
    def test_shift_permutation_and_scale(self, shift, scale, seed):
        rng = np.random.default_rng(seed)
        x, z = rng.normal(size=(12, 3)), rng.normal(size=12)
        expected = covariance_u_statistic(x, z)
        order = rng.permutation(12)
        close(covariance_u_statistic(x + shift, z - shift), expected)
        close(covariance_u_statistic(x[order], z[order]), expected)
        close(covariance_u_statistic(x, scale * z), scale * expected)

    def test_offsets_on_both_sides_lose_digits_only_linearly(self):
        x, z = draw((200, 3)), draw(200)
        shifted = covariance_u_statistic(x + 1e6, z + 1e6)
        np.testing.assert_allclose(shifted, covariance_u_statistic(x, z), atol=1e-8)


class TestProperties:
    @settings(max_examples=40, deadline=None)
    @given(
        x=hnp.arrays(float, st.integers(2, 20), elements=st.floats(-100, 100)),
        block_size=st.integers(1, 25),
        data=st.data(),
    )
    def test_permutation_block_size_and_scale(self, x, block_size, data):
        order = data.draw(st.permutations(range(len(x))))
        expected = u_statistic(x, gini_kernel)
        assert expected >= 0
        permuted = u_statistic(x[list(order)], gini_kernel, block_size=block_size)
        close(permuted, expected)
        close(u_statistic(-3 * x + 5, gini_kernel), 3 * expected)


class TestMemoryAndTypes:
    def test_memory_does_not_grow_with_the_number_of_pairs(self):
        x = draw(4000)  # all 16 million ordered pairs would take 128 MB
        tracemalloc.start()
        u_statistic(x, gini_kernel, block_size=128)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2e6

    def test_dtypes(self):
        x = draw(30).astype(np.float32)
        assert u_statistic(x, gini_kernel).dtype == np.float32
        assert u_statistic(x.astype(np.float64), gini_kernel).dtype == np.float64
        assert u_statistic(np.arange(5), gini_kernel).dtype == np.float64
        assert covariance_u_statistic(x[:, None], x > 0).dtype == np.float32
        assert u_statistic([True, False, True], variance_kernel) == pytest.approx(1 / 3)
        assert u_statistic(np.array([0, 200], np.uint8), gini_kernel) == 200

    def test_nan_propagates(self):
        x = draw(30)
        x[11] = np.nan
        assert np.isnan(u_statistic(x, gini_kernel))
        z = np.stack([draw(30), x])
        covariance = covariance_u_statistic(draw((2, 30, 2)), z)
        assert np.isnan(covariance).tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize(
    ("sample", "kernel", "block_size", "message"),
    [
        ([1.0], gini_kernel, None, "sample must hold at least 2 .*, got 1"),
        (3.0, gini_kernel, None, r"sample must be arrays .*, got shapes \[\(\)\]"),
        ((draw(3), draw(4)), kendall_kernel, None, "same first axis"),
        (draw(5), gini_kernel, 0, "block_size must be at least 1, got 0"),
        (draw(5), lambda a, b: a - b, None, "kernel must be symmetric"),
        (draw(5), lambda a, b: a[:, 0] * b[0], None, "kernel must return shape"),
        (draw((5, 2)), lambda a, b: (a[:, 0] * b[0]).sum(-1)[:, None], None, "symmetric"),
        (draw((9, 2)), lambda a, b: a + b + (a.shape[0] != 16), None, "must broadcast"),
    ],
)
def test_errors_quote_parameter_and_value(sample, kernel, block_size, message):
    with pytest.raises(ValueError, match=message):
        u_statistic(sample, kernel, block_size=block_size)


def test_more_errors():
    with pytest.raises(TypeError, match="real numbers, got dtype complex128"):
        u_statistic(np.ones(3, complex), gini_kernel)
    with pytest.raises(ValueError, match=r"x must have shape \(..., n, d\), got \(3,\)"):
        covariance_u_statistic(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match=r"z must have shape \(3,\) or \(3, 'q'\)"):
        covariance_u_statistic(np.ones((3, 2)), np.ones(4))
    with pytest.raises(ValueError, match=r"x must hold at least 2 .*, got 1"):
        covariance_u_statistic(np.ones((1, 2)), np.ones(1))


def test_page_examples():
    page = Path(__file__).parents[2] / "docs" / "ustatistics.md"
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.failed == 0
    assert result.attempted > 20


def test_every_public_function_is_on_the_page():
    page = (Path(__file__).parents[2] / "docs" / "ustatistics.md").read_text(encoding="utf-8")
    functions = [name for name in ustatistics.__all__ if name[0].islower()]
    assert [name for name in functions if name not in page] == []
