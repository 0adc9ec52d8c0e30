"""Norms and products of scores against autograd, one output at a time.

Everything is float64 and agrees to 1e-9 of the largest entry, but for Qwen2, which computes in
float32 whatever one asks.
"""

import gc
import itertools
import math
import weakref

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ustat_grpo.lm import Answers, Prompts, Transformer, TransformerShape, log_probs
from ustat_grpo.lm.scores import products, sharing
from ustat_grpo.lm.scores.layers import trained_layers, visit_parts
from ustat_grpo.lm.scores.products import probe_norms, score_gram, score_norms, signed_norms

VOCABULARY = 11


@pytest.fixture(autouse=True)
def _seed(request):
    """Weights and tokens of a test are its own."""
    with torch.random.fork_rng():
        torch.manual_seed(sum(request.node.nodeid.encode()))
        yield


def random_answers(num_rows=6, num_prompts=3, length=4):
    """Rows of unequal length to prompts of unequal length: 0, the padding, is drawn as any token.

    The first row repeats one token, the second ends in padding tokens that are its own.
    """
    prompts = [torch.randint(VOCABULARY, (2 + 2 * b,)).tolist() for b in range(num_prompts)]
    tokens = torch.randint(VOCABULARY, (num_rows, length))
    mask = torch.arange(length) < (1 + torch.arange(num_rows) % length)[:, None]
    tokens[0], mask[0] = 5, True
    tokens[1, 1:], mask[1] = 0, True
    rows = torch.arange(num_rows) % num_prompts
    return Answers(Prompts.of(prompts, pad_token=0), rows, tokens, mask)


def transformer(**shape):
    sizes = {"width": 8, "num_heads": 2, "hidden_width": 12} | shape
    return Transformer(TransformerShape(VOCABULARY, **sizes)).double()


def scores(model, answers):
    """W_u of every row as a matrix, by a backward pass for each."""
    trained = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for u in range(len(answers)):
        total = log_probs(model, answers[u : u + 1], share_prompts=False).sum()
        gradient = torch.autograd.grad(total, trained, materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in gradient]))
    return torch.stack(rows).double()


def error(found, right):
    return float((found - right).abs().max() / right.abs().max())


def assert_right(model, answers, tolerance=1e-9):
    """Assert that norms and products are those of autograd, cross-prompt products included."""
    right = scores(model, answers)
    gram = right @ right.mT
    assert error(score_norms(model, answers).double(), gram.diagonal()) < tolerance
    assert error(score_gram(model, answers).double(), gram) < tolerance


