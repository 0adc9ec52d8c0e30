r"""What a model is asked in words, and how its texts are judged, by the names that users give.

It is told an instruction, or an instruction with worked examples: the gradient-error figure of
arXiv 2603.01162 asks the same arithmetic of a base model, of its instructed sibling, and of the
sibling with examples in its context. All wording is our own.
"""

from collections.abc import Callable, Mapping, Sequence

from ustat_grpo.arithmetic.expressions import Expression, Operation, evaluate, render
from ustat_grpo.arithmetic.problems import KINDS, ArithmeticProblem
from ustat_grpo.lm.judging.text_rewards import Equivalent, same_number
from ustat_grpo.lm.judging.written_numbers import as_number
from ustat_grpo.lm.language_model import Prompts
from ustat_grpo.lm.models.huggingface import HuggingFaceModel, HuggingFaceTokenizer
from ustat_grpo.lm.questions.datasets import PROMPT, Question, load_gsm8k, load_math, load_prompts
from ustat_grpo.lm.sampling import require_context

LOADERS: Mapping[str, Callable[..., tuple[Question, ...]]] = {
    "gsm8k": load_gsm8k,
    "math": load_math,
    "prompts": load_prompts,
}
"""What reads a file of questions."""


def same_text(text: str, answer: str) -> float:
    """Return 1 if the text is the answer, up to space around it, else 0."""
    return float(text.strip() == answer.strip())


ACCURACIES: Mapping[str, Callable[[], Callable[[str, str], float]]] = {
    "number": lambda: same_number,
    "math": Equivalent,
    "text": lambda: same_text,
}
"""What makes a judge of texts by the right answer."""


def require_judgeable(questions: Sequence[Question], reward: str) -> None:
    """Raise if an answer is one by which no text can be judged right.

    Args:
        questions: what is asked; each knows the line of its file.
        reward: one of the `ACCURACIES`. By `number`, answers must be numbers as a whole, which
            costs nothing; by `math`, right by themselves, which costs as much as an output each.

    Raises:
        ValueError: if one is not.
    """
    wrong, requirement = [], ""
    if reward == "number":
        requirement = "a number, as a whole"
        wrong = [each for each in questions if as_number(each.answer) is None]
    elif reward == "math":
        requirement = "one that math-verify finds equivalent to itself"
        pairs = [(f"\\boxed{{{each.answer}}}", each.answer) for each in questions]
        verdicts = Equivalent().verdicts(pairs)
        wrong = [each for each, right in zip(questions, verdicts, strict=True) if right != 1.0]
    if wrong:
        where = f"{wrong[0].place}: " if wrong[0].place else ""
        raise ValueError(
            f"{where}answer must be {requirement}, for the reward {reward}, got {wrong[0].answer!r}"
        )


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
    return "\n\n".join([ARITHMETIC_INSTRUCTION, *shown, _posed(question.text, "")])


def math_prompt(question: Question) -> str:
    """Return the instruction and a question of GSM8K or MATH_INSTRUCTION."""
    return f"{MATH_INSTRUCTION}\n\nProblem: {question.text}\n\nSolution:"


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


def prompt_text(question: Question, *, examples: Sequence[ArithmeticProblem] = ()) -> str:
    """Return how a question is put: arithmetic and mathematics with an instruction.

    Args:
        question: of one of the `LOADERS`, or an arithmetic one.
        examples: problems to show before an arithmetic question; see `arithmetic_prompt`.
    """
    if question.kind == PROMPT:
        return question.text
    if question.kind in KINDS:
        return arithmetic_prompt(question, examples=examples)
    return math_prompt(question)


def prompts_for(
    model: HuggingFaceModel,
    tokenizer: HuggingFaceTokenizer,
    texts: Sequence[str],
    *,
    max_tokens: int,
    name: str = "max_tokens",
) -> Prompts:
    """Return texts as prompts on the model's device.

    Args:
        model: the policy.
        tokenizer: the model's.
        texts: the prompts.
        max_tokens: the most tokens of an output, for which there must be room.
        name: what an error calls it.

    Raises:
        ValueError: if outputs may outgrow the model's context, or the tokenizer loses characters.
    """
    prompts = tokenizer.prompts(texts)
    require_context(model, prompts, max_tokens, name)
    return prompts.to(next(model.parameters()).device)
