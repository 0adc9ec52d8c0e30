"""The characters of arithmetic as tokens; needs no torch, since an environment writes them too."""

from collections.abc import Iterable

PAD, END = 0, 1
"""The two tokens that are no character: padding, and the end of an output."""

ARITHMETIC = "0123456789+-*/()="


def encode(text: str, characters: str = ARITHMETIC) -> list[int]:
    """Return the tokens of a text, one a character, the first of `characters` being 2.

    Raises:
        ValueError: if a character is unknown.
    """
    unknown = sorted(set(text) - set(characters))
    if unknown:
        raise ValueError(
            f"text must consist of the characters {characters!r}, got {unknown} in {text!r}"
        )
    return [characters.index(character) + 2 for character in text]


def decode(tokens: Iterable[int], characters: str = ARITHMETIC) -> str:
    """Return the characters before the end token; padding is no character."""
    text = []
    for token in tokens:
        if token == END:
            break
        text.append(characters[token - 2] if token >= 2 else "")
    return "".join(text)
