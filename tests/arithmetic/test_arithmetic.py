"""The arithmetic problems: Python's own reading of the text is the judge of the answers."""

import ast
from collections import Counter
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustat_grpo.arithmetic.expressions import (
    Operation,
    calculate,
    chain,
    evaluate,
    render,
    replace_operands,
)
from ustat_grpo.arithmetic.problems import (
    KINDS,
    ArithmeticProblem,
    OperandRanges,
    arithmetic_problems,
)

OPERATIONS = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
}
SUMS = st.recursive(
    st.integers(1, 999),
    lambda inner: st.builds(Operation, st.sampled_from("+-"), inner, inner),
    max_leaves=8,
)


def draw(num_problems=500, seed=0, ranges=None):
    return arithmetic_problems(
        num_problems, rng=np.random.default_rng(seed), ranges=ranges or OperandRanges()
    )


def read(text):
    """Evaluate a text with Python's grammar and exact fractions."""

    def value(node):
        if isinstance(node, ast.Constant):
            return Fraction(str(node.value))
        return OPERATIONS[type(node.op)](value(node.left), value(node.right))

    return value(ast.parse(text, mode="eval").body)


def without_parentheses(text):
    return text.replace("(", "").replace(")", "")


@pytest.mark.parametrize("seed", range(5))
def test_answers_are_what_python_reads(seed):
    for problem in draw(seed=seed):
        assert type(problem.answer) is int
        assert Fraction(problem.answer) == read(problem.text)  # a remainder would show here


def test_kinds_take_turns():
    kinds = [problem.kind for problem in draw()]
    assert kinds == list(KINDS) * 100


def test_texts_are_distinct():
    assert len({problem.text for problem in draw(2_500)}) == 2_500


@pytest.mark.parametrize(
    ("kind", "operators"),
    [("two_step", 2), ("three_step", 3), ("multiplication", 1), ("division", 1)],
)
def test_number_of_steps(kind, operators):
    problems = [problem for problem in draw() if problem.kind == kind]
    assert {len(problem.operators) for problem in problems} == {operators}
    assert {len(problem.operands) for problem in problems} == {operators + 1}
    assert not any("(" in problem.text for problem in problems)


def test_parentheses_matter_in_three_shapes():
    problems = [problem for problem in draw() if problem.kind == "parentheses"]
    assert all(read(without_parentheses(p.text)) != p.answer for p in problems)
    shapes = Counter((p.text.count("("), len(p.operands)) for p in problems)
    assert shapes.keys() == {(1, 3), (1, 4), (2, 4)}
    assert min(shapes.values()) >= 14  # of 100, a third each: |z| <= 4 allows 14 to 52


def test_same_seed_same_problems_and_other_seed_others():
    assert draw(seed=3) == draw(seed=3)
    shared = set(draw(seed=3)) & set(draw(seed=4))
    # Only the small kinds (729 multiplications, 580 divisions) may meet by chance.
    assert {problem.kind for problem in shared} <= {"multiplication", "division"}


def test_first_problems_of_a_longer_draw():
    assert draw(500)[:100] == draw(100)


def test_numbers_fill_their_ranges():
    bounds = {"sums": (1, 6), "factors": (4, 19), "divisors": (2, 7), "quotients": (10, 40)}
    ranges = OperandRanges(**bounds)
    seen = {name: set() for name in bounds}
    for problem in draw(900, ranges=ranges):
        if problem.kind == "multiplication":
            seen["factors"] |= set(problem.operands)
        elif problem.kind == "division":
            seen["divisors"].add(problem.operands[1])
            seen["quotients"].add(problem.answer)
        else:
            seen["sums"] |= set(problem.operands)
    for name, (lowest, highest) in bounds.items():
        assert seen[name] == set(range(lowest, highest + 1)), name


def test_multipliers_are_the_second_factor():
    ranges = OperandRanges(factors=(10, 30), multipliers=(2, 9))
    problems = [p for p in draw(500, ranges=ranges) if p.kind == "multiplication"]
    assert {p.operands[1] for p in problems} == set(range(2, 10))
    assert {p.operands[0] for p in problems} <= set(range(10, 31))
    with pytest.raises(ValueError, match="got 168 in"):
        draw(5 * 169, ranges=ranges)


