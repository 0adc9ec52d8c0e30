"""`ustat-grpo plan`: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from support.planner_cases import binary_sample
from ustat_grpo.command_line import main
from ustat_grpo.noise import OutputSample, SignSample, estimate_noise
from ustat_grpo.noise.sample_files import load_sample, save_sample
from ustat_grpo.planner import Cost, PromptValues, plan
from ustat_grpo_command import main as entry_point

ROOT = Path(__file__).parents[2]

SHIPPED = Path(__file__).parents[2] / "docs" / "sample_outputs.csv"
SHIPPED_BYTES = 60_000


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sample.csv"
    save_sample(binary_sample(np.random.default_rng(1)), path)
    return path


@pytest.fixture
def blocks(tmp_path):
    """Components of which c₁ cannot be told from zero."""
    noise = np.random.default_rng(0).normal(size=(40, 3)) * [1.0, 0.1, 0.1]
    path = tmp_path / "blocks.jsonl"
    save_sample(SignSample(noise - noise.mean(axis=0) + [0.0, 3.0, 5.0]), path)
    return path


def run(*arguments) -> subprocess.CompletedProcess[str]:
    """As a user would, in a process of its own in which warnings are errors."""
    command = [sys.executable, "-W", "error", "-m", "ustat_grpo.command_line", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def failed(capsys, *arguments) -> str:
    """Return the one line of a run that the data fail."""
    assert main([*map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("ustat-grpo plan: error: ")
    return err.removeprefix("ustat-grpo plan: error: ").rstrip()


def wrong_usage(capsys, *arguments) -> str:
    """Return the last line of a run that argparse, or the check of options, ends."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: ustat-grpo")
    return err.splitlines()[-1]


