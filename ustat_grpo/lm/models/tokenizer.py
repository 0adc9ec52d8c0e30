"""Characters as tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ustat_grpo.arithmetic.tokens import ARITHMETIC, END, PAD, decode, encode
from ustat_grpo.lm.language_model import Prompts


@dataclass(frozen=True)
class CharacterTokenizer:
    """One token a character, after a token for padding and one for the end of an output.

    Args:
        characters: the characters that it knows, each once.

    Raises:
        ValueError: if a character occurs twice.

    Examples:
        >>> from ustat_grpo.lm import CharacterTokenizer
        >>> tokenizer = CharacterTokenizer("0123456789+=")  # after a padding and an end token
        >>> tokenizer.encode("1+2="), tokenizer.decode([3, 4, tokenizer.end_token, 5])
        ([3, 12, 4, 13], '12')
    """

    characters: str = ARITHMETIC

    def __post_init__(self) -> None:
        """Check that characters differ."""
        if len(set(self.characters)) < len(self.characters):
            raise ValueError(f"characters must differ from each other, got {self.characters!r}")

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens."""
        return len(self.characters) + 2

    @property
    def end_token(self) -> int:
        """The token that ends an output."""
        return END

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text.

        Raises:
            ValueError: if a character is unknown.
        """
        return encode(text, self.characters)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the characters before the end token; padding is no character."""
        return decode(tokens, self.characters)

    def prompts(self, texts: Sequence[str]) -> Prompts:
        """Return several texts as left-padded prompts.

        Raises:
            ValueError: if there are none, or one is empty.
        """
        return Prompts.of([self.encode(text) for text in texts], pad_token=PAD)

    def outputs(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """Return each text with the end token after it: a finished output."""
        return [torch.tensor([*self.encode(text), END]) for text in texts]
