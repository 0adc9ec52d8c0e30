"""The checks of arguments: what passes, in which type, and the exact sentence otherwise."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest

from ustat_grpo import NoiseComponents
from ustat_grpo.inputs import checks
from ustat_grpo.inputs.quoting import one_line, quoted
from ustat_grpo.laws.binary import dead_group_probability
from ustat_grpo.ustatistics import u_statistic

INTEGERS = [3, np.int8(3), np.int64(3), np.uint16(3)]
NO_INTEGERS = [True, np.True_, 3.0, np.float64(3), "3", None, 3j, np.array([3])]
NO_REALS = [True, np.True_, np.nan, np.inf, -np.inf, np.float64(np.nan), "1", None, 1j]


def raises(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize("value", INTEGERS, ids=repr)
def test_integers_come_back_as_int(value):
    assert type(checks.integer("n", value)) is int
    assert checks.integer("n", value, at_least=3) == 3
    assert type(checks.leave_one_out_group_size(value)) is int
    assert checks.leave_one_out_group_size(value) == 3


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_what_is_no_integer(value):
    """Would catch: True as 1, 3.0 as 3."""
    with raises(f"n must be an integer of at least 1, got {value!r}"):
        checks.integer("n", value)
    with raises(f"group_size must be an integer, got {value!r}"):
        checks.leave_one_out_group_size(value)


@pytest.mark.parametrize(("value", "at_least"), [(0, 1), (-1, 0), (1, 2), (np.int64(4), 5)])
def test_integers_below_the_bound(value, at_least):
    assert checks.integer("n", at_least, at_least=at_least) == at_least
    with raises(f"n must be an integer of at least {at_least}, got {value!r}"):
        checks.integer("n", value, at_least=at_least)


def test_integers_above_the_bound():
    assert checks.integer("n", 5, at_most=5) == 5
    with raises("n must be at most 5, got 6"):
        checks.integer("n", 6, at_most=5)


def test_numbers_that_no_double_holds():
    """Would catch: an OverflowError, or an error as long as the number."""
    for value in (10**400, -(10**400), 10**5000, Fraction(10**400, 3)):
        with pytest.raises(ValueError, match=r"^x must be a finite number, got .{1,220}$"):
            checks.real("x", value)


def test_values_are_quoted_on_one_short_line():
    """Would catch: what clears a terminal, or fills it."""
    for value in ("\x1b[2J", "\n" * 10**6, ["\u202e", "\ud800"], np.zeros((50, 50)), 10**5000):
        shown = quoted(value)
        assert shown.isprintable() and 0 < len(shown) <= 200
    assert quoted("a" * 300).endswith("… (302 in all)")
    assert one_line("a\x07\nb") == r"a\x07\nb"


@pytest.mark.parametrize("value", [1, 0, -2])
def test_least_leave_one_out_group_size(value):
    assert checks.leave_one_out_group_size(2) == 2
    with raises(f"group_size must be at least 2 for a leave-one-out baseline, got {value}"):
        checks.leave_one_out_group_size(value)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), Fraction(2)], ids=repr)
def test_reals_come_back_as_float(value):
    assert type(checks.real("x", value)) is float
    assert checks.real("x", value, above=1.0, below=3.0) == 2.0


@pytest.mark.parametrize("value", NO_REALS, ids=repr)
def test_what_is_no_finite_real(value):
    with raises(f"x must be a finite number, got {value!r}"):
        checks.real("x", value)


@pytest.mark.parametrize(
    ("value", "bounds", "requirement"),
    [
        (1, {"above": 1.0}, "a finite number and above 1"),
        (3.0, {"below": 3.0}, "a finite number and below 3"),
        (0.5, {"above": 1.0, "below": 2.5}, "a finite number and above 1 and below 2.5"),
        (np.inf, {"above": 1.0}, "a finite number and above 1"),
        (np.nan, {"above": 1.0}, "a finite number and above 1"),
        (True, {"above": 0.0}, "a finite number and above 0"),
    ],
)
def test_bounds_are_strict(value, bounds, requirement):
    with raises(f"x must be {requirement}, got {value!r}"):
        checks.real("x", value, **bounds)


def test_finite_arrays_come_back_as_float64():
    ours = checks.finite("x", [[1, 2], [3, 4]], ndim=2)
    assert ours.dtype == np.float64
    np.testing.assert_array_equal(ours, [[1, 2], [3, 4]])
    assert checks.finite("x", 5, ndim=0).shape == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1.0]], "x must be 1-dimensional and not empty, got shape (1, 1)"),
        (1.0, "x must be 1-dimensional and not empty, got shape ()"),
        ([1.0, np.nan, np.inf, -np.inf], "x must be finite, got 3 NaN or infinity"),
    ],
)
def test_arrays_that_are_not_finite_or_of_another_shape(value, message):
    with raises(message):
        checks.finite("x", value, ndim=1)
    with raises(message):
        checks.probabilities("x", value, ndim=1)


def test_probabilities_are_normalised_along_the_last_axis():
    """Would catch: sums along the first axis, a caller's array that is changed in place."""
    given = np.array([[0.5, 0.5 + 5e-9], [0.25, 0.75]])
    before = given.copy()
    ours = checks.probabilities("p", given, ndim=2)
    np.testing.assert_array_equal(given, before)
    np.testing.assert_allclose(ours.sum(axis=-1), 1, rtol=0, atol=1e-15)
    np.testing.assert_allclose(ours, before, rtol=0, atol=5e-9)
    np.testing.assert_array_equal(checks.probabilities("p", [0, 1], ndim=1), [0, 1])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.25, -0.25], "p must not be negative, got a smallest entry of -0.25"),
        ([0.5, 0.25], "p must sum to 1 along the last axis, got sums off by 0.25"),
        ([0.5, 0.75], "p must sum to 1 along the last axis, got sums off by 0.25"),
        ([1.0, 2e-8], "p must sum to 1 along the last axis, got sums off by 2e-08"),
        ([0.0, 0.0], "p must sum to 1 along the last axis, got sums off by 1"),
        ([], "p must be 1-dimensional and not empty, got shape (0,)"),
    ],
)
def test_what_are_no_probabilities(value, message):
    with raises(message):
        checks.probabilities("p", value, ndim=1)