class Scaled(nn.Module):
    """Elementwise as Gemma's norm is: its weight is added to one, its input has a partner."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(0.3 * torch.randn(width))

    def forward(self, stream, gate=None):
        scaled = functional.normalize(stream, dim=-1) * (1 + self.scale)
        return scaled if gate is None else scaled + gate.sin()


class Mixed(nn.Module):
    """One of each: biases, LayerNorm, norms of heads, modules used twice, tied head with a bias."""

    end_token, context_length = 1, 32

    def __init__(self, width=8, padding=None):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width, padding_idx=padding)
        self.norm = nn.LayerNorm(width)
        self.twice = nn.Linear(width, width)
        self.head_norm = nn.RMSNorm(width // 2)
        self.scaled = Scaled(width)
        self.head = nn.Linear(width, VOCABULARY)
        self.unused = nn.Linear(width, 3)
        self.head.weight = self.tokens.weight
        for parameter in self.norm.parameters():
            nn.init.normal_(parameter)

    def forward(self, tokens, real, cache=None, *, last=None):
        stream = self.tokens(tokens)
        visible = (real[:, None, :] & torch.ones(real.shape[1], real.shape[1]).tril().bool()).to(
            stream.dtype
        )
        mean = visible @ stream / visible.sum(-1, keepdim=True).clamp(min=1)
        stream = stream + self.twice(self.norm(self.twice(mean).tanh()))
        heads = stream.unflatten(-1, (2, -1)).transpose(1, 2)  # (rows, heads, tokens, width)
        stream = self.head_norm(heads).transpose(1, 2).flatten(-2)
        stream = self.scaled(self.scaled(stream), gate=mean)
        self.unused(self.twice(stream))
        return self.head(stream), None


@pytest.mark.parametrize("tied", [False, True])
def test_transformer_against_autograd(tied):
    assert_right(transformer(tied=tied), random_answers())


def test_biases_layer_norms_shared_and_unused_modules_against_autograd():
    assert_right(Mixed().double(), random_answers())


@pytest.mark.parametrize("length", [1, 4])
def test_outputs_of_one_prompt_share_what_is_read_of_it(monkeypatch, length):
    """Would catch: products of shared and own tokens that are left out or counted once, and rows
    that have no tokens of their own."""
    ways, model, answers = [], transformer(), random_answers(num_prompts=1, length=length)
    by_sharing = products._add_gram_of_shared
    monkeypatch.setattr(products, "_cost_of_shared", lambda part, first: 0)  # else too tiny for it
    monkeypatch.setattr(
        products,
        "_add_gram_of_shared",
        lambda *given: (ways.append(given[-1]), by_sharing(*given)),
    )
    assert_right(model, answers)
    assert max(ways, default=0) >= answers.prompts.tokens.shape[1]


def test_rows_that_begin_alike_share_no_more_than_that(monkeypatch):
    """Rows of different prompts, or with a first token in common: equal vectors decide, no shape.

    Would catch: that the length of a padded prompt is taken for what is shared.
    """
    monkeypatch.setattr(products, "_cost_of_shared", lambda part, first: 0)
    answers = random_answers(num_prompts=1)
    answers.tokens[:, 0] = 3
    assert_right(transformer(), answers)
    assert_right(transformer(), random_answers())


def test_a_common_prompt_is_kept_once(monkeypatch):
    """What is kept for the way back grows with the tokens of outputs, not with the prompt's."""
    model, prompts = transformer(), Prompts.of([[3] * 20], pad_token=0)
    tokens = torch.randint(VOCABULARY, (50, 3))
    answers = Answers(prompts, torch.zeros(50, dtype=torch.long), tokens, tokens >= 0)
    whole, packed, small = [], [], []
    with saved_tensors_hooks(lambda x: whole.append(x.numel()) or x, lambda x: x):
        log_probs(model, answers, share_prompts=False)
    pieces = sharing._two_parts

    def two_parts(shared, own, axis):
        packed.append(50 * shared.numel() + own.numel())
        small.append(shared.numel() + own.numel())
        return pieces(shared, own, axis)

    monkeypatch.setattr(sharing, "_two_parts", two_parts)
    score_norms(model, answers)
    assert sum(packed) > 0.5 * sum(whole)
    assert sum(small) < 0.25 * sum(packed)


def test_padding_token_of_an_embedding_against_autograd():
    """Would catch: PyTorch keeps the padding token's embedding where it is, even if sampled."""
    assert_right(Mixed(padding=0).double(), random_answers())


def test_each_parameter_trained_alone():
    """Would catch: an error that others' size hides, or frozen parameters that count."""
    model = Mixed().double()
    parameters = dict(model.named_parameters())
    answers = random_answers()
    for name in sorted(parameters.keys() - {"unused.weight", "unused.bias"}):
        for other in parameters:
            parameters[other].requires_grad_(other == name)
        assert_right(model, answers)


def test_nothing_trained_and_nothing_answered():
    model, answers = transformer(), random_answers()
    assert score_norms(model, answers[:0]).shape == (0,)
    assert score_gram(model, answers[:0]).shape == (0, 0)
    model.requires_grad_(False)
    assert not score_norms(model, answers).any()
    assert not score_gram(model, answers).any()


@pytest.mark.parametrize("rows_per_pass", [1, 4, 6, 100])
def test_passes_change_nothing(rows_per_pass):
    model, answers = transformer(tied=True), random_answers()
    whole = score_norms(model, answers)
    parts = score_norms(model, answers, rows_per_pass=rows_per_pass)
    assert error(parts, whole) < 1e-12


