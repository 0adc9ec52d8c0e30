"""One contract for every public estimator; the membership is read from the package."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ustat_grpo
from problems import random_snapshot
from ustat_grpo import (
    ConstantBaseline,
    Estimator,
    GroupMean,
    Grpo,
    OptimalBaseline,
    Oracle,
    Shrinkage,
    SideInformation,
    Vanilla,
    gradient,
)

NAN = float("nan")
LEAST_SIZE = "^group_size must be at least 2 for a leave-one-out baseline, got {}$"


class Contract(NamedTuple):
    """What is promised of an estimator.

    Args:
        make: the estimator, its constants moved along with rewards c·Z + a: (c, a) -> estimator.
        baseline: what is subtracted: (own reward, other rewards, side information) -> number.
        leave_one_out: whether a group needs two outputs.
        reads: the side information that it must be given.
        shift_invariant: whether moving rewards, constants and side information changes nothing.
        mean_factor: G -> what multiplies g(x) in the mean of the gradient.
    """

    make: Callable[[float, float], Estimator]
    baseline: Callable[[float, list[float], float], float]
    leave_one_out: bool = False
    reads: str | None = None
    shift_invariant: bool = True
    mean_factor: Callable[[int], float] = lambda group_size: 1.0


def mean_of_others(own: float, others: list[float]) -> float:
    return sum(others) / len(others) if others else own


CONTRACTS = {
    "Vanilla": Contract(
        lambda c, a: Vanilla(), lambda own, others, side: 0.0, shift_invariant=False
    ),
    "Oracle": Contract(lambda c, a: Oracle(), lambda own, others, side: side, reads="value"),
    "OptimalBaseline": Contract(
        lambda c, a: OptimalBaseline(), lambda own, others, side: side, reads="optimal_baseline"
    ),
    "Grpo": Contract(
        lambda c, a: Grpo(),
        lambda own, others, side: mean_of_others(own, others),
        leave_one_out=True,
    ),
    "GroupMean": Contract(
        lambda c, a: GroupMean(),
        lambda own, others, side: mean_of_others(own, [own, *others]),
        leave_one_out=True,
        mean_factor=lambda group_size: 1 - 1 / group_size,
    ),
    "ConstantBaseline": Contract(
        lambda c, a: ConstantBaseline(0.3 * c + a), lambda own, others, side: 0.3
    ),
    "Shrinkage": Contract(
        lambda c, a: Shrinkage(0.4, 0.2 * c + a),
        lambda own, others, side: 0.6 * mean_of_others(own, others) + 0.4 * 0.2,
        leave_one_out=True,
    ),
}
PUBLIC = [
    name
    for name, thing in ((name, getattr(ustat_grpo, name)) for name in ustat_grpo.__all__)
    if isinstance(thing, type)
    and hasattr(thing, "advantages")
    and not getattr(thing, "_is_protocol", False)
]
every_estimator = pytest.mark.parametrize("name", PUBLIC)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def advantages(name: str, rewards: Any, side: Any = 0.7, c: float = 1.0, a: float = 0.0) -> Any:
    """Apply the estimator `name`, fitted to rewards c·Z + a, with the side information it reads."""
    contract = CONTRACTS[name]
    known = {contract.reads: side} if contract.reads else {}
    return contract.make(c, a).advantages(rewards, SideInformation(**known))


def grouped_gradient(name: str, scores: Any, rewards: Any, side: Any = 0.7) -> Any:
    contract = CONTRACTS[name]
    known = {contract.reads: side} if contract.reads else {}
    return gradient(contract.make(1, 0), scores, rewards, SideInformation(**known))


def naive_advantages(name: str, group: np.ndarray, side: float) -> list[float]:
    """A_i of one group by explicit loops; NaN rewards are left out."""
    result = []
    for i, own in enumerate(group):
        others = [z for j, z in enumerate(group) if j != i and not np.isnan(z)]
        baseline = CONTRACTS[name].baseline(own, others, side)
        result.append(0.0 if np.isnan(own) else own - baseline)
    return result


def rewards_with_gaps(rng: np.random.Generator) -> np.ndarray:
    """Two by three groups of 5: complete, with one, two, three, four and five rewards missing."""
    rewards = rng.normal(size=(2, 3, 5))
    for missing, group in enumerate(np.ndindex(2, 3)):
        rewards[group][rng.permutation(5)[:missing]] = np.nan
    return rewards


def test_every_public_estimator_has_a_contract():
    assert PUBLIC
    assert sorted(CONTRACTS) == sorted(PUBLIC)


@every_estimator
def test_advantages_against_loops(name, rng):
    """Would catch: a mean over G instead of G - 1, a NaN that counts as a 0, groups mixed up."""
    rewards, side = rewards_with_gaps(rng), rng.normal(size=(2, 3))
    expected = [
        [naive_advantages(name, rewards[i, j], side[i, j]) for j in range(3)] for i in range(2)
    ]
    np.testing.assert_allclose(advantages(name, rewards, side), expected, rtol=0, atol=1e-12)


@every_estimator
def test_gradient_against_loops(name, rng):
    """Would catch: dividing by G when outputs are unscorable, scores of a neighbour."""
    rewards, side = rewards_with_gaps(rng), rng.normal(size=(2, 3))
    scores = rng.normal(size=(2, 3, 5, 4))
    expected = np.zeros((2, 3, 4))
    for group in np.ndindex(2, 3):
        scorable = max(1, int(np.sum(~np.isnan(rewards[group]))))
        for i, advantage in enumerate(naive_advantages(name, rewards[group], side[group])):
            expected[group] += advantage * scores[group][i] / scorable
    ours = grouped_gradient(name, scores, rewards, side)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


@every_estimator
@every_dtype
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 1, 3, 4), (0, 4)])
def test_shape_and_dtype_are_kept(name, dtype, shape, rng):
    rewards = rng.normal(size=shape).astype(dtype)
    side = rng.normal(size=shape[:-1])  # of type float64: must not widen the result
    scores = np.ones((*shape, 2), dtype)
    for convert in (np.asarray, torch.as_tensor):
        arrays = convert(rewards), convert(scores)
        ours = advantages(name, arrays[0], convert(side))
        assert type(ours) is type(arrays[0])
        assert (tuple(ours.shape), ours.dtype) == (shape, arrays[0].dtype)
        estimate = grouped_gradient(name, arrays[1], arrays[0], convert(side))
        assert (tuple(estimate.shape), estimate.dtype) == ((*shape[:-1], 2), arrays[1].dtype)


@every_estimator
def test_result_lives_on_the_device_of_the_rewards(name):
    """`meta` is a second device that every machine has; side information may come from another."""
    ours = advantages(name, torch.empty((3, 4), device="meta"), torch.ones(3))
    assert ours.device.type == "meta"
    assert tuple(ours.shape) == (3, 4)


@every_estimator
@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int64])
def test_counts_and_booleans_become_floating(name, dtype, rng):
    """Would catch: integer division, an unsigned difference that wraps to 255."""
    rewards, side = rng.integers(0, 2, size=(3, 4)).astype(dtype), rng.normal(size=3)
    expected = advantages(name, rewards.astype(float), side)
    ours = advantages(name, rewards, side)
    assert ours.dtype == np.float64
    np.testing.assert_array_equal(ours, expected)
    tensor = advantages(name, torch.as_tensor(rewards), torch.as_tensor(side))
    assert tensor.dtype == torch.get_default_dtype()
    np.testing.assert_allclose(tensor, expected, rtol=0, atol=1e-6)


@every_estimator
def test_numpy_and_torch_agree(name, rng):
    rewards, side = rewards_with_gaps(rng), rng.normal(size=(2, 3))
    scores = rng.normal(size=(2, 3, 5, 4))
    tensors = [torch.as_tensor(array) for array in (scores, rewards, side)]
    for ours, theirs in [
        (advantages(name, rewards, side), advantages(name, *tensors[1:])),
        (grouped_gradient(name, scores, rewards, side), grouped_gradient(name, *tensors)),
    ]:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@every_estimator
def test_a_batch_is_a_loop_over_groups(name, rng):
    """Would catch: a mean over the batch, side information of the wrong prompt."""
    rewards, side = rewards_with_gaps(rng), rng.normal(size=(2, 3))
    scores = rng.normal(size=(2, 3, 5, 4))
    batch = advantages(name, rewards, side)
    gradients = grouped_gradient(name, scores, rewards, side)
    for group in np.ndindex(2, 3):
        alone = advantages(name, rewards[group], side[group])
        np.testing.assert_allclose(batch[group], alone, rtol=0, atol=1e-14)
        alone = grouped_gradient(name, scores[group], rewards[group], side[group])
        np.testing.assert_allclose(gradients[group], alone, rtol=0, atol=1e-14)


GROUPS = st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=7).map(np.array)


@every_estimator
@given(group=GROUPS, random=st.randoms(use_true_random=False))
def test_outputs_of_a_group_are_exchangeable(name, group, random):
    """Would catch: a baseline from the previous output, or from the first of the group."""
    order = list(range(len(group)))
    random.shuffle(order)
    ours, moved = advantages(name, group), advantages(name, group[order])
    np.testing.assert_allclose(moved, ours[order], rtol=0, atol=1e-12)


@every_estimator
@given(group=GROUPS, c=st.floats(0.1, 10))
def test_advantages_scale_with_the_unit_of_reward(name, group, c):
    """Would catch: a constant in other units than rewards, such as an epsilon."""
    scaled = advantages(name, c * group, c * 0.7, c=c)
    np.testing.assert_allclose(scaled, c * advantages(name, group), rtol=0, atol=1e-11)


@every_estimator
@given(group=GROUPS, a=st.floats(-10, 10))
def test_shift_of_the_rewards(name, group, a):
    """A baseline takes the shift away; without one it stays, and both must be so."""
    left = 0.0 if CONTRACTS[name].shift_invariant else a
    shifted = advantages(name, group + a, 0.7 + a, a=a)
    np.testing.assert_allclose(shifted, advantages(name, group) + left, rtol=0, atol=1e-11)


@every_estimator
def test_unscorable_outputs_are_left_out(name, rng):
    """Would catch: a NaN in the mean, an advantage for it, an average over G instead of 3."""
    rewards, scores = np.array([1.0, NAN, 0.25, NAN, -2.0]), rng.normal(size=(5, 3))
    scored = ~np.isnan(rewards)
    ours = advantages(name, rewards)
    np.testing.assert_allclose(ours[scored], advantages(name, rewards[scored]), rtol=0, atol=1e-14)
    np.testing.assert_array_equal(ours[~scored], 0)
    np.testing.assert_allclose(
        grouped_gradient(name, scores, rewards),
        grouped_gradient(name, scores[scored], rewards[scored]),
        rtol=0,
        atol=1e-14,
    )


@every_estimator
def test_group_without_scorable_output_gives_zero(name):
    rewards = np.full((2, 3), NAN)
    np.testing.assert_array_equal(advantages(name, rewards), np.zeros((2, 3)))
    ours = grouped_gradient(name, np.ones((2, 3, 4)), rewards)
    np.testing.assert_array_equal(ours, np.zeros((2, 4)))


@pytest.mark.parametrize("estimator", [Grpo(), GroupMean(), Shrinkage(0.0)])
def test_single_scorable_output_has_nothing_to_compare_with(estimator):
    """Would catch: a mean of no other output that is taken as 0, which gives advantage 3."""
    rewards = np.array([NAN, 3.0, NAN])
    np.testing.assert_array_equal(estimator.advantages(rewards), np.zeros(3))
    np.testing.assert_array_equal(gradient(estimator, np.ones((3, 2)), rewards), np.zeros(2))


@every_estimator
@pytest.mark.parametrize("group_size", [2, 3])
def test_mean_gradient_over_every_group(name, group_size, rng):
    """Sums over all 6^G groups: E ĝ = g(x), times 1 - 1/G for the mean that includes the output.

    Would catch: the factor G/(G - 1) of the two group means confused, any dependent baseline.
    """
    problem = random_snapshot(rng, 1, 3, reward_levels=(-0.5, 2.0), dimension=2)
    cells = list(itertools.product(range(3), range(2)))
    mean = np.zeros(2)
    for group in itertools.product(cells, repeat=group_size):
        prob = np.prod(
            [problem.action_probs[0, y] * problem.reward_probs[0, y, z] for y, z in group]
        )
        scores = np.array([problem.dense_scores()[0, y] for y, _ in group])
        rewards = problem.reward_levels[[z for _, z in group]]
        mean += prob * grouped_gradient(name, scores, rewards)
    expected = CONTRACTS[name].mean_factor(group_size) * problem.gradient
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-12)


@every_estimator
def test_arguments_are_not_modified(name, rng):
    """Would catch: `rewards -= baseline`, and vanilla handing out its own input."""
    arrays = rng.normal(size=(2, 5, 3)), rewards_with_gaps(rng)[0, :2], rng.normal(size=2)
    for convert in (np.array, torch.tensor):
        scores, rewards, side = (convert(array) for array in arrays)
        advantages(name, rewards, side)[...] = 17.0
        grouped_gradient(name, scores, rewards, side)[...] = 17.0
        for after, before in zip((scores, rewards, side), arrays, strict=True):
            np.testing.assert_array_equal(after, before)


@every_estimator
def test_derivative_with_respect_to_scores(name, rng):
    """ĝ is linear in the scores with weights A_i/G, and torch can see it."""
    rewards, side = (torch.as_tensor(rng.normal(size=shape)) for shape in [(3, 4), 3])
    scores = torch.as_tensor(rng.normal(size=(3, 4, 2))).requires_grad_()
    ours = advantages(name, rewards, side)
    assert not ours.requires_grad
    grouped_gradient(name, scores, rewards, side)[:, 0].sum().backward()
    np.testing.assert_allclose(scores.grad[..., 0], ours / 4, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(scores.grad[..., 1], np.zeros((3, 4)))


@every_estimator
def test_estimators_are_frozen_values(name):
    make = CONTRACTS[name].make
    estimator = make(1, 0)
    assert estimator == make(1, 0)
    assert hash(estimator) == hash(make(1, 0))
    assert eval(repr(estimator), vars(ustat_grpo)) == estimator
    assert estimator not in [CONTRACTS[other].make(1, 0) for other in PUBLIC if other != name]
    fields = dataclasses.fields(estimator)
    assert (make(1, 5) == estimator) == (not fields)  # constants tell estimators apart
    for field in [field.name for field in fields] or ["anything"]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(estimator, field, 0.5)


def test_grpo_gradient_is_the_sample_covariance(rng):
    """Lemma 1. Would catch: ddof 0 for ddof 1, the factor 2 of the kernel."""
    scores, rewards = rng.normal(size=(5, 6, 3)), rng.normal(size=(5, 6))
    for ours, w, z in zip(gradient(Grpo(), scores, rewards), scores, rewards, strict=True):
        expected = np.cov(w.T, z, ddof=1)[:-1, -1]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_one_estimator_as_another(rng):
    """GroupMean = (1 - 1/G) Grpo; the ends of Shrinkage; an oracle that knows 0 is vanilla."""
    rewards = rng.normal(size=(5, 6))
    for left, right in [
        (GroupMean().advantages(rewards), (1 - 1 / 6) * Grpo().advantages(rewards)),
        (Shrinkage(0.0, 9.0).advantages(rewards), Grpo().advantages(rewards)),
        (Shrinkage(1.0, 0.3).advantages(rewards), ConstantBaseline(0.3).advantages(rewards)),
        (Oracle().advantages(rewards, SideInformation(0.0)), Vanilla().advantages(rewards)),
        (
            Oracle().advantages(rewards, SideInformation(np.ones(5))),
            OptimalBaseline().advantages(rewards, SideInformation(optimal_baseline=np.ones(5))),
        ),
    ]:
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-12)


@every_estimator
@pytest.mark.parametrize("group_size", [0, 1])
def test_least_group_size(name, group_size):
    """One output is enough for a baseline that needs no other, and for no other baseline."""
    if CONTRACTS[name].leave_one_out:
        with pytest.raises(ValueError, match=LEAST_SIZE.format(group_size)):
            advantages(name, np.ones((3, group_size)))
    else:
        expected = 1.0 - CONTRACTS[name].baseline(1.0, [], 0.7)
        ours = advantages(name, np.ones((3, group_size)))
        np.testing.assert_allclose(ours, np.full((3, group_size), expected), rtol=1e-15)


@every_estimator
def test_side_information(name):
    """It is asked for by name, must fit the prompts, and is ignored by whom it does not concern."""
    contract, rewards = CONTRACTS[name], np.arange(6.0).reshape(2, 3)
    estimator, reads = contract.make(1, 0), contract.reads
    others = {"value": 8.0, "optimal_baseline": 9.0}
    if reads is None:
        ours = estimator.advantages(rewards, SideInformation(**others))
        np.testing.assert_array_equal(ours, estimator.advantages(rewards))
        return
    del others[reads]
    message = rf"^{reads} must be given for the {name} estimator, got None$"
    with pytest.raises(ValueError, match=message):
        estimator.advantages(rewards, SideInformation(**others))
    with pytest.raises(ValueError, match=message):
        gradient(estimator, np.ones((2, 3, 1)), rewards, SideInformation(**others))
    for shape in [(3,), (2, 3), (2, 1), (1,)]:
        with pytest.raises(ValueError) as error:
            estimator.advantages(rewards, SideInformation(**{reads: np.ones(shape)}))
        assert str(error.value) == (
            f"{reads} must have the shape of rewards without its last axis, (2,), got {shape}"
        )


@every_estimator
@pytest.mark.parametrize("shape", [(3, 2, 4), (2, 4, 4), (2, 3), (3, 4)])
def test_scores_must_match_rewards(name, shape):
    with pytest.raises(ValueError) as error:
        grouped_gradient(name, np.ones(shape), np.ones((2, 3)))
    assert str(error.value) == (
        "scores must have the shape of rewards plus one axis, "
        f"got scores {shape} and rewards (2, 3)"
    )


@pytest.mark.parametrize("weight", [-0.01, 1.01, NAN, float("inf")])
def test_shrinkage_weight_outside_the_unit_interval(weight):
    with pytest.raises(ValueError, match=rf"^weight must lie in \[0, 1\], got {weight!r}$"):
        Shrinkage(weight)


def test_integer_scores_give_the_gradient_of_floating_ones():
    scores, rewards = np.array([[1], [0], [-1]]), np.array([1.0, 0.0, 0.0])
    expected = gradient(Grpo(), scores.astype(float), rewards)
    np.testing.assert_allclose(gradient(Grpo(), scores, rewards), expected)


@pytest.mark.parametrize(
    "estimator",
    [ConstantBaseline(np.float64(0.3)), Shrinkage(np.float64(0.4)), Shrinkage(0.4, np.float64(1))],
)
def test_numpy_constants_do_not_widen_the_result(estimator):
    assert estimator.advantages(np.ones(3, np.float32)).dtype == np.float32


def test_oracle_takes_the_value_of_a_critic_in_training():
    value = torch.full((2,), 0.5, requires_grad=True)
    ours = Oracle().advantages(torch.ones((2, 3)), SideInformation(value))
    np.testing.assert_array_equal(ours.detach(), np.full((2, 3), 0.5))


def test_output_without_reward_needs_no_score():
    scores, rewards = np.array([[1.0], [NAN], [0.0]]), np.array([1.0, NAN, 0.0])
    np.testing.assert_array_equal(gradient(Grpo(), scores, rewards), [0.5])