class TestPlan:
    def test_prints_the_plan_of_the_library(self, capsys, file):
        """Would catch: an option that does not arrive, or arrives as another."""
        options = ["--budget", "640", "--cost-per-prompt", "2.5", "--cost-per-output", "0.5"]
        more = ["--min-batch-size", "7", "--level", "0.8"]
        assert main(["plan", str(file), *options, *more]) == 0
        out, err = capsys.readouterr()
        sample = load_sample(file)
        assert isinstance(sample, OutputSample)
        answer = plan(
            estimate_noise(sample, level=0.8),
            budget=640,
            cost=Cost(2.5, 0.5),
            prompts=PromptValues.of(sample),
            min_batch_size=7,
        )
        assert out.endswith(f"\n\n{answer}\n") and err == ""
        assert max(map(len, out.splitlines())) <= 80

    def test_says_what_was_measured(self, capsys, file):
        main(["plan", str(file), "--budget", "64"])
        noise = estimate_noise(load_sample(file))
        first, second, *_ = capsys.readouterr().out.splitlines()
        assert first == "Measured on 10 prompts and 63 outputs (± standard error)"
        assert f"c₁ = {noise.prompt:.3g} ± {noise.std_errors[0]:.3g}, c₂ = " in second
        assert second.endswith(f"c₃ = {noise.residual:.3g} ± {noise.std_errors[2]:.3g}")

    def test_of_blocks(self, capsys, blocks):
        assert main(["plan", str(blocks), "--budget", "512"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("Measured on 40 blocks (")
        assert "best group size G*      at least " in out

    def test_page(self, capsys, file, tmp_path):
        page = tmp_path / "pages" / "plan.html"
        assert main(["plan", str(file), "--budget", "64", "--html", str(page)]) == 0
        out, err = capsys.readouterr()
        assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
        assert out.startswith("Measured on") and err == f"ustat-grpo plan: wrote {page}\n"


class TestJson:
    def test_holds_the_plan(self, capsys, file):
        assert main(["plan", str(file), "--budget", "64", "--json"]) == 0
        found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        sample = load_sample(file)
        assert isinstance(sample, OutputSample)
        noise = estimate_noise(sample)
        answer = plan(noise, budget=64, prompts=PromptValues.of(sample))
        assert found["sample"] == {"prompts": 10, "outputs": 63}
        assert (found["level"], found["budget"], found["min_batch_size"]) == (0.95, 64, 1)
        assert found["cost"] == {"per_prompt": 0.0, "per_output": 1.0}
        assert found["noise"]["residual"] == {
            "value": noise.residual,
            "std_error": noise.std_errors[2],
            **noise.intervals[2]._asdict(),
        }
        assert found["recommended"] == answer.recommended._asdict()
        assert found["at_estimate"] == answer.at_estimate._asdict()
        assert [row["group_size"] for row in found["predictions"]] == [
            row.group_size for row in answer.predictions
        ]
        assert found["predictions"][0]["error"] == answer.predictions[0].error._asdict()
        assert found["predictions"][0]["dead_groups"] == answer.predictions[0].dead_groups
        assert found["critic_break_even"] == answer.critic_break_even
        assert answer.std_normalisation is not None
        assert found["std_normalisation"]["gain"] == answer.std_normalisation.gain
        assert found["unknown"] == {}

    def test_infinity_is_null_and_what_is_unknown_is_said(self, capsys, blocks):
        """Would catch: the word Infinity, which most readers of JSON refuse."""
        assert main(["plan", str(blocks), "--budget", "64", "--json"]) == 0
        found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        assert found["sample"] == {"blocks": 40}
        assert found["optimal"]["is_lower_bound"] is True
        assert found["optimal"]["high"] is None and found["optimal"]["low"] > 2
        assert found["vanilla_crossover"] is None and found["std_normalisation"] is None
        assert set(found["unknown"]) == {"score_norms", "success_counts"}


class TestData:
    """Exit code 1: the data cannot give a plan."""

    def test_no_such_file(self, capsys, tmp_path):
        path = tmp_path / "none.csv"
        found = failed(capsys, "plan", path, "--budget", 64)
        assert found == f"{path}: No such file or directory"

    def test_a_bad_cell(self, capsys, file):
        file.write_text(file.read_text().replace("\n0,", "\n0,x", 1))
        found = failed(capsys, "plan", file, "--budget", 64)
        assert found.startswith(f"{file}: line 2, column reward: must be a finite number, got 'x")

    def test_no_signal(self, capsys, tmp_path):
        rng = np.random.default_rng(0)
        scores = [rng.normal(size=(4, 3)) for _ in range(9)]
        path = tmp_path / "dead.npz"
        save_sample(OutputSample.from_scores(scores, [np.ones(4)] * 9), path)
        assert "no signal, no plan" in failed(capsys, "plan", path, "--budget", 64)

    def test_too_few_prompts(self, capsys, tmp_path):
        path = tmp_path / "few.npz"
        save_sample(binary_sample(np.random.default_rng(0), sizes=(5,) * 7), path)
        found = failed(capsys, "plan", path, "--budget", 64)
        assert "at least 8 different prompts, got 7" in found

    def test_a_page_that_cannot_be_written(self, capsys, file):
        found = failed(capsys, "plan", file, "--budget", 64, "--html", file / "plan.html")
        assert "exists" in found or "Not a directory" in found


class TestUsage:
    """Exit code 2, before the file is read: there is none here."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "the following arguments are required: --budget"),
            (["--budget", "many"], "argument --budget: invalid int value: 'many'"),
            (["--budget", "1"], "budget must be an integer of at least 2, got 1"),
            (["--budget", "9", "--min-batch-size", "5"], "budget must have room for 5 prompts"),
            (["--budget", "9", "--min-batch-size", "0"], "min_batch_size must be an integer of at"),
            (["--budget", "9", "--cost-per-prompt", "-1"], "per_prompt must not be negative"),
            (["--budget", "9", "--cost-per-prompt", "nan"], "per_prompt must be a finite number"),
            (
                ["--budget", "9", "--cost-per-output", "0"],
                "per_output must be a finite number and abo",
            ),
            (["--budget", "1e309"], "argument --budget: invalid int value: '1e309'"),
            (["--budget", "1" + "0" * 400], "budget must be at most 9007199254740992, got 100"),
            (["--budget", "9" * 5000], "argument --budget: invalid int value: '999"),
            (["--budget", "9", "--min-batch-size", "9" * 400], "min_batch_size must be at most"),
            (["--budget", "9", "--cost-per-output", "1e309"], "per_output must be a finite num"),
            (["--budget", "9", "--cost-per-output", "1e-320"], "costs must be of a size that a "),
            (["--budget", "9", "--cost-per-output", "1.7e308"], "costs must be of a size that a"),
            (["--budget", "\x1b[2J"], r"invalid int value: '\x1b[2J'"),
            (["--budget", "9", "\x1b[2J\n" + "x" * 10**6], r"unrecognized arguments: \x1b[2J\n"),
            (["--budget", "9", "--level", "95"], "level must be a finite number and above 0"),
            (["--budget", "9", "--colour"], "unrecognized arguments: --colour"),
            (
                ["--budget", "9", "--html", "./none.csv"],
                "--html must be another file than none.csv, got none.csv",
            ),
        ],
    )
    def test_options(self, capsys, options, message):
        found = wrong_usage(capsys, "plan", "none.csv", *options)
        assert message in found and ": error: " in found
        assert found.isprintable() and len(found) < 1200

    def test_commands(self, capsys):
        assert "required: COMMAND" in wrong_usage(capsys)
        assert "invalid choice: 'plot'" in wrong_usage(capsys, "plot")

    def test_version(self, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["--version"])
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"ustat-grpo {version('ustat_grpo')}\n"

    @pytest.mark.parametrize("command", [[], ["plan"]])
    def test_help_has_examples_that_parse(self, capsys, command, file, monkeypatch):
        """Every example of `ustat-grpo plan` is run, on another file."""
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
        text = capsys.readouterr().out
        assert ended.value.code == 0 and max(map(len, text.splitlines())) <= 80
        examples = [line.split() for line in text.splitlines() if line.startswith("  ustat-grpo p")]
        assert examples
        monkeypatch.chdir(file.parent)
        for _, name, source, *options in examples:
            if source != "--help":
                save_sample(load_sample(file), source)
                assert main([name, source, *options]) == 0


class TestProcess:
    def test_without_torch(self, file):
        """Would catch: an import that costs a second before anything is printed."""
        program = (
            "import sys\nfrom ustat_grpo.command_line import main\n"
            f"code = main(['plan', {str(file)!r}, '--budget', '64'])\n"
            "print(sorted({'torch', 'pandas', 'matplotlib', 'gymnasium'} & {*sys.modules}), code)"
        )
        found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert found.stderr == "" and found.stdout.endswith("\n[] 0\n")

    def test_a_failure_is_one_line(self):
        failure = run("plan", "none.csv", "--budget", "64")
        assert (failure.returncode, failure.stdout) == (1, "")
        assert failure.stderr == "ustat-grpo plan: error: none.csv: No such file or directory\n"

    @pytest.mark.parametrize(
        "arguments",
        [
            ["plan", "FILE", "--budget", "64"],
            pytest.param(["--help"], marks=pytest.mark.slow),  # by the same stream as a plan
        ],
    )
    def test_a_pipe_that_was_closed(self, file, arguments):
        """As `| head -0`: no traceback, no complaint at the end of the interpreter."""
        words = [str(file) if word == "FILE" else word for word in arguments]
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "ustat_grpo.command_line", *words]
        found = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
        os.close(writing)
        assert (found.returncode, found.stderr) == (0, "")


class TestStreams:
    """Would catch: a traceback where the output goes nowhere, or cannot show every letter."""

    PLAN = ("plan", str(SHIPPED), "--budget", "512")

    def test_that_are_not_utf_8(self, monkeypatch):
        shown = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
        assert main([*self.PLAN]) == 0
        assert shown.getvalue().splitlines()[1].startswith(rb"c\u2081 = 318 \xb1 84.6, c\u2082")

    def test_that_are_closed(self, capsys, monkeypatch):
        """As after `>&-`, for which Python has no stream at all."""
        for streams in (["stdout"], ["stdout", "stderr"]):
            for name in streams:
                monkeypatch.setattr(sys, name, None)
            assert main([*self.PLAN]) == 1
        told = "ustat-grpo: error: standard output must be open, got a closed one\n"
        assert capsys.readouterr() == ("", told)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full device")
    def test_that_are_full(self, capsys, monkeypatch):
        with open("/dev/full", "w", encoding="utf-8") as full:
            monkeypatch.setattr(sys, "stdout", full)
            assert main([*self.PLAN]) == 1
        assert capsys.readouterr().err == "ustat-grpo: error: No space left on device\n"

    def test_a_plan_without_an_error_stream(self, capsys, monkeypatch, tmp_path):
        """Would catch: what was for the error stream in the midst of the JSON."""
        monkeypatch.setattr(sys, "stderr", None)
        page = ("--html", str(tmp_path / "plan.html"))
        assert main([*self.PLAN, "--json", *page]) == 0
        json.loads(capsys.readouterr().out)

    @pytest.mark.parametrize(
        ("error", "code", "told"),
        [
            (KeyboardInterrupt(), 130, "ustat-grpo: error: interrupted by the user"),
            (MemoryError(), 1, "ustat-grpo plan: error: memory must hold the measurements, got"),
            (ValueError("\x1b[2J" + "x" * 10**6), 1, r"ustat-grpo plan: error: \x1b[2Jxxxx"),
        ],
    )
    def test_what_ends_a_command(self, capsys, monkeypatch, error, code, told):
        def load(path):
            raise error

        monkeypatch.setattr("ustat_grpo.command_line.plan.load_sample", load)
        assert main([*self.PLAN]) == code
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(told) and err.count("\n") == 1 and len(err) < 1100

    def test_an_interrupt_while_python_imports(self):
        """Half a second in which Ctrl-C was a traceback of somebody else's module."""
        program = (
            "import signal, sys\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's & ignores it
            "class Finder:\n"
            "    def find_spec(self, name, *rest):\n"
            "        if name == 'numpy':\n"
            "            signal.raise_signal(signal.SIGINT)\n"
            "sys.meta_path.insert(0, Finder())\n"
            "from ustat_grpo_command import main\n"
            "sys.exit(main())\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stdout) == (130, "")
        assert ended.stderr == "ustat-grpo: error: interrupted by the user\n"

    def test_the_entry_point_is_the_command(self, capsys, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["ustat-grpo", *self.PLAN])
        assert entry_point() == 0
        assert "recommended" in capsys.readouterr().out
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
        assert scripts == {"ustat-grpo": f"{entry_point.__module__}:{entry_point.__name__}"}


class TestShippedSample:
    def test_is_small_and_gives_a_plan(self, capsys):
        assert SHIPPED.stat().st_size < SHIPPED_BYTES
        sample = load_sample(SHIPPED)
        assert isinstance(sample, OutputSample)
        assert sample.groups.sizes.tolist() == [8] * 64
        assert main(["plan", str(SHIPPED), "--budget", "512"]) == 0
        assert "recommended             B = " in capsys.readouterr().out

    def test_fits_itself(self):
        """Σ_b p_b is a squared norm, and so is q_b: would catch columns that are swapped."""
        sample = load_sample(SHIPPED)
        assert isinstance(sample, OutputSample)
        dead = sample.groups.totals(np.abs(sample.groups.centred)) == 0
        assert dead.any() and not sample.gradient_norms[dead].any()
        assert (sample.gradient_norms[~dead] > 0).all()
        assert sample.gradient_products.sum() > 0
