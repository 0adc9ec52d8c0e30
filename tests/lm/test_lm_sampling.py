"""Sampling of groups, and the log-probabilities and scores of what was sampled."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
from ustat_grpo.lm.sampling import _draw
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


def groups(model, size: int, max_tokens: int = 3, seed: int = 0) -> Rollouts:
    rng = torch.Generator().manual_seed(seed)
    return sample_groups(model, PROMPTS, size, max_tokens=max_tokens, rng=rng)


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
        lambda *given, **last: seen.append(tuple(given[1].shape)) or forward(*given, **last),
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


def test_sampled_log_probs_are_those_of_scoring():
    model = tiny()
    rollouts = groups(model, 12)
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


@pytest.mark.parametrize(
    "max_tokens",
    [pytest.param(2, marks=pytest.mark.slow), 3],  # outputs of three tokens begin with two
)
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
        Transformer,
        "forward",
        lambda *given, **last: asked.append(len(given[1])) or forward(*given, **last),
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
    ],
)
def test_bad_sampling_is_refused(change, message):
    given = {"group_size": 2, "max_tokens": 2, **change}
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


@pytest.mark.parametrize("rng", [None, 0, np.random.default_rng(0)])
def test_generators_of_another_kind_are_refused(rng):
    with pytest.raises(TypeError, match=r"rng must be a torch\.Generator"):
        sample_groups(tiny(), PROMPTS, 2, max_tokens=2, rng=rng)


@pytest.mark.parametrize("count", [2, 4])
def test_outputs_must_be_one_a_prompt(count):
    with pytest.raises(ValueError, match=f"prompts has 3, outputs has {count}"):
        Answers.of(PROMPTS, [torch.tensor([END])] * count)


def test_sampling_from_no_prompt_is_refused():
    with pytest.raises(ValueError, match="num_outputs must be an integer of at least 1, got 0"):
        sample_groups(tiny(), PROMPTS[:0], 2, max_tokens=2, rng=torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("vocabulary", [1, 2, 5, 64, 1000])
def test_tokens_are_drawn_as_by_a_search_in_a_copy_of_each_row(vocabulary, dtype):
    """Impossible tokens at either end, numbers that are a value of the distribution function."""
    rng = torch.Generator().manual_seed(vocabulary)
    logits = 5 * torch.randn(7, vocabulary, generator=rng, dtype=dtype)
    logits[torch.rand(logits.shape, generator=rng) < 0.3] = -torch.inf
    logits[torch.arange(7), torch.arange(7) % vocabulary] = 1.0
    steps = logits.log_softmax(dim=-1)
    row = torch.randint(7, (3000,), generator=rng)
    numbers = torch.rand(3000, generator=rng, dtype=torch.float64)
    cumulative = steps.double().exp().cumsum(dim=-1)
    numbers[0], numbers[1] = 0.0, 1 - 2**-53
    numbers[2:50] = cumulative[row[2:50], 0].clamp(max=1 - 2**-53)
    expected = torch.searchsorted(
        cumulative[row], (numbers * cumulative[row, -1])[:, None], right=True
    ).squeeze(-1)
    before = steps.clone()
    assert torch.equal(_draw(steps, row, numbers), expected)
    assert torch.equal(steps, before)
    assert steps[row, expected].isfinite().all()


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that any operation returns."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.numbers = max(self.numbers, found.numel() if isinstance(found, torch.Tensor) else 0)
        return found


def test_drawing_copies_no_vocabulary_for_each_output():
    """256 outputs from one row of 5000 tokens; would catch a copy of the row to each of them."""
    steps, row = torch.zeros(1, 5000).log_softmax(dim=-1), torch.zeros(256, dtype=torch.long)
    with Largest() as largest:
        _draw(steps, row, torch.rand(256, dtype=torch.float64))
    assert largest.numbers == 5000


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("last", [1, 2, 5, 9])
def test_last_logits_are_those_of_all_bit_for_bit(last, tied):
    """Gradients too: which logits are asked for is no reason to round otherwise."""
    model = tiny(tied=tied).float()
    tokens = torch.randint(VOCABULARY, (6, 5), generator=torch.Generator().manual_seed(0))
    real = torch.ones(6, 5, dtype=torch.bool)
    scores = []
    for logits in (model(tokens, real)[0][:, -last:], model(tokens, real, last=last)[0]):
        assert logits.shape == (6, min(last, 5), VOCABULARY)
        score = torch.autograd.grad(logits.log_softmax(-1)[..., 2].sum(), list(model.parameters()))
        scores.append([logits, *score])
    assert all(torch.equal(*each) for each in zip(*scores, strict=True))


@pytest.mark.parametrize("last", [0, -1, 1.0])
def test_a_number_of_last_tokens_must_be_positive(last):
    with pytest.raises(ValueError, match="last must be an integer of at least 1"):
        tiny()(PROMPTS.tokens, PROMPTS.real, last=last)


def test_only_the_logits_that_count_are_asked_for(monkeypatch):
    """Of a prompt those of the last token; of a row without a shared prompt those of its output."""
    asked, forward = [], Transformer.forward
    monkeypatch.setattr(
        Transformer,
        "forward",
        lambda *given, last=None: asked.append(last) or forward(*given, last=last),
    )
    model, answers = tiny(), Answers.of(PROMPTS, [torch.tensor([2, 3, END])] * 3)
    log_probs(model, answers)
    log_probs(model, answers, share_prompts=False)
    groups(model, 1, max_tokens=1)
    assert asked == [1, None, 3, 1]


class Wordy:
    """A model that returns the logits of all tokens whatever it is asked for."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, tokens, real, cache=None, *, last=None):
        return self.model(tokens, real, cache)


