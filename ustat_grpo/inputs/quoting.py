"""Values as errors quote them: on one line, of bounded length, nothing that a terminal obeys."""

from collections.abc import Iterable

LONGEST_VALUE = 200
"""The most characters of a value that an error quotes."""

LONGEST_LINE = 1000
"""The most characters of a text that is no value, such as a path."""


def quoted(value: object) -> str:
    """Return the representation of a value in at most 200 characters.

    >>> from ustat_grpo.inputs.quoting import quoted
    >>> quoted(0.1), quoted("a" * 10**6)[-30:]
    ('0.1', 'aaaaaaaaaaaa… (1000002 in all)')
    """
    try:
        shown = repr(value)
    except Exception:  # an integer of over 4300 digits, or an object that cannot show itself
        shown = f"a value of type {type(value).__name__}"
    if "\n" in shown:  # arrays are shown over several lines, in texts the sign is escaped already
        shown = " ".join(shown.split())
    return one_line(shown, longest=LONGEST_VALUE)


def quoted_names(names: Iterable[object]) -> str:
    """Return names with commas between them, in at most 200 characters."""
    return one_line(", ".join(map(str, names)), longest=LONGEST_VALUE)


def one_line(text: object, *, longest: int = LONGEST_LINE) -> str:
    r"""Return a text without line breaks, escape sequences, marks of direction and surrogates.

    What cannot be printed is escaped as in Python, and what is too long is cut.

    >>> from ustat_grpo.inputs.quoting import one_line
    >>> one_line("\x1b[31mred\n")
    '\\x1b[31mred\\n'
    """
    whole = str(text)
    shown = "".join(map(_printable, whole[: longest + 1]))
    if len(shown) <= longest:
        return shown
    told = f"… ({len(whole)} in all)"
    return shown[: longest - len(told)] + told


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
