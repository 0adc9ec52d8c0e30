"""What runs in a judge process: math-verify, within limits that the operating system enforces.

Run as a file of its own by `ustat_grpo.lm.judging.judge_process`, so that it imports nothing of
ours. The first line of its input holds the path of modules and the memory allowed; it answers
`ready`. Every further line is a list of pairs, the right answer and a text, with the seconds for
each. They are judged in a fork, which inherits the imported modules and whose end costs nothing,
one verdict a line; `killed` says that the fork ended before it was through. At the end of its input
it ends.

A computation in C cannot be interrupted from Python and an exception out of an alarm may surface in
a garbage collector's callback, where it is lost. So the limit is a timer of the processor time that
this process takes (ITIMER_PROF), upon which the system ends it.
"""

import contextlib
import gc
import json
import os
import resource
import signal
import sys
from importlib import import_module
from typing import Any, TextIO

EXAMPLES = (
    ("\\frac{1}{2}", "\\boxed{0.5}"),
    ("x^2+2x+1", "\\boxed{(x+1)^2}"),
    ("(1,\\sqrt{2}]", "Thus $x \\in \\left(1, \\sqrt{2}\\right]$."),
    ("\\text{Eve}", "the answer is 18."),
)
"""What is judged before the first fork, so that tables of the parser are made once."""


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever prints does not disturb the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    first = json.loads(sys.stdin.readline())
    sys.path[:] = first["path"]
    _limit_memory(first["memory"])
    try:
        library = import_module("math_verify")
        for right, text in EXAMPLES:
            _verdict(library, right, text)
    except Exception as error:
        _tell(answers, f"{type(error).__name__}: {error}")
        return
    gc.freeze()  # a collection in a fork would copy what it shares with us
    _tell(answers, "ready")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _judge(library, json.loads(line), answers)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            _tell(answers, "killed")


def _judge(library: Any, task: dict[str, Any], answers: TextIO) -> None:
    """Answer with the verdict of each pair."""
    for right, text in task["pairs"]:
        signal.setitimer(signal.ITIMER_PROF, task["seconds"])
        try:
            verdict = str(int(_verdict(library, right, text)))
        except (Exception, library.errors.TimeoutException) as error:
            verdict = type(error).__name__
        signal.setitimer(signal.ITIMER_PROF, 0)
        _tell(answers, verdict)


def _verdict(library: Any, right: str, text: str) -> bool:
    """Return whether math-verify finds what a text says equivalent to the right answer."""
    wanted, stated = _parsed(library, f"\\boxed{{{right}}}"), _parsed(library, text)
    return library.verify(wanted, stated, timeout_seconds=None, raise_on_error=True)


def _parsed(library: Any, text: str) -> list[Any]:
    """Return what math-verify reads in a text, boxed answers first."""
    forms = [library.LatexExtractionConfig(boxed_match_priority=0), library.ExprExtractionConfig()]
    return library.parse(text, forms, parsing_timeout=None, raise_on_error=True)


def _limit_memory(size: int) -> None:
    """Limit the address space, where the system does that, and let no crash write its memory."""
    for kind, wanted in ((resource.RLIMIT_AS, size), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):
            _, most = resource.getrlimit(kind)
            soft = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
            resource.setrlimit(kind, (soft, most))


def _tell(answers: TextIO, line: str) -> None:
    answers.write(line.encode("ascii", "replace").decode().replace("\n", " ") + "\n")
    answers.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # who asked is gone
        main()
