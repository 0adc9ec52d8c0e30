"""Questions from files of GSM8K and MATH, the made-up problems in the forms of the real ones."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ustat_grpo.arithmetic.problems import (
    KINDS,
    OperandRanges,
    arithmetic_problems,
)
from ustat_grpo.lm.questions import instructions, text_tasks
from ustat_grpo.lm.questions.datasets import (
    Question,
    last_boxed,
    load_gsm8k,
    load_math,
    load_prompts,
    questions_of,
    select_questions,
)
from ustat_grpo.lm.questions.text_tasks import require_judgeable

GSM8K = [
    {
        "question": "Ada has 3 jars of 400 beads each and buys 34 more. How many beads has she?",
        "answer": "The jars hold 3*400 = <<3*400=1200>>1200.\nWith 34 more: 1234.\n#### 1,234",
    },
    {
        "question": "Ben’s score falls from 5 by 12. What is it?\u2028Think.",  # no line ends there
        "answer": "5 - 12 = <<5-12=-7>>-7\n#### -7",
    },
    {"question": "What do 2 pens at $1.25 cost?", "answer": "#### is not yet it\n#### $2.50 "},
]
ANSWERS = ["1234", "-7", "2.50"]

MATH = [
    {
        "problem": "What is $1/2+1/3$?",
        "level": "Level 1",
        "type": "Prealgebra",
        "solution": r"Not $\boxed{1}$, but $\boxed{\frac{5}{6}}$.",
    },
    {
        "problem": r"Which $x$ have $x^2 \le 4$?",
        "level": "Level 3",
        "subject": "Algebra",
        "solution": r"They are \[\boxed{\left\{x : -2 \le x \le 2\right\}}.\]",
    },
    {"problem": "Who wins?", "solution": r"\boxed{\text{Eve}}", "answer": "Eve"},
]


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs the extra llm")
        import pyarrow
        from pyarrow import parquet

        columns = dict.fromkeys(key for row in rows for key in row)
        table = {key: [row.get(key) for row in rows] for key in columns}
        parquet.write_table(pyarrow.table(table), path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def message(loader, path: Path) -> str:
    with pytest.raises(ValueError) as error:
        loader(path)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestGsm8k:
    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    def test_questions(self, tmp_path, suffix):
        found = load_gsm8k(write(tmp_path / f"train.{suffix}", GSM8K))
        assert [question.answer for question in found] == ANSWERS
        assert [question.text for question in found] == [row["question"] for row in GSM8K]
        assert {question.kind for question in found} == {"gsm8k"}

    def test_blank_lines_and_windows(self, tmp_path):
        path = tmp_path / "train.jsonl"
        lines = [json.dumps(row).encode() for row in GSM8K]
        path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(lines) + b"\r\n  \r\n")
        assert [question.answer for question in load_gsm8k(path)] == ANSWERS

    @pytest.mark.parametrize("end", ["", "1234", "####", "#### twelve", "#### 1 2", "#### 3 days"])
    def test_answer_without_a_number(self, tmp_path, end):
        path = write(tmp_path / "train.jsonl", [GSM8K[0], GSM8K[0] | {"answer": f"So it is {end}"}])
        found = message(load_gsm8k, path)
        assert found.startswith(f"{path}, line 2: answer must end in #### and a number, got ")

    def test_missing_file_says_what_goes_where(self, tmp_path):
        expected = (
            "must be a GSM8K file (train.jsonl or train.parquet with question and answer), got"
        )
        for path, reason in (
            (tmp_path / "train.jsonl", "no such file"),
            (tmp_path, "a folder"),
            (write(tmp_path / "train.csv", GSM8K), "neither .jsonl nor .parquet"),
        ):
            assert message(load_gsm8k, path) == f"path {expected} {path} ({reason})"
        with pytest.raises(ValueError, match=r"^task.path must be a GSM8K file"):
            load_gsm8k(tmp_path / "none.jsonl", name="task.path")


class TestMath:
    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    def test_questions(self, tmp_path, suffix):
        found = load_math(write(tmp_path / f"train.{suffix}", MATH))
        answers = [r"\frac{5}{6}", r"\left\{x : -2 \le x \le 2\right\}", "Eve"]
        assert [question.answer for question in found] == answers
        assert [question.kind for question in found] == ["Prealgebra", "Algebra", "math"]

    def test_solution_without_a_box(self, tmp_path):
        path = write(tmp_path / "a.jsonl", [{"problem": "1+1?", "solution": r"\boxed{2"}])
        wanted = f"{path}, line 1: solution must have a \\boxed answer, got " + repr(r"\boxed{2")
        assert message(load_math, path) == wanted

    def test_empty_answer(self, tmp_path):
        path = write(tmp_path / "a.jsonl", [MATH[2] | {"answer": " "}])
        assert "line 1: answer must be a text that is not empty, got ' '" in message(
            load_math, path
        )


class TestMalformedFiles:
    def test_broken_line(self, tmp_path):
        path = write(tmp_path / "train.jsonl", GSM8K)
        path.write_text(path.read_text() + '\n{"question": "half of')
        assert message(load_gsm8k, path).startswith(f"{path}, line 5: must be JSON in UTF-8, got ")

    def test_no_utf8(self, tmp_path):
        path = write(tmp_path / "train.jsonl", GSM8K[:1])
        path.write_bytes(path.read_bytes() + b'{"question": "\xff"}')
        assert message(load_gsm8k, path).startswith(f"{path}, line 2: must be JSON in UTF-8, got ")

    def test_no_object(self, tmp_path):
        path = tmp_path / "train.jsonl"
        path.write_text("[1, 2]\n")
        assert message(load_gsm8k, path) == f"{path}, line 1: must be a JSON object, got [1, 2]"

    def test_missing_key(self, tmp_path):
        path = write(tmp_path / "train.jsonl", [{"problem": "1+1?", "answer": "#### 2"}])
        wanted = f"{path}, line 1: question must be there, got the keys ['answer', 'problem']"
        assert message(load_gsm8k, path) == wanted

    def test_no_text(self, tmp_path):
        path = write(tmp_path / "train.jsonl", [{"question": 5, "answer": "#### 2"}])
        wanted = f"{path}, line 1: question must be a text that is not empty, got 5"
        assert message(load_gsm8k, path) == wanted

    def test_missing_value_in_parquet(self, tmp_path):
        path = write(tmp_path / "a.parquet", [GSM8K[0], GSM8K[1] | {"question": None}])
        wanted = f"{path}, row 2: question must be a text that is not empty, got None"
        assert message(load_gsm8k, path) == wanted

    def test_no_parquet(self, tmp_path):
        pytest.importorskip("pyarrow", reason="needs the extra llm")
        path = tmp_path / "a.parquet"
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
        assert message(load_gsm8k, path).startswith(f"{path} must be a parquet file, got: ")

    @pytest.mark.parametrize("text", ["", "\n \n"])
    def test_no_question(self, tmp_path, text):
        path = tmp_path / "train.jsonl"
        path.write_text(text)
        found = message(load_math, path)
        assert found.endswith(f"and hold at least one question, got {path} with none")

    def test_without_the_extra(self, tmp_path, monkeypatch):
        path = tmp_path / "a.parquet"
        path.write_text("")
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        wanted = "pyarrow must be installed for this (pip install -e '.[llm]' in a checkout), got: "
        assert message(load_gsm8k, path).startswith(wanted)

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("[" * 100_000, "line 1: must be JSON in UTF-8, got maximum recursion depth"),
            ('{"a":' * 100_000, "line 1: must be JSON in UTF-8, got maximum recursion depth"),
            ("9" * 5000, "line 1: must be JSON in UTF-8, got Exceeds the limit"),
            (json.dumps([0] * 10**5), "line 1: must be a JSON object, got [0, 0, "),
            (json.dumps({"x" * 10**6: 1}), "line 1: prompt must be there, got the keys ['xxx"),
            (r'{"prompt": "\ud800", "answer": "1"}', "prompt must be a text that UTF-8 can write"),
            (r'{"prompt": "1+1?", "answer": "\udfff"}', "answer must be a text that UTF-8"),
            (r'{"prompt": "\u001b[2J", "answer": 5}', "answer must be a text that is not empty"),
            (r'{"prompt": ["\u001b[2J"], "answer": "5"}', r"not empty, got ['\x1b[2J']"),
        ],
    )  # fmt: skip
    def test_hostile_lines(self, tmp_path, line, told):
        """Would catch: a traceback, a text that no tokenizer takes, an error of megabytes."""
        path = tmp_path / "a\x1b[2J.jsonl"
        path.write_text(line)
        found = message(load_prompts, path)
        assert told in found and found.isprintable() and len(found) < 600


class TestSelection:
    QUESTIONS = tuple(Question(str(i), str(i), "count") for i in range(20))

    def select(self, count: int, seed: int = 3) -> tuple[Question, ...]:
        return select_questions(self.QUESTIONS, count, rng=np.random.default_rng(seed))

    def test_same_seed_same_questions(self):
        assert self.select(7) == self.select(7) != self.select(7, seed=4)
        assert self.select(7) == self.select(20)[:7]
        assert set(self.select(20)) == set(self.QUESTIONS)

    def test_errors(self):
        with pytest.raises(ValueError, match="num_questions must be at most the 20 there are, got"):
            self.select(21)
        with pytest.raises(ValueError, match="num_questions must be an integer of at least 1"):
            self.select(0)
        with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator, got 3"):
            select_questions(self.QUESTIONS, 2, rng=3)

    @pytest.mark.parametrize("name", ["text", "answer", "kind"])
    def test_empty_question(self, name):
        entries = {"text": "1+1", "answer": "2", "kind": "sum"} | {name: " "}
        with pytest.raises(ValueError, match=f"{name} must not be empty, got"):
            Question(**entries)

    def test_arithmetic(self, rng):
        problems = arithmetic_problems(10, rng=rng)
        found = questions_of(problems)
        assert [question.kind for question in found] == [*KINDS, *KINDS]
        assert all(eval(question.text) == int(question.answer) for question in found)


class TestAnswers:
    """What is wrong with an answer is said when it is read, not found in the rewards."""

    def prompts(self, tmp_path, *answers: str) -> tuple[Question, ...]:
        rows = [{"prompt": "1+1?", "answer": answer} for answer in answers]
        return load_prompts(write(tmp_path / "mine.jsonl", rows))

    def test_questions_know_their_line(self, tmp_path):
        """Would catch: an error without a line, and a line that makes equal questions differ."""
        one, other = self.prompts(tmp_path, "2", "2")
        assert one == other and other.place == f"{tmp_path / 'mine.jsonl'}, line 2"

    def test_numbers_of_gsm8k(self, tmp_path):
        """Would catch: an answer that keeps signs or separators which no output repeats."""
        written = ["-$5", "\N{EN DASH}5", "- 5", "9{,}500", "10\u202f000", "28%", "5 €", "1.5e3"]
        rows = [{"question": "How many?", "answer": f"So.\n#### {each}"} for each in written]
        found = load_gsm8k(write(tmp_path / "a.jsonl", rows))
        assert [each.answer for each in found] == [
            "-5",
            "-5",
            "-5",
            "9500",
            "10000",
            "28",
            "5",
            "1500",
        ]

    @pytest.mark.parametrize("answer", ["3/7", r"\frac{1}{2}", "2^{10}", "5 pens", "1 2"])
    def test_no_number(self, tmp_path, answer):
        """Would catch: 3/7 judged by its 7."""
        questions = self.prompts(tmp_path, "-$2.50", answer)
        with pytest.raises(ValueError) as error:
            require_judgeable(questions, "last-number")
        assert str(error.value) == (
            f"{tmp_path / 'mine.jsonl'}, line 2: answer must be a number, as a whole, for the "
            f"reward last-number, got {answer!r}"
        )
        require_judgeable(questions, "text")

    def test_no_mathematics(self, tmp_path):
        """Would catch: an answer that math-verify cannot read, so that all outputs are wrong."""
        pytest.importorskip("math_verify", reason="needs the extra llm")
        require_judgeable(self.prompts(tmp_path, "3/7", r"\text{Eve}", "x^2", "(1,2]"), "math")
        questions = self.prompts(tmp_path, "3/7", "1/0")
        with pytest.raises(ValueError, match="line 2: answer must be one that math-verify finds"):
            require_judgeable(questions, "math")


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{5}", "5"),
        (r"$\boxed{1}$ or rather $\boxed{ 2 }$", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\left\{1, 2\right.} and {more}", r"\left\{1, 2\right."),
        (r"\boxed{x \\ y}", r"x \\ y"),
        (r"\fbox{7}", "7"),
        (r"$\boxed 3$.", "3"),
        (r"so \boxed 3.5.", "3.5"),
        (r"\boxed {4}", "4"),
        (r"\boxed{\boxed{8}}", "8"),
        (r"\boxed{1} but \boxed{2", "1"),
        (r"\boxed{}", None),
        (r"\boxed", None),
        (r"\boxed$ and {5}", None),
        (r"\boxedtext{5}", None),
        (r"\boxed\frac{1}{2}", None),
        ("5", None),
    ],
)
def test_last_boxed(text, inside):
    assert last_boxed(text) == inside


class TestInstructions:
    def test_examples_are_right_step_by_step(self):
        problems = instructions.example_problems()
        assert [problem.kind for problem in problems] == list(KINDS)
        for problem in problems:
            steps = instructions.worked(problem).split(" = ")
            assert steps[0] == problem.text and steps[-1] == str(problem.answer)
            assert {eval(step) for step in steps} == {problem.answer}
            assert len(steps) == len(problem.operators) + 1

    def test_steps_take_one_operation_each(self):
        two_step, _, _, _, parentheses = instructions.example_problems()
        assert instructions.worked(two_step) == "104 - 27 + 8 = 77 + 8 = 85"
        assert instructions.worked(parentheses) == "58 - (103 - 20) = 58 - 83 = -25"

    def test_examples_are_never_drawn(self):
        """Each has a number that its kind of drawn problem cannot have."""
        ranges = OperandRanges()
        for problem in instructions.example_problems():
            if problem.kind == "multiplication":
                beyond = max(problem.operands) > ranges.factors[1]
            elif problem.kind == "division":
                beyond = problem.operands[1] > ranges.divisors[1]
            else:
                beyond = max(problem.operands) > ranges.sums[1]
            assert beyond

    def test_small_examples_are_right_and_beyond_one_digit(self):
        problems = instructions.small_example_problems()
        assert [problem.kind for problem in problems] == list(KINDS)
        assert all(max(problem.operands) > 9 for problem in problems)

    def test_arithmetic_prompt(self):
        question = Question("1 + 2 - 4", "-1", "two_step")
        plain = text_tasks.prompt_text(question)
        assert plain.startswith(instructions.ARITHMETIC_INSTRUCTION)
        assert plain.endswith("\n\nExpression: 1 + 2 - 4\nCalculation:")
        examples = instructions.example_questions(instructions.example_problems())
        shown = text_tasks.prompt_text(question, examples=examples)
        assert shown.startswith(instructions.ARITHMETIC_INSTRUCTION)
        assert shown.endswith(plain[-30:])
        assert shown.count("Expression:") == 6 and "-1" not in shown
        assert "104 - 27 + 8 = 77 + 8 = 85" in shown

    def test_equations(self):
        """Would catch: solutions worked out where the answer alone stands behind the sign."""
        examples = questions_of(instructions.small_example_problems())
        question = Question("1 + 2 - 4", "-1", "two_step")
        assert instructions.EQUATED.prompt(question) == "1 + 2 - 4 ="
        lines = instructions.EQUATED.prompt(question, examples).splitlines()
        assert lines[0] == "10 - 7 + 2 = 5" and lines[-1] == "1 + 2 - 4 =" and len(lines) == 6

    def test_question_among_the_examples(self):
        examples = instructions.example_questions(instructions.example_problems())
        with pytest.raises(ValueError, match=r"must not be one of the examples, got '31 \* 7'"):
            text_tasks.prompt_text(examples[2], examples=examples)

    def test_math_prompt(self):
        prompt = text_tasks.prompt_text(Question("What is $1+1$?", "2", "math"))
        assert r"\boxed{}" in prompt and "What is $1+1$?" in prompt
        assert last_boxed(prompt) is None  # the instruction itself is no answer

    def test_solutions_of_examples_are_those_of_their_files(self, tmp_path):
        """Would catch: the bare answer of GSM8K where the file has the way to it."""
        gsm8k, own = tmp_path / "g.jsonl", tmp_path / "p.jsonl"
        gsm8k.write_text('{"question": "1+1?", "answer": "One and one.\\n#### 2"}\n')
        own.write_text(
            '{"prompt": "1+1", "answer": "2"}\n'
            '{"prompt": "1+2", "answer": "3", "solution": "2+1=3"}\n'
        )
        assert load_gsm8k(gsm8k)[0].worked_out == "One and one.\n#### 2"
        questions = load_prompts(own)
        assert [each.worked_out for each in questions] == ["2", "2+1=3"]
        asked = text_tasks.prompt_text(Question("2+2", "4", "prompt"), examples=questions)
        assert asked == "1+1 2\n1+2 2+1=3\n2+2"
        assert questions[1].columns == {"prompt": "1+2", "answer": "3", "solution": "2+1=3"}
