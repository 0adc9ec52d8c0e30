"""Integer expressions as trees: their value, and their text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import add, floordiv, mul, sub


@dataclass(frozen=True)
class Operation:
    """An operator between two expressions: an inner node of a tree whose leaves are integers.

    Args:
        operator: One of `+ - * /`.
        left: The left operand, a number or an operation.
        right: The right operand, a number or an operation.
    """

    operator: str
    left: Operation | int
    right: Operation | int


Expression = Operation | int
_MEANINGS = {"+": add, "-": sub, "*": mul, "/": floordiv}


def calculate(operator: str, left: int, right: int) -> int:
    """Return `left operator right`, a quotient rounded down.

    Args:
        operator: One of `+ - * /`.
        left: The left operand.
        right: The right operand.

    Raises:
        ValueError: If the operator is none of the four.
    """
    if operator not in _MEANINGS:
        raise ValueError(f"operator must be one of + - * /, got {operator!r}")
    return _MEANINGS[operator](left, right)


def evaluate(expression: Expression) -> int:
    """Return the value of an expression."""
    if isinstance(expression, int):
        return expression
    return calculate(expression.operator, evaluate(expression.left), evaluate(expression.right))


def render(expression: Expression) -> str:
    """Return an expression as text, such as `(12 - 3) - (4 + 5)`.

    Sums associate to the left, so only a compound right operand needs parentheses. It lends them to
    a compound left operand, where they change nothing but are what one would write.
    """
    if isinstance(expression, int):
        return str(expression)
    left, right = render(expression.left), render(expression.right)
    if isinstance(expression.right, Operation):
        right = f"({right})"
        left = f"({left})" if isinstance(expression.left, Operation) else left
    return f"{left} {expression.operator} {right}"


def replace_operands(expression: Expression, replacement: Callable[[int], int]) -> Expression:
    """Return the same expression with `replacement(number)` in the place of each number."""
    if isinstance(expression, int):
        return replacement(expression)
    left, right = (replace_operands(e, replacement) for e in (expression.left, expression.right))
    return Operation(expression.operator, left, right)


def chain(operands: tuple[int, ...], operators: tuple[str, ...]) -> Expression:
    """Return the expression that takes operands from left to right, whatever the operators."""
    expression: Expression = operands[0]
    for operator, operand in zip(operators, operands[1:], strict=True):
        expression = Operation(operator, expression, operand)
    return expression
