"""A model that contradicts itself, by how it reads a text, is refused when it is taken up."""

import pytest
import torch

from support import local_models
from ustat_grpo.lm import Prompts, Transformer, TransformerShape, sample_groups
from ustat_grpo.lm.models.self_checks import deviation, inconsistency

pytest.importorskip("transformers", reason="needs the extra llm")

from ustat_grpo.lm.models.huggingface import HuggingFaceModel

VOCABULARY = 23


class Peeking(Transformer):
    """Tokens see the next one."""

    def forward(self, tokens, real, cache=None, *, last=None):
        logits, cache = super().forward(tokens, real, cache, last=last)
        return logits + 0.2 * logits.roll(-1, dims=1), cache


class SeeingPadding(Transformer):
    """Takes padding for tokens, so columns for places."""

    def forward(self, tokens, real, cache=None, *, last=None):
        return super().forward(tokens, torch.ones_like(real), cache, last=last)


class Stubborn(Transformer):
    """Leaves the rows of a cache where they are."""

    def select(self, cache, rows):
        return cache


def built(kind, context_length=32, **shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(TransformerShape(VOCABULARY, context_length, width=16, **shape))


def found(model, whole=None):
    """What is inconsistent about a model, compared with itself or another one."""
    whole = whole or model

    def plainest(tokens):
        return whole(tokens[None], torch.ones_like(tokens[None], dtype=torch.bool))[0][0]

    return inconsistency(model, plainest, model, vocabulary_size=VOCABULARY)


@pytest.mark.parametrize(
    ("kind", "requirement"),
    [
        (Peeking, "a token logits that no later token changes"),
        (SeeingPadding, "a prompt that is padded on the left"),
        (Stubborn, "tokens that are read with a cache"),
    ],
)
def test_what_a_model_does_wrong_is_named(kind, requirement):
    """Would catch: a check that never fails, or one that another's fault sets off."""
    wrong = found(built(kind))
    assert wrong.requirement.startswith(requirement)
    assert wrong.deviation > 100 * wrong.rounding
    assert found(built(Transformer)) is None


def test_a_short_context_leaves_out_the_cache():
    """Would catch: a model of few tokens that is refused for having no room to be checked."""
    assert found(built(Transformer, context_length=6)) is None
    assert found(built(Stubborn, context_length=6)) is None
    assert "padded" in found(built(SeeingPadding, context_length=6)).requirement


def test_a_model_without_opinions_and_one_of_nan():
    """Would catch: 0/0 for logits that are all equal, and NaN that is below every bound."""
    model = built(Transformer)
    with torch.no_grad():
        model.head.weight.zero_()
        assert found(model) is None
        model.head.weight.fill_(torch.nan)
        assert found(model).requirement.startswith("a token logits")


def test_deviation_by_hand():
    """Offsets and impossible tokens are no deviation; a tenth of the spread is 0.1."""
    logits = torch.tensor([[1.0, -1.0, -torch.inf], [2.0, 0.0, torch.finfo().min]])
    assert deviation(logits + 7, logits) < 1e-7
    plain = torch.tensor([[1.0, -1.0]])
    assert deviation(1.1 * plain, plain) == pytest.approx(
        float((1.1 * plain).log_softmax(-1).sub(plain.log_softmax(-1)).norm()) / 2**0.5
    )


CONSISTENT = (
    *("qwen2", "qwen3", "llama", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3"),
    *("gpt2", "gpt_neox", "opt", "bloom", "falcon", "mixtral", "qwen2_moe", "qwen3_moe", "bert"),
)


@pytest.mark.parametrize("kind", CONSISTENT)
def test_no_false_alarm(kind):
    """In single and in half precision, whose rounding is 2¹⁶ times coarser."""
    model = local_models.tiny(kind, VOCABULARY)
    for dtype in (torch.float32, torch.bfloat16):
        assert HuggingFaceModel(model.to(dtype), end_token=1).context_length >= 64


@pytest.mark.parametrize(
    ("kind", "other", "message"),
    [
        ("roberta", {}, "a prompt the logits of the library's plainest call, got roberta with log"),
        ("bart", {}, "a prompt that is padded on the left the logits that it has alone, got bart"),
        (
            "pegasus",
            {},
            "a prompt that is padded on the left .* got pegasus with log-probabilities",
        ),
        ("bert", {"is_decoder": False}, "a token logits that no later token changes, got bert"),
    ],
)
def test_places_and_masks_that_do_not_fit_are_refused(kind, other, message):
    """Would catch: log-probabilities of other texts, with no error. Half precision is no excuse."""
    model = local_models.tiny(kind, VOCABULARY, **other)
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match=f"^model must give {message}") as refusal:
            HuggingFaceModel(model.to(dtype), end_token=1)
        assert "\n" not in str(refusal.value)


def test_models_without_such_a_cache_are_refused():
    """Would catch: AttributeError at the first token."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": VOCABULARY, "n_embd": 8, "n_layer": 1, "n_head": 2}
    gpt = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**sizes))
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 2}
    rwkv = transformers.RwkvForCausalLM(transformers.RwkvConfig(**sizes, attention_hidden_size=8))
    sizes = {"n_words": VOCABULARY, "emb_dim": 8, "n_layers": 1, "n_heads": 2}
    xlm = transformers.XLMWithLMHeadModel(transformers.XLMConfig(**sizes))
    for model, lacking in (
        (gpt, "openai-gpt whose forward has no past_key_values and no use_cache"),
        (rwkv, "rwkv whose forward has no past_key_values"),
        (xlm, "xlm whose forward has no past_key_values and no use_cache"),
    ):
        with pytest.raises(ValueError, match=f"must take a mask and a cache .*, got {lacking}"):
            HuggingFaceModel(model, end_token=0)


def test_encoders_are_refused():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": VOCABULARY, "d_model": 8, "d_kv": 4, "d_ff": 8}
    config = transformers.T5Config(num_layers=1, num_heads=2, decoder_start_token_id=0, **sizes)
    with pytest.raises(ValueError, match="a decoder alone, got t5 with an encoder"):
        HuggingFaceModel(transformers.T5ForConditionalGeneration(config), end_token=0)


def test_a_model_that_fails_says_why_in_one_line():
    """Would catch: a traceback out of the library."""
    model = local_models.tiny("qwen2", VOCABULARY)

    def forward(input_ids, attention_mask, past_key_values, use_cache):
        raise RuntimeError("no kernel\nfor this")

    model.forward = forward
    with pytest.raises(ValueError, match=r"got qwen2 that cannot \(RuntimeError: no kernel\)$"):
        HuggingFaceModel(model, end_token=0)


ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "original_max_position_embeddings": 16,
}


class TestPlacesThatSwitch:
    """LongRoPE: one set of factors up to 16 tokens, another one for all tokens of longer texts."""

    @pytest.fixture
    def model(self):
        other = {"rope_parameters": ROPE, "original_max_position_embeddings": 16}
        return HuggingFaceModel(local_models.tiny("phi3", VOCABULARY, **other), end_token=1)

    def test_the_context_ends_at_the_switch(self, model):
        """Would catch: log-probabilities off by nats behind it; the error says why it ends."""
        assert model.context_length == 16
        prompts, rng = Prompts.of([[3, 4, 5]], pad_token=0), torch.Generator()
        message = r"at most 13: the model's context holds 16 tokens \(of 64, since LongRoPE turns"
        with pytest.raises(ValueError, match=message):
            sample_groups(model, prompts, 2, max_tokens=14, rng=rng)

    def test_up_to_the_switch_samples_are_right_and_behind_it_they_would_not_be(self, model):
        tokens = torch.arange(18) % VOCABULARY
        for size, right in ((16, True), (18, False)):
            text = tokens[:size]
            whole = model.model(input_ids=text[None], use_cache=False).logits[0]
            model._limits = lambda: (64, "")
            real = torch.ones(1, size, dtype=torch.bool)
            _, cache = model(text[None, :14], real[:, :14])
            for place in range(14, size):
                logits, cache = model(text[None, place : place + 1], real[:, : place + 1], cache)
            off = (logits[0, -1].log_softmax(-1) - whole[-1].log_softmax(-1)).abs().max()
            assert (off < 1e-4) if right else (off > 0.5)

    def test_every_kind_of_layer_may_have_a_switch(self):
        """Would catch: models whose places differ by layer, such as those with windows."""
        other = {"full_attention": ROPE, "sliding_attention": {"rope_type": "default"}}
        model = local_models.tiny("qwen2", VOCABULARY)
        adapter = HuggingFaceModel(model, end_token=1)
        model.config.rope_parameters = other
        assert adapter.context_length == 16
        model.config.rope_parameters = {"rope_type": "dynamic", "factor": 4.0}
        assert adapter.context_length == 64  # its factors change behind that only