def test_more_logits_than_asked_for_do_no_harm():
    model, wordy = tiny(), Wordy(tiny())
    rollouts = groups(wordy, 5)
    assert torch.equal(rollouts.log_probs, groups(model, 5).log_probs)
    answers, _ = distinct(rollouts)
    for share_prompts in (True, False):
        ours, theirs = (log_probs(m, answers, share_prompts=share_prompts) for m in (wordy, model))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("number", [-1, VOCABULARY + 5])
def test_what_stands_outside_the_mask_is_no_token(number, share_prompts):
    """Would catch: an embedding, or a log-probability, of a number that is none of a token."""
    model, (answers, _) = tiny(), distinct(groups(tiny(), 6))
    assert not answers.mask.all()
    other = Answers(
        answers.prompts,
        answers.prompt,
        answers.tokens.masked_fill(~answers.mask, number),
        answers.mask,
    )
    ours, theirs = (log_probs(model, a, share_prompts=share_prompts) for a in (other, answers))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), ()])
def test_weights_must_be_one_a_row(shape):
    """Would catch: rows that drop out because nothing was said about their weight."""
    answers = Answers.of(PROMPTS, [torch.tensor([END])] * 3)
    with pytest.raises(ValueError, match="weights must be one a row, 3 in all, got shape"):
        weighted_score_of(tiny(), answers, torch.ones(shape, dtype=torch.float64))


def test_a_model_without_trained_parameters_has_no_score():
    model = tiny().requires_grad_(False)
    with pytest.raises(ValueError, match="model must have a parameter that requires a gradient"):
        weighted_score(model, groups(model, 2), torch.ones(3, 2, dtype=torch.float64))


def test_nothing_is_no_set_of_answers():
    with pytest.raises(ValueError, match="outputs must hold at least one, got none"):
        Answers.of(PROMPTS[:0], [])
    answers = Answers.of(PROMPTS, [torch.tensor([END])] * 3)
    with pytest.raises(ValueError, match="answers must hold at least one row, got none"):
        merged(answers[:0])


def test_logits_that_are_not_numbers_are_one_sentence():
    """Would catch: a token beyond the vocabulary, and an IndexError wherever it is looked up."""
    for wrong in (torch.nan, torch.inf):
        model = tiny()
        with torch.no_grad():
            model.head.weight[2, 0] = wrong
        with pytest.raises(ValueError, match="logits of the model must be finite or -inf"):
            groups(model, 2)
