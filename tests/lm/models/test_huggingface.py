"""The adapter of transformers' models: padding, cache, sampling, scores."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from support import local_models
from ustat_grpo import Grpo
from ustat_grpo.lm import Answers, Prompts, log_probs, sample_groups, weighted_score
from ustat_grpo.lm.judging.text_rewards import TextReward, same_number
from ustat_grpo.lm.models import chat_templates
from ustat_grpo.lm.models.tokenizer import ARITHMETIC
from ustat_grpo.lm.scoring import distinct

pytest.importorskip("transformers", reason="needs the extra llm")

from ustat_grpo.lm.models.conversation import Conversation
from ustat_grpo.lm.models.huggingface import HuggingFaceModel, HuggingFaceTokenizer, load

KINDS = ("qwen2", "gpt2", "mistral", "bloom")
"""Rotary places, learned places (with dropout), a sliding window of 6 tokens, no places at all."""

TEXTS = ("1+2=", "What is (17-4)*3.", "7")
TOLERANCE = 5e-5  # single precision; logits of these models reach ±20


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    return {
        kind: load(local_models.save_policy(folder, kind=kind), device="cpu")
        for kind, folder in folders.items()
    }


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return local_models.save_policy(tmp_path_factory.mktemp("policy"))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rollouts_of(policy, group_size=6, seed=1):
    model, tokenizer = policy
    prompts = tokenizer.prompts(TEXTS)
    return sample_groups(model, prompts, group_size, max_tokens=12, rng=generator(seed))


def plain_log_prob(model: HuggingFaceModel, prompt: torch.Tensor, output: torch.Tensor):
    """log π(output∣prompt) as one would write it: no padding, no cache, no adapter."""
    logits = model.model(input_ids=torch.cat([prompt, output])[None], use_cache=False).logits[0]
    steps = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return steps.gather(-1, output[:, None]).sum()


def each_output(rollouts):
    for b, outputs in enumerate(rollouts.outputs):
        prompt = rollouts.prompts.tokens[b][rollouts.prompts.real[b]]
        for i, output in enumerate(outputs):
            yield (b, i), prompt, output[rollouts.mask[b, i]]


def distance(found, wanted) -> float:
    """‖found − wanted‖/‖wanted‖ over all parameters together."""
    error, size = (
        torch.stack([part.norm() for part in parts]).norm()
        for parts in ([a - b for a, b in zip(found, wanted, strict=True)], wanted)
    )
    return float(error / size)


@pytest.mark.parametrize("kind", KINDS)
class TestAgainstPlainTransformers:
    def test_sampled_log_probs(self, policies, kind):
        """A place off by one, or visible padding, changes them in the first digit."""
        rollouts = rollouts_of(policies[kind])
        assert len({tuple(row) for row in rollouts.outputs.view(-1, 12).tolist()}) > 12
        found = rollouts.sequence_log_probs()
        for place, prompt, output in each_output(rollouts):
            wanted = plain_log_prob(policies[kind][0], prompt, output)
            torch.testing.assert_close(found[place], wanted, atol=TOLERANCE, rtol=1e-5)

    @pytest.mark.parametrize("share_prompts", [True, False])
    def test_scored_log_probs(self, policies, kind, share_prompts):
        rollouts = rollouts_of(policies[kind])
        answers, place = distinct(rollouts)
        found = log_probs(policies[kind][0], answers, share_prompts=share_prompts)[place]
        torch.testing.assert_close(found, rollouts.log_probs, atol=TOLERANCE, rtol=1e-5)

    def test_weighted_score(self, policies, kind):
        model, rollouts = policies[kind][0], rollouts_of(policies[kind])
        weights = torch.randn(rollouts.outputs.shape[:2], generator=generator(2))
        loss = sum(
            (weights[place] * plain_log_prob(model, prompt, output))
            for place, prompt, output in each_output(rollouts)
        )
        wanted = torch.autograd.grad(loss, tuple(model.parameters()))
        found = weighted_score(model, rollouts, weights)
        assert distance(found, wanted) < 1e-5
        assert distance(weighted_score(model, rollouts, weights, rows_per_pass=4), wanted) < 1e-5

    def test_left_padding_changes_nothing(self, policies, kind):
        model, tokenizer = policies[kind]
        prompts = tokenizer.prompts(TEXTS)
        together, _ = model(prompts.tokens, prompts.real)
        for text, row in zip(TEXTS, together, strict=True):
            alone = tokenizer.prompts([text])
            logits, _ = model(alone.tokens, alone.real)
            length = alone.tokens.shape[1]
            torch.testing.assert_close(row[-length:], logits[0], atol=TOLERANCE, rtol=1e-5)

    def test_cache_stays_as_it_was(self, policies, kind):
        model, tokenizer = policies[kind]
        prompts = tokenizer.prompts(TEXTS)
        _, cache = model(prompts.tokens, prompts.real)
        before = [(keys.clone(), values.clone()) for keys, values in cache]
        rows = torch.tensor([2, 0, 0, 1])
        seen = torch.cat([prompts.real[rows], torch.ones(4, 1, dtype=torch.bool)], dim=1)
        new = torch.tensor([[3], [4], [4], [5]])
        first, longer = model(new, seen, model.select(cache, rows))
        again, _ = model(new, seen, model.select(cache, rows))
        assert torch.equal(first, again)
        assert torch.equal(first[1], first[2])
        model(prompts.tokens[:, -1:], torch.cat([prompts.real, seen[:3, -1:]], dim=1), cache)
        for (keys, values), (old_keys, old_values) in zip(cache, before, strict=True):
            assert torch.equal(keys, old_keys) and torch.equal(values, old_values)
        assert longer[0][0].shape[-2] == prompts.tokens.shape[1] + 1

    @pytest.mark.parametrize("last", [1, 3, 99])
    def test_last_logits(self, policies, kind, last):
        model, tokenizer = policies[kind]
        prompts = tokenizer.prompts(TEXTS)
        whole, _ = model(prompts.tokens, prompts.real)
        found, cache = model(prompts.tokens, prompts.real, last=last)
        torch.testing.assert_close(found, whole[:, -last:], atol=TOLERANCE, rtol=1e-5)
        assert cache[0][0].shape[-2] == prompts.tokens.shape[1]

    def test_the_head_sees_what_is_asked_for(self, policies, kind):
        """Would catch: logits of a vocabulary for every token of the prompts."""
        model, tokenizer = policies[kind]
        seen, head = [], model.model.get_output_embeddings()
        hook = head.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
        prompts = tokenizer.prompts(TEXTS)
        rollouts = sample_groups(model, prompts, 2, max_tokens=4, rng=generator())
        assert seen == [1, 1, 1, 1]
        answers, _ = distinct(rollouts)
        log_probs(model, answers)
        log_probs(model, answers, share_prompts=False)
        hook.remove()
        assert seen[4:] == [1, 3, 4]


class TestSampling:
    def test_same_generator_same_outputs(self, policies):
        one, two, other = (rollouts_of(policies["qwen2"], seed=seed) for seed in (1, 1, 2))
        assert torch.equal(one.outputs, two.outputs)
        assert torch.equal(one.log_probs, two.log_probs)
        assert not torch.equal(one.outputs, other.outputs)

    def test_padding_by_the_end_token_is_no_end(self, policies):
        """As in Qwen2.5's base model: an output may well hold what stands in the padding."""
        model, tokenizer = policies["qwen2"]
        prompts = Prompts.of([tokenizer.encode(text) for text in TEXTS], pad_token=model.end_token)
        theirs = sample_groups(model, prompts, 6, max_tokens=12, rng=generator())
        assert torch.equal(theirs.outputs, rollouts_of(policies["qwen2"]).outputs)

    def test_outputs_of_one_token(self, policies):
        model, tokenizer = policies["qwen2"]
        prompts = tokenizer.prompts(TEXTS)
        rollouts = sample_groups(model, prompts, 3, max_tokens=1, rng=generator())
        answers, place = distinct(rollouts)
        found = log_probs(model, answers)[place]
        torch.testing.assert_close(found, rollouts.log_probs, atol=TOLERANCE, rtol=1e-5)