@pytest.mark.parametrize("cost", [-(10**9), 10**9])
@pytest.mark.parametrize("block", [1, 50, 10**9])
def test_both_ways_of_products_in_blocks_of_any_size(monkeypatch, cost, block):
    """Would catch: one way that is never taken at these sizes, or a block that is lost."""
    monkeypatch.setattr(products, "COST_OF_A_PRODUCT", cost)
    monkeypatch.setattr(products, "LARGEST_BLOCK", block)
    for model in (transformer(tied=True), Mixed().double()):
        assert_right(model, random_answers())


def test_float32_agrees_to_1e_6():
    model, answers = transformer(tied=True), random_answers(num_rows=20)
    gram = scores(model, answers)
    gram = gram @ gram.mT
    model.float()
    assert score_norms(model, answers).dtype == torch.float32
    assert error(score_norms(model, answers).double(), gram.diagonal()) < 1e-6
    assert error(score_gram(model, answers).double(), gram) < 1e-6


def test_half_precision_is_summed_in_single():
    """Norms of a bfloat16 model are float32, and as near as its own rounding, 2⁻⁸, lets them be."""
    model, answers = transformer(tied=True), random_answers()
    right = score_norms(model, answers)
    found = score_norms(model.bfloat16(), answers)
    assert found.dtype == torch.float32
    kinds = []
    visit_parts(model, answers, trained_layers(model), lambda p, parts: kinds.extend(parts))
    assert {part.right.dtype for part in kinds} == {torch.float32}
    assert error(found.double(), right) < 20 * 2**-8


@pytest.mark.parametrize("model_class", [transformer, lambda: Mixed().double()])
def test_padding_contributes_nothing(model_class):
    """More padding before prompts and after outputs, of whatever tokens, leaves norms as they are.

    Would catch: δ or products where the mask is not.
    """
    model, answers = model_class(), random_answers()
    prompts = answers.prompts
    tokens = prompts.tokens.where(prompts.real, torch.randint(VOCABULARY, prompts.tokens.shape))
    left = torch.randint(VOCABULARY, (len(prompts), 3))
    real = functional.pad(prompts.real, (3, 0))
    outputs = answers.tokens.where(answers.mask, torch.randint(VOCABULARY, answers.tokens.shape))
    right = torch.randint(VOCABULARY, (len(answers), 2))
    padded = Answers(
        Prompts(torch.cat([left, tokens], dim=1), real),
        answers.prompt,
        torch.cat([outputs, right], dim=1),
        functional.pad(answers.mask, (0, 2)),
    )
    assert error(score_norms(model, padded), score_norms(model, answers)) < 1e-12
    assert error(score_gram(model, padded), score_gram(model, answers)) < 1e-12


def test_an_output_without_tokens_has_no_score():
    model, answers = transformer(), random_answers()
    answers.mask[2] = False
    norms = score_norms(model, answers)
    assert norms[2] == 0.0
    assert (norms[[0, 1, 3, 4, 5]] > 0).all()


def test_gram_is_symmetric_and_has_the_norms_on_its_diagonal():
    model, answers = transformer(tied=True), random_answers()
    gram = score_gram(model, answers)
    assert torch.equal(gram, gram.mT)
    assert error(gram.diagonal(), score_norms(model, answers)) < 1e-12


@pytest.mark.parametrize("model_class", [lambda: transformer(tied=True), lambda: Mixed().double()])
def test_norms_without_cross_terms_are_wrong(monkeypatch, model_class):
    """The mutant that adds norms of a parameter's uses, not the norm of their sum."""
    model, answers = model_class(), random_answers()
    right = score_norms(model, answers)
    whole = products.squared_norms

    def each_alone(parts, parameter):
        return sum(whole([part], parameter) for part in parts)

    monkeypatch.setattr(products, "squared_norms", each_alone)
    assert error(score_norms(model, answers), right) > 0.01


def test_norms_of_tokens_counted_once_are_wrong(monkeypatch):
    """The mutant that takes every token of a sequence for another one."""
    model, answers = transformer(), random_answers()
    right = score_norms(model, answers)
    whole = products._inner

    def never_again(a, b):
        if a.is_floating_point() or b.is_floating_point():
            return whole(a, b)
        return torch.eye(a.shape[-1], dtype=torch.bool)

    monkeypatch.setattr(products, "_inner", never_again)
    monkeypatch.setattr(products, "COST_OF_A_PRODUCT", -(10**9))
    assert error(score_norms(model, answers), right) > 0.01


