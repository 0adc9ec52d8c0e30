"""A process in which texts are judged, so that no text can hang, fill or end the one that asks.

Whether math-verify comes to a verdict must not depend on how busy the machine is, nor on the thread
that asks. So the limit is processor time of the judging process; see
`ustat_grpo.lm.judging.judge_worker`. It needs a POSIX system.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

MEMORY = 2**31
"""Bytes of address space that judging may take, where the system can limit it."""

WALL_CLOCK_FACTOR = 60
"""A verdict that takes so many times its processor time is given up: the process must be stuck."""

START_SECONDS = 300.0
"""The same for starting the process."""

PAIRS_AT_ONCE = 256
"""Pairs judged in one fork: beyond them, memory that was taken is given back."""


class JudgeProcess:
    """Judges by math-verify in a process that starts when first needed and ends with this one.

    It may be used from any thread, one at a time, and after a fork, where it starts anew.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def verdicts(self, pairs: Sequence[tuple[str, str]], seconds: int) -> list[float]:
        """Return 1 or 0 for each right answer and text, NaN where there is no verdict.

        Args:
            pairs: the right answer, without a box, and the text.
            seconds: the most processor time for a pair.

        Raises:
            RuntimeError: if the process does not start.
        """
        verdicts: list[float] = []
        with self._lock:
            try:
                while len(verdicts) < len(pairs):
                    chunk = pairs[len(verdicts) : len(verdicts) + PAIRS_AT_ONCE]
                    verdicts += self._judged(chunk, seconds)
            except BaseException:
                self._end()  # what it still answers would be taken for the next verdicts
                raise
        return verdicts

    def close(self) -> None:
        """End the process, if there is one; the next verdict starts it anew."""
        with self._lock:
            self._end()

    def _judged(self, pairs: Sequence[tuple[str, str]], seconds: int) -> list[float]:
        """Return verdicts up to the first that there is not, which is NaN."""
        process = self._started()
        verdicts: list[float] = []
        line = ""
        try:
            _tell(process, {"pairs": pairs, "seconds": seconds})
            while len(verdicts) < len(pairs):
                line = _answer(process, WALL_CLOCK_FACTOR * seconds)
                if line in ("", "killed"):
                    break
                verdicts.append(float(line) if line in ("0", "1") else float("nan"))
        except OSError:  # the process was ended from outside
            line = ""
        if line == "":
            self._end()
        return verdicts if len(verdicts) == len(pairs) else [*verdicts, float("nan")]

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("judge_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # so that a fork inherits neither unsent bytes nor a lock
            env=os.environ | {"PYTHONHASHSEED": "0"},  # sympy's order of terms may depend on it
            start_new_session=True,  # so that its forks end with it
        )
        try:
            _tell(self._process, {"path": sys.path, "memory": MEMORY})
            reason = _answer(self._process, START_SECONDS)
        except OSError as error:
            reason = str(error)
        if reason != "ready":
            self._end()
            raise RuntimeError(f"the process that judges texts must start, got: {reason or 'none'}")
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _kill(process)
            process.wait()
            _close(process)

    def _forget(self) -> None:
        """Leave the process to the parent of this fork; a lock may be held by no thread of ours."""
        process, self._process = self._process, None
        self._lock = threading.Lock()
        if process is not None:
            _close(process)  # else it would not see the end of its input when its parent ends
            process.returncode = 0  # not ours to wait for


def _tell(process: "subprocess.Popen[bytes]", message: object) -> None:
    assert process.stdin is not None
    unsent = memoryview(json.dumps(message).encode("ascii") + b"\n")
    while unsent:
        unsent = unsent[process.stdin.write(unsent) :]


def _answer(process: "subprocess.Popen[bytes]", seconds: float) -> str:
    """Return the next line, or nothing if the process ends or is stuck."""
    assert process.stdout is not None
    watch = threading.Timer(seconds, _kill, (process,))
    watch.daemon = True
    watch.start()
    try:
        return process.stdout.readline().decode("ascii").rstrip("\n")
    finally:
        watch.cancel()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the process and its forks."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.killpg(process.pid, signal.SIGKILL)


def _close(process: "subprocess.Popen[bytes]") -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


JUDGE = JudgeProcess()
"""The one process of this one."""

atexit.register(JUDGE.close)
if hasattr(os, "register_at_fork"):  # elsewhere nothing forks
    os.register_at_fork(after_in_child=JUDGE._forget)
