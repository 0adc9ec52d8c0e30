"""What trainers ship, against numbers worked out by hand from their published formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.estimator_contracts import DTYPES
from ustat_grpo import SideInformation, from_index
from ustat_grpo.estimators import LIBRARIES

REWARDS = np.array([[1.0, 2.0, 6.0], [0.5, 0.5, 2.0]])
"""Means 3 and 1; deviations (−2, −1, 3) and (−½, −½, 1), whose squares sum to 14 and 1½."""
LENGTHS = np.array([[1.0, 2.0, 3.0], [4.0, 1.0, 1.0]])
GREEDY = np.array([2.5, 1.5])
SIDE = SideInformation(greedy_reward=GREEDY, lengths=LENGTHS)
CENTRED = np.array([[-2.0, -1.0, 3.0], [-0.5, -0.5, 1.0]])
GROUP_STD = np.array([[np.sqrt(7.0)], [np.sqrt(0.75)]])
BATCH_STD = np.sqrt(21.5 / 5)  # about the mean 2: 1 + 0 + 16 + 2.25 + 2.25 + 0
REPEATED = np.array([1.0, 2, 2, 6, 6, 6, 0.5, 0.5, 0.5, 0.5, 0.5, 2.0])
"""The rewards token by token: 12 of them, whose sum is 27.5."""
CENTRED_TOKENS = np.array([-2.0, -1, -1, 3, 3, 3, -0.5, -0.5, -0.5, -0.5, -0.5, 1.0])


def whitened(values, tokens, *, ddof, added=0.0, floor=0.0):
    variance = np.sum((tokens - tokens.mean()) ** 2) / (len(tokens) - ddof)
    return (values - tokens.mean()) / np.sqrt(max(variance + added, floor))


RLOO = np.array([[-3.0, -1.5, 4.5], [-0.75, -0.75, 1.5]])
EXPECTED = {
    "paper_algorithm_2": RLOO / GROUP_STD,
    "trl_grpo": CENTRED / (GROUP_STD + 1e-4),
    "trl_grpo_batch": CENTRED / (BATCH_STD + 1e-4),
    "trl_dr_grpo": CENTRED,
    "trl_rloo": RLOO,
    # the six advantages have mean 0; their squares sum to 31.5 + 3.375
    "trl_rloo_normalised": RLOO / (np.sqrt(34.875 / 5) + 1e-4),
    "verl_grpo": CENTRED / (GROUP_STD + 1e-6),
    "verl_dr_grpo": CENTRED,
    "verl_grpo_passk": np.array([[0.0, 0, 4.0], [0, 0, 1.5]]) / (GROUP_STD + 1e-6),
    "verl_rloo": RLOO,
    "verl_rloo_vectorized": RLOO,
    # (1 + 4 + 18)/6 and (2 + 0.5 + 2)/6
    "verl_opo": REWARDS - np.array([[23 / 6], [0.75]]),
    "verl_remax": REWARDS - np.array([[2.5], [1.5]]),
    "verl_gpg": CENTRED,  # no reward is 0
    "verl_reinforce_plus_plus": whitened(REWARDS, REPEATED, ddof=1, added=1e-8),
    "verl_reinforce_plus_plus_baseline": whitened(CENTRED, CENTRED_TOKENS, ddof=1, added=1e-8),
    "verl_dapo": CENTRED / (GROUP_STD + 1e-6),
    "openrlhf_group_norm": CENTRED / (GROUP_STD + 1e-9),
    "openrlhf_dr_grpo": CENTRED,
    "openrlhf_rloo": RLOO,
    "openrlhf_reinforce": whitened(REWARDS, REPEATED, ddof=0, floor=1e-8),
    "openrlhf_reinforce_baseline": whitened(CENTRED, CENTRED_TOKENS, ddof=0, floor=1e-8),
}
every_form = pytest.mark.parametrize("name", LIBRARIES)


def test_every_form_is_worked_out_here():
    assert EXPECTED.keys() == LIBRARIES.keys()
    assert len({form.library + form.option for form in LIBRARIES.values()}) == len(LIBRARIES)


@every_form
def test_numbers_by_hand(name):
    """To 1e-12: ε of 1e-9 for 1e-6, ddof, tokens for outputs and the place of ε all show."""
    ours = LIBRARIES[name].estimator.advantages(REWARDS, SIDE)
    np.testing.assert_allclose(ours, EXPECTED[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        ("trl_grpo", "verl_grpo"),
        ("verl_grpo", "openrlhf_group_norm"),
        ("trl_grpo", "trl_grpo_batch"),
        ("verl_reinforce_plus_plus", "openrlhf_reinforce"),
        ("verl_rloo", "verl_opo"),
    ],
)
def test_the_tolerance_tells_the_forms_apart(ours, other):
    """The mutants: another library's constants are rejected by the test above."""
    assert np.abs(EXPECTED[ours] - EXPECTED[other]).max() > 1e-9