def test_model_and_gradients_are_left_as_they_were():
    model, answers = transformer(tied=True), random_answers()
    with torch.no_grad():  # the caller's mode is the caller's
        score_norms(model, answers)
        score_gram(model, answers)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(not m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("function", [score_norms, score_gram])
def test_memory_is_free_at_once(function):
    """Would catch: a cycle of graph, hook and layer, which waits for the garbage collector."""
    model, answers = transformer(tied=True), random_answers()
    seen = []
    for block in model.blocks:
        block.widen.register_forward_hook(
            lambda module, args, output: seen.extend(map(weakref.ref, (*args, output)))
        )
    gc.disable()
    try:
        function(model, answers)
        assert len(seen) == 8
        assert all(tensor() is None for tensor in seen)
    finally:
        gc.enable()


def test_memory_is_free_on_the_way_back():
    """Would catch: inputs that are kept until all layers have their δ, twice the memory."""
    model, answers = transformer(), random_answers()
    seen, alive = [], {}
    model.blocks[1].widen.register_forward_hook(
        lambda module, args, output: seen.extend(map(weakref.ref, (*args, output)))
    )

    def visit(parameter, parts):
        alive[parameter] = sum(tensor() is not None for tensor in seen)

    visit_parts(model, answers, trained_layers(model), visit)
    assert alive[model.head.weight] == 2
    assert alive[model.blocks[0].widen.weight] == 0


class Broken(Transformer):
    """Fails in the middle of a forward."""

    def forward(self, tokens, real, cache=None, *, last=None):
        super().forward(tokens, real, cache)
        raise ArithmeticError("on purpose")


def test_hooks_are_gone_after_an_error():
    model = Broken(TransformerShape(VOCABULARY))
    with pytest.raises(ArithmeticError):
        score_norms(model, random_answers())
    assert all(not m._forward_hooks for m in model.modules())


def test_users_hooks_keep_their_effect():
    """Would catch: δ of what a hook made of the output, for δ of the output."""
    model, answers = Mixed().double(), random_answers()
    for module in (model.twice, model.norm, model.scaled):
        module.register_forward_hook(lambda module, args, output: 2.5 * output)
        module.register_forward_pre_hook(lambda module, args: (0.5 * args[0], *args[1:]))
    assert_right(model, answers)


class Variant(Mixed):
    """A model that does one thing otherwise, given as a function of module, tokens and stream."""

    def __init__(self, act, **modules):
        super().__init__()
        self.act = act
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, tokens, real, cache=None, *, last=None):
        logits, _ = super().forward(tokens, real)
        return logits + self.act(self, tokens, logits), None


class SoftmaxWeight(nn.Module):
    """A vector for parameter, but not one that acts elementwise."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, stream):
        return stream * self.weight.softmax(-1)


class Einsum(nn.Module):
    """A matrix for parameter, in a way that nobody looks for."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))

    def forward(self, stream):
        return torch.einsum("...a,ab->...b", stream, self.weight)


class Halves(nn.Module):
    """A matrix of which a product sees a part only."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2 * width, width))

    def forward(self, stream):
        return functional.linear(stream, self.weight[: stream.shape[-1]])


class Doubled(nn.Linear):
    """A product with a bias, or a matrix, that is worked out of a parameter."""

    def forward(self, stream):
        return functional.linear(stream, self.weight, 2 * self.bias) + self.loss(stream)

    def loss(self, stream):
        return functional.linear(stream, 2 * self.weight, self.bias)


class ByRows(nn.Module):
    """A matrix for parameter, in the way of GPT-2's layers."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))

    def forward(self, stream):
        return stream @ self.weight


def act(module, tokens, logits):
    return module.extra(logits)


def flattened(module, tokens, logits):
    return module.extra(logits.flatten(0, 1)).view_as(logits)


