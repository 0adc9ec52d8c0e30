"""Half precision, infinite, missing and huge rewards, offsets: every estimator, every library."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from support.estimator_contracts import CONTRACTS, PUBLIC
from ustat_grpo import (
    Grpo,
    JamesStein,
    RunningRewards,
    ScoreWeightedMean,
    SideInformation,
    Sign,
    StdNormalised,
    Vanilla,
    Whitened,
    gradient,
)
from ustat_grpo.estimators import LIBRARIES
from ustat_grpo.estimators.scored import scorable

NAN, INF = np.nan, np.inf
EVERY = {name: CONTRACTS[name].make(1, 0) for name in PUBLIC}
EVERY |= {name: form.estimator for name, form in LIBRARIES.items()}
every = pytest.mark.parametrize("name", EVERY)

OF_CONSTANTS = {"Vanilla", "Oracle", "OptimalBaseline", "GreedyBaseline", "Critic", "verl_remax"}
OF_CONSTANTS |= {"ConstantBaseline", "Shrinkage", "EmpiricalBayes", "KeepSingletons"}
OF_CONSTANTS |= {"DropEqualGroups", "PassAtK", "HitScaled", "verl_gpg"}
RELATIVE = [name for name in EVERY if name not in OF_CONSTANTS]
"""Those that compare rewards with one another and with nothing else."""

REWARDS = np.array([[1.25, 0.5, NAN, 0.8125], [0.25, 0.5, -1.5, 0.75], [0.5, 0.5, NAN, 0.5]])
"""Numbers that every precision holds, with groups of three and of four, and an equal one."""
SIDE = SideInformation(
    value=np.array([0.7, -0.2, 0.1]),
    optimal_baseline=np.array([0.3, 0.1, 0.6]),
    prediction=np.array([0.2, 0.9, -0.4]),
    greedy_reward=np.array([1.0, 0.5, 0.25]),
    score_norm_squared=np.linspace(1, 5e4, 12).reshape(3, 4),
    lengths=np.linspace(100, 70_000, 12).round().reshape(3, 4),  # beyond what half precision holds
)
TYPES = [np.float32, np.float16, torch.float64, torch.float32, torch.float16, torch.bfloat16]


def suited(name, rewards=REWARDS):
    return np.where(np.isnan(rewards), NAN, rewards > 0.5) if name == "PassAtK" else rewards


def double(name, rewards, side=SIDE):
    return EVERY[name].advantages(np.array(rewards, dtype=np.float64), side)


def numbers(array):
    return array.double().numpy() if isinstance(array, torch.Tensor) else array.astype(np.float64)


def array_of(rewards, dtype):
    if isinstance(dtype, torch.dtype):
        return torch.tensor(rewards, dtype=torch.float64).to(dtype)
    return np.array(rewards).astype(dtype)


def spacing(dtype):
    return float((torch if isinstance(dtype, torch.dtype) else np).finfo(dtype).eps)


@every
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_has_the_answer_in_double_precision_rounded(name, dtype):
    """Would catch: half precision inside, lengths cast to it, side information of another library.

    Half precision is off by one spacing at most, single precision by a few roundings of the
    largest advantage.
    """
    rewards = array_of(suited(name), dtype)
    ours, expected = EVERY[name].advantages(rewards, SIDE), double(name, suited(name))
    assert ours.dtype == rewards.dtype
    inside = max(np.finfo(np.float64).eps, min(spacing(dtype), np.finfo(np.float32).eps))
    rounding = spacing(dtype) if spacing(dtype) > 1e-4 else 0.0
    largest = np.abs(expected).max()
    np.testing.assert_allclose(numbers(ours), expected, rtol=rounding, atol=32 * inside * largest)


def test_by_hand_in_half_precision():
    """Whitened by lengths 100 to 130: mean .9130, deviation .0694. It was all 0."""
    rewards = torch.tensor([[0.8125, 0.875, 0.9375, 1.0]], dtype=torch.bfloat16)
    side = SideInformation(lengths=torch.tensor([[100, 110, 120, 130]]))
    ours = LIBRARIES["openrlhf_reinforce"].estimator.advantages(rewards, side)
    np.testing.assert_allclose(ours.float(), [[-1.45, -0.55, 0.35, 1.25]], atol=0.01)
    group = torch.tensor([1.0, 1.0, 1.0, 1.0078125], dtype=torch.bfloat16)
    np.testing.assert_array_equal(Sign().advantages(group).float(), [-1, -1, -1, 1])
    std = StdNormalised().advantages(group).float()
    np.testing.assert_allclose(std, [-0.487, -0.487, -0.487, 1.462], atol=0.005)


@every
@pytest.mark.parametrize("bad", [INF, -INF])
def test_an_infinite_reward_is_left_out_like_a_missing_one(name, bad):
    """Would catch: one infinite reward that spoils its group, or the whole batch."""
    infinite = np.where(np.isnan(REWARDS), bad, suited(name))
    if name == "PassAtK":
        with pytest.raises(ValueError, match="rewards must be 0 or 1"):
            EVERY[name].advantages(infinite, SIDE)
        return
    for rewards in (infinite, torch.tensor(infinite)):
        ours = EVERY[name].advantages(rewards, SIDE)
        np.testing.assert_allclose(ours, double(name, REWARDS), rtol=1e-12, atol=1e-14)


@every
def test_masked_arrays_and_lists_are_what_they_say(name):
    """Would catch: the −999 behind a mask among the rewards, None as an object, lists refused."""
    rewards = suited(name)
    missing = np.isnan(rewards)
    masked = np.ma.array(np.where(missing, -999.0, rewards), mask=missing)
    nones = [[None if np.isnan(z) else z for z in row] for row in rewards.tolist()]
    side = replace(SIDE, value=[0.7, -0.2, 0.1], lengths=SIDE.lengths.astype(int).tolist())
    nested = [[entry if entry is np.ma.masked else float(entry) for entry in row] for row in masked]
    for given in (masked, list(masked), nested, rewards.tolist(), nones, np.array(nones)):
        ours = EVERY[name].advantages(given, side)
        assert type(ours) is np.ndarray
        np.testing.assert_array_equal(ours, double(name, rewards))


def test_masked_scores_are_refused_where_there_is_a_reward(rng):
    """Would catch: a gradient of NaN without a word, or one of the −999 behind the mask."""
    rewards, scores = np.array([[1.0, 0.0, NAN]]), rng.normal(size=(1, 3, 2))
    expected = gradient(Grpo(), scores, rewards)
    for mask, refused in ((np.arange(6) == 3, True), (np.arange(6) > 3, False)):
        masked = np.ma.array(np.where(mask, -999.0, scores.ravel()), mask=mask).reshape(1, 3, 2)
        for given in (masked, list(masked)):
            if refused:
                with pytest.raises(
                    ValueError, match=r"^scores must not be masked where there is a"
                ):
                    gradient(Grpo(), given, rewards)
            else:
                np.testing.assert_array_equal(gradient(Grpo(), given, rewards), expected)


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("offset", [1e4, -1e8, 1e15])
def test_an_offset_changes_nothing(name, offset):
    """In double precision; would catch: means of the offset, equality within its rounding."""
    far = np.array([[1.0, 0.5, NAN, 0.75], [0.25, 0.5, 0.0, 0.75]])  # spacing at 1e15 is 1/8
    far, side = np.round(8 * far) / 8, replace(SIDE, lengths=SIDE.lengths[:2])
    side = replace(side, score_norm_squared=SIDE.score_norm_squared[:2])
    ours, expected = double(name, far + offset, side), double(name, far, side)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("name", RELATIVE)
def test_neighbours_in_single_precision_are_told_apart(name):
    """10000.00 and 10000.01 have ten numbers between them. It was 0 for many."""
    rewards = np.array([[10000.00, 10000.01, 10000.0, 10000.0], [10000.0] * 4], np.float32)
    side = replace(SIDE, lengths=SIDE.lengths[:2], score_norm_squared=SIDE.score_norm_squared[:2])
    expected = double(name, rewards, side)
    assert np.abs(expected).max() > 1e-3
    for ours in (
        EVERY[name].advantages(rewards, side),
        EVERY[name].advantages(torch.tensor(rewards), side),
    ):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=4e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("reward", [0.1, 1 / 3, 10000.01, -0.7, 1e30])
def test_equal_rewards_have_no_advantage_in_any_type(name, reward):
    """To the last bit. Would catch: the rounding of a mean, .8 % in bfloat16."""
    rewards = np.where(np.isnan(REWARDS), NAN, reward)
    for dtype in [np.float64, *TYPES]:
        if reward < 1e30 or spacing(dtype) < 1e-4:
            ours = EVERY[name].advantages(array_of(rewards, dtype), SIDE)
            np.testing.assert_array_equal(numbers(ours), np.zeros(REWARDS.shape))


@every
@pytest.mark.parametrize(
    ("unit", "dtype"),
    [(1e20, torch.float32), (1e30, np.float32), (1e150, np.float64), (1e305, torch.float64)],
)
def test_huge_rewards_are_right(name, unit, dtype):
    """In their unit the answer is that of ordinary ones. Would catch: squares that overflow.

    Constants in units of reward or of its square count for nothing beside such rewards.
    """
    if name in OF_CONSTANTS - {"HitScaled", "verl_gpg"}:
        return
    rewards = array_of(REWARDS * unit, dtype)
    ours = numbers(EVERY[name].advantages(rewards, SIDE))
    expected = double(name, REWARDS * 1e20)
    scale = unit / 1e20 if np.abs(expected).max() > 1e10 else 1.0
    size = np.abs(expected).max()
    np.testing.assert_allclose(ours / scale, expected, rtol=0, atol=64 * spacing(dtype) * size)


@every
def test_what_no_longer_fits_is_refused_in_words(name):
    """At the edge of double precision: right or refused, without a warning and never infinite."""
    if name == "PassAtK":
        return
    for group in ([1.7e308, -1.7e308, 0.0, 1.0], [1.7e308, 1.7e308, 1.7e308, 0.0]):
        rewards = np.array([group, group, group])
        try:
            ours = EVERY[name].advantages(rewards, SIDE)
        except ValueError as error:
            assert "advantages must be finite in the type of the rewards, float64" in str(error)
        else:
            is_tie = EVERY[name] in (EVERY["BestOfGroup"], EVERY["verl_grpo_passk"])
            assert np.isfinite(ours).all()
            assert ours[0, 0] > ours[0, 3] or (is_tie and not ours.any())


def test_half_precision_is_refused_where_the_difference_does_not_fit():
    with pytest.raises(ValueError, match=r"float16, got inf from rewards of up to 60000 in size"):
        Grpo().advantages(np.array([6e4, -6e4], np.float16))


def test_whole_numbers_above_what_single_precision_holds():
    """2²⁴ and 2²⁴ + 1 as integers of torch. Would catch: rewards cast to float32 first."""
    rewards = torch.tensor([2**24, 2**24 + 1])
    np.testing.assert_array_equal(Grpo().advantages(rewards), [-1, 1])


def test_what_scorable_means():
    """The one decision that everything else takes over."""
    np.testing.assert_array_equal(scorable([1.0, None, INF, -INF, NAN]), [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(scorable(np.ma.array([1, 2], mask=[0, 1])), [1, 0])
    np.testing.assert_array_equal(scorable(torch.tensor([1.0, INF]).half()), [1, 0])
    np.testing.assert_array_equal(scorable(np.array([True, False])), [1, 1])


@pytest.mark.parametrize(
    ("rewards", "kind", "said"),
    [
        ([[1.0, 2.0], [3.0]], ValueError, "^rewards must have rows of one length, got: "),
        (3.0, ValueError, r"^rewards must have the shape \(\.\.\., G\), got \(\)$"),
        (["a", "b"], TypeError, "^rewards must hold real numbers, got dtype <U1$"),
        ([1j, 2.0], TypeError, "^rewards must hold real numbers, got dtype complex128$"),
        (torch.tensor([1j]), TypeError, "must hold real numbers, got dtype torch.complex64$"),
        ([object()], TypeError, "^rewards must hold real numbers, got: "),
    ],
)
def test_what_is_no_reward_is_refused_in_words(rewards, kind, said):
    with pytest.raises(kind, match=said):
        Grpo().advantages(rewards)


def test_side_information_must_be_finite_where_there_is_a_reward():
    """Would catch: a NaN length that makes all advantages NaN, or one that nobody needs."""
    lengths = np.where(np.isnan(REWARDS), NAN, SIDE.lengths)
    name = "LengthWeightedMean"
    np.testing.assert_array_equal(
        double(name, REWARDS, replace(SIDE, lengths=lengths)), double(name, REWARDS)
    )
    lengths[0, 0] = NAN
    with pytest.raises(
        ValueError, match=r"^lengths must be finite where there is a reward, got 1 "
    ):
        double(name, REWARDS, replace(SIDE, lengths=lengths))
    value = np.array([0.5, INF])
    rewards = np.array([[1.0, 2.0], [NAN, NAN]])
    ours = EVERY["Oracle"].advantages(rewards, SideInformation(value))
    np.testing.assert_array_equal(ours, [[0.5, 1.5], [0, 0]])


def test_torch_and_numpy_may_be_mixed():
    """Results live with the rewards; the gradient lives with the scores if they are tensors."""
    rewards, scores = np.array([1.0, 0.0, 3.0]), np.arange(6.0).reshape(3, 2)
    norms = torch.tensor([1.0, 2.0, 4.0], dtype=torch.bfloat16, requires_grad=True)
    expected = ScoreWeightedMean().advantages(
        rewards, SideInformation(score_norm_squared=np.array([1.0, 2.0, 4.0]))
    )
    ours = ScoreWeightedMean().advantages(rewards, SideInformation(score_norm_squared=norms))
    np.testing.assert_array_equal(ours, expected)
    expected = gradient(Grpo(), scores, rewards)
    leaf = torch.tensor(scores, requires_grad=True)
    ours = gradient(Grpo(), leaf, rewards)
    ours.sum().backward()
    np.testing.assert_allclose(ours.detach(), expected, rtol=1e-15)
    np.testing.assert_allclose(leaf.grad[:, 0], Grpo().advantages(rewards) / 3, rtol=1e-15)
    np.testing.assert_allclose(gradient(Grpo(), scores, torch.tensor(rewards)), expected)
    np.testing.assert_allclose(gradient(Grpo(), scores.tolist(), rewards.tolist()), expected)


def test_gradient_in_half_precision():
    """Would catch: advantages or products rounded to half precision before they are summed."""
    rewards = torch.tensor([1.0, 1.0078125, 0.0, INF], dtype=torch.bfloat16)
    scores = torch.tensor([[3.0, 1.0], [-3.0, 0.5], [1.0, 1.0], [1.0, NAN]], dtype=torch.bfloat16)
    expected = gradient(Grpo(), scores[:3].double(), rewards[:3].double())
    ours = gradient(Grpo(), scores, rewards)
    assert ours.dtype == torch.bfloat16
    np.testing.assert_allclose(ours.double(), expected, rtol=2**-8)
    wide = gradient(ScoreWeightedMean(), 300 * scores.half(), rewards.half())  # norms above 65504
    assert wide.isfinite().all()


def test_running_rewards_take_any_kind():
    """In double precision: bfloat16 was a TypeError; masked and infinite rewards are left out."""
    rewards = [[0.8125, 0.875, 1.0], [1.0, 0.5, -999.0]]
    expected = RunningRewards().updated([[0.8125, 0.875, 1.0], [1.0, 0.5, None]])
    tensor = torch.tensor(rewards, dtype=torch.bfloat16)
    tensor[1, 2] = INF
    assert RunningRewards().updated(tensor) == expected
    assert RunningRewards().updated(np.ma.masked_less(rewards, -1)) == expected
    with pytest.raises(ValueError, match="their squares are finite, got 1e\\+200 in size"):
        RunningRewards().updated(np.array([[1e200, 0.0]]))


def test_advantages_that_differ_by_a_rounding_of_the_baseline_are_equal():
    """Rewards equal within groups, V the same distance away: 0 at ε = 0 up to rounding of V.

    A batch of two rewards that differ in their last digit differs, however.
    """
    rewards, value = np.array([[0.3] * 3, [1.1] * 3]), np.array([0.2, 1.0])
    assert 0.3 - 0.2 != 1.1 - 1.0
    ours = Whitened(EVERY["Oracle"], eps=0.0).advantages(rewards, SideInformation(value))
    np.testing.assert_array_equal(ours, np.zeros((2, 3)))
    ours = Whitened(Vanilla(), eps=0.0, ddof=0).advantages(np.array([[1.0, np.nextafter(1, 2)]]))
    np.testing.assert_array_equal(ours, [[-1, 1]])


def test_james_stein_does_not_lose_its_weight_to_overflow():
    """Squares of 1e30 are infinite in float32, and a weight of ∞/∞ was taken for 0."""
    rewards = np.array([[0.0, 2.0], [2.0, 4.0], [4.0, 8.0]])
    ours = JamesStein(eps=0.0).advantages((1e30 * rewards).astype(np.float32))
    np.testing.assert_allclose(ours / 1e30, JamesStein(eps=0.0).advantages(rewards), rtol=1e-5)
