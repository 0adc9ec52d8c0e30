"""Integer-arithmetic problems of five kinds in equal share.

The kinds are those of the gradient-error figure of arXiv 2603.01162: two-step and three-step sums,
one multiplication, one exact division, and sums with parentheses. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, partial

import numpy as np

from ustat_grpo.arithmetic.expressions import Expression, Operation, chain, evaluate, render
from ustat_grpo.inputs.checks import generator, integer

KINDS = ("two_step", "three_step", "multiplication", "division", "parentheses")


@dataclass(frozen=True)
class ArithmeticProblem:
    """One problem; everything that is known of it follows from its expression.

    Args:
        expression: The expression tree.

    Raises:
        ValueError: If an operand is not positive, or the expression is of none of the five kinds:
            also when a division leaves a remainder, or dropping the parentheses changes nothing.

    Examples:
        >>> from ustat_grpo.arithmetic import ArithmeticProblem
        >>> from ustat_grpo.arithmetic.expressions import Operation
        >>> problem = ArithmeticProblem(Operation("*", 6, 7))
        >>> problem.text, problem.answer, problem.kind
        ('6 * 7', 42, 'multiplication')
    """

    expression: Expression

    def __post_init__(self) -> None:
        """Check that the expression is of one of the five kinds."""
        for operand in self.operands:
            integer("operands", operand)
        if self.kind == "division" and self.operands[0] % self.operands[1]:
            raise ValueError(f"a division must leave no remainder, got {self.text}")
        bare = evaluate(chain(self.operands, self.operators))
        if self.kind == "parentheses" and self.answer == bare:
            raise ValueError(f"parentheses must change the value, got {self.text}")

    @cached_property
    def text(self) -> str:
        """The problem as text, such as `27 + 35 - 4`; Python evaluates it to the answer."""
        return render(self.expression)

    @cached_property
    def answer(self) -> int:
        """The right answer."""
        return evaluate(self.expression)

    @cached_property
    def operands(self) -> tuple[int, ...]:
        """The numbers, in reading order."""
        return tuple(token for token in _tokens(self.expression) if isinstance(token, int))

    @cached_property
    def operators(self) -> tuple[str, ...]:
        """The operators, in reading order."""
        return tuple(token for token in _tokens(self.expression) if isinstance(token, str))

    @cached_property
    def kind(self) -> str:
        """Which of `KINDS` this is, read off the expression."""
        if self.operators == ("*",):
            return "multiplication"
        if self.operators == ("/",):
            return "division"
        if set(self.operators) <= {"+", "-"}:
            if "(" in self.text:
                return "parentheses"
            if 2 <= len(self.operators) <= 3:
                return KINDS[len(self.operators) - 2]
        raise ValueError(f"expression must be of one of the kinds {KINDS}, got {self.text}")


def _tokens(expression: Expression) -> list[int | str]:
    """Return numbers and operators in reading order, without parentheses."""
    if isinstance(expression, int):
        return [expression]
    return [*_tokens(expression.left), expression.operator, *_tokens(expression.right)]


@dataclass(frozen=True)
class OperandRanges:
    """From where the numbers of generated problems are drawn, uniformly; both ends belong.

    Args:
        sums: Every number of a sum, with parentheses or without.
        factors: Both factors of a multiplication, unless there are `multipliers`.
        divisors: The divisor of a division.
        quotients: Its quotient; the dividend is their product.
        multipliers: The second factor of a multiplication; None draws it from `factors` too.

    Raises:
        ValueError: If a range is not a pair of integers 1 <= lowest <= highest.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.arithmetic import OperandRanges, arithmetic_problems
        >>> ranges = OperandRanges(factors=(3, 3), divisors=(2, 2), quotients=(4, 4))
        >>> problems = arithmetic_problems(5, rng=np.random.default_rng(0), ranges=ranges)
        >>> [problem.text for problem in problems if problem.operators in (("*",), ("/",))]
        ['3 * 3', '8 / 2']
    """

    sums: tuple[int, int] = (2, 99)
    factors: tuple[int, int] = (3, 29)
    divisors: tuple[int, int] = (3, 12)
    quotients: tuple[int, int] = (3, 60)
    multipliers: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check every range."""
        ranges = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        if self.multipliers is None:
            del ranges["multipliers"]
        for name, bounds in ranges.items():
            if len(bounds) != 2:
                raise ValueError(f"{name} must be a pair (lowest, highest), got {bounds!r}")
            lowest = integer(f"{name}[0]", bounds[0])
            if integer(f"{name}[1]", bounds[1]) < lowest:
                raise ValueError(f"{name} must not be empty (lowest > highest), got {bounds!r}")


RANGES = OperandRanges(
    sums=(1, 20), factors=(2, 99), multipliers=(2, 9), divisors=(2, 9), quotients=(2, 99)
)
"""The operands that the shipped policies were trained for."""


