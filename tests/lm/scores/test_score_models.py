"""Norms and products of scores of popular models against autograd, one output at a time.

All is float32; roundings of 2⁻²⁴ ≈ 6e-8 come to 5e-7, of which 5e-6 is ten times.
"""

import pytest
import torch
from torch import nn

from support import local_models
from ustat_grpo.lm import Answers, Prompts, Rollouts, log_probs, measured_outputs
from ustat_grpo.lm.scores import calls as score_calls
from ustat_grpo.lm.scores.products import score_gram, score_norms

pytest.importorskip("transformers", reason="needs the extra llm")

from ustat_grpo.lm.models.huggingface import HuggingFaceModel

VOCABULARY, TOLERANCE = 11, 5e-6


def model_of(kind, **other):
    model = local_models.tiny(kind, VOCABULARY, **other)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases are 0 and norms 1, which would hide what they do
                nn.init.normal_(parameter)
    return HuggingFaceModel(model, end_token=1)


def answers():
    """Rows of unequal length to padded prompts; what is padding is drawn as any token."""
    rng = torch.Generator().manual_seed(2)
    prompts = [torch.randint(VOCABULARY, (2 + 2 * b,), generator=rng).tolist() for b in range(3)]
    tokens = torch.randint(VOCABULARY, (6, 4), generator=rng)
    tokens[0], tokens[1, 1:] = 5, 0
    mask = torch.arange(4) < torch.tensor([4, 4, 3, 1, 2, 3])[:, None]
    return Answers(Prompts.of(prompts, pad_token=0), torch.arange(6) % 3, tokens, mask)


def gram_of(model):
    """All ⟨W_u, W_v⟩, by a backward pass for each row."""
    trained, rows, given = [p for p in model.parameters() if p.requires_grad], [], answers()
    for u in range(len(given)):
        total = log_probs(model, given[u : u + 1], share_prompts=False).sum()
        gradient = torch.autograd.grad(total, trained, materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in gradient]).double())
    return torch.stack(rows) @ torch.stack(rows).mT


def error(found, right):
    return float((found.double() - right).abs().max() / right.abs().max())


def assert_right(model):
    right = gram_of(model)
    assert error(score_norms(model, answers()), right.diagonal()) < TOLERANCE
    assert error(score_norms(model, answers(), rows_per_pass=4), right.diagonal()) < TOLERANCE
    assert error(score_gram(model, answers()), right) < TOLERANCE


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("gpt2", {}),
        ("gemma", {}),
        ("gemma2", {"tie_word_embeddings": False}),
        ("gemma3_text", {}),
        ("opt", {}),
        ("falcon", {}),
        ("mixtral", {}),
        ("mixtral", {"experts_implementation": "eager", "tie_word_embeddings": True}),
        ("qwen2_moe", {}),
        ("qwen3_moe", {}),
    ],
)
def test_popular_models(kind, other):
    """Would catch: a transposed matrix, a factor √d, a table that is tied to the head and scaled,
    tokens that count for another expert or another row."""
    assert_right(model_of(kind, **other))


def test_experts_with_biases_and_turned_matrices():
    """Of GPT-OSS all but the sinks, which are refused."""
    model = model_of("gpt_oss")
    with pytest.raises(
        ValueError, match=r"got model\.model\.layers\.0\.self_attn\.sinks of GptOss"
    ):
        score_norms(model, answers())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("experts" in name or "router" in name)
    assert_right(model)


def test_one_expert_for_all_would_be_wrong(monkeypatch):
    """The mutant that multiplies gradients of different experts with each other."""
    model = model_of("mixtral")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("experts" in name)
    right = score_norms(model, answers())
    whole = score_calls._summands
    monkeypatch.setattr(
        score_calls, "_summands", lambda part, number: whole(part, number - number % 2)
    )
    assert error(score_norms(model, answers()), right.double()) > 0.01


def test_experts_that_do_something_else_are_refused():
    """Would catch: a mixture of a kind of its own, taken for one of those that are known."""
    model = model_of("mixtral")
    experts = model.model.model.layers[1].mlp.experts
    forward = type(experts).forward
    experts.forward = lambda *args: forward(experts, *args) ** 2
    with pytest.raises(
        ValueError, match=r"experts must return .*, got .*layers\.1\.mlp\.experts of"
    ):
        score_norms(model, answers())
    del experts.forward
    experts.gain = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match=r"mlp\.experts\.gain of MixtralExperts"):
        score_norms(model, answers())


def test_half_precision_of_experts_is_as_near_as_it_can_be():
    """Would catch: number formats that do not go together."""
    model = model_of("mixtral")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("experts" in name or "gate" in name)
    half = model.bfloat16()
    norms = score_norms(half, answers())
    assert norms.dtype == torch.float32
    assert error(norms, gram_of(half).diagonal()) < 20 * 2**-8


@pytest.mark.parametrize("kind", ["gemma", "qwen3_moe"])
def test_gradients_of_prompts(kind):
    """‖ĝ_b‖² and ĝ_b·Σ ĝ_c; would catch parameters of several matrices taken for one."""
    model, rng = model_of(kind), torch.Generator().manual_seed(4)
    tokens = torch.randint(VOCABULARY, (3, 4, 3), generator=rng)
    prompts, rewards = answers().prompts, torch.rand(3, 4, generator=rng)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    found = measured_outputs(
        model, Rollouts(prompts, tokens, mask, torch.zeros(tokens.shape)), rewards
    )
    advantages = (rewards - rewards.mean(1, keepdim=True)) / 3  # (Z − mean of the others)/M
    gradients = []
    for b in range(3):
        rows = Answers(prompts, torch.full((4,), b), tokens[b], mask[b])
        objective = (log_probs(model, rows, share_prompts=False).sum(1) * advantages[b]).sum()
        parts = torch.autograd.grad(objective, tuple(model.parameters()))
        gradients.append(torch.cat([part.flatten() for part in parts]).double())
    gradients = torch.stack(gradients)
    right = gradients.square().sum(1)
    assert error(torch.as_tensor(found.gradient_norms), right) < TOLERANCE
    products = gradients @ gradients.sum(0)
    assert error(torch.as_tensor(found.gradient_products), products) < 10 * TOLERANCE
