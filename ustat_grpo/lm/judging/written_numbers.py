r"""How numbers are written: one grammar for the answers of data sets and the outputs of models.

    number    = [sign] [currency] [sign] digits ["." digits] [exponent] [currency | percent] ["."]
              | sign [currency] "(" [currency] digits … ")", or with braces
    digits    = 0-9 … | group of 1 to 3 not beginning with 0, then groups of exactly 3
    separator = , | {,} | ,\! | \, | \: | \; | \! | "\ " | one space, also a narrow, thin,
                figure, hair or non-breaking one | apostrophe; the same throughout a number
    exponent  = e5, E-5 | times 10^5, with ×, ·, *, x, \times or \cdot; 10^{-5}, 10**5 and 10⁻⁵
    sign      = - | + | minus sign | hyphen, also non-breaking | en dash
    currency  = $ | \$ | US$ | € | £ and other signs of currencies | CHF, USD and other codes, also
                in \text{}
    percent   = % | \% | percent | per cent, also after \, or ~ and in \text{}

Fullwidth digits, as in １２, are digits; those of other scripts are not.

So `10 000` and `1\,234.5` are one number each, and `10 000 20` and `12,3456` are two. The fraction
is not grouped, and a comma is no decimal point. `.5` and `5.` are numbers; 3/7, 2^{10}, 3 1/2 and
`5 apples` are none, though numbers stand in them.

In a text, a minus is the sign of the number behind it unless it stands between two operands, as in
`27-4`, `27 - 4`, `(2+3)-4` and `step-4`. One with space behind it (`= - 5`, `is - 5`) is no sign
either at the start of a line, where it is a bullet, and after a word that is no verb of being or
preposition, where it is a dash (`the answer – 5`). What stands behind a number, a percent sign or
a unit, does not change it.
"""

import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

_SPACES = " \u00a0\u2007\u2009\u200a\u202f"
_MINUS = "-\N{MINUS SIGN}\N{EN DASH}\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{FULLWIDTH HYPHEN-MINUS}"
_SIGN = rf"[+{re.escape(_MINUS)}]"
_FEW = rf"[{_SPACES}]{{0,2}}"
_SIGNS_OF_CURRENCY = "".join(
    sign for sign in map(chr, range(0x24, 0xFFFF)) if unicodedata.category(sign) == "Sc"
).replace("$", "")
_CODES = (
    "AED|AUD|BRL|BTC|CAD|CHF|CLP|CNY|COP|CZK|DKK|EGP|ETH|EUR|GBP|HKD|HUF|IDR|ILS|INR|JPY|KES|KRW|"
    "MXN|MYR|NGN|NOK|NZD|PHP|PKR|PLN|RMB|RON|RUB|SAR|SEK|SGD|THB|TRY|TWD|UAH|USD|VND|ZAR|Rs"
)
_MONEY = rf"(?:[A-Z]{{0,3}}\\?\$|[{_SIGNS_OF_CURRENCY}]|(?:{_CODES})(?![A-Za-z])\.?)"
_TEXT = r"\\(?:text|textrm|textbf|mathrm|mbox)\{"
_CURRENCY = rf"(?:{_MONEY}|{_TEXT}{_FEW}{_MONEY}{_FEW}\}})"
_PERCENT_SIGN = r"(?:\\?%|per ?cent\b)"
PERCENT = (
    rf"(?:[{_SPACES}~]|\\[ ,;:!]){{0,3}}(?:{_TEXT}{_FEW}{_PERCENT_SIGN}{_FEW}\}}|{_PERCENT_SIGN})"
)
"""A percent sign behind a number, with the space before it."""

