"""How a model of `transformers` is asked, and when its outputs end: what every sampler offers."""

from dataclasses import dataclass

from ustat_grpo.inputs.checks import real


@dataclass(frozen=True)
class Conversation:
    r"""How prompts are put, how tokens are drawn, and what ends an output.

    All of it belongs to the policy π(y∣x): scores and gradients are those of the outputs that are
    drawn so. There is no top-p or top-k, since a policy that cuts off its tail has no score there.

    Args:
        chat: put a prompt into the tokenizer's chat template, if it has one, as what the user says.
            A base model wants the text as it is.
        system: what the system says before the user; None leaves it to the template.
        prefill: with these words every answer in chat begins; the model goes on from there.
        stop: an output ends with the token that completes one of these texts, which is not part of
            the answer.
        temperature: tokens are drawn from softmax(logits/temperature).

    Raises:
        ValueError: if a text is empty, the temperature is not positive, or there is a system or a
            prefill but no chat.

    Examples:
        >>> from ustat_grpo.lm import Conversation
        >>> Conversation(chat=False, stop=("\n",)).before_stop("12\nNext")
        '12'
    """

    chat: bool = True
    system: str | None = None
    prefill: str = ""
    stop: tuple[str, ...] = ()
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check every value."""
        if isinstance(self.stop, str):
            raise ValueError(f"stop must be a tuple of texts, got the text {self.stop!r}")
        object.__setattr__(self, "stop", tuple(self.stop))
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise ValueError(f"stop must be of texts that are not empty, got {text!r}")
        real("temperature", self.temperature, above=0.0)
        if self.system is not None and not self.system.strip():
            raise ValueError(f"system must be a text that is not empty, got {self.system!r}")
        for name, unset in {"system": None, "prefill": ""}.items():
            if not self.chat and getattr(self, name) != unset:
                raise ValueError(
                    f"{name} must be {unset!r} without chat, got {getattr(self, name)!r}"
                )

    @property
    def longest_stop(self) -> int:
        """Bytes of the longest text that ends an output; no more tokens complete it."""
        return max((len(text.encode()) for text in self.stop), default=0)

    def has_stop(self, text: str) -> bool:
        """Whether a text holds one of those that end an output."""
        return any(stop in text for stop in self.stop)

    def before_stop(self, text: str) -> str:
        """Return a text up to the first of those that end an output."""
        places = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        return text[: min(places, default=len(text))]


USUAL = Conversation()
"""In the chat template if there is one, at temperature 1, until the end token."""
