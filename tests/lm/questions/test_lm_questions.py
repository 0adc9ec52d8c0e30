"""Questions: what is asked, what is right, and that train and held-out sets share nothing."""

from collections import Counter

import numpy as np
import pytest
import torch

from ustat_grpo.arithmetic.problems import KINDS, OperandRanges
from ustat_grpo.lm import Rollouts
from ustat_grpo.lm.models.tokenizer import PAD
from ustat_grpo.lm.questions.questions import (
    CONTEXT_LENGTH,
    RANGES,
    TOKENIZER,
    Questions,
    arithmetic_questions,
)

SMALL = OperandRanges(
    sums=(1, 3), factors=(2, 4), multipliers=(2, 9), divisors=(2, 4), quotients=(2, 9)
)


def drawn(num_train, num_held_out, seed=0, ranges=RANGES):
    rng = np.random.default_rng(seed)
    return arithmetic_questions(num_train, num_held_out, rng=rng, ranges=ranges)


def texts(questions: Questions) -> list[str]:
    """The prompts read back from their tokens."""
    prompts = questions.prompts
    return [
        TOKENIZER.decode(tokens[real].tolist())
        for tokens, real in zip(prompts.tokens, prompts.real, strict=True)
    ]


@pytest.mark.parametrize("ranges", [RANGES, SMALL])
def test_train_and_held_out_share_no_prompt(ranges):
    """Also where the ranges hold hardly more than is drawn: 24 products for 20."""
    train, held_out = drawn(50, 50, ranges=ranges)
    asked = texts(train) + texts(held_out)
    assert len(set(asked)) == len(asked) == 100


def test_held_out_set_is_independent_of_the_train_set():
    """So train sets of any size go with it; another seed gives another one."""
    sets = [texts(drawn(size, 40)[1]) for size in (5, 10, 200)]
    assert sets[0] == sets[1] == sets[2]
    assert sets[0] != texts(drawn(5, 40, seed=1)[1])
    longer, shorter = (texts(drawn(size, 40)[0]) for size in (200, 10))
    assert longer[:10] == shorter


def test_equal_shares_of_the_kinds():
    for questions, size in zip(drawn(35, 20), (35, 20), strict=True):
        assert Counter(problem.kind for problem in questions.problems) == dict.fromkeys(
            KINDS, size // 5
        )
        assert [KINDS[place] for place in questions.kinds] == [
            problem.kind for problem in questions.problems
        ]
        assert len(questions) == size


def test_prompts_and_solutions_read_back():
    """Python evaluates the prompt to the solution, which is the digits and the end token."""
    questions, _ = drawn(100, 5)
    solutions = questions.solutions
    assert torch.equal(solutions.prompt, torch.arange(100))
    for row, text in enumerate(texts(questions)):
        assert text.endswith("=") and " " not in text
        tokens = solutions.tokens[row][solutions.mask[row]].tolist()
        assert tokens[-1] == TOKENIZER.end_token and TOKENIZER.end_token not in tokens[:-1]
        value = eval(text.rstrip("="))
        assert str(int(value)) == TOKENIZER.decode(tokens)
        assert int(value) == value == questions.problems[row].answer
    assert any(text.startswith("(") for text in texts(questions))
    assert not questions.prompts.real.all()
    assert (questions.prompts.tokens[~questions.prompts.real] == PAD).all()


def test_the_longest_question_fits_the_context():
    """Three-digit quotients, and the widest sums with parentheses, with six tokens of an answer."""
    questions, _ = drawn(1000, 5)
    longest = len("(20+20)-(20+20)=")
    assert questions.prompts.tokens.shape[1] == longest
    assert longest + 6 <= CONTEXT_LENGTH
    assert questions.solutions.tokens.shape[1] <= len("-999") + 1


def test_rewards_know_the_solutions():
    """Solutions as outputs earn everything; those of the next question hardly anything."""
    questions, _ = drawn(20, 5)
    solutions = questions.solutions
    rollouts = Rollouts(
        questions.prompts,
        solutions.tokens[:, None],
        solutions.mask[:, None],
        solutions.mask[:, None].float(),
    )
    rows = torch.arange(20)
    assert (questions.exact_match(rollouts, rows) == 1).all()
    assert (questions.accuracy_and_format(rollouts, rows) == 2).all()
    same = torch.tensor([p.answer == q.answer for p, q in zip(
        questions.problems, [*questions.problems[1:], questions.problems[0]], strict=True
    )])  # fmt: skip
    others = rows.roll(-1)
    assert torch.equal(questions.exact_match(rollouts, others).flatten() == 1, same)
    assert torch.equal(questions.accuracy_and_format(rollouts, others).flatten() == 2, same)
    assert not same.all()


@pytest.mark.parametrize(
    ("num_train", "num_held_out", "message"),
    [
        (0, 5, "num_train must be an integer of at least 1, got 0"),
        (5, 0, "num_held_out must be an integer of at least 1, got 0"),
        (5, -5, "num_held_out must be an integer of at least 1, got -5"),
        (5, 7, "num_held_out must be a multiple of 5 for equal shares, got 7"),
        (8, 10, "num_train must be a multiple of 5 for equal shares, got 8"),
        (3, 7, "num_train must be a multiple of 5 for equal shares, got 3"),  # though their sum is
        (5, 2.5, "num_held_out must be an integer of at least 1, got 2.5"),
    ],
)
def test_numbers_that_are_no_equal_shares_are_refused(num_train, num_held_out, message):
    with pytest.raises(ValueError, match=message):
        drawn(num_train, num_held_out)


def test_ranges_that_hold_too_few_are_refused():
    with pytest.raises(ValueError, match="ranges must hold 25 distinct multiplication problems"):
        drawn(100, 25, ranges=SMALL)


def test_no_questions_are_refused():
    with pytest.raises(ValueError, match="problems must hold at least one, got none"):
        Questions(())


def test_seeds_are_refused():
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator, got 0"):
        arithmetic_questions(5, 5, rng=0)
