"""How numbers are written: the last of a text, a whole text that is one, and what is none."""

import json
from pathlib import Path

import pytest

from ustat_grpo.lm.judging.text_rewards import same_number
from ustat_grpo.lm.judging.written_numbers import as_number, last_number, written_plainly
from ustat_grpo.lm.questions.datasets import load_gsm8k

GSM8K = Path(__file__).parents[3] / "gsm8k" / "test.jsonl"

LAST = {
    "-5": [
        "is -5", "is - 5", "- 5", "x = - 5", "$- 5$", "\\[\n- 5\n\\]", "**Total:** - 5",
        "is \N{EN DASH}5", "\N{EN DASH} 5", "is \N{MINUS SIGN}5", "is \N{NON-BREAKING HYPHEN}5",
        "-$5", "is -$5", "- $5", "-$ 5", "$-5", r"-\$5", "-€5", "−€ 5", "-US$5", "-£5.00", "10\n-5",
        "-\u00a05", "-5%", "-5 €", "3 \\times -5", "-CHF 5", "is -USD 5", "-CHF5", "CHF -5",
        "-Rs. 5", r"-\text{CHF }5", r"-\text{€}5", "-₿5", "-₾5", "-(5)", "-{5}", "is -(5)", "- (5)",
        "-($5)", "-$(5)", r"-\left(5\right)", "x = -{5}", "-５", "－５", "-(5.00)",
    ],
    "5": [
        "27-5", "27 - 5", "27 \N{EN DASH} 5", "1\N{EN DASH}5", "(2+3)-5", "step-5", "$9-$5",
        "9€ - 5€", "27$-5$", "9% - 5%", "the answer \N{EN DASH} 5", "**Total** - 5",
        "A:\n- 4 pens\n- 5 pens", "+5", "5.", "5.0", "05", "1, 5", "is 5 €", "is $5", "5%", r"5\%",
        "5 apples", "3/5", "10-(5)", "10 - (5)", "(2)-(5)", "-(2+5", "f(5)", "(5)", "9 CHF - 5 CHF",
        "５", "５％", "٣ 5", "step-CHF 5", "2^{5}", "1.2.5", "10 000 5", "1,000,5", "e5",
    ],
    "9500": [
        "9,500", "9{,}500", r"9\,500", r"9\;500", r"9\:500", r"9\ 500", r"9\!500", r"9,\!500",
        "9 500", "9\u00a0500", "9\u2009500", "9\u202f500", "9\u2007500", "9'500", "$9,500.00",
        "9.5e3", "9.5E3", "95e+2", "9500000e-3", "9.5 × 10^3", r"9.5 \times 10^{3}", "95·10²",
        r"9.5\cdot10^3", "9.5 x 10**3", "in 2019 9 500", "10 9 500",
    ],
    "1234567.5": [
        "1,234,567.50", "1{,}234{,}567.5", r"1\,234\,567.5", "1 234 567.5", "1.2345675e6",
    ],
    "0.025": ["2.5E-2", "2.5e\N{MINUS SIGN}2", ".025", "0.025", "2.5 × 10⁻²", r"2.5 \cdot 10^{-2}"],
    "12": ["１２", "１２．０", "-(3)12", "-(3) 12"],
    "567": ["1,234 567", "1234,567", "1234 567", "0 567", "1.5 567"],
    "56": ["1,234,56", "1 234 56", "1,56"],
    "0": ["-0", "0.00", "-0e5"],
    "1e200": ["1e200", "1" + 200 * "0", "10 × 10^199"],
}  # fmt: skip
"""The last number, and texts that end in it."""


@pytest.mark.parametrize("number", LAST)
def test_last_number(number):
    """Would catch: a sign or a thousands separator that is not read, or an operator that is."""
    assert {text: last_number(text) for text in LAST[number]} == dict.fromkeys(LAST[number], number)


def test_whole_numbers():
    """Would catch: an answer that is judged by its last digits, or zeros that are lost."""
    written = {
        "2.50": "2.50", "$2.50 ": "2.50", "1,234": "1234", "-$1,234": "-1234", "- 5": "-5",
        "\N{EN DASH}5": "-5", "+5": "5", ".5": "0.5", "5.": "5", "28%": "28", r"28.0\%": "28.0",
        "5 €": "5", "10 000": "10000", "9{,}500": "9500", "1.5e3": "1500", "$5$": "5",
        r"\(5\)": "5", r"\text{5}": "5", "-0": "-0", "007": "007", "-(5)": "-5", "-{5}": "-5",
        "-CHF 5": "-5", "-₿5": "-5", "-$(5)": "-5", "１２": "12", "12 CHF": "12", "12 EUR.": "12",
        r"28\,\%": "28", r"28~\%": "28", r"28.0\,\%": "28.0", r"28\text{ percent}": "28",
        r"28\text{\%}": "28", "28 per cent": "28", "28％": "28", r"28\ \%": "28",
    }  # fmt: skip
    assert {text: written_plainly(text) for text in written} == written
    none = [
        "3/7", r"\frac{1}{2}", "2^{10}", "3 1/2", "5 apples", "1 2", "12,34", "1,2,3", "twelve",
        "10 000 20", "101_2", "5-3", "x=5", "", "-", "$", ".", "5e", "٣",
        "(1,234)", "-(5", "-5)", "-(5}", "-(5)3", "12 ABC", "percent", r"28\text{ percents}",
    ]  # fmt: skip
    assert [text for text in none if as_number(text) or written_plainly(text)] == []


def test_same_number_needs_an_answer_that_is_one():
    """Would catch: 3/7 as the answer, which every text that ends in 7 would have."""
    assert same_number("so 7", "7") == 1
    assert [same_number("so 7", answer) for answer in ("3/7", r"\frac{1}{7}", "2^7")] == [0, 0, 0]
    assert same_number(r"so \boxed{-\$1{,}234.50}", "-1234.5") == 1


def test_long_texts():
    """Would catch: quadratic time (minutes), or digits that Python's `int` refuses."""
    assert last_number("9" * 100_000) == "9" * 100_000
    for part in (
        "1 ",
        "1,",
        "- ",
        "-",
        "$",
        "1,234,",
        "9 500 ",
        "1e",
        " ",
        "2 × 10^",
        "-(",
        "-(1)",
        "-CHF ",
        "CHF",
    ):
        assert last_number(part * (100_000 // len(part)) + " is 5") == "5"


def test_published_answers():
    """Each solution is right by itself. The file is looked for in gsm8k/."""
    if not GSM8K.exists():
        pytest.skip(f"needs GSM8K's test.jsonl as {GSM8K}")
    questions = load_gsm8k(GSM8K)
    texts = [json.loads(line)["answer"] for line in GSM8K.read_text().splitlines()]
    assert len(questions) == 1319
    assert all(map(same_number, texts, [question.answer for question in questions]))
