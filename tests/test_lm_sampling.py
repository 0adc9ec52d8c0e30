"""Sampling of groups, and the log-probabilities and scores of what was sampled."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch

from ustat_grpo.lm import (
    Answers,
    Prompts,
    Rollouts,
    Transformer,
    TransformerShape,
    log_probs,
    sample_groups,
    weighted_score,
)
from ustat_grpo.lm.scoring import distinct, merged, weighted_score_of

VOCABULARY, END = 4, 1
PROMPTS = Prompts.of([[2, 3, 2, 2], [3], [0, 2]], pad_token=0)  # the last begins with a real 0


def tiny(seed: int = 0, **sizes) -> Transformer:
    """A policy in float64 whose distributions are far from uniform."""
    torch.manual_seed(seed)
    shape = {"width": 8, "num_heads": 2, "hidden_width": 16, "context_length": 9, **sizes}
    model = Transformer(TransformerShape(VOCABULARY, **shape)).double()
    with torch.no_grad():
        model.head.weight *= 3
    return model


def plain_log_probs(model, prompt: list[int], output: list[int]) -> torch.Tensor:
    """What the definition says: one sequence at a time, no padding, no cache."""
    tokens = torch.tensor([prompt + output])
    logits, _ = model(tokens, torch.ones_like(tokens, dtype=torch.bool))
    steps = logits[0].log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return steps.gather(-1, torch.tensor(output)[:, None]).squeeze(-1)


def prompt_of(row: int) -> list[int]:
    return PROMPTS.tokens[row][PROMPTS.real[row]].tolist()


def all_outputs(max_tokens: int) -> list[tuple[int, ...]]:
    """Every output there is: it ends with the end token, or has the full length without one."""
    others = [token for token in range(VOCABULARY) if token != END]
    ended = [
        (*before, END) for size in range(max_tokens) for before in product(others, repeat=size)
    ]
    return ended + list(product(others, repeat=max_tokens))


def groups(model, size: int, max_tokens: int = 3, seed: int = 0, **options) -> Rollouts:
    rng = torch.Generator().manual_seed(seed)
    return sample_groups(model, PROMPTS, size, max_tokens=max_tokens, rng=rng, **options)


def as_lists(rollouts: Rollouts) -> list[list[tuple[int, ...]]]:
    return [
        [tuple(output[real].tolist()) for output, real in zip(*group, strict=True)]
        for group in zip(rollouts.outputs, rollouts.mask, strict=True)
    ]


@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_log_probs_are_those_of_one_sequence_at_a_time(share_prompts, tied):
    """Would see padding that is attended to, a position or a token off by one, a stale cache."""
    model = tiny(tied=tied)
    outputs = [[END], [2, 0, 0, 3], [0, END], [3, 3, END], [2]]
    rows = torch.tensor([0, 2, 1, 0, 2])
    answers = Answers.of(PROMPTS[rows], [torch.tensor(each) for each in outputs], pad_token=2)
    found = log_probs(model, answers, share_prompts=share_prompts)
    for row, output, ours in zip(rows.tolist(), outputs, found, strict=True):
        expected = plain_log_probs(model, prompt_of(row), output)
        torch.testing.assert_close(ours[: len(output)], expected, rtol=0, atol=1e-12)
        assert not ours[len(output) :].any()


def test_probabilities_of_all_outputs_sum_to_one():
    outputs = all_outputs(3)
    prompts = PROMPTS[torch.ones(len(outputs), dtype=torch.long)]
    answers = Answers.of(prompts, [torch.tensor(each) for each in outputs])
    assert len(outputs) == 1 + 3 + 9 + 27
    total = log_probs(tiny(), answers).sum(dim=-1).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [0, 1, 3])
def test_more_padding_on_the_left_changes_nothing(length):
    """The last prompt begins with a real token 0, which is also the padding."""
    model, rollouts = tiny(), groups(tiny(), 3, max_tokens=2)
    answers, _ = distinct(rollouts)
    padded = Prompts(
        torch.nn.functional.pad(PROMPTS.tokens, (length, 0), value=3),
        torch.nn.functional.pad(PROMPTS.real, (length, 0), value=False),
    )
    ours = log_probs(model, Answers(padded, answers.prompt, answers.tokens, answers.mask))
    torch.testing.assert_close(ours, log_probs(model, answers), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows_per_pass", [None, 1, 7])
def test_weighted_score_is_autograd_over_all_rows(rows_per_pass):
    """Σ w ∇log π with every output its own sequence; a third of the weights are zero."""
    model, rollouts = tiny(), groups(tiny(), 20)
    weights = torch.randn(3, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights[:, ::3] = 0
    objective = sum(
        weights[row, place] * plain_log_probs(model, prompt_of(row), list(output)).sum()
        for row, group in enumerate(as_lists(rollouts))
        for place, output in enumerate(group)
    )
    expected = torch.autograd.grad(objective, list(model.parameters()))
    found = weighted_score(model, rollouts, weights, rows_per_pass=rows_per_pass)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_score_of_nothing_is_zero_and_costs_no_pass(monkeypatch):
    model, rollouts = tiny(), groups(tiny(), 4)
    monkeypatch.setattr(Transformer, "forward", None)
    found = weighted_score(model, rollouts, torch.zeros(3, 4, dtype=torch.float64))
    assert [each.shape for each in found] == [each.shape for each in model.parameters()]
    assert not any(each.any() for each in found)


def test_prompts_without_weight_are_not_read(monkeypatch):
    """The pass is over the one prompt and the two distinct outputs that count."""
    model, seen, forward = tiny(), [], Transformer.forward
    answers = Answers.of(PROMPTS, [torch.tensor(each) for each in ([2, END], [3, 3, END], [END])])
    monkeypatch.setattr(
        Transformer,
        "forward",
        lambda *given: seen.append(tuple(given[1].shape)) or forward(*given),
    )
    weights = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    weighted_score_of(model, answers, weights)
    assert seen == [(1, 4), (1, 1)]  # one prompt, and what comes before the output's last token


def test_frozen_parameters_have_no_score():
    model = tiny()
    model.tokens.weight.requires_grad_(False)
    found = weighted_score(model, groups(model, 2), torch.ones(3, 2, dtype=torch.float64))
    assert len(found) == len(list(model.parameters())) - 1


def test_scores_have_mean_zero_and_gradient_is_that_of_the_objective():
    """Enumeration: Σ_y π(y∣x) ∇log π(y∣x) = 0, and with rewards it is ∇ Σ_y π(y∣x) z(y)."""
    model, outputs = tiny(), all_outputs(2)
    prompts = PROMPTS[torch.zeros(len(outputs), dtype=torch.long)]
    answers = Answers.of(prompts, [torch.tensor(each) for each in outputs])
    probs = log_probs(model, answers).sum(dim=-1).exp()
    rewards = torch.arange(len(outputs)).double().sin()
    expected = torch.autograd.grad((probs * rewards).sum(), list(model.parameters()))
    for found in weighted_score_of(model, answers, probs.detach()):
        torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-12)
    found = weighted_score_of(model, answers, probs.detach() * rewards)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("most", [3, 2**20, 2**40])
def test_distinct_outputs_are_those_of_a_set(rng, most):
    """2⁴⁰ to the fifth does not fit 64 bits. What stands outside the mask does not count."""
    tokens = torch.as_tensor(rng.choice([0, 1, most - 1], size=(4, 30, 5)))
    mask = torch.arange(5) < torch.as_tensor(rng.integers(1, 6, size=(4, 30, 1)))
    rollouts = Rollouts(Prompts(tokens[:, 0], mask[:, 0]), tokens, mask, mask.double())
    answers, place = distinct(rollouts)
    groups_of = list(enumerate(as_lists(rollouts)))
    wanted = sorted({(row, *output) for row, group in groups_of for output in group})
    kept = zip(answers.prompt.tolist(), answers.tokens, answers.mask, strict=True)
    rows = [(row, *output[real].tolist()) for row, output, real in kept]
    assert rows == wanted
    for row, group in groups_of:
        assert [rows[at] for at in place[row].tolist()] == [(row, *output) for output in group]
    assert len(merged(answers)[0]) == len(answers)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
def test_sampled_log_probs_are_those_at_the_temperature(temperature):
    model = tiny()
    rollouts = groups(model, 12, temperature=temperature)
    with torch.no_grad():
        model.head.weight /= temperature
    answers, place = distinct(rollouts)
    expected = log_probs(model, answers)[place]
    torch.testing.assert_close(rollouts.log_probs, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(rollouts.sequence_log_probs(), expected.sum(dim=-1))


def chi_squared_z(counts: np.ndarray, probs: np.ndarray) -> float:
    """Standardised chi-squared of counts, rare outputs taken together."""
    expected = counts.sum() * probs
    common = expected >= 5
    seen = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    freedom = len(seen) - 1
    return float((((seen - wanted) ** 2 / wanted).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("max_tokens", [2, 3])
def test_outputs_come_with_their_probabilities(max_tokens):
    """Would see a temperature of 1.05 for 1, which changes no probability by more than 0.03."""
    model, size = tiny(), 40_000
    sampled, outputs = as_lists(groups(model, size, max_tokens)), all_outputs(max_tokens)
    warm = tiny()
    with torch.no_grad():
        warm.head.weight /= 1.05
    seen = [[], []]
    for row, group in enumerate(sampled):
        times = Counter(group)
        counts = np.array([times[output] for output in outputs])
        assert counts.sum() == size  # nothing else was sampled
        for values, policy in zip(seen, (model, warm), strict=True):
            each = [plain_log_probs(policy, prompt_of(row), list(y)).sum() for y in outputs]
            values.append(chi_squared_z(counts, torch.stack(each).exp().detach().numpy()))
    assert np.abs(seen[0]).max() <= 4
    assert np.min(seen[1]) > 4


def test_same_generator_same_outputs():
    ours, again, other = (groups(tiny(), 50, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(ours.outputs, again.outputs)
    assert torch.equal(ours.mask, again.mask)
    assert torch.equal(ours.log_probs, again.log_probs)
    assert not torch.equal(ours.outputs, other.outputs)


def test_how_a_prompt_is_batched_changes_no_output():
    """Output (b, i) is drawn by its own uniform numbers: the first group is that of B = 1, and at
    one prompt a larger group begins with the smaller one."""
    model = tiny()
    all_three = groups(model, 6)
    for size in (6, 3):
        rng = torch.Generator().manual_seed(0)
        alone = sample_groups(model, PROMPTS[:1], size, max_tokens=3, rng=rng)
        assert torch.equal(alone.outputs[0], all_three.outputs[0, :size])


def test_unfinished_outputs_stay_as_they_are():
    rollouts = groups(tiny(), 200)
    ended = ((rollouts.outputs == END) & rollouts.mask).any(dim=-1)
    assert ended.any() and not ended.all()
    assert rollouts.mask[~ended].all()
    last = rollouts.mask.sum(dim=-1) - 1
    ends = rollouts.outputs.gather(-1, last[..., None]).squeeze(-1) == END
    assert torch.equal(ends, ended)  # nothing comes after the end token


def test_model_is_asked_once_for_each_distinct_beginning(monkeypatch):
    model, asked, forward = tiny(), [], Transformer.forward
    monkeypatch.setattr(
        Transformer, "forward", lambda *given: asked.append(len(given[1])) or forward(*given)
    )
    sampled = as_lists(groups(model, 500))
    beginnings = [
        {(row, output[:size]) for row, group in enumerate(sampled) for output in group
         if END not in output[:size]}
        for size in (1, 2)
    ]  # fmt: skip
    assert asked == [3, *map(len, beginnings)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 0}, "group_size must be an integer of at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1, got 0"),
        ({"max_tokens": 6}, "max_tokens must be at most 5: the model's context holds 9 tokens"),
        ({"temperature": 0.0}, "temperature must be a finite number and above 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be a finite number"),
    ],
)
def test_bad_sampling_is_refused(change, message):
    given = {"group_size": 2, "max_tokens": 2, "temperature": 1.0, **change}
    size = given.pop("group_size")
    with pytest.raises(ValueError, match=message):
        sample_groups(tiny(), PROMPTS, size, rng=torch.Generator(), **given)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [([], "prompts must hold at least one"), ([[1], []], "must not be empty, got one at 1")],
)
def test_empty_prompts_are_refused(sequences, message):
    with pytest.raises(ValueError, match=message):
        Prompts.of(sequences, pad_token=0)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 2, 1)])
def test_weights_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"weights must have the shape \(3, 2\) of the groups"):
        weighted_score(tiny(), groups(tiny(), 2), torch.ones(shape, dtype=torch.float64))


def test_outputs_that_outgrow_the_context_are_refused():
    answers = Answers.of(PROMPTS, [torch.full((6,), 2)] * 3)
    with pytest.raises(ValueError, match="the length of outputs must be at most 5"):
        log_probs(tiny(), answers)