class Plain(torch.nn.Module):
    """A model of `transformers` whose forward takes no more than it must."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config

    def activation_checkpointing_disable(self):
        pass

    def forward(self, input_ids, attention_mask, past_key_values, use_cache):
        return self.inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )


class TestModel:
    def test_a_model_that_returns_all_logits(self, policies):
        """Bloom takes no places; `logits_to_keep` is left to us."""
        model, tokenizer = policies["bloom"]
        plain = HuggingFaceModel(Plain(model.model), end_token=model.end_token)
        ours, theirs = rollouts_of((plain, tokenizer)), rollouts_of(policies["bloom"])
        assert torch.equal(ours.outputs, theirs.outputs)
        answers, place = distinct(ours)
        for share_prompts in (True, False):
            found = log_probs(plain, answers, share_prompts=share_prompts)[place]
            torch.testing.assert_close(found, theirs.log_probs, atol=TOLERANCE, rtol=1e-5)
        prompts = tokenizer.prompts(TEXTS)
        assert plain(prompts.tokens, prompts.real, last=2)[0].shape[1] == 2

    def test_nothing_random_is_left(self, policies):
        model, _ = policies["gpt2"]
        assert model.model.config.resid_pdrop > 0
        assert not model.training and not model.model.training
        assert not model.model.is_activation_checkpointing

    def test_context(self, policies):
        model, tokenizer = policies["qwen2"]
        assert model.context_length == local_models.CONTEXT
        prompts = tokenizer.prompts(["1" * 65])
        with pytest.raises(ValueError, match="tokens must fit the context of 64, got 65"):
            model(prompts.tokens, prompts.real)
        with pytest.raises(ValueError, match="max_tokens must be at most 63"):
            sample_groups(model, tokenizer.prompts(["1"]), 2, max_tokens=64, rng=generator())
        assert policies["bloom"][0].context_length > 10**9

    def test_half_precision_has_single_logits(self, folder):
        """Log-probabilities from bfloat16 logits would be right to two digits only."""
        model, tokenizer = load(folder, dtype="bfloat16", device="cpu")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        prompts = tokenizer.prompts(TEXTS)
        logits, _ = model(prompts.tokens, prompts.real)
        assert logits.dtype == torch.float32
        rollouts = sample_groups(model, prompts, 4, max_tokens=6, rng=generator())
        score = weighted_score(model, rollouts, torch.ones(3, 4))
        assert all(part.isfinite().all() for part in score)

    def test_recurrent_models_are_refused(self):
        transformers = pytest.importorskip("transformers")
        config = transformers.MambaConfig(
            vocab_size=8, hidden_size=8, num_hidden_layers=1, state_size=2
        )
        message = (
            r"model must keep the keys and values .* got mamba with \['LinearAttentionLayer'\]"
        )
        with pytest.raises(ValueError, match=message):
            HuggingFaceModel(transformers.MambaForCausalLM(config), end_token=0)

    def test_policy_gradient_learns(self, folder):
        """Algorithm 1 on the adapter: the answer 7 becomes likely."""
        model, tokenizer = load(folder, device="cpu")
        prompts = tokenizer.prompts(["3+4=", "9-2="])
        reward = TextReward(["7", "7"], tokenizer, same_number)
        seven = Answers.of(prompts, [torch.tensor(tokenizer.encode("7"))] * 2)
        before = log_probs(model, seven).detach().exp()
        for step in range(25):
            rollouts = sample_groups(model, prompts, 64, max_tokens=1, rng=generator(step))
            advantages = Grpo().advantages(reward(rollouts, torch.arange(2)))
            gradient = weighted_score(model, rollouts, advantages / advantages.numel())
            with torch.no_grad():
                for parameter, part in zip(model.parameters(), gradient, strict=True):
                    parameter += 0.2 * part
        after = log_probs(model, seven).detach().exp()
        assert (before < 0.2).all() and (after > 0.9).all()


class TestTokenizer:
    def test_prompts_are_padded_on_the_left(self, policies):
        tokenizer = policies["qwen2"][1]
        prompts = tokenizer.prompts(TEXTS)
        assert prompts.real[:, -1].all() and prompts.real.sum(1).tolist() == [4, 17, 1]
        assert (prompts.tokens[~prompts.real] == tokenizer.pad_token).all()
        assert tokenizer.pad_token == tokenizer.tokenizer.pad_token_id != tokenizer.end_token
        for text, row, real in zip(TEXTS, prompts.tokens, prompts.real, strict=True):
            assert tokenizer.decode(row[real].tolist()) == text

    def test_decode_ends_at_the_end_token(self, policies):
        tokenizer = policies["qwen2"][1]
        tokens = [*tokenizer.encode("4 2"), tokenizer.end_token, *tokenizer.encode("9")]
        assert tokenizer.decode(tokens) == "4 2"
        assert tokenizer.decode([tokenizer.end_token]) == ""
        assert tokenizer.decode([10**6]) == ""  # models have more tokens than their tokenizers

    def test_chat_template(self, tmp_path):
        _, tokenizer = load(local_models.save_policy(tmp_path, chat=True), device="cpu")
        tokens = tokenizer.prompts(["1+2"]).tokens[0].tolist()
        wanted = "<|im_start|>user\n1+2<|im_end|>\n<|im_start|>assistant\n"
        assert tokenizer.tokenizer.decode(tokens) == wanted
        plain = HuggingFaceTokenizer(tokenizer.tokenizer, Conversation(chat=False))
        assert plain.decode(plain.prompts(["1+2"]).tokens[0].tolist()) == "1+2"

    def test_end_token_in_the_place_of_a_missing_pad_token(self, policies):
        class WithoutPad:
            eos_token_id, pad_token_id = 5, None

        assert HuggingFaceTokenizer(WithoutPad()).pad_token == 5

    def test_no_end_token(self):
        class WithoutEnd:
            eos_token_id = None

        with pytest.raises(ValueError, match="tokenizer must have an eos_token, got None"):
            HuggingFaceTokenizer(WithoutEnd())

    def test_characters_that_it_loses(self, tmp_path):
        letters = local_models.LETTERS.replace("7", "").replace("*", "")
        local_models.save_policy(tmp_path)
        local_models.save_tokenizer(tmp_path, letters=letters)
        _, tokenizer = load(tmp_path, device="cpu")
        tokenizer.require("1+2=3")
        with pytest.raises(ValueError, match=r"must keep the characters .* lost are '\*7'"):
            tokenizer.require(ARITHMETIC)
        with pytest.raises(ValueError, match=r"got '7-1': lost are '7'"):
            tokenizer.prompts(["5-1", "7-1"])

    def test_spaces_that_it_adds(self):
        """Digits would come apart, and the last number of an output be its last digit."""

        class Spaced:
            eos_token_id = 0

            def encode(self, text, add_special_tokens=True):
                return [ord(letter) for letter in text]

            def decode(self, tokens, skip_special_tokens, clean_up_tokenization_spaces):
                return " ".join(map(chr, tokens))

        with pytest.raises(ValueError, match="got '12': they come back as '1 2'"):
            HuggingFaceTokenizer(Spaced()).require("12")

    def test_marks_of_the_template_are_no_text(self, policies):
        with pytest.raises(ValueError, match="must keep the characters"):
            policies["qwen2"][1].prompts([f"1{local_models.END}2"])


@pytest.fixture(scope="session")
def with_template(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("template")
    local_models.save_tokenizer(folder)
    plain = AutoTokenizer.from_pretrained(folder)

    def made(template):
        plain.chat_template = template
        return HuggingFaceTokenizer(plain)

    return made


class TestTemplates:
    """A template is a program of somebody else; it is tried when it is taken up."""

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("{{ raise_exception('Only a\nsystem') }}", "got TemplateError: 'Only a system'$"),
            ("{{ messages[1].content }}", "got UndefinedError: "),
            ("{% for m in messages %}", "got TemplateSyntaxError: "),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "got RecursionError: "),
            ("{% for i in range(10**9) %}{% endfor %}", "not raise to a power"),
            ("{% for i in range(999999999) %}{% endfor %}", "got OverflowError: 'Range too big"),
            ("{{ 9 ** 9 ** 9 }}", r"not raise to a power, got one with \*\*$"),
        ],
    )
    def test_what_fails_is_said_in_one_line(self, with_template, template, message):
        """Would catch: a traceback out of jinja, at the first prompt of a long run."""
        with pytest.raises(ValueError, match=f"^chat template must .*{message}") as refusal:
            with_template(template)
        assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize("inner", ["{% set a = i * j %}", "{% set a = range(9999)|sum %}"])
    def test_what_does_not_end_is_ended(self, with_template, monkeypatch, inner):
        """10¹⁰ turns, of short and of long steps, on any thread; a debugger's trace stays."""
        monkeypatch.setattr(chat_templates, "LIMIT", 0.05)
        loop = "{% for i in range(99999) %}{% for j in range(99999) %}" + inner
        template, before = loop + "{% endfor %}{% endfor %}", sys.gettrace()
        message = r"must end within 0\.05 s of processor time"
        with pytest.raises(ValueError, match=message):
            with_template(template)
        with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match=message):
            pool.submit(with_template, template).result()
        assert sys.gettrace() is before

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("{% set x = '%0999999999d'|format(1) %}", "(end within 0.05 s|take at most)"),
            ("{% set x = 'x'|center(9999999999) %}", "take at most 2147483648 bytes"),
            ("{% set x = [0] * 9999999999 %}", "take at most 2147483648 bytes"),
        ],
    )
    def test_a_single_step_is_ended(self, with_template, monkeypatch, template, message):
        """Would catch: a limit that is looked at between lines only, 22 s for 5."""
        monkeypatch.setattr(chat_templates, "LIMIT", 0.05)
        with pytest.raises(ValueError, match=f"^chat template must .*{message}"):
            with_template(template)

    def test_what_depends_on_the_text_is_ended_too(self, with_template, monkeypatch):
        """Would catch: a limit for a first try only."""
        monkeypatch.setattr(chat_templates, "LIMIT", 0.05)
        loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
        text = "{{ messages[0].content }}"
        tokenizer = with_template(f"{{% if '7' in messages[0].content %}}{loop}{{% endif %}}{text}")
        assert tokenizer.decode(tokenizer.encode("1+2")) == "1+2"
        with pytest.raises(ValueError, match="must end within"):
            tokenizer.encode("7")

    def test_keywords_of_a_call_are_no_power(self, with_template):
        """Would catch: templates that hand options on, refused."""
        tokenizer = with_template("a ** b {{ dict(**{'role': messages[0].content}).role }}")
        assert tokenizer.decode(tokenizer.encode("1+2")).endswith("b 1+2")
