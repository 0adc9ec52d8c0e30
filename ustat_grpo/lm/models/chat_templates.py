"""Chat templates are programs that come with a model: they may fail, and they need not end.

Within one step, such as `'%0999999999d'|format(1)`, nothing in this process can stop them. So they
are tried once in a fork, which the system stops. What takes such a step at some texts only is not
found.
"""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType
from typing import Any

from ustat_grpo.inputs.extras import from_extra

LIMIT = 5.0
"""Seconds of this thread's processor that a template may take; usual ones take 0.001."""

MEMORY = 2**31
"""Bytes that a template may take when it is tried, where the system can limit it."""

_GRACE = 1.0
"""Seconds in which a template that loops is stopped with a better reason than by the system."""

_STUCK = 60
"""A trial that takes so many times its processor time is ended."""

_TOO_MUCH = 3
"""Exit code of a trial that has run out of memory."""

LONGEST = 200
"""Characters of a template's own message that an error quotes."""


def chat_prompt(tokenizer: Any, text: str, system: str | None = None) -> str:
    """Return the prompt that a tokenizer's template makes of what a user says.

    Args:
        tokenizer: of `transformers`, with a chat template.
        text: what the user says.
        system: what the system says before; None leaves it to the template.

    Raises:
        ValueError: if the template fails, or takes more than `LIMIT` seconds of the processor's
            time, by however long loops.
    """
    said = [{"role": "user", "content": text}]
    if system is not None:
        said.insert(0, {"role": "system", "content": system})
    try:
        _require_no_power(tokenizer.chat_template)
        with _limited():
            return tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    except _RefusedError as error:
        raise ValueError(f"chat template must {error}") from error
    except Exception as error:  # of many kinds: a template may do anything
        reason = " ".join(str(error).split())[:LONGEST]
        whose = "a user alone" if system is None else "the system and one of a user"
        raise ValueError(
            f"chat template must take a message of {whose}, got {type(error).__name__}: {reason!r}"
        ) from error


def try_out(tokenizer: Any, text: str, system: str | None = None) -> None:
    """Ask a template once, in a fork first, where no step can last or fill the memory.

    Raises:
        ValueError: as `chat_prompt`, and if the fork had to be ended.
    """
    if hasattr(os, "fork"):  # elsewhere nothing forks
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the fork needs none
            child = os.fork()
        if child == 0:
            _try_and_exit(tokenizer, text, system)
        _require_survival(child)
    chat_prompt(tokenizer, text, system)


def _try_and_exit(tokenizer: Any, text: str, system: str | None) -> None:
    """Be the fork: whatever the template does, its end says it all."""
    code = 0
    try:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, LIMIT + _GRACE)
        _limit_memory()
        chat_prompt(tokenizer, text, system)
    except BaseException as error:
        code = _TOO_MUCH if isinstance(error.__cause__ or error, MemoryError) else 0
    finally:
        os._exit(code)


def _limit_memory() -> None:
    """Allow so much more than this process has now, be that as much as a GPU maps."""
    try:
        import resource  # which not every system has

        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, most))
    except (ImportError, OSError, ValueError):  # no Linux, or less is allowed already
        pass


def _require_survival(child: int) -> None:
    """Raise if the fork had to be ended, or ran out of memory."""
    watch = threading.Timer(_STUCK * LIMIT, os.kill, (child, signal.SIGKILL))
    watch.daemon = True
    watch.start()
    _, status = os.waitpid(child, 0)
    watch.cancel()
    if os.waitstatus_to_exitcode(status) == _TOO_MUCH:
        raise ValueError(
            f"chat template must take at most {MEMORY} bytes, got one that asks for more"
        )
    if status:
        raise ValueError(
            f"chat template must end within {LIMIT:g} s of processor time, got one that does not"
        )


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