def test_the_worst_sum_is_the_one_that_is_shown():
    with raises("p must sum to 1 along the last axis, got sums off by 0.5"):
        checks.probabilities("p", [[0.5, 0.5], [0.25, 0.25], [0.5, 0.75]], ndim=2)


def test_lengths_must_agree():
    checks.same_length("prompts", {"a": 2, "b": 2, "c": 2})
    checks.same_length("prompts", {"a": 2})
    checks.same_length("prompts", {})
    with raises("arrays must agree on the number of prompts, got: a has 2, b has 3, c has 2"):
        checks.same_length("prompts", {"a": 2, "b": 3, "c": 2})


@pytest.mark.parametrize("name", ["prompt", "oracle", "residual"])
@pytest.mark.parametrize("value", [-1e-300, np.nan, np.inf])
def test_noise_components_are_finite_and_not_negative(name, value):
    zero = {"prompt": 0.0, "oracle": 0.0, "residual": 0.0}
    NoiseComponents(**zero)
    with raises(f"{name} noise must be finite and not negative, got {value}"):
        NoiseComponents(**zero | {name: value})


def test_masked_entries_are_refused():
    """Would catch: the number behind a mask in a law, a sample of outputs or a U-statistic."""
    masked = np.ma.array([1.0, -999.0, 2.0], mask=[0, 1, 0])
    kinds = {1: masked, 2: [masked, masked], 4: [(masked, masked), [masked, masked]]}
    for number, value in kinds.items():
        refused = rf"^x must not be masked, got {number} masked entries"
        with pytest.raises(ValueError, match=refused):
            checks.finite("x", value, ndim=np.ndim(value))
        with pytest.raises(ValueError, match=refused):
            checks.unit_interval("x", value)
        with pytest.raises(ValueError, match=refused):
            checks.not_negative("x", value, scale=1.0)
        for sample in (value, (value,)):
            with pytest.raises(
                ValueError, match=rf"^sample must not be masked, got {number} masked"
            ):
                u_statistic(sample, lambda a, b: (a - b) ** 2 / 2)
    with pytest.raises(ValueError, match=r"^success_probability must not be masked, got 1 masked"):
        dead_group_probability(np.ma.array([0.5, 0.2], mask=[0, 1]), 4)
    assert checks.finite("x", np.ma.array([1.0, 2.0]), ndim=1).tolist() == [1.0, 2.0]
