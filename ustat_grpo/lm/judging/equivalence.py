r"""What is decided, or spelled out, before math-verify is asked whether two answers are equivalent.

math-verify 0.9 reads `3 1/2` as 1, drops the base of `101_3`, compares `28.0\%` as text, sees no
`\fbox{5}` outside of mathematics, takes `1234 dollars` for a product of letters, and knows of the
grammar of `ustat_grpo.lm.judging.written_numbers` a part only. So, in front of it:

- Boxes are those of `ustat_grpo.lm.judging.boxes`, as for the reward of the form. If a text has
  one, or the same several times, nothing else of the text counts; of several, math-verify chooses
  or makes a set. Without a box, `#### 72` at the end is the answer, as GSM8K's solutions have it.
- A number is handed on as plain digits. Two integers are compared here, digit by digit.
- Mixed numbers, `3 1/2`, `3½` and `3\frac{1}{2}`, are sums: 7/2. `3 and 1/2` is one next to a
  single number, else a set of two.
- x% is x/100; next to a number without the sign it may also mean x, which math-verify has for some
  integers.
- Numbers with bases on both sides are compared by value: 11_2 is 3_{10}. A base is a number or a
  word, also in brackets, in `\text{}` or after "base". Next to a number without one it is dropped:
  the question has said it.
- Words behind a number are its unit, if they have three letters or stand in `\text{}`, and are no
  operation, function or number (`5 less`, `2 pi`, `2 dozen`); hundred to trillion are powers of
  ten. Of two different units nothing is decided here.

What stays math-verify's own: which formula of an unboxed text is the answer; numbers that agree in
six decimals; units that it drops on its own, different ones too (5 cm and 5 m); `x = 5` for 5; sets
and tuples, intervals and inequalities; degrees, which it drops; names, which it compares as
symbols; sentences in a box (`\boxed{The answer is 5}`), of which it makes products of letters.
"""

import re
import unicodedata
from typing import NamedTuple

from ustat_grpo.lm.judging.boxes import boxes
from ustat_grpo.lm.judging.written_numbers import (
    PERCENT,
    Number,
    as_number,
    narrow,
    numbers_in,
    unwrapped,
)

MARK = "####"
"""Stands before the answer in the solutions of GSM8K."""


class Posed(NamedTuple):
    """What math-verify is asked: the right answer, without a box, and a text."""

    answer: str
    text: str


def decided(text: str, answer: str) -> float | tuple[Posed, ...]:
    """Return 1 or 0 where that is plain, else what math-verify shall be asked.

    The text is right if one of the questions is answered so.
    """
    text, answer = narrow(text), narrow(answer)
    stated, wanted = _answer_of(text), answer.strip()
    verdict = None if stated is None else _same_quantity(stated, wanted)
    if verdict is not None:
        return verdict
    have_bases = _in_base_ten(text) != text and _in_base_ten(wanted) != wanted
    read = _in_base_ten if have_bases else _without_base
    text, wanted = read(text), read(wanted)
    if stated is not None:
        stated, wanted = _as_sum(stated, by=wanted), _as_sum(wanted, by=stated)
        return (Posed(_spelled(wanted), f"\\boxed{{{_spelled(read(stated), by=wanted)}}}"),)
    text = _with_boxes_spelled(text)
    if not (_PERCENT.search(text) or _PERCENT.search(wanted)):
        return (Posed(_spelled(wanted), text),)
    return tuple(
        Posed(_spelled(_PERCENT.sub(meaning, wanted)), _PERCENT.sub(meaning, text))
        for meaning in (r"\\frac{\g<1>}{100}", r"\g<1>")
    )


def _answer_of(text: str) -> str | None:
    """Return what a text's boxes hold, if that is one thing, or the number that it states."""
    insides = {box.inside for box in boxes(text)}
    if len(insides) == 1:
        return insides.pop()
    tail = text.rpartition(MARK)[2]
    return tail if not insides and as_number(tail) else None


def _with_boxes_spelled(text: str) -> str:
    """Return a text with plain numbers in all its boxes, or anywhere if it has no box."""
    in_boxes, end, parts = boxes(text), 0, []
    if not in_boxes:
        return _plain_numbers(text)
    for box in in_boxes:
        parts += [text[end : box.start], f"\\boxed{{{_spelled(box.inside)}}}"]
        end = box.end
    return "".join([*parts, text[end:]])


_PERCENT = re.compile(rf"(?<![0-9.,])([0-9]+(?:\.[0-9]+)?){PERCENT}")


