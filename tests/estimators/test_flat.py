"""Flat rewards into groups and back: what trainers hold, whatever its order."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ustat_grpo import Grpo, from_flat, from_index

NAN = np.nan
both = pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_flat_rewards_are_prompt_major(convert, dtype):
    """Would catch: groups by columns."""
    flat = convert(np.arange(6).astype(dtype))
    ours = from_flat(flat, 3)
    assert type(ours) is type(flat)
    assert ours.dtype == flat.dtype
    np.testing.assert_array_equal(ours, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(ours.reshape(-1), flat)


@both
def test_an_index_in_any_order(convert):
    """Groups in order of appearance, outputs in theirs; the smaller ones are filled with NaN."""
    flat = convert(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    groups = from_index(flat, ["b", "a", "b", "c", "a", "b"])
    np.testing.assert_array_equal(groups.rewards, [[1, 3, 6], [2, 5, NAN], [4, NAN, NAN]])
    assert list(groups.labels) == ["b", "a", "c"]
    assert type(groups.rewards) is type(flat)
    advantages = groups.flat(Grpo().advantages(groups.rewards))
    assert type(advantages) is type(flat)
    np.testing.assert_allclose(advantages, [-3.5, -3.0, -0.5, 0.0, 3.0, 4.0])


@both
def test_side_information_goes_the_same_way(convert):
    groups = from_index(convert(np.array([1.0, 2.0, 3.0])), np.array([7, 5, 7]))
    lengths = groups.grouped(convert(np.array([10, 20, 30])))
    np.testing.assert_array_equal(lengths, [[10, 30], [20, NAN]])
    np.testing.assert_array_equal(groups.flat(lengths), [10, 20, 30])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_there_and_back(index):
    """Every entry comes back to its place, and meets those of its own group only."""
    rewards = np.arange(1.0, len(index) + 1)
    groups = from_index(rewards, index)
    np.testing.assert_array_equal(groups.flat(groups.rewards), rewards)
    assert np.sum(~np.isnan(groups.rewards)) == len(index)
    for label, row in zip(groups.labels, groups.rewards, strict=True):
        mine = [reward for reward, own in zip(rewards, index, strict=True) if own == label]
        np.testing.assert_array_equal(row[~np.isnan(row)], mine)


def test_float32_stays_and_integers_become_floating():
    assert from_index(np.ones(2, np.float32), [0, 1]).rewards.dtype == np.float32
    assert from_index(torch.ones(2), [0, 1]).rewards.dtype == torch.float32
    assert from_index(np.ones(3, int), [0, 1, 1]).rewards.dtype == np.float64


def test_an_unscorable_reward_stays_one():
    groups = from_index(np.array([1.0, NAN, 2.0]), [0, 0, 0])
    np.testing.assert_array_equal(groups.rewards, [[1.0, NAN, 2.0]])
    np.testing.assert_array_equal(groups.flat(groups.rewards), [1.0, NAN, 2.0])


def test_a_regular_index_is_the_flat_order(rng):
    rewards = rng.normal(size=12)
    groups = from_index(rewards, np.repeat([3, 1, 2], 4))
    np.testing.assert_array_equal(groups.rewards, from_flat(rewards, 4))


BIG = 2**63


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ([BIG + 1, BIG + 2, 7, BIG + 1], [0, 1, 2, 0]),
        ([2**60 + 1, 2**60 + 2, 2**60 + 1, 3], [0, 1, 0, 2]),
        (np.array([BIG + 1, BIG + 2, 7, 7], dtype=np.uint64), [0, 1, 2, 2]),
        (torch.tensor([2**24 + 1, 2**24, 2**24 + 1, 0]), [0, 1, 0, 2]),
        (np.array(["b", "a", "b", "c"], dtype=object), [0, 1, 0, 2]),
        (np.array([0.5, 1.5, 0.5, 2.0]), [0, 1, 0, 2]),
    ],
    ids=str,
)
def test_ids_stay_apart(index, expected):
    """Would catch: ids that become float64 or text on the way, and so meet."""
    groups = from_index(np.arange(4.0), index)
    np.testing.assert_array_equal(groups.row, expected)
    first = [expected.index(row) for row in range(len(groups.labels))]
    names = index.tolist() if hasattr(index, "tolist") else index
    assert list(groups.labels) == [names[place] for place in first]


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ([1, None, 2], "a number or a text that is not empty, got None in row 1"),
        (["a", None, "b"], "a number or a text that is not empty, got None in row 1"),
        ([1.0, NAN, NAN], "a number or a text that is not empty, got nan in row 1"),
        ([("x", 1), "x", "y"], "a number or a text that is not empty, got ('x', 1) in row 0"),
        (["1", 1, "2"], "of one type where they are spelled alike, a number and a text, got 1 "
         "in row 1"),
        (np.array([1, 2**24, 3], np.float32),
         "exact: reals from 2^24 on stand for several numbers, got 16777216.0 in row 1"),
        (torch.tensor([2.0**60, 1, 1], dtype=torch.float64),
         "exact: reals from 2^53 on stand for several numbers, got 1.152921504606847e+18 in row 0"),
    ],
)  # fmt: skip
def test_ids_that_do_not_say_which_group_are_refused(index, said):
    """Would catch: one group of all missing ids, a TypeError of a sort, merged neighbours."""
    with pytest.raises(ValueError, match=f"^{re.escape(f'index must be {said}')}$"):
        from_index(np.ones(3), index)


def test_masked_ids_are_refused():
    """Would catch: the number below a mask taken for an id."""
    with pytest.raises(ValueError, match=r"^index must not be masked, got 1 masked"):
        from_index(np.ones(3), np.ma.array([1, 2, 2], mask=[0, 0, 1]))


def test_ids_of_a_type_that_rounds_are_refused():
    """Would catch: a bare TypeError of NumPy, which has no bfloat16, or 257 as 256."""
    with pytest.raises(
        ValueError, match=r"^ids must be integers, .* got a tensor of torch.bfloat1"
    ):
        from_index([1.0, 0.0], torch.tensor([1, 1], dtype=torch.bfloat16))


def test_lists_and_masked_arrays_are_rewards():
    """Would catch: an AttributeError of a list, the number behind a mask."""
    np.testing.assert_array_equal(from_flat([1.0, None, 3.0, 4.0], 2), [[1, NAN], [3, 4]])
    masked = np.ma.array([1.0, -999.0, 3.0], mask=[0, 1, 0])
    groups = from_index(masked, ["a", "a", "b"])
    np.testing.assert_array_equal(groups.rewards, [[1, NAN], [3, NAN]])
    np.testing.assert_array_equal(groups.flat([[1, 2], [3, 4]]), [1, 2, 3])
    np.testing.assert_array_equal(groups.grouped([5, 6, 7]), [[5, 6], [7, NAN]])


def test_torch_gradients_flow_there_and_back():
    rewards = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    groups = from_index(rewards, [0, 1, 0])
    groups.flat(groups.rewards * torch.tensor([[1.0, 2.0], [3.0, 4.0]]))[2].backward()
    np.testing.assert_array_equal(rewards.grad, [0, 0, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_flat(np.ones(5), 2),
         "rewards must be a multiple of group_size = 2 in number, got 5"),
        (lambda: from_flat(np.ones((2, 2)), 2), "rewards must be flat, (N,), got shape (2, 2)"),
        (lambda: from_flat(np.ones(4), 0), "group_size must be an integer of at least 1, got 0"),
        (lambda: from_index(np.ones((2, 2)), [0, 1]),
         "rewards must be flat, (N,), and not empty, got (2, 2)"),
        (lambda: from_index(np.ones(0), []), "rewards must be flat, (N,), and not empty, got (0,)"),
        (lambda: from_index(np.ones(2), [0]),
         "index must have the shape of rewards, (2,), got (1,)"),
        (lambda: from_index(np.ones(2), [0, 1]).flat(np.ones((2, 2))),
         "grouped must have the shape of rewards, (2, 1), got (2, 2)"),
        (lambda: from_index(np.ones(2), [0, 1]).grouped(np.ones(3)),
         "flat must have the shape (2,), got (3,)"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