@every_form
def test_float32_stays_and_torch_agrees(name):
    for dtype in DTYPES:
        tensors = [torch.as_tensor(each.astype(dtype)) for each in (REWARDS, GREEDY, LENGTHS)]
        side = SideInformation(greedy_reward=tensors[1], lengths=tensors[2])
        ours = LIBRARIES[name].estimator.advantages(tensors[0], side)
        assert ours.dtype == tensors[0].dtype
        np.testing.assert_allclose(ours, EXPECTED[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("trl_grpo", 0.0),
        ("trl_dr_grpo", 0.0),
        ("verl_grpo", 3 / (1 + 1e-6)),
        ("verl_dr_grpo", 3.0),
        ("verl_rloo", 3.0),
        ("verl_rloo_vectorized", 0.0),
        ("verl_opo", 3.0),
        ("verl_gpg", 3.0),
        ("verl_remax", 0.5),
        ("verl_grpo_passk", 0.0),
        ("openrlhf_group_norm", 0.0),
    ],
)
def test_a_singleton_group(name, expected):
    """A reward of 3 alone in its group: `rloo` of verl and its vectorised twin disagree."""
    groups = from_index(np.array([3.0, 1.0, 2.0]), ["alone", "pair", "pair"])
    side = SideInformation(greedy_reward=np.array([2.5, 0.0]), lengths=np.ones((2, 2)))
    ours = LIBRARIES[name].estimator.advantages(groups.rewards, side)
    assert groups.flat(ours)[0] == pytest.approx(expected, abs=1e-15)


def test_a_singleton_group_before_whitening():
    """verl centres the pair and leaves the single reward: 3, −½, ½, then whitens all three."""
    groups = from_index(np.array([3.0, 1.0, 2.0]), [7, 5, 5])
    ours = LIBRARIES["verl_reinforce_plus_plus_baseline"].estimator.advantages(groups.rewards)
    values = np.array([3.0, -0.5, 0.5])
    expected = whitened(values, values, ddof=1, added=1e-8)
    np.testing.assert_allclose(groups.flat(ours), expected, rtol=1e-12)


def test_dynamic_sampling_keeps_a_singleton_as_verl_does():
    """Kept: the group with two rewards and the single output; the factor is 3/2."""
    nan = np.nan
    rewards = np.array([[0.0, 1.0], [1.0, 1.0], [3.0, nan]])
    ours = LIBRARIES["verl_dapo"].estimator.advantages(rewards)
    half = 0.5 / (np.sqrt(0.5) + 1e-6)
    expected = 1.5 * np.array([[-half, half], [0, 0], [3 / (1 + 1e-6), 0]])
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_gpg_counts_rewards_that_are_not_zero():
    """Two of six rewards are hits: three times the centred rewards."""
    rewards = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    ours = LIBRARIES["verl_gpg"].estimator.advantages(rewards)
    centred = np.array([[2 / 3, -1 / 3, -1 / 3], [-1 / 6, 1 / 3, -1 / 6]])
    np.testing.assert_allclose(ours, 3 * centred, rtol=1e-12)
    none = LIBRARIES["verl_gpg"].estimator.advantages(np.zeros((2, 3)))
    np.testing.assert_array_equal(none, np.zeros((2, 3)))


@every_form
def test_equal_rewards_give_nothing(name):
    """Except to ReMax, which compares with something else."""
    ours = LIBRARIES[name].estimator.advantages(np.full((2, 3), 0.1), SIDE)
    expected = 0.1 - GREEDY[:, None] if name == "verl_remax" else np.zeros((2, 3))
    np.testing.assert_allclose(ours, expected + np.zeros((2, 3)), rtol=0, atol=1e-12)