class _Quantity(NamedTuple):
    """A number and its unit, in lower case and singular; without one it is empty."""

    number: Number
    unit: str


_POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_WORDS_OF_MATHEMATICS = """
pi infinity inf sin cos tan cot sec csc log exp sqrt deg mod modulo factorial choose alpha beta
gamma theta lambda sigma omega phi dozen dozens pair pairs half halves third thirds quarter
quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths
tenth tenths hundredth hundredths thousandth thousandths hundreds thousands millions billions
trillions one two three four five six seven eight nine ten eleven twelve twenty double triple
twice negative squared cubed times plus minus divided less more fewer over under below above and
not but nor or than most least short percent percentage abc abcd def pqr rst uvw xyz wxyz
"""
_NO_UNITS = frozenset(_WORDS_OF_MATHEMATICS.split())
_SPACE = r"(?:[\s~\u00a0]|\\[ ,;:])"
_WORDS = rf"[^\W\d_]+(?:(?:{_SPACE}+|/|-)[^\W\d_]+){{0,5}}"
_UNIT = re.compile(
    rf"(?P<number>.*?[^\s~\\,;:]){_SPACE}*"
    rf"(?:\\(?:text|textrm|textit|textbf|mathrm|mbox)\{{\s*(?P<text>{_WORDS})\.?\s*\}}"
    rf"|(?<=[\s~ ,;:])(?P<bare>{_WORDS})\.?)",
    flags=re.DOTALL,
)
_LONGEST = 200
"""Characters that a number with its unit may have; longer ones are left to math-verify."""


def _quantity(text: str) -> _Quantity | None:
    """Return a number with or without a unit, or None if the text is anything else."""
    number = as_number(text)
    if number is not None:
        return _Quantity(number, "")
    text = unwrapped(text)
    match = _UNIT.fullmatch(text) if len(text) <= _LONGEST else None
    number = as_number(match["number"]) if match else None
    if match is None or number is None:
        return None
    words = re.findall(r"[^\W\d_]+", (match["text"] or match["bare"]).lower())
    while words and words[0] in _POWERS:
        number = number.times_power(_POWERS[words.pop(0)])
    shortest = 1 if match["text"] else 3
    if any(word in _NO_UNITS or len(word) < shortest for word in words):
        return None
    return _Quantity(number, " ".join(word.removesuffix("s") for word in words))


def _same_quantity(stated: str, wanted: str) -> float | None:
    """Return whether two numbers are the same, or None where math-verify shall say."""
    one, other = _quantity(stated), _quantity(wanted)
    if one is None or other is None or (one.unit and other.unit and one.unit != other.unit):
        return None
    first, second = one.number, other.number
    if first[:3] == second[:3]:
        return 1.0
    if first.percent == second.percent:
        return 0.0 if first.is_integer and second.is_integer else None
    return 1.0 if _value(first) == _value(second) else None


def _value(number: Number) -> Number:
    return number.times_power(-2 if number.percent else 0)


def _spelled(text: str, by: str | None = None) -> str:
    """Return an answer as math-verify reads it right.

    Args:
        text: the answer.
        by: what it is compared with; units are dropped next to a number only.
    """
    number = as_number(text)
    if number is None and (by is None or as_number(by)):
        quantity = _quantity(text)
        number = quantity.number if quantity else None
    if number is None:
        return _plain_numbers(text)
    return _latex(number)


def _latex(number: Number) -> str:
    plain = str(number)
    size, mark, power = plain.partition("e")
    plain = f"{size} \\cdot 10^{{{power}}}" if mark else plain
    return f"\\frac{{{plain}}}{{100}}" if number.percent else plain


_VULGAR = re.compile("[¼½¾⅐-⅞]")
_MIXED = re.compile(
    rf"(?<![0-9A-Za-z.,/^_])(?P<whole>[0-9]{{1,9}})"
    rf"(?:{_SPACE}{{1,3}}(?P<top>[0-9]{{1,9}}){_SPACE}{{0,2}}/{_SPACE}{{0,2}}(?P<bottom>[0-9]{{1,9}})"
    r"(?![0-9/]|\.[0-9])"
    rf"|{_SPACE}{{0,3}}\\[dtc]?frac\s?(?:\{{(?P<upper>[0-9]{{1,9}})\}}|(?P<one>[0-9]))"
    r"\s?(?:\{(?P<lower>[0-9]{1,9})\}|(?P<other>[0-9])))"
)
_AND = re.compile(
    rf"(?<=[0-9]){_SPACE}{{0,3}}(?:and|\\(?:text|textrm|mathrm|mbox)\{{\s*and\s*\}}){_SPACE}{{0,3}}"
    r"(?=[0-9]{1,9}\s?/|\\[dtc]?frac)"
)


