"""Tables of an estimator's own answers for 0/1 rewards, against its answers for every group."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np
import pytest

from ustat_grpo import (
    BestOfGroup,
    ConstantBaseline,
    GroupMean,
    Grpo,
    JamesStein,
    KeepSingletons,
    LeaveOneOutNormalised,
    Oracle,
    PassAtK,
    Sign,
    StdNormalised,
    Vanilla,
)
from ustat_grpo.estimators import NOTHING
from ustat_grpo.estimators.probing import tabulate

ESTIMATORS = [
    Grpo(),
    GroupMean(),
    StdNormalised(),
    LeaveOneOutNormalised(),
    Sign(),
    PassAtK(1),
    PassAtK(2),
    BestOfGroup(),
    KeepSingletons(StdNormalised(1e-6), 1e-6),
]


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_tables_are_the_answers_for_every_group(estimator, size):
    """Every one of 2^G groups. Would catch: columns exchanged, rows counted from the top."""
    table = tabulate(estimator, size)
    assert table.shape == (size + 1, 2)
    assert table[0, 1] == table[size, 0] == 0
    for group in itertools.product((0, 1), repeat=size):
        expected = estimator.advantages(np.array(group, dtype=float))
        np.testing.assert_allclose(table[sum(group), list(group)], expected, rtol=0, atol=1e-12)


def test_tables_by_hand():
    """GRPO at G = 3: a failure beside one success has −1/2. Vanilla keeps what it is given."""
    expected = [[0, 0], [-1 / 2, 1], [-1, 1 / 2], [0, 0]]
    np.testing.assert_allclose(tabulate(Grpo(), 3), expected, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(tabulate(Vanilla(), 2), [[0, 0], [0, 1], [0, 1]])
    np.testing.assert_array_equal(tabulate(Vanilla(), 1), [[0, 0], [0, 1]])
    expected = [[-0.3, 0], [-0.3, 0.7], [0, 0.7]]
    np.testing.assert_allclose(tabulate(ConstantBaseline(0.3), 2), expected, rtol=1e-15)


@dataclass(frozen=True)
class Ordered:
    """An estimator that knows the order of outputs."""

    def advantages(self, rewards, side=NOTHING):
        return rewards - np.roll(rewards, 1, axis=-1)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Ordered(), "estimator must not look at the order of the outputs, got Ordered()"),
        (JamesStein(), "estimator must look at one group at a time, got JamesStein(eps=1e-06)"),
        (Oracle(), "value must be given for the Oracle estimator, got None"),
        (PassAtK(5), "k must be at most group_size = 4, got 5"),
    ],
)  # fmt: skip
def test_what_has_no_table(estimator, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tabulate(estimator, 4)


def test_no_table_without_a_group():
    for size in (0, 2.0, True):
        with pytest.raises(ValueError, match=r"^group_size must be an integer of at least 1, got"):
            tabulate(Vanilla(), size)