def turned(module, tokens, logits):
    """Tokens before rows."""
    return module.extra(logits.transpose(0, 1).flatten(0, 1)).unflatten(
        0, logits.shape[1::-1]
    ).transpose(0, 1)  # fmt: skip


def chosen(module, tokens, logits):
    """Some tokens of all rows, as experts of their own kind get them."""
    flat, here = logits.flatten(0, 1), tokens.flatten() % 2 == 1
    return flat.index_put((here,), module.extra(flat[here])).view_as(logits)


def positions(module, tokens, logits):
    return module.extra(torch.arange(tokens.shape[1]))


def pairs(module, tokens, logits):
    """Positions relative to each other: as many rows as tokens."""
    places = torch.arange(tokens.shape[1])
    return module.extra((places[:, None] - places).abs()).mean(1)


def elsewhere(module, tokens, logits):
    return functional.linear(module.tokens(tokens), module.tokens.weight)


def loose(module, tokens, logits):
    return module.extra(logits) * module.loose


def square(size=VOCABULARY):
    return nn.Linear(size, VOCABULARY, bias=False)


def with_gain(linear):
    """A layer with a parameter that its kind does not have, as weight_norm makes them."""
    linear.gain = nn.Parameter(torch.ones(()))
    return linear


@pytest.mark.parametrize(
    ("act", "module", "message"),
    [
        (act, Einsum(VOCABULARY), r"another use of extra\.weight; probe_norms works"),
        (act, Halves(VOCABULARY), r"another use of extra\.weight; probe_norms works"),
        (act, nn.Bilinear(2, 3, 4), r"got extra\.weight of Bilinear, extra\.bias of Bilinear"),
        (act, SoftmaxWeight(VOCABULARY), r"got extra\.weight of SoftmaxWeight; probe_norms"),
        (
            act,
            Doubled(VOCABULARY, VOCABULARY),
            r"another use of extra\.bias, extra\.weight; probe_norms",
        ),
        (turned, square(), r"\(16, 11\) from 'extra' for 2 rows"),
        (chosen, square(), r"got an output of shape \(\d+, 11\) from 'extra' for [12] rows"),
        (positions, nn.Embedding(32, VOCABULARY), r"\(8, 11\) from 'extra' for 2 rows"),
        (pairs, nn.Embedding(32, VOCABULARY), r"\(8, 8, 11\) from 'extra' for 2 rows"),
        (
            lambda m, tokens, logits: m.extra(torch.arange(tokens.shape[1])[None]),
            nn.Embedding(32, VOCABULARY),
            r"\(1, 8, 11\) from 'extra' for 8 rows",
        ),
        (act, with_gain(square()), r"got extra\.weight of Linear, extra\.gain of Linear"),
        (elsewhere, nn.Identity(), r"another use of (head|tokens)\.weight"),
        (act, nn.Embedding(3, 3, scale_grad_by_freq=True), r"extra\.weight of Embedding"),
    ],
)
def test_what_the_layers_do_not_see_is_refused(act, module, message):
    """Eight rows of eight tokens: would catch what mistakes one for the other."""
    answers = random_answers(num_rows=8, num_prompts=2, length=5)
    assert answers.prompts.tokens.shape[1] + answers.tokens.shape[1] - 1 == 8
    for function in (score_norms, score_gram):
        with pytest.raises(ValueError, match=message):
            function(Variant(act, extra=module), answers)


class Router(nn.Module):
    """Returns several things, and multiplies in single precision by what it turns around."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, stream):
        logits = stream.flatten(0, 1).float() @ self.weight.float().T
        shares, places = functional.linear(stream, self.weight, self.bias).softmax(-1).topk(2)
        return logits.view_as(stream), shares, places


class Shifted(nn.Embedding):
    """A table whose numbers are changed, and what it returns scaled; a padding token, too."""

    def forward(self, tokens):
        return 2.5 * super().forward(tokens.clamp(max=9) + 1).sin()


def routed(module, tokens, logits):
    found, shares, _ = module.extra(logits)
    return found + shares.sum(-1, keepdim=True) * shares[..., :1].log()


def cast():
    """A head that computes in another number format, as TRL's `cast_lm_head_to_fp32` makes it."""
    head = nn.Linear(VOCABULARY, VOCABULARY)
    head.forward = lambda stream: functional.linear(
        stream.to(torch.float32), head.weight.to(torch.float32), head.bias.to(torch.float32)
    )
    return head