def _as_sum(text: str, by: str) -> str:
    """Return `3 and 1/2` as `3 1/2` beside a single number: of two numbers it may be a set."""
    joined = _AND.sub(" ", unwrapped(text), count=1)
    is_one = _MIXED.fullmatch(joined) is not None
    return joined if is_one and not re.search(r"[,;]|\band\b|\\cup", by) else text


_BINDS_TIGHTER = re.compile(r"(?:[\^_/÷]|\*\*|\\div)\s*\Z")
"""What before a number takes its first digits only: x^2 \\cdot 10^3 is no power of 2000."""


def _plain_numbers(text: str) -> str:
    """Return a text with mixed numbers as fractions and other numbers as any reader knows them."""
    text = _MIXED.sub(_as_fraction, _VULGAR.sub(_written_out, text))
    end, parts = 0, []
    for placed in numbers_in(text):
        if not placed.is_plain and not _BINDS_TIGHTER.search(
            text[max(0, placed.start - 8) : placed.start]
        ):
            parts += [text[end : placed.start], _latex(placed.number)]
            end = placed.end
    return "".join([*parts, text[end:]])


def _written_out(vulgar: re.Match[str]) -> str:
    """Return ½ as 1/2, apart from a whole number before it."""
    return " " + unicodedata.normalize("NFKC", vulgar.group()).replace("\N{FRACTION SLASH}", "/")


def _as_fraction(mixed: re.Match[str]) -> str:
    top = mixed["top"] or mixed["upper"] or mixed["one"]
    bottom = mixed["bottom"] or mixed["lower"] or mixed["other"]
    return f"\\frac{{{int(mixed['whole']) * int(bottom) + int(top)}}}{{{bottom}}}"


_RAW_DIGITS = r"[0-9][0-9A-Z]*(?:\.[0-9A-Z]+)?"
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_TEXT = r"\\(?:text|textrm|textbf|mathrm|mbox|rm)\s?"
_BRACES = r"\{(?:[^{}]|\{[^{}]{0,30}\}){1,40}\}"
_NAME = rf"(?:[0-9]{{1,2}}(?![0-9]|[.,][0-9])|(?:{'|'.join(_BASES)})(?![A-Za-z]))"
_BASED = re.compile(
    rf"(?<![0-9A-Za-z\\_^}}.])(?:\((?P<bracketed>{_RAW_DIGITS})\)|(?P<digits>{_RAW_DIGITS}))"
    rf"(?P<base>\s?_\s?(?:{_BRACES}|{_TEXT}{_BRACES}|\([0-9]{{1,2}}\)|[0-9]{{1,2}}(?![0-9]))|[₀-₉]{{1,2}}"
    rf"|{_SPACE}{{0,2}}\((?:in )?base[- ]{_NAME}\)|{_SPACE}{{1,2}}(?:in )?base[- ]{_NAME}"
    rf"|{_SPACE}{{0,2}}{_TEXT}\{{\s?\(?(?:in )?base (?:{_NAME}\)?\s?\}}|\}}{_SPACE}?{_NAME}))"
)
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_NO_NAME = re.compile(rf"{_TEXT}|[{{}}()_\s~-]|\\[ ,;:!]|\bin\b|base")


def _in_base_ten(text: str) -> str:
    """Return a text with numbers such as 101_2 by their value."""
    return _BASED.sub(_by_value, text)


def _without_base(text: str) -> str:
    """Return a text with numbers such as 101_2 by their digits."""
    return _BASED.sub(lambda match: match.group() if _base(match) is None else _digits(match), text)


def _digits(match: re.Match[str]) -> str:
    return match["digits"] or match["bracketed"]


def _base(match: re.Match[str]) -> int | None:
    r"""Return the base that `_{\text{base }3}` and the like name, or None if it is an index."""
    name = _NO_NAME.sub("", match["base"].translate(_LOWERED))
    return int(name) if re.fullmatch("[0-9]{1,2}", name) else _BASES.get(name.lower())


def _by_value(match: re.Match[str]) -> str:
    base = _base(match)
    if base is None:
        return match.group()
    whole, _, decimals = _digits(match).partition(".")
    try:
        value = int(whole + decimals, base or 1)
        return f"\\frac{{{value}}}{{{base ** len(decimals)}}}" if decimals else str(value)
    except ValueError:  # no digits of this base, or too many: the same in the same base only
        return f"({whole}.{decimals or 0} b_{{{base}}})"
