r"""Answers in boxes: where `\boxed{...}` stands in a text. Linear in the length of the text."""

import re
from typing import NamedTuple

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\.|[{}]", flags=re.DOTALL)
_END_OF_WORD = re.compile(r"[\s{}$]")
_NO_SPACE, _NO_MARK = re.compile(r"\S"), re.compile(r"[^.,;]")


_MARKS = ".,;"
"""What ends a sentence belongs to no word."""


class BoxedText(NamedTuple):
    """What a box holds, and where it stands."""

    inside: str
    start: int
    end: int


def boxes(text: str) -> list[BoxedText]:
    r"""Return the complete boxes that hold something and lie in no other, in order.

    `\fbox{...}` and the brace-less `\boxed 5`, which MATH has too, count as boxes.
    """
    outermost, end = [], 0
    for span in _complete(text):
        if span.start >= end:
            outermost.append(span.box(text))
            end = outermost[-1].end
    return outermost


def last_boxed(text: str) -> str | None:
    r"""Return what is in the last complete `\boxed{...}`, braces balanced, or None.

    `\fbox{...}` and the brace-less `\boxed 5`, which MATH has too, count as boxes.
    """
    spans = _complete(text)
    return spans[-1].box(text).inside if spans else None


class _Span(NamedTuple):
    """Where a box begins, what it holds, and whether that is in braces; not copied yet."""

    start: int
    first: int
    stop: int
    in_braces: bool

    def box(self, text: str) -> BoxedText:
        inside = text[self.first : self.stop]
        if self.in_braces:
            return BoxedText(inside.strip(), self.start, self.stop + 1)
        inside = inside.rstrip(_MARKS)
        return BoxedText(inside, self.start, self.first + len(inside))


def _complete(text: str) -> list[_Span]:
    """Return every complete box that holds something, also those in others."""
    starts = list(_BOX.finditer(text))
    partners = _partners(text) if starts else {}
    spans, word_end, behind = [], len(text), len(text)
    for start in reversed(starts):  # so that no character is searched twice for a word's end
        first = start.end()
        stop = _END_OF_WORD.search(text, first, behind)
        word_end, behind = stop.start() if stop else word_end, first
        if first in partners:
            if _NO_SPACE.search(text, first + 1, partners[first]):
                spans.append(_Span(start.start(), first + 1, partners[first], True))
        elif text[word_end : word_end + 1] != "{" and _NO_MARK.search(text, first, word_end):
            spans.append(_Span(start.start(), first, word_end, False))
    return spans[::-1]


def _partners(text: str) -> dict[int, int]:
    r"""Return the partner of each brace that has one; `\{` and `\}` are no braces."""
    opened, partners = [], {}
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            opened.append(brace.start())
        elif brace.group() == "}" and opened:
            partners[opened.pop()] = brace.start()
    return partners
