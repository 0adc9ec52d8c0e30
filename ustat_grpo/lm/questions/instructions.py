r"""What a policy is told: an instruction, or an instruction with worked examples.

The gradient-error figure of arXiv 2603.01162 asks the same arithmetic of a base model, of its
instructed sibling, and of the sibling with examples in its context. All wording is our own.
"""

from collections.abc import Sequence

from ustat_grpo.arithmetic.expressions import Expression, Operation, evaluate, render
from ustat_grpo.arithmetic.problems import ArithmeticProblem
from ustat_grpo.lm.questions.datasets import Question

ARITHMETIC = "Calculate the value of the expression. The last number you write is your answer."
MATH = r"Reason step by step. Then write the final answer, and nothing else, in \boxed{}."


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


def arithmetic_prompt(question: Question, *, examples: Sequence[ArithmeticProblem] = ()) -> str:
    """Return the instruction, the examples and the question.

    Args:
        question: whose text is an expression.
        examples: problems to show before it with their solutions, such as `example_problems()`.

    Raises:
        ValueError: if the question is among the examples, and so its answer in the prompt.
    """
    if question.text in [example.text for example in examples]:
        raise ValueError(f"question must not be one of the examples, got {question.text}")
    shown = [_posed(example.text, worked(example)) for example in examples]
    return "\n\n".join([ARITHMETIC, *shown, _posed(question.text, "")])


def math_prompt(question: Question) -> str:
    """Return the instruction and a question of GSM8K or MATH."""
    return f"{MATH}\n\nProblem: {question.text}\n\nSolution:"


def _posed(text: str, solution: str) -> str:
    return f"Expression: {text}\nCalculation: {solution}".rstrip()


def _reduced(expression: Operation) -> Expression:
    """Return the expression after the operation that is calculated first."""
    left, right = expression.left, expression.right
    if isinstance(left, Operation):
        return Operation(expression.operator, _reduced(left), right)
    if isinstance(right, Operation):
        return Operation(expression.operator, left, _reduced(right))
    return evaluate(expression)
