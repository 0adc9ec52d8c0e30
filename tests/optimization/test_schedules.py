"""Learning-rate schedules by hand, and their error messages."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from ustat_grpo import Constant, Decay
from ustat_grpo.optimization.schedules import learning_rates


def test_rates_by_hand():
    """Would catch: an index that starts at 0, i₀ added to the rate, i₀ multiplied by i."""
    np.testing.assert_array_equal(Constant(0.3).rates(3), [0.3, 0.3, 0.3])
    np.testing.assert_allclose(Decay(6.0).rates(4), [6, 3, 2, 1.5], rtol=1e-15)
    np.testing.assert_allclose(Decay(6.0, 2).rates(4), [2, 1.5, 1.2, 1], rtol=1e-15)
    np.testing.assert_allclose(Decay(1, 0.5).rates(2), [1 / 1.5, 1 / 2.5], rtol=1e-15)


@pytest.mark.parametrize("schedule", [Constant(2), Decay(2), Decay(2, 7.5)], ids=repr)
def test_rates_are_one_positive_number_an_iteration(schedule):
    """More iterations change no earlier rate. Would catch: a decay relative to n, integers."""
    rates = schedule.rates(100)
    assert rates.shape == (100,)
    assert rates.dtype == np.float64
    assert (rates > 0).all()
    np.testing.assert_array_equal(schedule.rates(7), rates[:7])
    assert schedule.rates(np.int64(1)).shape == (1,)


@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_decay_is_one_that_converges(offset):
    """Σ η diverges and Σ η² does not: n·η_n → β. Would catch: β/√i, β/i²."""
    assert 10**6 * Decay(1.5, offset).rates(10**6)[-1] == pytest.approx(1.5, rel=1e-4)


def test_schedules_are_frozen_values():
    assert Decay(1.0, 2.0) == Decay(1.0, 2.0) != Decay(1.0)
    assert hash(Constant(0.5)) == hash(Constant(0.5))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Constant(0.5).rate = 1.0


@pytest.mark.parametrize("schedule", [Constant, Decay])
@pytest.mark.parametrize("rate", [0.0, -1, np.nan, np.inf, True, "1", None], ids=repr)
def test_bad_rates_are_refused(schedule, rate):
    message = f"^rate must be a finite number and above 0, got {re.escape(repr(rate))}$"
    with pytest.raises(ValueError, match=message):
        schedule(rate)


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (-0.5, "offset must not be negative, got -0.5"),
        (np.nan, "offset must be a finite number, got nan"),
        (np.inf, "offset must be a finite number, got inf"),
        ("2", "offset must be a finite number, got '2'"),
    ],
)
def test_bad_offsets_are_refused(offset, message):
    with pytest.raises(ValueError) as error:
        Decay(1.0, offset)
    assert str(error.value) == message


@pytest.mark.parametrize("schedule", [Constant(1.0), Decay(1.0)], ids=repr)
@pytest.mark.parametrize("number", [0, -1, 2.0, True, None], ids=repr)
def test_bad_numbers_of_iterations_are_refused(schedule, number):
    message = f"^num_iterations must be an integer of at least 1, got {re.escape(repr(number))}$"
    with pytest.raises(ValueError, match=message):
        schedule.rates(number)


class Own:
    """A schedule by hand, which may be wrong."""

    def __init__(self, rates):
        self.rates = lambda _: rates


def test_learning_rates_are_those_of_the_schedule():
    """Of ours, and of a schedule that a user wrote, who may give a list."""
    np.testing.assert_array_equal(learning_rates(Decay(6.0), 3), [6, 3, 2])
    own = learning_rates(Own([1, 2]), 2)
    assert own.dtype == np.float64
    np.testing.assert_array_equal(own, [1, 2])


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([1.0], "schedule.rates must be 2 positive numbers, got 1 from 1"),
        ([1.0, 2.0, 3.0], "schedule.rates must be 2 positive numbers, got 3 from 1"),
        ([1.0, 0.0], "schedule.rates must be 2 positive numbers, got 2 from 0"),
        ([1.0, -0.5], "schedule.rates must be 2 positive numbers, got 2 from -0.5"),
    ],
)
def test_learning_rates_that_are_not_so_many_positive_numbers_are_refused(rates, message):
    with pytest.raises(ValueError) as error:
        learning_rates(Own(rates), 2)
    assert str(error.value) == message


@pytest.mark.parametrize("rates", [[1.0, np.nan], [[1.0, 2.0]], [1.0, np.inf]], ids=repr)
def test_learning_rates_that_are_no_numbers_are_refused(rates):
    with pytest.raises(ValueError, match=r"^schedule\.rates must "):
        learning_rates(Own(rates), 2)


def test_learning_rates_of_no_iterations_are_refused():
    with pytest.raises(
        ValueError, match=r"^num_iterations must be an integer of at least 1, got 0"
    ):
        learning_rates(Constant(1.0), 0)