@pytest.mark.parametrize(
    ("act", "module"),
    [
        (act, cast()),
        (act, ByRows(VOCABULARY)),
        (flattened, ByRows(VOCABULARY)),
        (flattened, square()),
        (routed, Router(VOCABULARY)),
        (lambda m, tokens, logits: m.extra(tokens), Shifted(12, VOCABULARY, padding_idx=3)),
    ],
)
def test_products_inside_of_other_modules_against_autograd(act, module):
    """Would catch: δ of what a module returns, for δ of the product; rows that are not cut."""
    assert_right(Variant(act, extra=module).double(), random_answers(), tolerance=2e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_outputs_changed_in_place_are_right_or_refused(bias):
    """Would catch: δ behind an activation in place. It depends on how PyTorch makes the output."""

    def changed(module, tokens, logits):
        return module.extra(logits).tanh_()

    model = Variant(changed, extra=nn.Linear(VOCABULARY, VOCABULARY, bias=bias)).double()
    answers = random_answers()
    try:
        assert_right(model, answers)
    except ValueError as refusal:
        assert "another use of extra.bias, extra.weight" in str(refusal)


def test_a_trained_tensor_that_is_no_parameter_is_refused():
    model = Variant(loose, extra=square())
    model.loose = torch.ones(VOCABULARY, requires_grad=True)
    with pytest.raises(ValueError, match="another use of a tensor that is no parameter"):
        score_norms(model, random_answers())


def test_no_module_is_refused():
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got method; probe_norms"):
        score_norms(transformer().forward, random_answers())


def test_many_refused_parameters_are_counted():
    extra = nn.Sequential(*(nn.Bilinear(2, 3, 4, bias=False) for _ in range(9)))
    with pytest.raises(ValueError, match=r"got extra\.0\.weight of Bilinear, .*, 5 more; probe"):
        score_norms(Variant(act, extra=extra), random_answers())


def test_rows_per_pass_must_be_positive():
    with pytest.raises(ValueError, match="rows_per_pass must be an integer of at least 1, got 0"):
        score_norms(transformer(), random_answers(), rows_per_pass=0)


def test_checkpoints_without_reentry_against_autograd():
    def twice(module, tokens, logits):
        return checkpoint(module.extra, checkpoint(module.extra, logits, **way), **way)

    way = {"use_reentrant": False}
    assert_right(Variant(twice, extra=square()).double(), random_answers())


def test_reentrant_checkpoints_are_refused():
    def again(module, tokens, logits):
        return checkpoint(module.extra, logits, use_reentrant=True)

    model = Variant(again, extra=square())
    with pytest.raises(RuntimeError, match="got 'extra' without; reentrant gradient checkpointing"):
        score_norms(model, random_answers())


def test_inputs_changed_in_place_are_refused():
    """The sum needs no input to be right, but the layer before does, which autograd skips."""

    def overwritten(module, tokens, logits):
        copy = logits.clone()
        result = module.extra(copy)
        copy.zero_()
        return result

    model = Variant(overwritten, extra=square())
    with pytest.raises(RuntimeError, match="must not be changed in place, got that of 'extra'"):
        score_norms(model, random_answers())


class Qwen(nn.Module):
    """A Hugging Face model as a `LanguageModel`, without its cache."""

    end_token, context_length = 1, 64

    def __init__(self, **config):
        super().__init__()
        transformers = pytest.importorskip("transformers")
        config = transformers.Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=1,
            **config,
        )
        self.inner = transformers.Qwen2ForCausalLM(config).eval()
        for name, parameter in self.inner.named_parameters():
            if "norm" in name or name.endswith("bias"):
                nn.init.normal_(parameter)

    def forward(self, tokens, real, cache=None, *, last=None):
        places = (real.cumsum(-1) - 1).clamp(min=0)
        options = {"position_ids": places, "use_cache": False, "logits_to_keep": last or 0}
        return self.inner(tokens, attention_mask=real.long(), **options).logits, None


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("pad_token", [None, 0])
def test_qwen2_against_autograd_in_single_precision(attention, tied, pad_token):
    """Both sides are float32; roundings of 2⁻²⁴ ≈ 6e-8 come to 2e-7, of which 2e-6 is ten times."""
    model = Qwen(attn_implementation=attention, tie_word_embeddings=tied, pad_token_id=pad_token)
    assert_right(model, random_answers(), tolerance=2e-6)