def arithmetic_problems(
    num_problems: int,
    *,
    rng: np.random.Generator,
    ranges: OperandRanges = OperandRanges(),
) -> tuple[ArithmeticProblem, ...]:
    """Draw distinct problems, the five kinds in turn.

    The first n of a longer draw are the draw of n with the same seed. So one draw, cut in two,
    makes a train set and a held-out set that share no problem and both keep the equal shares.

    Args:
        num_problems: How many, a multiple of five.
        rng: Source of randomness.
        ranges: From where the numbers are drawn.

    Returns:
        Problems whose texts differ, in the order of `KINDS`, over and over.

    Raises:
        ValueError: If `num_problems` is not a positive multiple of five, or the ranges do not hold
            that many distinct problems of some kind.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.arithmetic import arithmetic_problems
        >>> problems = arithmetic_problems(5, rng=np.random.default_rng(0))  # one of each kind
        >>> all(eval(problem.text) == problem.answer for problem in problems)
        True
    """
    generator(rng)
    integer("num_problems", num_problems)
    if num_problems % len(KINDS):
        raise ValueError(
            f"num_problems must be a multiple of {len(KINDS)} for equal shares, got {num_problems}"
        )
    share = num_problems // len(KINDS)
    for kind, most in _num_distinct(ranges).items():
        if share > most:
            raise ValueError(
                f"ranges must hold {share} distinct {kind} problems for "
                f"num_problems={num_problems}, got {most} in {ranges}"
            )
    # A problem drawn before leaves the length, and so the kind to draw next, as it was.
    drawn: dict[ArithmeticProblem, None] = {}
    while len(drawn) < num_problems:
        kind = KINDS[len(drawn) % len(KINDS)]
        drawn[draw_problem(kind, rng=rng, ranges=ranges)] = None
    return tuple(drawn)


def draw_problem(
    kind: str, *, rng: np.random.Generator, ranges: OperandRanges = OperandRanges()
) -> ArithmeticProblem:
    """Draw one problem of a kind.

    Raises:
        ValueError: If the kind is none of `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return ArithmeticProblem(_DRAWS[kind](ranges, rng))


def _num_distinct(ranges: OperandRanges) -> dict[str, int]:
    """Return how many problems of each kind the ranges hold."""
    multipliers = ranges.multipliers or ranges.factors
    bounds = (ranges.sums, ranges.factors, multipliers, ranges.divisors, ranges.quotients)
    sums, factors, second, divisors, quotients = (
        highest - lowest + 1 for lowest, highest in bounds
    )
    return {
        "two_step": sums**3 * 2**2,
        "three_step": sums**4 * 2**3,
        "multiplication": factors * second,
        "division": divisors * quotients,
        # Three shapes, with one, two and two free signs.
        "parentheses": sums**3 * 2 + 2 * sums**4 * 2**2,
    }


def _number(bounds: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(bounds[0], bounds[1], endpoint=True))


def _sign(rng: np.random.Generator) -> str:
    return "+-"[rng.integers(2)]


def _draw_sum(num_steps: int, ranges: OperandRanges, rng: np.random.Generator) -> Expression:
    operands = tuple(_number(ranges.sums, rng) for _ in range(num_steps + 1))
    return chain(operands, tuple(_sign(rng) for _ in range(num_steps)))


def _draw_multiplication(ranges: OperandRanges, rng: np.random.Generator) -> Expression:
    second = ranges.multipliers or ranges.factors
    return Operation("*", _number(ranges.factors, rng), _number(second, rng))


def _draw_division(ranges: OperandRanges, rng: np.random.Generator) -> Expression:
    divisor = _number(ranges.divisors, rng)
    return Operation("/", divisor * _number(ranges.quotients, rng), divisor)


def _draw_parentheses(ranges: OperandRanges, rng: np.random.Generator) -> Expression:
    """Draw `a - (b ± c)`, `a - (b ± c) ± d` or `(a ± b) - (c ± d)`.

    The minus before the parentheses makes them matter, since no number is zero.
    """
    first, last = _number(ranges.sums, rng), _number(ranges.sums, rng)
    inner = _draw_sum(1, ranges, rng)
    shapes = (
        Operation("-", first, inner),
        Operation(_sign(rng), Operation("-", first, inner), last),
        Operation("-", Operation(_sign(rng), first, last), inner),
    )
    return shapes[rng.integers(len(shapes))]


_DRAWS: dict[str, Callable[[OperandRanges, np.random.Generator], Expression]] = {
    "two_step": partial(_draw_sum, 2),
    "three_step": partial(_draw_sum, 3),
    "multiplication": _draw_multiplication,
    "division": _draw_division,
    "parentheses": _draw_parentheses,
}
