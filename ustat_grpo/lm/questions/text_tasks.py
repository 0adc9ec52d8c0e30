"""What a model is asked in words, and how its texts are judged, by the names that users give."""

from collections.abc import Callable, Mapping, Sequence

from ustat_grpo.arithmetic.problems import KINDS
from ustat_grpo.lm.judging.text_rewards import (
    Equivalent,
    same_boxed,
    same_first_number,
    same_number,
)
from ustat_grpo.lm.judging.written_numbers import as_number
from ustat_grpo.lm.language_model import Prompts
from ustat_grpo.lm.models.huggingface import HuggingFaceModel, HuggingFaceTokenizer
from ustat_grpo.lm.questions.datasets import PROMPT, Question, load_gsm8k, load_math, load_prompts
from ustat_grpo.lm.questions.instructions import (
    CALCULATED,
    REASONED,
    WORD_FOR_WORD,
    Wording,
)
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
    "first-number": lambda: same_first_number,
    "last-number": lambda: same_number,
    "boxed": lambda: same_boxed,
    "math": Equivalent,
    "text": lambda: same_text,
}
"""What makes a judge of texts by the right answer."""


OF_NUMBERS = ("first-number", "last-number")
"""The `ACCURACIES` that compare numbers alone."""


def require_judgeable(questions: Sequence[Question], reward: str) -> None:
    """Raise if an answer is one by which no text can be judged right.

    Args:
        questions: what is asked; each knows the line of its file.
        reward: one of the `ACCURACIES`. By one of `OF_NUMBERS`, answers must be numbers as a whole,
            which costs nothing; by `math`, right by themselves, which costs as much as an output
            each.

    Raises:
        ValueError: if one is not.
    """
    wrong, requirement = [], ""
    if reward in OF_NUMBERS:
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


def wording_of(question: Question) -> Wording:
    """Return how questions of this sort are put: arithmetic and mathematics with an instruction."""
    if question.kind == PROMPT:
        return WORD_FOR_WORD
    return CALCULATED if question.kind in KINDS else REASONED


def prompt_text(question: Question, *, examples: Sequence[Question] = ()) -> str:
    """Return how a question is put, behind some others with their solutions.

    Args:
        question: of one of the `LOADERS`, or an arithmetic one.
        examples: of the same sort.

    Raises:
        ValueError: if the question is among the examples.
    """
    return wording_of(question).prompt(question, examples)


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
