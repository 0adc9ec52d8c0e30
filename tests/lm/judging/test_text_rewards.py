"""Rewards of texts: the last number, math-verify, format, and what cannot be judged."""

import logging
import math
import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from ustat_grpo import Grpo
from ustat_grpo.lm import CharacterTokenizer, Prompts, Rollouts
from ustat_grpo.lm.judging import judge_process
from ustat_grpo.lm.judging.judge_process import JUDGE, JudgeProcess
from ustat_grpo.lm.judging.text_rewards import Equivalent, TextReward, is_boxed, same_number
from ustat_grpo.lm.judging.written_numbers import last_number
from ustat_grpo.lm.questions.rewards import AccuracyAndFormat


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
    RIGHT = (
        (r"Thus $\boxed{\frac{1}{2}}$.", "0.5"),
        (r"Thus $\boxed{0.5}$.", r"\frac{1}{2}"),
        (r"\boxed{(x+1)^2}", "x^2+2x+1"),
        (r"\boxed{\left[-2, 7\right)}", "[-2,7)"),
        (r"\boxed{\text{Eve}}", r"\text{Eve}"),
        (r"\boxed{1,234}", "1234"),
        (r"$\boxed{17}$, no, $\boxed{18}$", "18"),
        (r"$\boxed{18}$, after 12 steps", "18"),
        ("The answer is 18.", "18"),
        (r"\boxed{3 1/2}", "3.5"), (r"\boxed{-3 1/2}", "-7/2"), ("It is 3 1/2.", r"\frac{7}{2}"),
        (r"so 3\frac{1}{2}.", "3.5"), (r"\boxed{7/2}", "3 1/2"),
        (r"\boxed{x^2 \cdot 10^3}", "1000x^2"), (r"\boxed{3½}", "3.5"), ("is -3 ½.", "-3.5"),
        (r"\boxed{101_2}", "101_{2}"), (r"\boxed{11_2}", "3_{10}"), (r"\boxed{(101)_2}", "101_2"),
        (r"\boxed{101₂}", r"101_{\text{two}}"), (r"\boxed{101}", "101_2"), ("is 0.1_2", "0.1_{2}"),
        (r"\boxed{28.0\%}", r"28\%"), (r"\boxed{28\%}", r"28.0\%"), (r"\boxed{0.28}", r"28\%"),
        (r"\boxed{28\%}", "28"), ("It is 28.0%.", "28"), (r"\boxed{50\%}", r"\frac12"),
        (r"is $28\%$", r"28.0\%"),
        (r"\fbox{5}", "5"), (r"so \boxed5.", "5"), (r"\fbox{\frac12}", "0.5"),
        (r"\fbox{2} and \fbox{3}", "2,3"), (r"\boxed{5}, that is \boxed{5}", "5"),
        (r"\boxed{1234 dollars}", "1234"), (r"\boxed{1,234\text{ dollars}}", "1234"),
        (r"\boxed{12 eggs per day}", "12"), (r"\boxed{1234 USD}", "1234"),
        (r"\boxed{18}", "18 pens"), (r"\boxed{\text{18 pens}}", "18"),
        (r"\boxed{5 million dollars}", "5000000"), (r"\boxed{10\,000\text{ km}}", "10000"),
        (r"\boxed{-\$5}", "-5"), (r"\boxed{–5}", "-5"), ("is -$5", "-5"),
        (r"\boxed{1\,234}", "1234"),
        (r"\boxed{10 000}", "10000"), ("is $10\\,000$.", "10000"), (r"\boxed{1.5e3}", "1500"),
        (r"\boxed{101_\text{two}}", "101_2"), (r"\boxed{101_{(3)}}", r"101_{\text{base }3}"),
        (r"\boxed{11_{\text{base two}}}", "3_{10}"), (r"\boxed{101_{two}}", "101_2"),
        (r"\boxed{101 \text{ (base 2)}}", "101_2"), ("It is 101 base 2.", "101_2"),
        (r"\boxed{101_{\mathrm{three}}}", "101_3"), (r"\boxed{101_\text{two}}", "101"),
        (r"\boxed{101_{(2)}}", "101"), (r"\boxed{101}", r"101_{\text{base }2}"),
        (r"\boxed{28\,\%}", r"28\%"), (r"\boxed{28~\%}", r"28\%"), (r"\boxed{28.0\,\%}", r"28\%"),
        (r"\boxed{28\text{ percent}}", r"28\%"), (r"\boxed{28\text{\%}}", r"28\%"),
        (r"\boxed{28 per cent}", r"28\%"), (r"so $28\,\%$", r"28.0\%"), (r"\boxed{28％}", r"28\%"),
        (r"\boxed{3 1 / 2}", "3.5"), (r"\boxed{3 \text{ and } \frac{1}{2}}", "3.5"),
        (r"\boxed{3 and 1/2}", r"\frac{7}{2}"), (r"\boxed{3.5}", r"3\text{ and }\frac12"),
        (r"\boxed{3\frac12}", "3.5"), (r"\boxed{3\tfrac 12}", "7/2"),
        (r"\boxed{-CHF 5}", "-5"), (r"\boxed{-(5)}", "-5"), (r"\boxed{１２}", "12"),
        ("is １２", "12"), (r"\boxed{x^{-{2}}}", r"\frac{1}{x^2}"),
        (r"\boxed{5.}", "5"), ("9*8 = $72\n#### 72", "72"),
        (r"\boxed{6/2*10^3}", "3000"), (r"\boxed{2^3 \cdot 10^2}", "800"),
    )  # fmt: skip
    WRONG = (
        (r"\boxed{17}", "18"),
        (r"\boxed{18", "180"),
        (r"\boxed{}", "18"),
        (r"\frac{1}{", "18"),
        ("I do not know", "18"),
        ("", "18"),
        ("3½", "3"), ("3 1/2", "1"), (r"\boxed{3 1/2}", "2"), ("is 3 1/2", "1/2"),
        (r"\boxed{101_3}", "101_2"), ("is 101_3", "101_2"), (r"\boxed{101_{\text{two}}}", "101_3"),
        (r"\boxed{129_2}", "129_3"), (r"\boxed{0.1_3}", "0.1_2"), (r"\boxed{5}", "101_2"),
        (r"\boxed{x_1}", "x_2"), (r"\boxed{28\%}", r"29\%"), (r"\boxed{0.28\%}", r"28\%"),
        (r"\boxed{0.28}", "28"), (r"\boxed{5 dollars}", "5 cents"), (r"\boxed{5 million}", "5"),
        (r"\boxed{5\text{ million}}", "5"), (r"\boxed{5 dozen}", "5"), (r"\boxed{2 pi}", "2"),
        (r"\boxed{5 or more}", "5"), (r"\boxed{-\$5}", "5"), (r"\boxed{123}", "1234"),
        (r"\boxed{5 xyz}", "5"), (r"\boxed{5!}", "5"),
        (r"\boxed{101_\text{three}}", r"101_\text{two}"), (r"\boxed{101_{(3)}}", "101_{(2)}"),
        (r"\boxed{101_{\text{base }3}}", r"101_{\text{base }2}"), ("is 101 base 3", "101_2"),
        (r"\boxed{101_{\mathrm{three}}}", "101_{two}"), (r"\boxed{101_{3}}", r"101\text{ base }2"),
        (r"\boxed{3 \text{ and } \frac{1}{2}}", "3"), (r"\boxed{28\,\%}", r"29\%"),
        (r"\boxed{28\text{ percent}}", r"0.28\%"), (r"\boxed{-(5)}", "5"),
        (r"\boxed{3 1 / 2}", "31/2"), (r"\boxed{3 and 1/2}", "5/2"),
        ("7" * 6000, "18"),
    )  # fmt: skip

    def test_verdicts(self, equivalent):
        """Would catch: a guard in front of math-verify that is missing, or takes too much."""
        for pairs, verdict in ((self.RIGHT, 1.0), (self.WRONG, 0.0)):
            found = dict(zip(pairs, equivalent.verdicts(pairs), strict=True))
            assert {pair for pair in pairs if found[pair] != verdict} == set()

    def test_hostile_texts_in_any_thread(self, equivalent):
        """Would catch: a limit that the main thread alone has, or one for the whole batch.

        Towers of powers take forever, in C; math-verify fails at more digits than Python reads.
        """
        hostile = [r"\boxed{9^{9^{9^{9}}}}", "is " + "7" * 6000 + "!"]
        pairs = [(text, "18") for text in (r"\boxed{36/2}", *hostile, r"\boxed{36/2}")]
        found = []
        thread = threading.Thread(target=lambda: found.extend(equivalent.verdicts(pairs)))
        thread.start()
        thread.join()
        assert [found[0], found[3]] == [1.0, 1.0] and all(map(math.isnan, found[1:3]))

    def test_errors(self, monkeypatch):
        with pytest.raises(ValueError, match="seconds must be an integer of at least 1, got 0"):
            Equivalent(seconds=0)
        monkeypatch.setitem(sys.modules, "math_verify", None)
        message = (
            r"math-verify must be installed for this \(pip install -e '.\[llm\]' in a checkout\)"
        )
        with pytest.raises(ValueError, match=message):
            Equivalent()


