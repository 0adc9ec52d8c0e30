"""Ctrl-C in our commands: one line and exit code 130, from their first import to their last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from apps import call_main
from experiments import gradient_mse
from ustat_grpo_start import TOLD

ROOT = Path(__file__).parents[1]
PRESSED = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
COMMAND = "import sys; from ustat_grpo_start import main; sys.exit(main())"
COMMANDS = {
    "ustat-grpo": (["-c", COMMAND, "measure"], "ustat-grpo: error: interrupted by the user"),
    "experiments": (["-m", "experiments"], TOLD),
    "an app": (["-m", "experiments.gradient_mse", "task=tug_of_war"], TOLD),
    "theory": (["-m", "theory"], "error: interrupted by the user"),
    "benchmarks": (["-m", "benchmarks"], "error: interrupted by the user"),
}


def pressed_in(library, command, folder):
    """Run a command in which Ctrl-C is pressed as soon as it imports a library."""
    (folder / f"{library}.py").write_text(PRESSED)
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, *command], env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, cwd=folder, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("library", ["numpy", "scipy"])
@pytest.mark.parametrize("name", COMMANDS)
def test_while_libraries_are_imported(name, library, tmp_path):
    """Would catch: a traceback of 60 lines, for seconds after the start."""
    command, line = COMMANDS[name]
    done = pressed_in(library, command, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", line + "\n")


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As under nohup in some shells. Would catch: a handler of ours in place of nothing."""
    command, _ = COMMANDS["ustat-grpo"]
    with pytest.raises(subprocess.TimeoutExpired):
        (tmp_path / "numpy.py").write_text(PRESSED)
        subprocess.run(
            [sys.executable, *command], env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN), timeout=2,
            capture_output=True,
        )  # fmt: skip


def test_libraries_may_be_used_by_commands_of_others(tmp_path):
    """Would catch: our handler in a program that only imports us."""
    program = (
        "import signal, experiments, theory\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_in_an_app_that_works(tmp_path, monkeypatch):
    """Would catch: a traceback, and no word of how to go on."""

    def run(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gradient_mse, "run", run)
    code, _, error = call_main(gradient_mse, "task=tug_of_war", f"output={tmp_path}")
    assert (code, error) == (130, TOLD + "\n")
    code, _, error = call_main(gradient_mse, "-m", "task=tug_of_war", f"output={tmp_path}")
    assert (code, error) == (130, TOLD + "\n")
