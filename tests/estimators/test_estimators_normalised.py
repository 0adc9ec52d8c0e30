"""Division by a standard deviation: bounds, groups of equal rewards, tiny and odd rewards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.estimator_contracts import DTYPES
from ustat_grpo import (
    BatchStdNormalised,
    BestOfGroup,
    GroupMean,
    Grpo,
    LeaveOneOutNormalised,
    Sign,
    StdNormalised,
    Vanilla,
    Whitened,
)

NORMALISED = {
    "std": StdNormalised(eps=0.0),
    "leave_one_out": LeaveOneOutNormalised(eps=0.0),
    "batch_std": BatchStdNormalised(eps=0.0),
    "whitened": Whitened(GroupMean(), eps=0.0),
    "whitened std": Whitened(Grpo(), eps=0.0, place="std"),
    "reinforce++": Whitened(Vanilla(), eps=0.0),
    "best": BestOfGroup(eps=0.0),
    "sign": Sign(),
}
every_one = pytest.mark.parametrize("estimator", NORMALISED.values(), ids=NORMALISED)
MINORITIES = [
    [1.0, 0.0, 0.0, 0.0],
    [0.0, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95],
    [0.65, 0.35, 0.35, 0.35, 0.35, 0.35, 0.35, 0.35],
]


def std_of_the_others(rewards: np.ndarray, eps: float) -> np.ndarray:
    """What must not be: each reward less the mean of the others, over *their* deviation."""
    result = np.zeros_like(rewards)
    for i in range(len(rewards)):
        others = np.delete(rewards, i)
        result[i] = (rewards[i] - others.mean()) / (others.std(ddof=1) + eps)
    return result


def test_the_known_bug_of_another_library():
    """One success among four, ε = 1e-6: the success would have the advantage 1 000 000."""
    np.testing.assert_allclose(std_of_the_others(np.array(MINORITIES[0]), 1e-6)[0], 1e6)


@every_one
@pytest.mark.parametrize("rewards", MINORITIES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_reward_that_differs_does_not_explode(estimator, rewards, dtype):
    """∣A_i∣ ≤ √G at ε = 0, whereas the naive form is above 1e5; rounding in float32 included."""
    group = np.array([rewards], dtype)
    ours = estimator.advantages(group)
    assert np.abs(ours).max() <= np.sqrt(len(rewards)) * (1 + 1e-6)
    assert np.abs(std_of_the_others(np.array(rewards), 1e-6)).max() > 1e5
    tensor = estimator.advantages(torch.as_tensor(group))
    np.testing.assert_allclose(tensor, ours, rtol=1e-4, atol=1e-6)


FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)


@pytest.mark.parametrize("name", ["std", "leave_one_out"])
@given(group=st.lists(FINITE, min_size=2, max_size=9))
def test_no_group_whatever_exceeds_the_bound(name, group):
    """√(G−1) for the own mean with ddof 1, times √(G/(G−1)) ≥ 1 for the others' mean.

    (Z_i − Z̄)² ≤ (G−1)/G Σ_j (Z_j − Z̄)². Would catch: squares that overflow or underflow, a
    variance by a difference, a deviation that is rounding only.
    """
    rewards, size = np.array(group) / 16, len(group)
    ours = NORMALISED[name].advantages(rewards)
    assert np.isfinite(ours).all()
    bound = (size - 1) / np.sqrt(size) * (size / (size - 1) if name == "leave_one_out" else 1)
    assert np.abs(ours).max() <= bound * (1 + 1e-6)


@every_one
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, -0.7, 1e-300, 1e15])
@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_rewards_give_zero_at_no_eps(estimator, reward, size, dtype):
    """0.1, 0.1, 0.1 have the standard deviation 1e-17: would catch 0/0, and 1e-17/1e-17 = 1."""
    rewards = np.full((3, size), reward, dtype)
    np.testing.assert_array_equal(estimator.advantages(rewards), np.zeros((3, size)))
    ours = estimator.advantages(torch.as_tensor(rewards))
    np.testing.assert_array_equal(ours, np.zeros((3, size)))


def test_rounding_is_what_the_standard_deviation_of_equal_rewards_is():
    """The trap that the test above is about, and why a largest reward is compared with a least."""
    assert np.std([0.1, 0.1, 0.1], ddof=1) > 0


@every_one
@pytest.mark.parametrize("rewards", [[np.nan, 0.1, np.nan, 0.1, 0.1], [np.nan, 3.0, np.nan]])
def test_equal_rewards_beside_unscorable_ones(estimator, rewards):
    if estimator == NORMALISED["reinforce++"]:
        rewards = [*rewards, np.nan]
    group = np.array([rewards])
    np.testing.assert_array_equal(estimator.advantages(group), np.zeros(group.shape))


def test_the_two_normalisations_differ_by_a_factor(rng):
    """Z_i − Z̄^(−i) = G/(G−1)(Z_i − Z̄), over the same deviation: a wrong G would be 20 % off."""
    rewards = rng.normal(size=(4, 6))
    ours = LeaveOneOutNormalised(0.0).advantages(rewards)
    np.testing.assert_allclose(ours, 1.2 * StdNormalised(0.0).advantages(rewards), atol=1e-12)


@pytest.mark.parametrize(("ddof", "scale"), [(0, np.sqrt(2 / 3)), (1, 1.0)])
def test_by_hand(ddof, scale):
    """1, 2, 6 and mean 3: deviations −2, −1, 3, their squares sum to 14, so that std is √7."""
    expected = np.array([-2.0, -1.0, 3.0]) / (np.sqrt(7) * scale + 0.5)
    ours = StdNormalised(0.5, ddof).advantages(np.array([1.0, 2.0, 6.0]))
    np.testing.assert_allclose(ours, expected, rtol=1e-14)
    ours = LeaveOneOutNormalised(0.5, ddof).advantages(np.array([1.0, 2.0, 6.0]))
    np.testing.assert_allclose(ours, 1.5 * expected, rtol=1e-14)


def test_sign_of_a_reward_that_is_the_mean():
    """0.1, 0.2, 0.3: their mean is 0.20000000000000004, and 0.2 is not below it."""
    assert np.mean([0.1, 0.2, 0.3]) > 0.2
    np.testing.assert_array_equal(Sign().advantages(np.array([0.1, 0.2, 0.3])), [-1, 0, 1])


@pytest.mark.parametrize("make", [StdNormalised, LeaveOneOutNormalised, BatchStdNormalised])
def test_constants_out_of_range(make):
    for eps in (-1e-9, np.nan, np.inf, "1"):
        with pytest.raises(ValueError, match=r"^eps must"):
            make(eps=eps)
    for ddof in (-1, 2, 0.5, True):
        with pytest.raises(ValueError, match=rf"^ddof must be 0 or 1, got {ddof!r}$"):
            make(ddof=ddof)
