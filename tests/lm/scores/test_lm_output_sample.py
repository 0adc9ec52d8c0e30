"""Norms and products of one pass against per-output gradients by autograd."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from support.lm_problems import OUTPUTS, PROMPTS, generator, rollouts_of, tiny
from support.local_models import tiny as random_model
from ustat_grpo.lm import Prompts, Rollouts
from ustat_grpo.lm.models.huggingface import HuggingFaceModel
from ustat_grpo.lm.scores import output_sample as module
from ustat_grpo.lm.scores.output_sample import measured_outputs
from ustat_grpo.lm.scoring import answers_of, log_probs
from ustat_grpo.noise import OutputSample

FIELDS = ("rewards", "score_norms", "gradient_norms", "gradient_products")
NAN = math.nan


def drawn(num_prompts=5, group_size=5, seed=0) -> tuple[Rollouts, torch.Tensor]:
    """Return groups of the thirteen outputs there are, some of them equal, and rewards."""
    rng = np.random.default_rng(seed)
    places = rng.integers(len(OUTPUTS), size=(num_prompts, group_size))
    places[0, 1] = places[0, 0]
    groups = [[OUTPUTS[place] for place in row] for row in places]
    prompts = PROMPTS[torch.arange(num_prompts) % len(PROMPTS)]
    rewards = torch.from_numpy(rng.normal(size=places.shape))
    return rollouts_of(groups, prompts), rewards


def part(rollouts, prompts: slice) -> Rollouts:
    """Return the groups of some of the prompts."""
    fields = (rollouts.prompts, rollouts.outputs, rollouts.mask, rollouts.log_probs)
    return Rollouts(*(field[prompts] for field in fields))


def brute_force(model, rollouts, rewards) -> OutputSample:
    """Return the sample from a backward pass for every output."""
    answers = answers_of(rollouts)
    trained = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for u in range(len(answers)):
        total = log_probs(model, answers[u : u + 1], share_prompts=False).sum()
        gradient = torch.autograd.grad(total, trained, materialize_grads=True)
        rows.append(torch.cat([each.flatten() for each in gradient]).double().numpy())
    scores = np.reshape(rows, (*rewards.shape, -1))
    known = [~np.isnan(each) for each in rewards.numpy()]
    kept = [b for b, each in enumerate(known) if each.sum() >= 3]
    return OutputSample.from_scores(
        [scores[b][known[b]] for b in kept], [rewards.numpy()[b][known[b]] for b in kept]
    )


def assert_same(found: OutputSample, right: OutputSample, tolerance=1e-12) -> None:
    """Assert that two samples agree, relative to the largest number of a field."""
    for name in FIELDS:
        pair = getattr(found, name), getattr(right, name)
        scale = np.abs(pair[1]).max()
        np.testing.assert_allclose(*pair, rtol=0, atol=tolerance * scale, err_msg=name)
    np.testing.assert_array_equal(found.groups.group, right.groups.group)
    np.testing.assert_array_equal(found.partners, right.partners)


@pytest.mark.parametrize("tied", [False, True])
def test_against_autograd(tied):
    model, (rollouts, rewards) = tiny(tied=tied), drawn()
    assert_same(measured_outputs(model, rollouts, rewards), brute_force(model, rollouts, rewards))


@pytest.mark.parametrize("block", [1, 37, 100])
def test_blocks_of_any_size(monkeypatch, block):
    """Would catch: a block that is lost, or tokens of an embedding counted in another block."""
    model, (rollouts, rewards) = tiny(tied=True), drawn()
    right = brute_force(model, rollouts, rewards)
    monkeypatch.setattr(module, "LARGEST_BLOCK", block)
    assert_same(measured_outputs(model, rollouts, rewards), right)


def test_outputs_without_reward_are_left_out():
    """Groups of 5, 4, 3 and 2, of which the last is none; its prompt takes no part in sums."""
    model, (rollouts, rewards) = tiny(tied=True), drawn()
    rewards[1, 2] = NAN
    rewards[2, [0, 4]] = NAN
    rewards[3, [0, 1, 3]] = NAN
    sample = measured_outputs(model, rollouts, rewards)
    assert sample.groups.sizes.tolist() == [5, 4, 3, 5]
    assert_same(sample, brute_force(model, rollouts, rewards))


def test_groups_of_equal_rewards_have_no_gradient():
    """Exactly none, whatever the rounding; all may be so, since other batches may follow."""
    model, (rollouts, rewards) = tiny(), drawn()
    rewards[1] = 0.1
    sample = measured_outputs(model, rollouts, rewards)
    assert sample.gradient_norms[1] == 0 == sample.gradient_products[1]
    assert_same(sample, brute_force(model, rollouts, rewards))
    none = measured_outputs(model, rollouts, torch.full_like(rewards, 0.3))
    assert not none.gradient_norms.any()
    assert not none.gradient_products.any()
    np.testing.assert_array_equal(none.score_norms, sample.score_norms)


@pytest.mark.parametrize(
    ("size", "cuts"), [(2, (0, 2, 5)), (3, (0, 3, 5)), (4, (0, 5)), (9, (0, 5))]
)
def test_passes_are_batches(size, cuts):
    """Would catch: a last prompt alone, and sums over prompts of other passes."""
    model, (rollouts, rewards) = tiny(), drawn()
    parts = [slice(*pair) for pair in pairwise(cuts)]
    each = [measured_outputs(model, part(rollouts, rows), rewards[rows]) for rows in parts]
    found = measured_outputs(model, rollouts, rewards, groups_per_pass=size)
    assert_same(found, OutputSample.joined(each), tolerance=0.0 if len(cuts) == 2 else 1e-12)
    assert found.partners.tolist() == [b - a - 1 for a, b in pairwise(cuts) for _ in range(a, b)]


@pytest.mark.parametrize("tied", [False, True])
def test_qwen2_against_autograd_in_single_precision(tied):
    """Both sides are float32 throughout: roundings of 2⁻²⁴ ≈ 6e-8 through two layers, times 30.

    Products are compared on the scale of the largest one.
    """
    pytest.importorskip("transformers")
    vocabulary = 23
    inner: Any = random_model("qwen2", vocabulary)
    model = HuggingFaceModel(inner, end_token=vocabulary - 1)
    if tied:
        inner.config.tie_word_embeddings = True
        inner.tie_weights()
        assert inner.lm_head.weight is inner.model.embed_tokens.weight
    tokens = torch.randint(vocabulary, (3, 4, 5), generator=generator(1))
    mask = torch.arange(5) < torch.randint(1, 6, (3, 4, 1), generator=generator(2))
    prompts = Prompts.of([[3, 4, 5], [7], [8, 9]], pad_token=0)
    rollouts = Rollouts(prompts, tokens, mask, torch.zeros(tokens.shape))
    rewards = torch.rand(3, 4, generator=generator(3))
    found = measured_outputs(model, rollouts, rewards)
    assert_same(found, brute_force(model, rollouts, rewards.double()), tolerance=2e-6)


def test_half_precision_is_summed_in_single():
    """As near as the model's own rounding, 2⁻⁸ in each of a dozen steps, lets the numbers be."""
    model, (rollouts, rewards) = tiny(), drawn()
    right = measured_outputs(model, rollouts, rewards)
    assert_same(measured_outputs(model.bfloat16(), rollouts, rewards), right, 20 * 2**-8)


