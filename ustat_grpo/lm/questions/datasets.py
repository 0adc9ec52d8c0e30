"""Questions in words, with their answers: files of GSM8K, MATH and prompts, and arithmetic.

GSM8K (Cobbe et al., arXiv 2110.14168) and MATH (Hendrycks et al., arXiv 2103.03874) are read from
local files in the forms in which they are published. Nothing is downloaded. Needs no torch.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ustat_grpo.arithmetic.problems import ArithmeticProblem
from ustat_grpo.inputs.checks import generator, integer
from ustat_grpo.inputs.extras import from_extra
from ustat_grpo.inputs.quoting import LONGEST_VALUE, one_line, quoted
from ustat_grpo.lm.judging.boxes import last_boxed
from ustat_grpo.lm.judging.equivalence import MARK
from ustat_grpo.lm.judging.written_numbers import written_plainly

Entry = TypeVar("Entry")

PROMPT = "prompt"
"""The kind of a question that is asked word for word."""


@dataclass(frozen=True)
class Question:
    """A question in words.

    Args:
        text: the question, or just the expression of an arithmetic one.
        answer: the right answer, as it is written.
        kind: the sort of question, such as `gsm8k`, `Algebra` or `two_step`.
        place: where it was read, such as `train.jsonl, line 3`.
        solution: how the answer is worked out, as it is shown in an example; the answer, if empty.
        columns: all that a file says of it, for reward functions of users.

    The last three do not count in comparisons.

    Raises:
        ValueError: if text, answer or kind is empty.
    """

    text: str
    answer: str
    kind: str
    place: str = field(default="", compare=False, repr=False)
    solution: str = field(default="", compare=False, repr=False)
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check that nothing is empty."""
        for name in ("text", "answer", "kind"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} must not be empty, got {quoted(self)}")

    @property
    def worked_out(self) -> str:
        """What an example shows behind the question."""
        return self.solution or self.answer


def questions_of(problems: Sequence[ArithmeticProblem]) -> tuple[Question, ...]:
    """Return arithmetic problems as questions whose text is the expression."""
    return tuple(Question(each.text, str(each.answer), each.kind) for each in problems)


def load_gsm8k(path: str | Path, *, name: str = "path") -> tuple[Question, ...]:
    """Read a GSM8K file: `question`, and `answer` that ends in `#### 1,234`.

    The answer is the number after the last mark, without separators, currency and percent sign;
    `ustat_grpo.lm.judging.written_numbers` says what is a number.

    Args:
        path: a local `.jsonl` or `.parquet` file.
        name: what an error calls the path.

    Raises:
        ValueError: if there is no such file, a line is malformed, or there is no question.
    """
    expected = "a GSM8K file (train.jsonl or train.parquet with question and answer)"
    return _load(Path(path), _gsm8k, f"{name} must be {expected}")


def load_math(path: str | Path, *, name: str = "path") -> tuple[Question, ...]:
    r"""Read a MATH file: `problem`, `solution`, and `type` or `subject`.

    The answer is the last `\boxed{...}` of the solution, unless the file has it as `answer`.

    Args:
        path: a local `.jsonl` or `.parquet` file.
        name: what an error calls the path.

    Raises:
        ValueError: if there is no such file, a line is malformed, or there is no question.
    """
    expected = "a MATH file (train.jsonl or train.parquet with problem and solution)"
    return _load(Path(path), _math, f"{name} must be {expected}")


def load_prompts(path: str | Path, *, name: str = "path") -> tuple[Question, ...]:
    """Read any questions: `prompt`, which is asked word for word, and `answer`.

    Where they are examples, a `solution` is shown in place of the answer, if a line has one.

    Args:
        path: a local `.jsonl` or `.parquet` file.
        name: what an error calls the path.

    Raises:
        ValueError: if there is no such file, a line is malformed, or there is no question.
    """
    return _load(Path(path), _prompt, f"{name} must be a file of prompts with prompt and answer")


