"""What estimators make of their arguments, and a few identities between them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import ustat_grpo
from support.estimator_contracts import (
    CONTRACTS,
    DTYPES,
    PER_OUTPUT,
    PUBLIC,
    advantages,
    by_formula,
    grouped_gradient,
    rewards_with_gaps,
    side_of,
    suited,
    weights_of,
)
from ustat_grpo import (
    ConstantBaseline,
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
every_estimator = pytest.mark.parametrize("name", PUBLIC)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.mark.parametrize("estimator", [Grpo(), GroupMean(), Shrinkage(0.0)])
def test_single_scorable_output_has_nothing_to_compare_with(estimator):
    """Would catch: a mean of no other output that is taken as 0, which gives advantage 3."""
    rewards = np.array([NAN, 3.0, NAN])
    np.testing.assert_array_equal(estimator.advantages(rewards), np.zeros(3))
    np.testing.assert_array_equal(gradient(estimator, np.ones((3, 2)), rewards), np.zeros(2))


@every_estimator
def test_arguments_are_not_modified(name, rng):
    """Would catch: `rewards -= baseline`, and vanilla handing out its own input."""
    arrays = rng.normal(size=(2, 5, 3)), rewards_with_gaps(name, rng)[0, :2], rng.normal(size=2)
    for convert in (np.array, torch.tensor):
        scores, rewards, side = (convert(array) for array in arrays)
        advantages(name, rewards, side)[...] = 17.0
        grouped_gradient(name, scores, rewards, side)[...] = 17.0
        for after, before in zip((scores, rewards, side), arrays, strict=True):
            np.testing.assert_array_equal(after, before)


@every_estimator
def test_derivative_with_respect_to_scores(name, rng):
    """ĝ is linear in the scores with weights A_i/G, and torch can see it."""
    rewards = torch.as_tensor(suited(name, rng.normal(size=(3, 4))))
    side = torch.as_tensor(rng.normal(size=3))
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
    fixed = not fields or name in ("PassAtK", "HitScaled")  # whose constants have no unit
    assert (make(2, 5) == estimator) == fixed  # constants tell estimators apart
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
    rewards = np.ones((3, group_size))
    if group_size in CONTRACTS[name].refuses:
        with pytest.raises(ValueError, match=LEAST_SIZE.format(group_size)):
            advantages(name, rewards)
    else:
        expected = by_formula(name, rewards, np.full(3, 0.7))
        np.testing.assert_allclose(advantages(name, rewards, np.full(3, 0.7)), expected, rtol=1e-15)


@every_estimator
def test_side_information(name):
    """It is asked for by name, must fit the prompts, and is ignored by whom it does not concern."""
    contract, rewards = CONTRACTS[name], suited(name, np.arange(-2.0, 4.0).reshape(2, 3))
    estimator, reads = contract.make(1, 0), contract.reads
    others = {"value": 8.0, "optimal_baseline": 9.0, "prediction": 7.0, "greedy_reward": 6.0}
    others |= {"score_norm_squared": weights_of(rewards), "lengths": weights_of(rewards) ** 2}
    if reads is None or contract.optional:
        others.pop(reads, None)
        ours = estimator.advantages(rewards, SideInformation(**others))
        np.testing.assert_array_equal(ours, estimator.advantages(rewards))
    if reads is None:
        return
    others.pop(reads, None)
    message = rf"^{reads} must be given for the {name} estimator, got None$"
    if not contract.optional:
        with pytest.raises(ValueError, match=message):
            estimator.advantages(rewards, SideInformation(**others))
    if not contract.optional and reads != "score_norm_squared":  # which scores stand in for
        with pytest.raises(ValueError, match=message):
            gradient(estimator, np.ones((2, 3, 1)), rewards, SideInformation(**others))
    expected = "without its last axis, (2,)"
    shapes = [(3,), (2, 3), (2, 1), (1,)]
    if reads in PER_OUTPUT:
        expected, shapes = "(2, 3)", [(3,), (2,), (2, 1), (3, 2), ()]
    for shape in shapes:
        with pytest.raises(ValueError) as error:
            estimator.advantages(rewards, SideInformation(**{reads: np.ones(shape)}))
        joined = f"{reads} must have the shape of rewards, {expected}, got {shape}"
        assert str(error.value) == joined.replace("rewards, without", "rewards without")


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


@pytest.mark.parametrize("name", ["Oracle", "OptimalBaseline", "GreedyBaseline", "Critic"])
def test_gradients_flow_through_what_is_known(name):
    """A critic learns from its advantages: ∂A_i/∂V̂ = −1. Would catch: a detached baseline."""
    known = torch.tensor([0.5, 0.25], requires_grad=True)
    rewards = torch.ones((2, 3))
    ours = CONTRACTS[name].make(1, 0).advantages(rewards, side_of(name, rewards, known))
    np.testing.assert_array_equal(ours.detach(), [[0.5] * 3, [0.75] * 3])
    ours.sum().backward()
    np.testing.assert_array_equal(known.grad, [-3.0, -3.0])


def test_output_without_reward_needs_no_score():
    scores, rewards = np.array([[1.0], [NAN], [0.0]]), np.array([1.0, NAN, 0.0])
    np.testing.assert_array_equal(gradient(Grpo(), scores, rewards), [0.5])