def test_signs_are_fair():
    # |z| <= 4 catches a share of plus signs off by 0.07.
    signs = [s for p in draw(2_500) if p.kind == "two_step" for s in p.operators]
    share = signs.count("+") / len(signs)
    assert abs(share - 0.5) <= 4 * 0.5 / len(signs) ** 0.5


def test_ranges_can_be_used_up():
    # All four multiplications and all four divisions there are.
    small = OperandRanges(factors=(2, 3), divisors=(2, 3), quotients=(4, 5))
    texts = {problem.text for problem in draw(20, ranges=small)}
    assert {"2 * 2", "2 * 3", "3 * 2", "3 * 3", "8 / 2", "10 / 2", "12 / 3", "15 / 3"} <= texts
    with pytest.raises(ValueError, match=r"5 distinct multiplication.*num_problems=25, got 4"):
        draw(25, ranges=small)


def test_ranges_of_a_single_number_can_be_used_up():
    # One number: 4 signs make 4 two-step sums, 8 three-step sums and 2 + 4 + 4 in parentheses.
    single = OperandRanges(sums=(5, 5))
    assert len(draw(20, ranges=single)) == 20
    with pytest.raises(ValueError, match="5 distinct two_step"):
        draw(25, ranges=single)


@pytest.mark.parametrize("num_problems", [0, -5, 7, 2.5, True, "5"])
def test_number_of_problems_must_be_a_multiple_of_five(num_problems):
    with pytest.raises(ValueError, match=f"num_problems must .*got {num_problems!r}"):
        draw(num_problems)


@pytest.mark.parametrize("name", ["sums", "factors", "divisors", "quotients"])
@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((9, 2), r"must not be empty \(lowest > highest\), got \(9, 2\)"),
        ((0, 5), r"\[0\] must be an integer of at least 1, got 0"),
        ((1, 2.5), r"\[1\] must be an integer of at least 1, got 2.5"),
        ((1, 2, 3), r"must be a pair \(lowest, highest\), got \(1, 2, 3\)"),
    ],
)
def test_invalid_ranges(name, bounds, message):
    with pytest.raises(ValueError, match=name + ".*" + message):
        OperandRanges(**{name: bounds})


@given(SUMS)
def test_any_sum_is_rendered_as_python_reads_it(expression):
    assert evaluate(expression) == read(render(expression))


@given(SUMS)
def test_replacing_operands(expression):
    assert replace_operands(expression, lambda x: x) == expression
    assert evaluate(replace_operands(expression, lambda x: 3 * x)) == 3 * evaluate(expression)


@given(st.lists(st.integers(1, 99), min_size=3, max_size=4), st.data())
def test_a_chain_needs_no_parentheses(operands, data):
    signs = data.draw(st.lists(st.sampled_from("+-"), min_size=3, max_size=3))[: len(operands) - 1]
    problem = ArithmeticProblem(chain(tuple(operands), tuple(signs)))
    assert problem.operands == tuple(operands)
    assert problem.operators == tuple(signs)
    assert "(" not in problem.text


def test_problem_by_hand():
    problem = ArithmeticProblem(Operation("-", Operation("-", 9, 2), Operation("+", 3, 5)))
    assert problem.text == "(9 - 2) - (3 + 5)"
    assert (problem.kind, problem.answer) == ("parentheses", -1)
    with pytest.raises(FrozenInstanceError):
        problem.expression = Operation("*", 2, 2)  # pyright: ignore


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (Operation("/", 7, 2), "no remainder, got 7 / 2"),
        (Operation("+", 1, Operation("+", 2, 3)), r"must change the value, got 1 \+ \(2 \+ 3\)"),
        (Operation("+", 1, 2), r"one of the kinds .*got 1 \+ 2"),
        (Operation("+", 1, Operation("*", 2, 3)), "one of the kinds"),
        (chain((1, 2, 3, 4, 5), tuple("++++")), "one of the kinds"),
        (7, "one of the kinds .*got 7"),
        (Operation("/", 7, 0), "operands must be an integer of at least 1, got 0"),
    ],
)
def test_expressions_of_no_kind(expression, message):
    with pytest.raises(ValueError, match=message):
        ArithmeticProblem(expression)


def test_unknown_operator():
    with pytest.raises(ValueError, match=r"operator must be one of \+ - \* /, got '\^'"):
        calculate("^", 1, 2)
