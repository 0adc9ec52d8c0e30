"""`ustat-grpo measure`: what it draws and prints, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from support.local_models import save_digit_writer
from ustat_grpo.command_line import main, measure
from ustat_grpo.lm import arithmetic_questions, sample_groups, shipped_policy
from ustat_grpo.lm.models import checkpoints, huggingface
from ustat_grpo.lm.questions import text_tasks
from ustat_grpo.lm.questions.questions import Questions
from ustat_grpo.lm.scores.output_sample import measured_outputs
from ustat_grpo.noise import OutputSample
from ustat_grpo.noise.sample_files import load_sample, save_sample

FIELDS = ("rewards", "score_norms", "gradient_norms", "gradient_products", "partners")
ROUNDING = 1e-9
"""Shipped policies are measured in doubles and kept with ten digits."""
SMALL = ("measure", "--policy", "intermediate", "--budget", "64", "--prompts", "12")
LIKED = 6 * (2, 3)
"""Answers that the model gives at times: it writes one of its vocabulary's letters."""
GSM8K = [{"question": f"{n} of {n}.", "answer": f"#### {n}"} for n in LIKED]
MATH = [{"problem": f"{n} of {n}.", "solution": f"$\\boxed{{{n}.0}}$."} for n in LIKED]
PROMPTS = [{"prompt": f"Say {n}.", "answer": str(n)} for n in LIKED]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("transformers", reason="needs the extra llm")
    return save_digit_writer(tmp_path_factory.mktemp("models") / "tiny-qwen")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A made-up file for each task."""
    folder = tmp_path_factory.mktemp("files")
    for name, rows in {"gsm8k": GSM8K, "math": MATH, "prompts": PROMPTS}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def of_model(folder, *options) -> list[str]:
    few = ("--prompts", "12", "--outputs", "6", "--max-tokens", "2", "--device", "cpu")
    return ["measure", "--model", str(folder), "--budget", "64", *few, *map(str, options)]


def measured(path, *options) -> OutputSample:
    """Return what a run saves, which must be well."""
    assert main([*map(str, options), "--save", str(path)]) == 0
    sample = load_sample(path)
    assert isinstance(sample, OutputSample)
    return sample


def assert_same(found, right, tolerance=0.0):
    for name in FIELDS:
        values = getattr(right, name)
        scale = tolerance * np.abs(values).max()
        np.testing.assert_allclose(getattr(found, name), values, rtol=0, atol=scale, err_msg=name)


def test_a_small_policy_is_asked_questions_that_it_has_not_seen(tmp_path):
    """As the library samples them at once and measures in one pass, in doubles, too."""
    model, rng = shipped_policy("intermediate", dtype=torch.float64), np.random.default_rng(2603)
    problems = arithmetic_questions(5, 500, rng=rng)[1].problems
    order = np.random.default_rng(3).permutation(500)[:12]
    questions = Questions([problems[place] for place in order])
    rng = torch.Generator().manual_seed(3)
    rollouts = sample_groups(model, questions.prompts, 8, max_tokens=6, rng=rng)
    right = measured_outputs(model, rollouts, questions.exact_match(rollouts, torch.arange(12)))
    found = measured(tmp_path / "a.npz", *SMALL, "--seed", 3, "--device", "cpu")
    assert_same(found, right, ROUNDING)


def test_seeds_and_memory(tmp_path):
    """What bounds the memory of sampling changes rounding only."""
    on_cpu = (*SMALL, "--device", "cpu")
    first = measured(tmp_path / "a.npz", *on_cpu)
    assert_same(measured(tmp_path / "b.npz", *on_cpu), first)
    assert_same(measured(tmp_path / "c.csv", *on_cpu, "--outputs-at-once", 20), first, ROUNDING)
    other = measured(tmp_path / "d.npz", *on_cpu, "--seed", 1)
    assert (other.score_norms != first.score_norms).any()


def test_options_of_sizes(tmp_path):
    sizes = ("--prompts", 9, "--outputs", 5, "--groups-per-pass", 4, "--max-tokens", 3)
    sample = measured(tmp_path / "a.jsonl", *SMALL[:-2], *sizes)
    assert sample.groups.sizes.tolist() == 9 * [5]
    assert sample.partners.tolist() == 4 * [3] + 5 * [4]


def test_saved_measurements_give_the_same_plan(tmp_path, capsys):
    path = tmp_path / "sample.npz"
    assert main([*SMALL, "--save", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert main(["plan", str(path), "--budget", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out)
    assert err.rstrip().endswith(f"ustat-grpo measure: wrote {path}")
    assert [line.split()[0] for line in err.splitlines()[:3]] == [
        "sampling",
        "rewarding",
        "measuring",
    ]


def test_a_model_in_a_folder_does_arithmetic(folder, tmp_path, capsys):
    """Most answers have two digits, so it takes some outputs until one is right."""
    sizes = ("--prompts", 60, "--outputs", 16, "--max-tokens", 3)
    sample = measured(tmp_path / "a.csv", *of_model(folder, *sizes))
    assert sample.groups.sizes.tolist() == 60 * [16]
    assert sample.partners.tolist() == 56 * [7] + 4 * [3]
    assert set(sample.rewards) == {0.0, 1.0}
    assert "Measured on 60 prompts and 960 outputs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "reward"),
    [
        ("gsm8k", None),
        ("math", None),
        *(("prompts", name) for name in measure.REWARDS if name != "boxed"),
    ],
)
def test_questions_of_a_file(task, reward, folder, files, tmp_path):
    if "math" in (reward, task) or task == "gsm8k":
        pytest.importorskip("math_verify", reason="needs the extra llm")
    judged = () if reward is None else ("--reward", reward)
    options = ("--task", task, "--questions", files / f"{task}.jsonl", *judged)
    sizes = ("--max-tokens", 1, "--outputs", 16)
    sample = measured(tmp_path / "a.csv", *of_model(folder, *options, *sizes))
    assert set(sample.rewards) == {0.0, 1.0}
    assert sample.score_norms.min() > 0


def test_prompts_are_asked_word_for_word(folder, files, monkeypatch):
    seen = []
    genuine = huggingface.HuggingFaceTokenizer.encode
    monkeypatch.setattr(
        huggingface.HuggingFaceTokenizer,
        "encode",
        lambda self, text: seen.append((text, self.conversation.chat)) or genuine(self, text),
    )
    file = ("--task", "prompts", "--questions", files / "prompts.jsonl", "--reward", "last-number")
    assert main(of_model(folder, *file, "--no-chat")) == 0
    assert sorted(seen) == sorted((row["prompt"], False) for row in PROMPTS)


@pytest.mark.parametrize(
    ("text", "verdicts"),
    [
        ("2", (1, 1, 0, 1, 1)),
        (" 2 ", (1, 1, 0, 1, 1)),
        ("is 2", (1, 1, 0, 1, 0)),
        ("3", (0, 0, 0, 0, 0)),
        ("2, not 3", (1, 0, 0, 0, 0)),
        (r"3 or \boxed{2.0}", (0, 1, 1, 1, 0)),
        (r"\boxed{2} or 3", (1, 0, 1, 1, 0)),
        (r"\boxed{1} \boxed{}", (0, 0, 0, 0, 0)),
    ],
)
def test_verdicts(text, verdicts):
    pytest.importorskip("math_verify", reason="needs the extra llm")
    judges = [text_tasks.ACCURACIES[name]() for name in measure.REWARDS]
    assert tuple(judge(text, "2") for judge in judges) == verdicts


def test_names_are_those_of_the_library():
    """They are repeated where help is printed without torch."""
    assert measure.POLICIES == checkpoints.SKILLS
    assert measure.DTYPES == huggingface.DTYPES
    assert list(text_tasks.ACCURACIES) == [*measure.REWARDS]
    assert ["arithmetic", *text_tasks.LOADERS, "reasoning_gym"] == [*measure.TASKS]
    assert tuple(text_tasks.LOADERS) == measure.WITH_FILE


def test_suffixes_are_those_that_can_be_saved(tmp_path):
    rng = np.random.default_rng(0)
    sample = OutputSample.from_scores([*rng.normal(size=(2, 3, 2))], [*rng.normal(size=(2, 3))])
    for suffix in measure.SUFFIXES:
        save_sample(sample, tmp_path / f"a{suffix}")


FILE = ("--questions", "x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of the arguments --model --policy is required"),
        (["--policy", "expert"], "argument --policy: invalid choice: 'expert'"),
        (["--policy", "beginner", "--model", "x"], "argument --model: not allowed with argument"),
        (["--model", "x", "--prompts", "7"], "--prompts must be an integer of at least 8, got 7"),
        (["--model", "x", "--outputs", "2"], "--outputs must be an integer of at least 3, got 2"),
        (["--model", "x", "--seed", "-1"], "--seed must be an integer of at least 0, got -1"),
        (["--model", "x", "--max-tokens", "0"], "--max-tokens must be an integer of at least 1"),
        (["--model", "x", "--groups-per-pass", "1"], "--groups-per-pass must be an integer of at"),
        (["--model", "x", "--outputs-at-once", "0"], "--outputs-at-once must be an integer of at"),
        (["--policy", "beginner", "--task", "math", *FILE], "--task needs --model, got --policy b"),
        (["--policy", "beginner", "--dtype", "float32"], "--dtype needs --model, got --policy"),
        (["--policy", "beginner", "--no-chat"], "--no-chat needs --model, got --policy beginner"),
        (["--model", "x", "--task", "math"], "--questions must be given with --task math"),
        (["--model", "x", *FILE], "--questions must not be given with --task arithmetic"),
        (["--model", "x", "--task", "prompts", *FILE], "--reward must be given with --task pro"),
        (["--model", "x", "--reward", "best"], "--reward must be first-number, last-number, boxed"),
        (["--policy", "beginner", "--reward", "text"], "--reward needs --model, got --policy begi"),
        (["--policy", "beginner", "--stop", "x"], "--stop needs --model, got --policy beginner"),
        (["--model", "x", "--task", "reasoning_gym"], "--dataset must be given with --task reaso"),
        (
            ["--model", "x", "--dataset", "gcd"],
            "--dataset must not be given with --task arith",
        ),
        (["--model", "x", "--dataset-config", "a=1"], "--dataset-config must not be given with -"),
        (["--model", "x", "--dataset-config", "a"], "argument --dataset-config: must be KEY=VALUE"),
        (
            ["--model", "x", "--task", "reasoning_gym", "--dataset", "gcd", "--reward", "text"],
            "--reward must not be given with --task reasoning_gym",
        ),
        (["--model", "x", "--save", "x.txt"], "--save must end in .npz, .csv, .jsonl, got x.txt"),
        (
            ["--model", "x", "--task", "math", "--questions", "q.jsonl", "--save", "./q.jsonl"],
            "--save must be another file than q.jsonl, got q.jsonl",
        ),
        (
            ["--model", "x", "--save", "m.csv", "--html", "m.csv"],
            "--html must be another file than m.csv, got m.csv",
        ),
        (["--model", "x", "--level", "2"], "level must be a finite number and above 0 and below"),
    ],
)
def test_wrong_usage_ends_before_any_work(options, message, monkeypatch, capsys):
    monkeypatch.setattr(measure, "_measured", None)
    with pytest.raises(SystemExit) as ended:
        main(["measure", "--budget", "64", *options])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith(f"ustat-grpo measure: error: {message}")


def failed(capsys, *options) -> str:
    """Return the last line of a run that model or data fail; loading and progress come before."""
    assert main([*map(str, options)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err.splitlines()[-1].removeprefix("ustat-grpo measure: error: ")


def test_models_and_devices_that_are_not_there(tmp_path, capsys):
    pytest.importorskip("transformers", reason="needs the extra llm")
    message = failed(capsys, *of_model(tmp_path / "none"))
    assert message.startswith("--model must be a folder with config.json")
    message = failed(capsys, *SMALL, "--device", "abacus")
    assert message.startswith("device must be auto or one of this machine, got 'abacus'")


def test_questions_that_are_not_there(folder, files, tmp_path, capsys):
    asked = of_model(folder, "--task", "prompts", "--reward", "text", "--questions")
    message = failed(capsys, *asked, tmp_path / "none.jsonl")
    assert message.startswith("--questions must be a file of prompts with prompt and answer, got")
    message = failed(capsys, *asked, files / "math.jsonl")
    assert "line 1: prompt must be there, got the keys ['problem', 'solution']" in message
    path = files / "prompts.jsonl"
    message = failed(capsys, *asked, path, "--prompts", 13)
    assert message == f"--prompts must be at most the 12 questions of {path}, got 13"
    message = failed(capsys, *SMALL, "--prompts", 501)
    assert message == "--prompts must be at most the 500 questions of the task arithmetic, got 501"


def test_answers_that_are_no_numbers(folder, tmp_path, capsys):
    """Would catch: 3/7 that is judged by its 7, also if the seed draws other questions."""
    path = tmp_path / "fractions.jsonl"
    rows = [*PROMPTS, PROMPTS[0] | {"answer": "3/7"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("--task", "prompts", "--reward", "last-number", "--questions", path)
    assert failed(capsys, *of_model(folder, *asked)) == (
        f"{path}, line 13: answer must be a number, as a whole, for the reward "
        "last-number, got '3/7'"
    )


def test_outputs_without_a_verdict_are_counted(folder, files, monkeypatch, capsys):
    """Would catch: outputs that are missing from the sample without a word."""

    def same_text(text: str, answer: str) -> float:
        return float("nan") if (text, answer) == ("3", "2") else float(text == answer)

    monkeypatch.setitem(text_tasks.ACCURACIES, "text", lambda: same_text)
    file = ("--task", "prompts", "--reward", "text", "--questions", files / "prompts.jsonl")
    options = of_model(folder, *file, "--max-tokens", 1, "--outputs", 40)
    assert main([*options, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["sample"]
    assert counts["unjudged"] > 0
    assert counts["outputs"] + counts["unjudged"] == 12 * 40
    assert main(options) == 0
    said = f"{counts['unjudged']} outputs had no verdict and are left out"
    assert said in capsys.readouterr().out.splitlines()


def test_outputs_that_do_not_fit_the_context(folder, capsys):
    message = failed(capsys, *of_model(folder, "--max-tokens", 500))
    assert message.startswith("--max-tokens must be at most ")
    assert failed(capsys, *SMALL, "--max-tokens", 30).startswith("--max-tokens must be at most ")


def test_no_signal(folder, files, tmp_path, capsys):
    path = tmp_path / "never.jsonl"
    path.write_text("".join(json.dumps(row | {"answer": "never"}) + "\n" for row in PROMPTS))
    asked = ("--task", "prompts", "--reward", "text", "--questions", path)
    message = failed(capsys, *of_model(folder, *asked))
    assert message == "rewards must not all be equal, got 0 throughout: no signal, no plan"


def test_memory_that_is_too_small(monkeypatch, capsys):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("ustat_grpo.lm.scores.output_sample.measured_batches", full)
    message = failed(capsys, *SMALL)
    assert message == (
        "memory of the device must hold --outputs-at-once and --groups-per-pass, "
        "got 256 and 12: lower them"
    )


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom ustat_grpo.command_line import main\n"
        "try:\n    main(['measure', '--help'])\nexcept SystemExit as ended:\n"
        "    sys.exit(ended.code or int('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "ustat-grpo measure --policy intermediate --budget 512" in done.stdout