def test_the_head_sees_the_tokens_of_outputs_only():
    """Would catch: a vocabulary of logits for every token of the prompts."""
    model, answers, sizes = Qwen(), random_answers(length=3), {}

    def visit(parameter, parts):
        sizes[parameter] = {part.left.shape[1] for part in parts}

    visit_parts(model, answers, trained_layers(model), visit)
    assert answers.prompts.tokens.shape[1] == 6
    assert sizes[model.inner.lm_head.weight] == {3}
    assert sizes[model.inner.model.embed_tokens.weight] == {6 + 3 - 1}


def test_probes_over_all_signs_average_to_the_norms():
    """E‖Σ ε_u w_u W_u‖² = Σ w_u² ‖W_u‖² by enumeration of all 2^U signs; weights may vanish."""
    model, answers = transformer(tied=True), random_answers()
    weights = torch.randn(len(answers), dtype=torch.float64)
    weights[3] = 0.0
    signs = torch.tensor(list(itertools.product([-1, 1], repeat=len(answers))))
    found = signed_norms(model, answers, weights, signs)
    right = (weights.square() * score_norms(model, answers)).sum()
    assert found.shape == (2 ** len(answers),)
    assert math.isclose(found.mean(), right, rel_tol=1e-12)
    products_of_pairs = weights[:, None] * weights * score_gram(model, answers)
    variance = 2 * (products_of_pairs.square().sum() - products_of_pairs.diagonal().square().sum())
    assert math.isclose(found.var(correction=0), variance, rel_tol=1e-9)


def test_probes_against_exact_norms_in_standard_errors():
    """40 probes, |z| ≤ 4; would catch a missing square of the weights, and one sign for all."""
    torch.manual_seed(4)  # where one sign for all is twelve standard errors off
    model, answers = transformer(), random_answers()
    weights = torch.linspace(-2.0, 4.0, len(answers), dtype=torch.float64)
    right = float((weights.square() * score_norms(model, answers)).sum())
    rng = torch.Generator().manual_seed(3)
    estimate, std_error = probe_norms(
        model, answers, weights, num_probes=40, rng=rng, rows_per_pass=4
    )
    gram = weights[:, None] * weights * score_gram(model, answers)
    variance = 2 * float(gram.square().sum() - gram.diagonal().square().sum())
    exact_error = (variance / 40) ** 0.5
    assert abs(estimate - right) <= 4 * exact_error
    assert 0.5 < std_error / exact_error < 2.0
    wrong = (
        float((weights.abs() * score_norms(model, answers)).sum()),
        float(gram.sum()),
    )
    assert all(abs(estimate - each) > 4 * exact_error for each in wrong)


def test_probes_depend_on_their_generator_only():
    model, answers = transformer(), random_answers()
    weights = torch.ones(len(answers), dtype=torch.float64)
    found = [
        probe_norms(model, answers, weights, num_probes=3, rng=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"num_probes": 1}, ValueError, "num_probes must be an integer of at least 2, got 1"),
        ({"rng": 0}, TypeError, r"rng must be a torch\.Generator, got 0"),
        ({"weights": torch.ones(2)}, ValueError, r"one a row, 6 in all, got shape \(2,\)"),
    ],
)
def test_probes_refuse_wrong_arguments(change, kind, message):
    arguments = {"weights": torch.ones(6), "num_probes": 2, "rng": torch.Generator()} | change
    with pytest.raises(kind, match=message):
        probe_norms(transformer(), random_answers(), **arguments)
