"""How a model is asked, and when its outputs end: stop strings, temperature, system, prefill."""

from collections import Counter

import pytest
import torch

from support import local_models
from ustat_grpo.lm import Conversation, log_probs, sample_groups, weighted_score
from ustat_grpo.lm.scoring import answers_of

pytest.importorskip("transformers", reason="needs the extra llm")
from ustat_grpo.lm.models.huggingface import load

PLAIN = {"chat": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return local_models.save_policy(tmp_path_factory.mktemp("model"), chat=True)


def sampled(folder, conversation, *, outputs=200, max_tokens=6):
    model, tokenizer = load(folder, device="cpu", conversation=conversation)
    prompts = tokenizer.prompts(["1+2="])
    rng = torch.Generator().manual_seed(0)
    rollouts = sample_groups(model, prompts, outputs, max_tokens=max_tokens, rng=rng)
    return model, tokenizer, rollouts


def texts(tokenizer, rollouts, first=None):
    """Return the outputs, or their first tokens, as texts, with what ends them."""
    return [
        tokenizer.decode(output[real][:first].tolist(), whole=True)
        for output, real in zip(rollouts.outputs[0], rollouts.mask[0], strict=True)
    ]


class TestStop:
    def test_outputs_end_with_the_token_that_completes_it(self, folder):
        """Would catch: a stop string of two tokens that is never seen, or is seen too late."""
        _, tokenizer, free = sampled(folder, Conversation(**PLAIN), outputs=4000, max_tokens=4)
        ((pair, often),) = Counter(texts(tokenizer, free, 2)).most_common(1)
        assert len(pair) == 2 and often > 1
        for stop in ("1", pair):
            conversation = Conversation(**PLAIN, stop=(stop,))
            _, _, rollouts = sampled(folder, conversation, outputs=4000, max_tokens=4)
            holding = [text for text in texts(tokenizer, rollouts) if stop in text]
            assert holding and all(text.find(stop) == len(text) - len(stop) for text in holding)

    def test_draws_are_the_same_up_to_there(self, folder):
        """Would catch: other uniform numbers where outputs end earlier."""
        free = sampled(folder, Conversation(**PLAIN))[2]
        stopped = sampled(folder, Conversation(**PLAIN, stop=("1", "a")))[2]
        mask = stopped.mask[0]
        assert 0 < mask.sum() < free.mask.sum()
        torch.testing.assert_close(stopped.outputs[0][mask], free.outputs[0][mask])

    def test_what_stops_is_no_part_of_the_text(self, folder):
        _, tokenizer = load(folder, device="cpu", conversation=Conversation(**PLAIN, stop=("ab",)))
        tokens = tokenizer.tokenizer.encode("12ab34", add_special_tokens=False)
        assert tokenizer.decode(tokens) == "12"
        assert tokenizer.decode(tokens, whole=True) == "12ab34"

    def test_the_first_of_several_counts(self):
        assert Conversation(stop=("b", "a")).before_stop("1a2b") == "1"
        assert Conversation(stop=("b",)).before_stop("1a") == "1a"


class TestTemperature:
    def test_log_probs_and_scores_are_of_the_tempered_policy(self, folder):
        """By central differences. Would catch: scores of temperature 1."""
        model, _, rollouts = sampled(folder, Conversation(**PLAIN, temperature=2.0), outputs=3)
        plain, _, _ = sampled(folder, Conversation(**PLAIN), outputs=3)
        answers = answers_of(rollouts)
        with torch.no_grad():
            known = log_probs(model, answers)
        torch.testing.assert_close(known.view(1, 3, -1), rollouts.log_probs, atol=1e-4, rtol=1e-4)
        logits, _ = plain(answers.prompts.tokens, answers.prompts.real, last=1)
        first = (logits[0, -1] / 2).log_softmax(-1)[answers.tokens[:, 0]]
        torch.testing.assert_close(known[:, 0], first, atol=1e-5, rtol=1e-5)
        weights = torch.tensor([[1.0, -0.5, 0.25]])
        score = weighted_score(model, rollouts, weights)
        parameter, part = next(
            (p, s)
            for p, s in zip(model.parameters(), score, strict=True)
            if p.dim() == 2 and s.abs().max() > 0
        )
        place, step = int(part.abs().argmax()), 1e-2
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[place] += sign * step
                values.append(float((log_probs(model, answers).sum(dim=1) * weights[0]).sum()))
                parameter.view(-1)[place] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float(part.view(-1)[place]), rel=0.02)

    def test_high_ones_are_nearer_to_uniform(self, folder):
        cold = sampled(folder, Conversation(**PLAIN, temperature=0.2))[2].outputs[0]
        hot = sampled(folder, Conversation(**PLAIN, temperature=5.0))[2].outputs[0]
        assert len(cold[:, 0].unique()) < len(hot[:, 0].unique())


class TestChat:
    def test_system_and_prefill_stand_where_they_belong(self, folder):
        conversation = Conversation(system="Be brief", prefill="It is ")
        _, tokenizer = load(folder, device="cpu", conversation=conversation)
        prompt = tokenizer.tokenizer.decode(tokenizer.encode("1+2"))
        assert prompt == (
            "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\n1+2<|im_end|>\n"
            "<|im_start|>assistant\nIt is "
        )

    def test_a_system_needs_a_template(self, tmp_path):
        folder = local_models.save_policy(tmp_path)
        with pytest.raises(ValueError, match=r"must have a chat template .* got none for 'x'"):
            load(folder, device="cpu", conversation=Conversation(system="x"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": ("",)}, "stop must be of texts that are not empty, got ''"),
        ({"stop": "ab"}, "stop must be a tuple of texts, got the text 'ab'"),
        ({"stop": (1,)}, "stop must be of texts that are not empty, got 1"),
        ({"temperature": 0.0}, "temperature must be a finite number and above 0, got 0.0"),
        ({"system": " "}, "system must be a text that is not empty, got ' '"),
        ({"system": "x", "chat": False}, "system must be None without chat, got 'x'"),
        ({"prefill": "x", "chat": False}, "prefill must be '' without chat, got 'x'"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError) as error:
        Conversation(**options)
    assert str(error.value) == message
