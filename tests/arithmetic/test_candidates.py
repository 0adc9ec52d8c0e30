"""The candidate answers: each slip by hand, and the promises of the whole set."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustat_grpo.arithmetic.candidates import (
    CORRECT,
    FALLBACK,
    SLIPS,
    Candidate,
    add_without_carries,
    candidate_answers,
    multiply_without_carries,
    slip_answers,
)
from ustat_grpo.arithmetic.expressions import Operation, chain
from ustat_grpo.arithmetic.problems import ArithmeticProblem, arithmetic_problems

SUM = ArithmeticProblem(chain((27, 35, 4), ("+", "-")))  # 58
LATE_PLUS = ArithmeticProblem(chain((10, 4, 3), ("-", "+")))  # 9
NEGATIVE = ArithmeticProblem(chain((4, 27, 35), ("-", "-")))  # -58
PARENTHESES = ArithmeticProblem(Operation("-", 20, Operation("+", 5, 3)))  # 12
PRODUCT = ArithmeticProblem(Operation("*", 7, 8))
LONG_PRODUCT = ArithmeticProblem(Operation("*", 27, 14))  # 378
QUOTIENT = ArithmeticProblem(Operation("/", 56, 8))

NATURAL = st.integers(0, 99_999)


def draw(seed=0, num_problems=500):
    return arithmetic_problems(num_problems, rng=np.random.default_rng(seed))


def candidates_of(problems, seed=0, num_candidates=16):
    rng = np.random.default_rng([seed, 1])
    return [candidate_answers(problem, num_candidates, rng=rng) for problem in problems]


@pytest.mark.parametrize(
    ("left", "right", "result"),
    [
        (27, 35, 52),
        (22, 35, 57),  # nothing to carry
        (57, 65, 112),  # the leading column is written out
        (199, 1, 190),
        (5, 95, 90),
        (-27, -35, -52),
        (52, -27, 35),
        (-27, 52, 35),
        (-52, 27, -35),
        (302, -17, 395),
        (0, 0, 0),
    ],
)
def test_add_without_carries(left, right, result):
    assert add_without_carries(left, right) == result


@pytest.mark.parametrize(
    ("left", "right", "result"), [(27, 4, 88), (12, 34, 408), (27, 14, 358), (27, 0, 0), (9, 9, 81)]
)
def test_multiply_without_carries(left, right, result):
    assert multiply_without_carries(left, right) == result


@given(NATURAL, NATURAL)
def test_forgotten_carries_are_what_is_missing(left, right):
    # The column at `unit` overflows into the next, unless there is no next.
    width = len(str(max(left, right)))
    missing = 0
    for place in range(1, width):
        unit = 10**place
        digits = left // (unit // 10) % 10 + right // (unit // 10) % 10
        missing += unit * (digits >= 10)
    assert left + right - add_without_carries(left, right) == missing


@given(NATURAL, NATURAL)
def test_forgotten_borrows_are_what_is_too_much(left, right):
    larger, smaller = max(left, right), min(left, right)
    excess = sum(
        10 ** (place + 1) * (larger // 10**place % 10 < smaller // 10**place % 10)
        for place in range(5)
    )
    assert add_without_carries(larger, -smaller) - (larger - smaller) == excess
    assert add_without_carries(smaller, -larger) == -add_without_carries(larger, -smaller)


@given(NATURAL, st.integers(0, 9))
def test_one_digit_multiplication_keeps_the_last_digit_of_each_column(left, digit):
    inner = str(left)[1:]
    expected = str(int(str(left)[0]) * digit) + "".join(str(int(d) * digit % 10) for d in inner)
    assert multiply_without_carries(left, digit) == int(expected)


@pytest.mark.parametrize(
    ("problem", "slip", "answers"),
    [
        (SUM, "dropped carry", {48, 68}),  # 52 - 4, and 62 - 4 without the borrow
        (LONG_PRODUCT, "dropped carry", {358}),
        (PRODUCT, "dropped carry", set()),
        (SUM, "swapped sign", {66, -12, -58}),
        (PRODUCT, "swapped sign", {15, -56}),
        (QUOTIENT, "swapped sign", {448, -7}),
        (LATE_PLUS, "wrong precedence", {3}),
        (PARENTHESES, "wrong precedence", {18}),
        (PRODUCT, "wrong precedence", set()),
        (SUM, "operand left out", {62, 4, 23, 31}),
        (QUOTIENT, "operand left out", {56, 8}),
        (SUM, "transposed digits", {85}),
        (NEGATIVE, "transposed digits", {-85}),
        (LONG_PRODUCT, "transposed digits", {738, 387}),
        (LATE_PLUS, "transposed digits", set()),
        (PRODUCT, "neighbouring entry", {48, 49, 63, 64}),
        (QUOTIENT, "neighbouring entry", {6, 8}),
        (SUM, "neighbouring entry", set()),
        (SUM, "side by side", {624, 2731}),
        (PRODUCT, "side by side", {78}),
        (SUM, "place value", {580, 5}),
        (NEGATIVE, "place value", {-580, -5}),
        (SUM, "off by one", {57, 59}),
        (SUM, "off by two", {56, 60}),
        (SUM, "off by ten", {48, 68}),
        (SUM, "off by a hundred", {-42, 158}),
        (SUM, FALLBACK, set()),
    ],
)
def test_slips_by_hand(problem, slip, answers):
    assert set(slip_answers(problem, slip)) == answers


def test_unknown_slip():
    with pytest.raises(ValueError, match=r"slip must be one of .*got 'slippery'"):
        slip_answers(SUM, "slippery")


@pytest.mark.parametrize("seed", range(8))
def test_every_problem_has_sixteen_distinct_answers_one_of_them_right(seed):
    problems = draw(seed)
    for problem, candidates in zip(problems, candidates_of(problems, seed), strict=True):
        answers = [candidate.answer for candidate in candidates]
        assert len(set(answers)) == len(answers) == 16
        assert all(type(answer) is int for answer in answers)
        right = [c for c in candidates if c.slip == CORRECT]
        assert right == [Candidate(problem.answer, CORRECT)]


def test_every_wrong_answer_follows_from_its_slip():
    seen = set()
    problems = draw()
    for problem, candidates in zip(problems, candidates_of(problems), strict=True):
        for candidate in candidates:
            seen.add(candidate.slip)
            if candidate.slip not in (CORRECT, FALLBACK):
                assert candidate.answer in slip_answers(problem, candidate.slip)
    assert seen == {CORRECT, *SLIPS}


def test_first_named_slip_wins_and_each_is_heard():
    for problem, candidates in zip(draw(), candidates_of(draw()), strict=True):
        names = {a: slip for slip in reversed(SLIPS) for a in slip_answers(problem, slip)}
        wrong = {c.answer: c.slip for c in candidates if c.slip not in (CORRECT, FALLBACK)}
        assert wrong.items() <= names.items()
        assert set(wrong.values()) == set(names.values())


def test_fallback_only_fills_what_slips_leave_open():
    for problem, candidates in zip(draw(), candidates_of(draw()), strict=True):
        named = {a for slip in SLIPS for a in slip_answers(problem, slip)}
        fallbacks = sum(candidate.slip == FALLBACK for candidate in candidates)
        assert fallbacks == max(0, 15 - len(named))


@pytest.mark.parametrize("num_candidates", [2, 3, 100])
def test_any_number_of_candidates(num_candidates):
    for problem in (SUM, NEGATIVE, PARENTHESES, PRODUCT, QUOTIENT):
        candidates = candidate_answers(problem, num_candidates, rng=np.random.default_rng(0))
        assert len({c.answer for c in candidates}) == len(candidates) == num_candidates
        assert problem.answer in {c.answer for c in candidates}


@pytest.mark.parametrize("num_candidates", [1, 0, -3, 2.0])
def test_too_few_candidates(num_candidates):
    with pytest.raises(ValueError, match=f"num_candidates must .*at least 2, got {num_candidates}"):
        candidate_answers(SUM, num_candidates, rng=np.random.default_rng(0))


def test_same_seed_same_candidates_and_other_seed_others():
    problems = draw(num_problems=50)
    assert candidates_of(problems, seed=1) == candidates_of(problems, seed=1)
    assert candidates_of(problems, seed=1) != candidates_of(problems, seed=2)


def test_right_answer_is_anywhere():
    # |z| <= 4 catches a position that is twice as likely as it should be.
    positions = Counter(
        [candidate.slip for candidate in candidates].index(CORRECT)
        for seed in range(4)
        for candidates in candidates_of(draw(seed), seed)
    )
    counts = np.array([positions[i] for i in range(16)])
    total, share = counts.sum(), 1 / 16
    z = (counts - total * share) / np.sqrt(total * share * (1 - share))
    assert np.abs(z).max() <= 4