def select_questions(
    questions: Sequence[Entry], num_questions: int, *, rng: np.random.Generator
) -> tuple[Entry, ...]:
    """Draw questions without replacement, in random order.

    The first n of a larger selection are the selection of n from the same seed.

    Args:
        questions: of which to select, of any kind.
        num_questions: how many.
        rng: source of randomness.

    Raises:
        ValueError: if `num_questions` is not positive, or more than there are.
    """
    if integer("num_questions", num_questions) > len(questions):
        raise ValueError(
            f"num_questions must be at most the {len(questions)} there are, got {num_questions}"
        )
    order = generator(rng).permutation(len(questions))
    return tuple(questions[place] for place in order[:num_questions])


def _load(
    path: Path, read: Callable[[Mapping[str, Any]], Question], requirement: str
) -> tuple[Question, ...]:
    """Return the questions of a file, or raise an error that says where it is wrong."""
    rows = {".jsonl": _json_lines, ".parquet": _parquet_rows}.get(path.suffix)
    if rows is None or not path.is_file():
        missing = "a folder" if path.is_dir() else "no such file"
        reason = missing if not path.is_file() else "neither .jsonl nor .parquet"
        raise ValueError(f"{requirement}, got {one_line(path)} ({reason})")
    questions = []
    for place, row in rows(path):
        try:
            questions.append(replace(read(row), place=f"{path}, {place}", columns=row))
        except ValueError as error:
            raise ValueError(f"{one_line(path)}, {place}: {error}") from error
    if not questions:
        raise ValueError(
            f"{requirement} and hold at least one question, got {one_line(path)} with none"
        )
    return tuple(questions)


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the place and the keys of each line that is not blank."""
    shown = one_line(path)
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        place = f"line {number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            reason = one_line(error, longest=LONGEST_VALUE)
            raise ValueError(f"{shown}, {place}: must be JSON in UTF-8, got {reason}") from error
        if line.strip():
            if not isinstance(row, dict):
                raise ValueError(f"{shown}, {place}: must be a JSON object, got {quoted(row)}")
            yield place, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the place and the columns of each row."""
    parquet = from_extra("pyarrow.parquet")
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        reason = one_line(str(error).partition("\n")[0], longest=LONGEST_VALUE)
        raise ValueError(f"{one_line(path)} must be a parquet file, got: {reason}") from error
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _text(row: Mapping[str, Any], key: str) -> str:
    """Return a text of a row, or raise if the key is missing or its value no text."""
    if key not in row:
        raise ValueError(f"{key} must be there, got the keys {quoted(sorted(row))}")
    if not isinstance(row[key], str) or not row[key].strip():
        raise ValueError(f"{key} must be a text that is not empty, got {quoted(row[key])}")
    if any("\ud800" <= letter <= "\udfff" for letter in row[key]):
        raise ValueError(f"{key} must be a text that UTF-8 can write, got {quoted(row[key])}")
    return row[key]


def _prompt(row: Mapping[str, Any]) -> Question:
    text, answer = _text(row, "prompt"), _text(row, "answer")
    shown = _text(row, "solution") if row.get("solution") is not None else ""
    return Question(text, answer, PROMPT, solution=shown)


def _gsm8k(row: Mapping[str, Any]) -> Question:
    text, answer = _text(row, "question"), _text(row, "answer")
    _, mark, end = answer.rpartition(MARK)
    number = written_plainly(end)
    if not mark or number is None:
        raise ValueError(f"answer must end in {MARK} and a number, got {quoted(answer[-60:])}")
    return Question(text.strip(), number, "gsm8k", solution=answer.strip())


def _math(row: Mapping[str, Any]) -> Question:
    text = _text(row, "problem")
    answer = row.get("answer")
    if answer is None:
        solution = _text(row, "solution")
        answer = last_boxed(solution)
        if answer is None:
            raise ValueError(f"solution must have a \\boxed answer, got {quoted(solution)}")
    else:
        answer = _text(row, "answer")
    key = next((key for key in ("type", "subject") if row.get(key) is not None), None)
    kind, solution = _text(row, key) if key else "math", row.get("solution")
    shown = solution.strip() if isinstance(solution, str) else ""
    return Question(text.strip(), answer.strip(), kind, solution=shown)
