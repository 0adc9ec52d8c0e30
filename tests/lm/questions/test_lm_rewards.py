"""Rewards of outputs, token by token and as numbers."""

import pytest
import torch

from support.lm_problems import END, OUTPUTS, RIGHT, SOLUTIONS, matches, outputs_in, rollouts_of
from ustat_grpo.lm import CharacterTokenizer, Prompts
from ustat_grpo.lm.models.tokenizer import PAD
from ustat_grpo.lm.questions.rewards import AccuracyAndFormat, ExactMatch
from ustat_grpo.lm.scoring import Answers

TOKENIZER = CharacterTokenizer()
ROWS = torch.arange(3)


def test_exact_match_is_equality_of_token_sequences():
    """All 13 outputs to all questions; shorter ones have other tokens in their padding."""
    rollouts = rollouts_of([OUTPUTS] * 3)
    found = ExactMatch(SOLUTIONS)(rollouts, ROWS)
    assert found.tolist() == matches().tolist()
    assert found.dtype == rollouts.log_probs.dtype
    assert outputs_in(rollouts) == [OUTPUTS] * 3
    swapped = ExactMatch(SOLUTIONS)(rollouts, torch.tensor([2, 2, 0]))
    assert swapped.tolist() == matches([RIGHT[2], RIGHT[2], RIGHT[0]]).tolist()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ([2, 3, 2, END], [[2, 3, END], [2, 3], [2], [END], [2, 3, 2, 3, END]]),  # longer, shorter
        ([2, END], [[2], [2, 2], [2, PAD], [2, PAD, END], [PAD, 2, END], [END]]),
        ([2, PAD, END], [[2, END], [2, PAD, PAD], [2, PAD, PAD, END], [2, PAD]]),  # sampled padding
        ([PAD], [[PAD, PAD], [PAD, END], [END]]),
        ([END], [[PAD, END], [PAD], [END, END], [END, PAD]]),
    ],
)
def test_lengths_and_sampled_padding_count(right, wrong):
    """Unequal lengths on either side; what pads the tensors is no token of an output."""
    prompts = Prompts.of([[2]], pad_token=0)
    longer = torch.full((9,), 2)  # another question's solution makes the tensor of solutions wide
    for solutions in ([right], [right, longer]):
        asked = prompts[[0] * len(solutions)]
        match = ExactMatch(Answers.of(asked, [torch.as_tensor(each) for each in solutions]))
        group = [tuple(each) for each in [*wrong, right]]
        found = match(rollouts_of([group], prompts), torch.tensor([0]))
        assert found.tolist() == [[0.0] * len(wrong) + [1.0]]


def judged(text: str, answer: int, *, finished: bool = True) -> float:
    """Return the reward of one text; of no tokens at all, that of an end token."""
    tokens = TOKENIZER.encode(text) + [END] * finished
    return judged_tokens(tokens, answer)


def judged_tokens(tokens: list[int], answer: int) -> float:
    prompts = Prompts.of([[2]], pad_token=0)
    rollouts = rollouts_of([[tuple(tokens), (3, 3, 3)]], prompts)
    return float(AccuracyAndFormat([answer], TOKENIZER)(rollouts, torch.tensor([0]))[0, 0])


@pytest.mark.parametrize(
    ("text", "answer", "reward"),
    [
        ("7", 7, 2), ("-12", -12, 2), ("0", 0, 2), ("100", 100, 2),
        ("8", 7, 1), ("-7", 7, 1), ("0", 7, 1),  # a number, but not the answer
        ("007", 7, 1), ("-012", -12, 1), ("00", 0, 1), ("-0", 0, 1),  # not as one writes it
        ("008", 7, 0), ("-0", 7, 0), ("-00", 1, 0),
        ("", 0, 0), ("-", 0, 0), ("7-", 7, 0), ("--7", 7, 0), ("+7", 7, 0), ("3+4", 7, 0),
        ("7=7", 7, 0), ("(7)", 7, 0), ("1-", 1, 0),
    ],
)  # fmt: skip
def test_accuracy_and_format(text, answer, reward):
    assert judged(text, answer) == reward


@pytest.mark.parametrize("text", ["7", "007", "8", "-", ""])
def test_an_unfinished_output_earns_nothing(text):
    """The answer's digits without the end token may yet become another number."""
    tokens = TOKENIZER.encode(text) or [PAD]
    assert judged_tokens(tokens, 7) == 0


def test_padding_that_was_sampled_is_no_character():
    """`7`, padding, end reads as `7`: this reward is one of texts, `ExactMatch` one of tokens."""
    seven = TOKENIZER.encode("7")
    assert judged_tokens([PAD, *seven, PAD, END], 7) == 2
    assert judged_tokens([PAD, END], 7) == 0
    assert judged_tokens([PAD], 7) == 0


@pytest.mark.parametrize("digits", [4300, 4301, 10_000])
def test_numbers_that_python_does_not_read_are_judged(digits):
    """Python's int() refuses more than 4300 digits; a long output must not end a run."""
    assert judged("9" * digits, 7) == 1
    assert judged("0" * digits + "7", 7) == 1
    assert judged("-" + "0" * digits, 0) == 1
    assert judged("-" + "0" * digits + "7", 7) == 0


def test_other_digits_are_no_digits():
    """A tokenizer may know `٣`, which Python's `int` reads as 3 and `\\d` matches."""
    tokenizer = CharacterTokenizer("0123456789-٣")
    prompts = Prompts.of([[2]], pad_token=0)
    rollouts = rollouts_of([[tuple([*tokenizer.encode("٣"), END]), (2, END)]], prompts)
    assert AccuracyAndFormat([3], tokenizer)(rollouts, torch.tensor([0])).tolist() == [[0.0, 1.0]]


def test_each_group_is_judged_by_its_question():
    tokens = [tuple([*TOKENIZER.encode(text), END]) for text in ("7", "8", "08", "+")]
    rollouts = rollouts_of([tokens] * 3)
    reward = AccuracyAndFormat([8, 0, 7], TOKENIZER)
    assert reward(rollouts, ROWS).tolist() == [[1, 2, 1, 0], [1, 1, 0, 0], [2, 1, 0, 0]]
    assert reward(rollouts, torch.tensor([2, 2, 1])).tolist() == [
        [2, 1, 0, 0], [2, 1, 0, 0], [1, 1, 0, 0],
    ]  # fmt: skip
    assert reward(rollouts, ROWS).dtype == rollouts.log_probs.dtype


def test_the_right_output_has_both_rewards_whole():
    """Exact match 1 goes with accuracy and format 2, and nothing else of its tokens does."""
    prompts = Prompts.of([[2]], pad_token=0)
    texts = ["12", "012", "21", "1", "-12", "12-"]
    solution = Answers.of(prompts, TOKENIZER.outputs(["12"]))
    group = [tuple(each.tolist()) for each in TOKENIZER.outputs(texts)]
    rollouts = rollouts_of([group], prompts)
    match = ExactMatch(solution)(rollouts, torch.tensor([0]))
    both = AccuracyAndFormat([12], TOKENIZER)(rollouts, torch.tensor([0]))
    assert match.tolist() == (both == 2).double().tolist() == [[1, 0, 0, 0, 0, 0]]
