"""Rewards of texts: the last number, math-verify, format, and what cannot be judged."""

import math
import sys
import threading
import time

import pytest
import torch

from ustat_grpo import Grpo
from ustat_grpo.lm import CharacterTokenizer, Prompts, Rollouts
from ustat_grpo.lm.rewards import AccuracyAndFormat
from ustat_grpo.lm.text_rewards import (
    Equivalent,
    TextReward,
    is_boxed,
    last_number,
    same_number,
)


@pytest.fixture
def equivalent() -> Equivalent:
    pytest.importorskip("math_verify", reason="needs the extra llm")
    return Equivalent(seconds=1)


def rollouts_of(groups: list[list[str]], tokenizer: CharacterTokenizer) -> Rollouts:
    """Outputs that end, as if they had been sampled."""
    length = max(len(text) for texts in groups for text in texts) + 1
    outputs = torch.zeros(len(groups), len(groups[0]), length, dtype=torch.long)
    mask = torch.zeros(outputs.shape, dtype=torch.bool)
    for b, texts in enumerate(groups):
        for i, output in enumerate(tokenizer.outputs(texts)):
            outputs[b, i, : len(output)] = output
            mask[b, i, : len(output)] = True
    prompts = Prompts.of([[2]] * len(groups), pad_token=0)
    return Rollouts(prompts, outputs, mask, torch.zeros(outputs.shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("27 + 35 - 4 = 58", "58"),
        ("It is 58.", "58"),
        ("58.0", "58"),
        ("58.50", "58.5"),
        (".5", "0.5"),
        ("See eq.5", "5"),
        ("007", "7"),
        ("-0", "0"),
        ("1,234,567 beads", "1234567"),
        ("of 1,2,3 it is 12,3456", "3456"),
        ("The answer is -25", "-25"),
        ("The answer is \N{MINUS SIGN}25", "-25"),
        (r"$-25$ or \boxed{-25}", "-25"),
        ("x=-25", "-25"),
        ("**-25**", "-25"),
        ("Answer 3:\n-25", "-25"),
        ("10\n-25", "-25"),
        ("27-4", "4"),
        ("27 -4", "4"),
        ("(2+3)-4", "4"),
        ("step-4", "4"),
        ("9" * 5000, "9" * 5000),  # int() refuses so many digits
        ("no number", None),
        ("", None),
        ("-", None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


class TestSameNumber:
    @pytest.mark.parametrize(
        ("text", "answer", "reward"),
        [
            ("so 1,200", "1200", 1.0),
            ("so -7.0", "-7", 1.0),
            ("7", "-7", 0.0),
            ("58.5", "58", 0.0),
            ("58, no, 57", "58", 0.0),
            ("none", "58", 0.0),
            ("none", "none", 0.0),
        ],
    )
    def test_reward(self, text, answer, reward):
        assert same_number(text, answer) == reward


@pytest.mark.parametrize(
    ("text", "reward"), [(r"so \boxed{5}", 1.0), (r"\boxed{5", 0.0), (r"\boxed{}", 0.0), ("5", 0.0)]
)
def test_is_boxed(text, reward):
    assert is_boxed(text) == reward


class TestEquivalent:
    @pytest.mark.parametrize(
        ("text", "answer", "reward"),
        [
            (r"Thus $\boxed{\frac{1}{2}}$.", "0.5", 1.0),
            (r"Thus $\boxed{0.5}$.", r"\frac{1}{2}", 1.0),
            (r"\boxed{(x+1)^2}", "x^2+2x+1", 1.0),
            (r"\boxed{\left[-2, 7\right)}", "[-2,7)", 1.0),
            (r"\boxed{\text{Eve}}", r"\text{Eve}", 1.0),
            (r"\boxed{1,234}", "1234", 1.0),
            (r"$\boxed{17}$, no, $\boxed{18}$", "18", 1.0),
            (r"$\boxed{18}$, after 12 steps", "18", 1.0),
            ("The answer is 18.", "18", 1.0),
            (r"\boxed{17}", "18", 0.0),
            (r"\boxed{18", "180", 0.0),
            (r"\boxed{}", "18", 0.0),
            (r"\frac{1}{", "18", 0.0),
            ("I do not know", "18", 0.0),
            ("", "18", 0.0),
        ],
    )
    def test_reward(self, equivalent, text, answer, reward):
        assert equivalent(text, answer) == reward

    def test_what_takes_too_long_has_no_reward(self, equivalent):
        start = time.perf_counter()
        assert math.isnan(equivalent(r"\boxed{9^{9^{9^{9}}}}", "18"))
        assert time.perf_counter() - start < 5

    def test_what_it_fails_at_has_no_reward(self, equivalent):
        """More digits than sympy reads."""
        assert math.isnan(equivalent("7" * 6000, "18"))

    def test_in_another_thread(self, equivalent):
        """math-verify's alarm would raise there."""
        found = []
        thread = threading.Thread(target=lambda: found.append(equivalent(r"\boxed{36/2}", "18")))
        thread.start()
        thread.join()
        assert found == [1.0]

    def test_errors(self, monkeypatch):
        with pytest.raises(ValueError, match="seconds must be an integer of at least 1, got 0"):
            Equivalent(seconds=0)
        monkeypatch.setitem(sys.modules, "math_verify", None)
        message = (
            r"math-verify must be installed for this \(pip install -e '.\[llm\]' in a checkout\)"
        )
        with pytest.raises(ValueError, match=message):
            Equivalent()


class TestTextReward:
    TOKENIZER = CharacterTokenizer("0123456789-+= \\boxed{}?")

    def test_accuracy_and_format(self):
        groups = [["2+3=5", "\\boxed{5}", "\\boxed{6}", "?"], ["5", "7", "\\boxed{7}", "\\boxed{"]]
        rollouts = rollouts_of(groups, self.TOKENIZER)
        answers, questions = ["7", "0", "5"], torch.tensor([2, 0])
        accuracy = TextReward(answers, self.TOKENIZER, same_number)(rollouts, questions)
        assert accuracy.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]
        both = TextReward(answers, self.TOKENIZER, same_number, is_boxed)(rollouts, questions)
        assert both.tolist() == [[1, 2, 1, 0], [0, 1, 2, 0]]
        assert both.dtype == rollouts.log_probs.dtype

    def test_agrees_with_the_reward_of_numbers(self):
        """On finished outputs that are nothing but a number, accuracy means the same."""
        tokenizer = CharacterTokenizer()
        rollouts = rollouts_of([["5", "05", "-5", "6", "-0"]], tokenizer)
        for answer in (5, -5, 0):
            whole = AccuracyAndFormat([answer], tokenizer)(rollouts, torch.tensor([0]))
            form = AccuracyAndFormat([10**9], tokenizer)(rollouts, torch.tensor([0]))
            ours = TextReward([str(answer)], tokenizer, same_number)(rollouts, torch.tensor([0]))
            assert torch.equal(ours, whole - form)

    def test_equal_texts_are_judged_once(self):
        asked = []

        def accuracy(text: str, answer: str) -> float:
            asked.append((text, answer))
            return 1.0

        rollouts = rollouts_of([["5", "5", "6"], ["5", "5", "5"]], self.TOKENIZER)
        reward = TextReward(["1", "2"], self.TOKENIZER, accuracy)
        assert reward(rollouts, torch.arange(2)).tolist() == [[1.0] * 3] * 2
        assert asked == [("5", "1"), ("6", "1"), ("5", "2")]

    def test_unjudged_outputs_are_left_out(self):
        """NaN, also with a good format; the estimators then give no advantage."""

        def accuracy(text: str, answer: str) -> float:
            return math.nan if "6" in text else float(answer in text)

        rollouts = rollouts_of([["5", "\\boxed{6}", "7"]], self.TOKENIZER)
        reward = TextReward(["5"], self.TOKENIZER, accuracy, is_boxed)
        rewards = reward(rollouts, torch.tensor([0]))
        assert rewards.isnan().tolist() == [[False, True, False]]
        assert Grpo().advantages(rewards).tolist() == [[1.0, 0.0, -1.0]]
