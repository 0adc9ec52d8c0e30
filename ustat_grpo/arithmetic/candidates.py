"""Candidate answers to an arithmetic problem: the right one, and wrong ones that a slip explains.

They turn a problem into one context of a finite bandit, whose actions are whole answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from operator import itemgetter

import numpy as np

from ustat_grpo.arithmetic.expressions import Expression, calculate, chain, evaluate
from ustat_grpo.arithmetic.problems import ArithmeticProblem
from ustat_grpo.inputs.checks import integer

CORRECT = "correct"
FALLBACK = "random near miss"


@dataclass(frozen=True)
class Candidate:
    """An answer and where it comes from.

    Args:
        answer: The integer.
        slip: `CORRECT`, or the one of `SLIPS` that leads to this answer.
    """

    answer: int
    slip: str


def candidate_answers(
    problem: ArithmeticProblem, num_candidates: int = 16, *, rng: np.random.Generator
) -> tuple[Candidate, ...]:
    """Return the right answer and `num_candidates` - 1 distinct wrong ones, in random order.

    Every kind of slip that leads somewhere gives one answer before any gives a second. When two
    slips lead to the same answer, it goes by the one that comes first in `SLIPS`. What the slips
    leave open is filled with random integers near the right answer (`FALLBACK`).

    Args:
        problem: The problem.
        num_candidates: How many answers, at least 2.
        rng: Source of randomness: which slips, the fallback, and the order.

    Raises:
        ValueError: If `num_candidates` is below 2.
    """
    integer("num_candidates", num_candidates, at_least=2)
    slips: dict[int, str] = {}
    for slip in _RULES:
        for answer in slip_answers(problem, slip):
            slips.setdefault(answer, slip)
    slips.pop(problem.answer, None)

    chosen = _one_of_each_first(slips, rng)[: num_candidates - 1]
    taken = {problem.answer} | {candidate.answer for candidate in chosen}
    radius = 2 * num_candidates + abs(problem.answer) // 4  # wide enough for as many as it takes
    while len(taken) < num_candidates:
        answer = problem.answer + int(rng.integers(-radius, radius, endpoint=True))
        if answer not in taken:
            taken.add(answer)
            chosen.append(Candidate(answer, FALLBACK))

    candidates = [Candidate(problem.answer, CORRECT), *chosen]
    return tuple(candidates[i] for i in rng.permutation(num_candidates))


def slip_answers(problem: ArithmeticProblem, slip: str) -> tuple[int, ...]:
    """Return the wrong answers to which a slip leads, distinct and in a fixed order.

    Args:
        problem: The problem.
        slip: One of `SLIPS`. The fallback is random, so it leads to none here.

    Raises:
        ValueError: If there is no such slip.
    """
    if slip not in SLIPS:
        raise ValueError(f"slip must be one of {SLIPS}, got {slip!r}")
    answers = dict.fromkeys(_RULES[slip](problem)) if slip in _RULES else {}
    return tuple(answer for answer in answers if answer != problem.answer)


def _one_of_each_first(slips: dict[int, str], rng: np.random.Generator) -> list[Candidate]:
    """Return candidates in random order, but first one of each slip, then a second of each, ..."""
    wrong = [Candidate(answer, slip) for answer, slip in slips.items()]
    earlier: Counter[str] = Counter()
    ranked: list[tuple[int, Candidate]] = []
    for i in rng.permutation(len(wrong)):
        ranked.append((earlier[wrong[i].slip], wrong[i]))
        earlier[wrong[i].slip] += 1
    return [candidate for _, candidate in sorted(ranked, key=itemgetter(0))]


def add_without_carries(left: int, right: int) -> int:
    """Return the sum that forgets every carry: 27 + 35 is 52.

    A sum of different signs is a difference of sizes, and forgets every borrow instead: 52 - 27
    is 35. The leading column is written out in full, as nothing is left to carry to.
    """
    if (left < 0) == (right < 0):
        size = _from_columns(map(sum, _columns(left, right)))
        return -size if left < 0 else size
    larger, smaller = sorted((left, right), key=abs, reverse=True)
    size = _from_columns(upper - lower for upper, lower in _columns(larger, smaller))
    return -size if larger < 0 else size


def multiply_without_carries(left: int, right: int) -> int:
    """Return the long multiplication that forgets every carry within a row: 27 · 4 is 88."""
    return sum(
        10**place * _from_columns(digit * multiplier for digit in _digits(left))
        for place, multiplier in enumerate(_digits(right))
    )


def _digits(number: int) -> list[int]:
    """Return the decimal digits of |number|, units first."""
    return [int(digit) for digit in reversed(str(abs(number)))]


def _columns(left: int, right: int) -> Iterator[tuple[int, int]]:
    return zip_longest(_digits(left), _digits(right), fillvalue=0)


def _from_columns(columns: Iterable[int]) -> int:
    """Return the number whose digits are the columns modulo ten, units first, the last in full."""
    *rest, leading = columns
    written = [*(column % 10 for column in rest), leading]
    return sum(10**place * column for place, column in enumerate(written))


# One slip at one operation: (operator, left value, right value) -> the values it may give.
OperationSlip = Callable[[str, int, int], Iterable[int]]


def _slip_once(expression: Expression, slip: OperationSlip) -> Iterator[int]:
    """Yield the values of an expression that is evaluated right but for one slip, in each place."""
    if isinstance(expression, int):
        return
    left, right = evaluate(expression.left), evaluate(expression.right)
    operator = expression.operator
    yield from slip(operator, left, right)
    for value in _slip_once(expression.left, slip):
        yield calculate(operator, value, right)
    for value in _slip_once(expression.right, slip):
        yield calculate(operator, left, value)


def _everywhere(slip: OperationSlip) -> Callable[[ArithmeticProblem], Iterator[int]]:
    return lambda problem: _slip_once(problem.expression, slip)


def _without_carries(operator: str, left: int, right: int) -> Iterator[int]:
    match operator:
        case "+" | "-":
            yield add_without_carries(left, right if operator == "+" else -right)
        case "*":
            yield multiply_without_carries(left, right)
            yield multiply_without_carries(right, left)


def _other_operator(operator: str, left: int, right: int) -> Iterator[int]:
    yield calculate({"+": "-", "-": "+", "*": "+", "/": "*"}[operator], left, right)


def _one_operand(operator: str, left: int, right: int) -> Iterator[int]:
    yield left
    yield right


def _neighbouring_entry(operator: str, left: int, right: int) -> Iterator[int]:
    if operator in "*/":
        yield from (calculate(operator, left, right + 1), calculate(operator, left + 1, right))
        yield calculate(operator, left - 1, right)
        if right > 1:
            yield calculate(operator, left, right - 1)


def _side_by_side(operator: str, left: int, right: int) -> Iterator[int]:
    if left >= 0 and right >= 0:
        yield int(f"{left}{right}")


def _swapped_sign(problem: ArithmeticProblem) -> Iterator[int]:
    yield from _slip_once(problem.expression, _other_operator)
    yield -problem.answer


def _wrong_precedence(problem: ArithmeticProblem) -> Iterator[int]:
    """Yield the value without parentheses, and that of working from right to left."""
    yield evaluate(chain(problem.operands, problem.operators))
    value = problem.operands[-1]
    for operator, operand in zip(
        reversed(problem.operators), reversed(problem.operands[:-1]), strict=True
    ):
        value = calculate(operator, operand, value)
    yield value


def _transposed_digits(problem: ArithmeticProblem) -> Iterator[int]:
    """Yield the answer with two neighbouring digits exchanged."""
    sign, digits = (-1 if problem.answer < 0 else 1), str(abs(problem.answer))
    for i in range(len(digits) - 1):
        yield sign * int(digits[:i] + digits[i + 1] + digits[i] + digits[i + 2 :])


def _place_value(problem: ArithmeticProblem) -> Iterator[int]:
    """Yield the answer with a zero too many, and with the last digit lost."""
    sign, size = (-1 if problem.answer < 0 else 1), abs(problem.answer)
    yield sign * size * 10
    yield sign * (size // 10)


def _off_by(distance: int) -> Callable[[ArithmeticProblem], Iterator[int]]:
    return lambda problem: iter((problem.answer - distance, problem.answer + distance))


# In order of how much they explain: a dropped carry is off by ten too, but says why.
_RULES: dict[str, Callable[[ArithmeticProblem], Iterable[int]]] = {
    "dropped carry": _everywhere(_without_carries),
    "wrong precedence": _wrong_precedence,
    "swapped sign": _swapped_sign,
    "operand left out": _everywhere(_one_operand),
    "transposed digits": _transposed_digits,
    "neighbouring entry": _everywhere(_neighbouring_entry),
    "side by side": _everywhere(_side_by_side),
    "place value": _place_value,
    "off by one": _off_by(1),
    "off by two": _off_by(2),
    "off by ten": _off_by(10),
    "off by a hundred": _off_by(100),
}
SLIPS = (*_RULES, FALLBACK)