_WIDTHS = {ord("０") + digit: str(digit) for digit in range(10)} | {ord("．"): ".", ord("％"): "%"}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-") | {ord(minus): "-" for minus in _MINUS}
_DIGITS = (
    rf"(?:[1-9][0-9]{{0,2}}(?P<separator>,\\!|,|\{{,\}}|\{{?\\[,:;! ]\}}?|[{_SPACES}'’])[0-9]{{3}}"
    r"(?:(?P=separator)[0-9]{3})*(?![0-9])|[0-9]+)"
)
_EXPONENT = (
    rf"(?:[eE](?P<exponent>{_SIGN}?[0-9]{{1,9}})(?![0-9A-Za-z])"
    rf"|{_FEW}(?:[×·⋅*x]|\\times|\\cdot){_FEW}10(?:(?:\^|\*\*)\{{?(?P<power>{_SIGN}?[0-9]{{1,9}})\}}?"
    r"|(?P<raised>[⁺⁻]?[⁰¹²³⁴-⁹]{1,9}))(?![0-9]))"
)
_UNSIGNED = (
    rf"(?:(?P<whole>{_DIGITS})(?:\.(?P<decimals>[0-9]+))?"
    rf"|(?<![A-Za-z0-9])\.(?P<only_decimals>[0-9]+)){_EXPONENT}?"
)
_NUMBER = re.compile(_UNSIGNED)
_WHOLE = re.compile(
    rf"(?:(?P<sign>{_SIGN})?{_FEW}(?:{_CURRENCY}{_FEW}(?P<inner>{_SIGN})?{_FEW})?"
    rf"|(?P<outer>{_SIGN}){_FEW}(?:{_CURRENCY}{_FEW})?(?:(?P<round>\()|(?P<curly>{{))(?:{_CURRENCY}{_FEW})?)"
    rf"{_UNSIGNED}(?(round)\))(?(curly)}})(?:{_FEW}{_CURRENCY}|(?P<percent>{PERCENT}))?{_FEW}\.?"
)
_BEFORE = re.compile(
    rf"(?:(?P<sign>{_SIGN})(?P<gap>{_FEW}))?(?:{_CURRENCY}{_FEW}(?P<inner>{_SIGN})?)?\Z"
)
_OPENED = re.compile(rf"(?:\\left)?(?P<open>[({{])(?:{_CURRENCY}{_FEW})?\Z")
_CLOSED = {"(": re.compile(r"(?:\\right)?\)(?![0-9])"), "{": re.compile(r"\}(?![0-9])")}
_OPERAND = rf"(?:[0-9)\]}}%°!²³]|[0-9][{_SPACES}]?{_CURRENCY})"
_OPERAND_AT_ONCE = re.compile(rf"(?:[^\W_]|{_OPERAND})\Z")
_OPERAND_BEFORE_SPACE = re.compile(rf"{_OPERAND}[{_SPACES}]+\Z")
_AFTER_WORD = re.compile(r"([^\W\d_]+)\Z|[^\W_]\*\*\Z")
_VERBS = {
    "is", "are", "was", "were", "be", "equals", "equal", "gives", "give", "get", "gets", "becomes",
    "to", "of", "at", "times", "cdot", "div",
}  # fmt: skip
"""Words, some of them TeX's, after which a minus with space behind it is a sign."""

_SIGHT = 64
"""Characters before a number that say what its minus is; so reading is linear in the length."""

_MOST_ZEROS = 100
"""A number that takes more zeros to write is shown with an exponent."""


class Number(NamedTuple):
    """A decimal number ± digits · 10^power, without zeros at either end of the digits.

    Args:
        negative: whether it is below 0.
        digits: empty for 0; there may be more than `int` reads.
        power: of ten.
        percent: whether a percent sign stands behind it; it does not change the value.
    """

    negative: bool
    digits: str
    power: int
    percent: bool = False

    def __str__(self) -> str:
        """Return the number as one writes it, `-0.5` or, with many zeros, `-5e-200`."""
        point = len(self.digits) + self.power
        if not self.digits:
            return "0"
        if max(self.power, -point) > _MOST_ZEROS:
            size = f"{self.digits}e{self.power}"
        elif self.power >= 0:
            size = self.digits + "0" * self.power
        else:
            padded = "0" * (1 - point) + self.digits
            size = f"{padded[: self.power]}.{padded[self.power :]}"
        return f"-{size}" if self.negative else size

    @property
    def is_integer(self) -> bool:
        """Whether nothing stands behind the decimal point."""
        return self.power >= 0 or not self.digits

    def times_power(self, power: int) -> "Number":
        """Return the number times 10^power, without percent sign."""
        return Number(self.negative, self.digits, self.power + power if self.digits else 0)


class Placed(NamedTuple):
    """A number and where it stands in a text, its sign included.

    Args:
        number: what is written.
        start: of its sign, of a currency between that and the digits, or of its digits.
        end: behind it.
        is_plain: whether any reader knows it: digits with commas, a point and an attached `-`.
    """

    number: Number
    start: int
    end: int
    is_plain: bool


def last_number(text: str) -> str | None:
    """Return the last number of a text, without leading and trailing zeros, or None."""
    text = narrow(text)
    last = deque(_NUMBER.finditer(text), maxlen=1)
    return str(_placed(text, last[0]).number) if last else None


def first_number(text: str) -> str | None:
    """Return the first number of a text, without leading and trailing zeros, or None."""
    text = narrow(text)
    found = _NUMBER.search(text)
    return str(_placed(text, found).number) if found else None


def numbers_in(text: str) -> Iterator[Placed]:
    """Yield the numbers of a text in order; its digits are narrow ones."""
    return (_placed(text, match) for match in _NUMBER.finditer(text))


def as_number(text: str) -> Number | None:
    r"""Return the number that a text is as a whole, or None.

    Space and a pair of `$` around it do not count, nor do `\(`, `\text{}` and the like.
    """
    match = _WHOLE.fullmatch(unwrapped(text))
    if match is None:
        return None
    return _number(match, _has_minus(match), bool(match["percent"]))