class TestJudgeProcess:
    PAIR = ("18", r"\boxed{36/2}")

    def test_is_one_serves_forks_and_ends_with_its_parent(self, equivalent):
        """Would catch: a process a text; forks that take each other's verdicts; one left over."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PARENT, judge_process.__file__],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        process, in_fork, again = map(int, done.stdout.split())
        assert process == again != in_fork
        for each in (process, in_fork):
            for _ in range(500):
                if not is_running(each):
                    break
                threading.Event().wait(0.02)
            assert not is_running(each)

    def test_killed_from_outside(self, equivalent):
        """Would catch: an error, or verdicts that are shifted by the one that got lost."""
        assert JUDGE.verdicts([self.PAIR], 5) == [1.0]
        assert JUDGE._process is not None
        os.killpg(JUDGE._process.pid, signal.SIGKILL)
        JUDGE._process.wait()
        assert JUDGE.verdicts([self.PAIR, ("17", self.PAIR[1])], 5) == [1.0, 0.0]

    def test_what_cannot_start_is_an_error(self, equivalent, monkeypatch):
        """Would catch: every output unscorable, in silence, where math-verify is broken."""
        monkeypatch.setattr(sys, "path", [])
        with pytest.raises(RuntimeError, match="the process that judges texts must start, got: M"):
            JudgeProcess().verdicts([self.PAIR], 5)


PARENT = r"""
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("judge_process", sys.argv[1])
library = importlib.util.module_from_spec(spec)
spec.loader.exec_module(library)