def test_parameters_of_several_kinds():
    """Would catch: weights of outputs in the precision of another parameter."""
    model, (rollouts, rewards) = tiny().float(), drawn()
    right = brute_force(model, rollouts, rewards)
    model.head.double()
    model.head.register_forward_pre_hook(lambda module, args: args[0].double())
    assert_same(measured_outputs(model, rollouts, rewards), right, 2e-6)


def test_model_and_gradients_are_left_as_they_were():
    model, (rollouts, rewards) = tiny().train(), drawn()
    frozen, trained, *_ = model.parameters()
    frozen.requires_grad_(False)
    trained.grad = torch.ones_like(trained)
    before, state = trained.detach().clone(), torch.get_rng_state()
    with torch.no_grad():
        found = measured_outputs(model, rollouts, rewards)
    assert_same(found, brute_force(model, rollouts, rewards))
    assert model.training
    assert torch.equal(trained, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert (trained.grad == 1).all()
    assert not frozen.requires_grad
    assert all(p.grad is None for p in model.parameters() if p is not trained)
    assert all(not m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": torch.zeros(5, 4)}, r"rewards must have the shape \(5, 5\) of the groups"),
        ({"rewards": torch.full((5, 5), math.inf)}, "rewards must be finite, or NaN to leave"),
        (
            {"rewards": torch.tensor([[0.0, NAN, NAN, 1, 2]] + 4 * [[NAN, 1, NAN, NAN, 0]])},
            "at least 2 prompts with 3 outputs that have one, got 1 of 5 prompts",
        ),
        ({"groups_per_pass": 1}, "groups_per_pass must be an integer of at least 2, got 1"),
    ],
)
def test_errors(change, message):
    rollouts, rewards = drawn()
    with pytest.raises(ValueError, match=message):
        measured_outputs(tiny(), rollouts, **{"rewards": rewards} | change)


def test_a_model_without_trained_parameters_is_refused():
    with pytest.raises(ValueError, match="must have a parameter that requires a gradient"):
        measured_outputs(tiny().requires_grad_(False), *drawn())


def test_weights_of_another_size_are_wrong(monkeypatch):
    """The mutant that subtracts the mean of all rewards, the own one included: (M − 1)/M of it."""
    model, (rollouts, rewards) = tiny(), drawn()
    right = brute_force(model, rollouts, rewards)
    whole = module._gathered

    def shrunk(prompt, weights):
        live, members, shares = whole(prompt, weights)
        return live, members, shares * 4 / 5

    monkeypatch.setattr(module, "_gathered", shrunk)
    found = measured_outputs(model, rollouts, rewards)
    np.testing.assert_allclose(found.gradient_norms, right.gradient_norms * 16 / 25, rtol=1e-12)
    with pytest.raises(AssertionError):
        assert_same(found, right)