def written_plainly(text: str) -> str | None:
    """Return a number without separators, currency and percent sign, its zeros kept, or None."""
    match = _WHOLE.fullmatch(unwrapped(text))
    if match is None:
        return None
    if _exponent(match):
        return str(_number(match, _has_minus(match)))
    whole, decimals = _parts(match)
    size = f"{whole or 0}.{decimals}" if decimals else whole
    return f"-{size}" if _has_minus(match) else size


def _has_minus(match: re.Match[str]) -> bool:
    return any(match[name] and match[name] in _MINUS for name in ("sign", "inner", "outer"))


_WRAPPED = re.compile(
    r"\$(?P<dollars>[^$]+)\$|\\\((?P<round>.+)\\\)|\\\[(?P<square>.+)\\\]"
    r"|\\(?:text|textbf|mathbf|mathrm|mathit|mbox|bf|rm)\{(?P<word>[^{}]+)\}"
    r"|\{(?P<braces>[^{}]+)\}",
    flags=re.DOTALL,
)


def narrow(text: str) -> str:
    """Return a text of the same length in which digits, points and percent signs are narrow."""
    return text.translate(_WIDTHS)


def unwrapped(text: str) -> str:
    r"""Return a text without the space, `$`, `\text{}` and the like around it, in narrow digits."""
    text = narrow(text)
    for _ in range(4):
        text = text.strip()
        wrapped = _WRAPPED.fullmatch(text)
        if wrapped is None:
            break
        text = wrapped[wrapped.lastgroup or 0]
    return text


def _placed(text: str, match: re.Match[str]) -> Placed:
    """Return a number with its sign, for which the text before it is looked at."""
    start, end = match.span()
    first, last = _around_brackets(text, start, end)
    before = _BEFORE.search(text[max(0, first - _SIGHT) : first])
    assert before is not None  # it may be empty
    if before["sign"] is None:  # brackets without a sign before them are no part of a number
        first, last = start, end
        before = _BEFORE.search(text[max(0, start - _SIGHT) : start])
        assert before is not None
    offset = first - before.end()
    has_sign, negative = False, False
    if before["sign"] is not None:
        place = offset + before.start("sign")
        has_sign = _is_sign(text[max(0, place - _SIGHT) : place], detached=bool(before["gap"]))
        negative = has_sign and before["sign"] in _MINUS
    if before["inner"] is not None:
        place = offset + before.start()
        has_sign = _OPERAND_AT_ONCE.search(text[max(0, place - _SIGHT) : place]) is None
        negative = (has_sign and before["inner"] in _MINUS) != negative
    separator = match["separator"]
    is_plain = separator in (None, ",") and not _exponent(match)
    if has_sign:
        is_plain = is_plain and before.group() in ("-", "+", "$-", "$+")
    if not has_sign:
        return Placed(_number(match, negative), start, end, is_plain)
    return Placed(_number(match, negative), offset + before.start(), last, is_plain)


def _around_brackets(text: str, start: int, end: int) -> tuple[int, int]:
    """Return where the brackets around a number begin and end, or the number if it has none."""
    opened = _OPENED.search(text[max(0, start - _SIGHT) : start])
    closed = _CLOSED[opened["open"]].match(text, end) if opened else None
    if opened is None or closed is None:
        return start, end
    return start - len(opened.group()), closed.end()


def _is_sign(before: str, *, detached: bool) -> bool:
    """Return whether a minus after this text is a sign, and no operator, bullet or dash."""
    if _OPERAND_AT_ONCE.search(before) or _OPERAND_BEFORE_SPACE.search(before):
        return False
    if not detached:
        return True
    line = before.rstrip(_SPACES + "\t")
    if line.endswith(("\n", "\r")):
        return line.rstrip().endswith(("$", "[", "{", "(", "="))
    word = _AFTER_WORD.search(line)
    return word is None or (word[1] or "").lower() in _VERBS


def _number(match: re.Match[str], negative: bool, percent: bool = False) -> Number:
    whole, decimals = _parts(match)
    digits = (whole + decimals).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return Number(False, "", 0, percent)
    power = _exponent(match) - len(decimals) + len(digits) - len(significant)
    return Number(negative, significant, power, percent)


def _parts(match: re.Match[str]) -> tuple[str, str]:
    """Return the digits before and behind the point."""
    whole, decimals = match["whole"] or "", match["decimals"] or match["only_decimals"] or ""
    separator = match["separator"]
    return whole.replace(separator, "") if separator else whole, decimals


def _exponent(match: re.Match[str]) -> int:
    written = match["exponent"] or match["power"] or match["raised"] or "0"
    return int(written.translate(_RAISED))