def tell():
    assert library.JUDGE.verdicts([("18", r"\boxed{36/2}"), ("1", r"\boxed{36/2}")], 5) == [1, 0]
    print(library.JUDGE._process.pid, flush=True)

tell()
child = os.fork()
if child == 0:
    tell()
else:
    assert os.waitpid(child, 0)[1] == 0
    tell()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def is_running(process: int) -> bool:
    """Return whether there is a process that is no zombie."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


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

    def test_unjudged_outputs_are_left_out_and_counted(self, caplog):
        """NaN, also with a good format; the estimators then give no advantage."""

        def accuracy(text: str, answer: str) -> float:
            return math.nan if "6" in text else float(answer in text)

        rollouts = rollouts_of([["5", "\\boxed{6}", "7"]], self.TOKENIZER)
        reward = TextReward(["5"], self.TOKENIZER, accuracy, is_boxed)
        with caplog.at_level(logging.WARNING):
            rewards = reward(rollouts, torch.tensor([0]))
        assert [record.message for record in caplog.records] == ["1 of 3 outputs had no verdict"]
        assert rewards.isnan().tolist() == [[False, True, False]]
        assert Grpo().advantages(rewards).tolist() == [[1.0, 0.0, -1.0]]

    def test_answers_that_are_no_numbers_are_refused(self):
        """Would catch: the answer 3/7 that is judged by its 7."""
        message = "answers must be numbers for same_number, got '3/7' to question 1"
        with pytest.raises(ValueError, match=message):
            TextReward(["7", "3/7"], self.TOKENIZER, same_number)
