"""Chat templates are programs that come with a model: they may fail, and they need not end."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType
from typing import Any

from ustat_grpo.lm.extras import from_extra

LIMIT = 5.0
"""Seconds of this thread's processor that a template may take; usual ones take 0.001."""

LONGEST = 200
"""Characters of a template's own message that an error quotes."""


def asked(tokenizer: Any, text: str) -> str:
    """Return the prompt that a tokenizer's template makes of what a user says.

    Args:
        tokenizer: of `transformers`, with a chat template.
        text: what the user says.

    Raises:
        ValueError: if the template fails, or takes more than `LIMIT` seconds of the processor's
            time, by however long loops.
    """
    said = [{"role": "user", "content": text}]
    try:
        _require_no_power(tokenizer.chat_template)
        with _limited():
            return tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    except _RefusedError as error:
        raise ValueError(f"chat template must {error}") from error
    except Exception as error:  # of many kinds: a template may do anything
        reason = " ".join(str(error).split())[:LONGEST]
        raise ValueError(
            "chat template must take a message of a user alone, got "
            f"{type(error).__name__}: {reason!r}"
        ) from error


class _RefusedError(Exception):
    """What a template must do, but does not."""


@contextmanager
def _limited() -> Iterator[None]:
    """Raise within what is run here, as soon as a line begins after the limit.

    The time is that of this thread, so that a busy machine changes nothing. An alarm would reach
    the main thread only.
    """
    end, before = time.thread_time() + LIMIT, sys.gettrace()

    def look(frame: FrameType, event: str, value: Any) -> Any:
        if time.thread_time() > end:
            raise _RefusedError(f"end within {LIMIT:g} s of processor time, got one that does not")
        return look

    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)


def _require_no_power(template: Any) -> None:
    """Raise if numbers are raised to a power: 9**9**9 is one step, within which no line begins.

    Before keywords of a call ** means something else.
    """
    if not isinstance(template, str) or "**" not in template:
        return
    environment = from_extra("jinja2").Environment()
    tokens = [token for _, kind, token in environment.lex(template) if kind != "whitespace"]
    if any(one not in "(," and two == "**" for one, two in pairwise(tokens)):
        raise _RefusedError("not raise to a power, got one with **")
