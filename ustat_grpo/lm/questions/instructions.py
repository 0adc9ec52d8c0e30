r"""What a policy is told: an instruction, or an instruction with worked examples.

The gradient-error figure of arXiv 2603.01162 asks the same arithmetic of a base model, of its
instructed sibling, and of the sibling with examples in its context. All wording is our own.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ustat_grpo.arithmetic.expressions import Expression, Operation, evaluate, render
from ustat_grpo.arithmetic.problems import ArithmeticProblem
from ustat_grpo.inputs.quoting import quoted
from ustat_grpo.lm.questions.datasets import Question

ARITHMETIC_INSTRUCTION = (
    "Calculate the value of the expression. The last number you write is your answer."
)
MATH_INSTRUCTION = (
    r"Reason step by step. Then write the final answer, and nothing else, in \boxed{}."
)


def worked(problem: ArithmeticProblem) -> str:
    """Return the expression reduced by one operation at a time: `104 - 27 + 8 = 77 + 8 = 85`."""
    steps: list[Expression] = [problem.expression]
    while isinstance(steps[-1], Operation):
        steps.append(_reduced(steps[-1]))
    return " = ".join(render(step) for step in steps)


def example_problems() -> tuple[ArithmeticProblem, ...]:
    """Return one problem of each kind, in the order of `KINDS`.

    Each has a number beyond the default `OperandRanges`, so none of them is ever drawn from these.
    """
    expressions = (
        Operation("+", Operation("-", 104, 27), 8),
        Operation("-", Operation("+", Operation("-", 120, 35), 46), 12),
        Operation("*", 31, 7),
        Operation("/", 112, 14),
        Operation("-", 58, Operation("-", 103, 20)),
    )
    return tuple(ArithmeticProblem(expression) for expression in expressions)


def small_example_problems() -> tuple[ArithmeticProblem, ...]:
    """Return one problem of each kind that is no harder than those of one digit.

    Each has a number beyond 9, so none of them is among those.
    """
    expressions = (
        Operation("+", Operation("-", 10, 7), 2),
        Operation("-", Operation("+", Operation("-", 10, 4), 3), 1),
        Operation("*", 10, 4),
        Operation("/", 30, 10),
        Operation("-", 10, Operation("+", 3, 2)),
    )
    return tuple(ArithmeticProblem(expression) for expression in expressions)


def example_questions(problems: Sequence[ArithmeticProblem]) -> tuple[Question, ...]:
    """Return problems as questions that show how they are worked out."""
    return tuple(
        Question(each.text, str(each.answer), each.kind, solution=worked(each)) for each in problems
    )


class Wording(NamedTuple):
    """How questions of a sort are put into a prompt.

    Args:
        instruction: stands first; empty if there is none.
        posed: a question, with {text} for its own.
        between: stands between examples, and before the question.
    """

    instruction: str
    posed: str
    between: str

    def prompt(self, question: Question, examples: Sequence[Question] = ()) -> str:
        """Return the instruction, the examples with their solutions, and the question.

        Raises:
            ValueError: if the question is among the examples, and so its answer in the prompt.
        """
        if question.text in [example.text for example in examples]:
            shown = quoted(question.text)
            raise ValueError(f"question must not be one of the examples, got {shown}")
        shown = [f"{self._put(each)} {each.worked_out.strip()}" for each in examples]
        parts = [*([self.instruction] if self.instruction else []), *shown, self._put(question)]
        return self.between.join(parts)

    def _put(self, question: Question) -> str:
        return self.posed.format(text=question.text)


CALCULATED = Wording(ARITHMETIC_INSTRUCTION, "Expression: {text}\nCalculation:", "\n\n")
"""Arithmetic with an instruction."""

EQUATED = Wording("", "{text} =", "\n")
"""Arithmetic as it stands in any book: an expression, and an equals sign."""

ASKED = Wording("", "What is {text}?", "\n")
"""Arithmetic as one asks somebody."""

REASONED = Wording(MATH_INSTRUCTION, "Problem: {text}\n\nSolution:", "\n\n")
"""GSM8K and MATH."""

WORD_FOR_WORD = Wording("", "{text}", "\n")
"""Prompts that are asked as they stand."""


def _reduced(expression: Operation) -> Expression:
    """Return the expression after the operation that is calculated first."""
    left, right = expression.left, expression.right
    if isinstance(left, Operation):
        return Operation(expression.operator, _reduced(left), right)
    if isinstance(right, Operation):
        return Operation(expression.operator, left, _reduced(right))
    return evaluate(expression)
