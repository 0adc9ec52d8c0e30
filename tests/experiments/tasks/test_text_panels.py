"""Hugging Face models as policies: arithmetic in words, made-up files of GSM8K and MATH."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("transformers", reason="needs the extra llm")

from experiments.gradient_error import gradient_mse
from experiments.group_size import language_group_size
from experiments.running.runner import to_csv
from experiments.tasks import language_errors
from support import local_models, tiny_policies
from support.apps import InThisProcess, call_main, checked
from ustat_grpo.lm.models.huggingface import load

FEW = (
    "task.num_questions=5",
    "task.num_outputs=32",
    "task.max_tokens=2",
    "group_size=[2,4]",
    "policy.device=cpu",
    "threads=1",
)
GSM8K = [(f"Ann has {n} pens and buys {n}. How many has she.", str(2 * n)) for n in range(1, 8)]
MATH = [(f"What is {n}/2.", rf"\frac{{{n}}}{{2}}") for n in (1, 3, 5, 7, 9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that likes digits, with room for instructions."""
    return local_models.save_digit_writer(tmp_path_factory.mktemp("models") / "tiny-qwen")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Made-up files in the published forms."""
    pytest.importorskip("math_verify", reason="needs the extra llm")
    folder = tmp_path_factory.mktemp("files")
    gsm8k = [
        {"question": text, "answer": f"So it is {answer}.\n#### {answer}"} for text, answer in GSM8K
    ]
    math = [
        {"problem": text, "solution": f"It is $\\boxed{{{answer}}}$.", "type": "Algebra"}
        for text, answer in MATH
    ]
    for name, rows in {"gsm8k": gsm8k, "math": math}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def arithmetic(folder, *overrides):
    """Return the overrides for arithmetic in words."""
    easy = ("task.num_train=5", *tiny_policies.EASY)
    return ("task=arithmetic", "policy=hf", *easy, f"policy.path={folder}", *FEW, *overrides)


def read(name, folder, files, *overrides):
    """Return the overrides for the questions of a file."""
    paths = (f"task.path={files / f'{name}.jsonl'}", f"policy.path={folder}")
    return (f"task={name}", *paths, *FEW, *overrides)


def found(overrides):
    """Return the panels of a configuration."""
    config = checked("gradient_mse", *overrides)
    return config.policy.panels(config.task)


def texts(panel, folder):
    """Return the prompts as text."""
    _, tokenizer = load(folder)
    prompts = panel.prompts
    rows = zip(prompts.tokens, prompts.real, strict=True)
    return [tokenizer.decode(tokens[real].tolist(), whole=True) for tokens, real in rows]


def rewards_of(overrides, monkeypatch):
    """Return what `run` of the app computes, and all rewards that it met."""
    seen = []

    def look(pool):
        seen.extend(np.concatenate([prompt.rewards for prompt in pool.prompts]))
        return genuine(pool)

    genuine = language_errors.pool_moments
    monkeypatch.setattr(language_errors, "pool_moments", look)
    return gradient_mse.run(checked("gradient_mse", *overrides)), seen


def scores(data):
    """Measured less law, in standard errors of both; nothing where all rewards were equal."""
    error = np.hypot(data["std_error"], data["law_std_error"])
    difference = (data["mse"] - data["law"])[error > 0]
    assert (data["mse"] == data["law"])[error == 0].all()
    return difference / error[error > 0]


class TestArithmetic:
    def test_end_to_end(self, folder, tmp_path):
        ways = ("policy.prompts=[plain,examples]", "policy.chat=false", "estimator=all")
        code, _, _ = call_main(gradient_mse, *arithmetic(folder, *ways), f"output={tmp_path}")
        assert code == 0
        (path,) = tmp_path.rglob("data.csv")
        data = pd.read_csv(path)
        names = [f"arithmetic: tiny-qwen, {way}" for way in ("plain", "examples")]
        assert list(data["task"].unique()) == names and len(data) == 2 * 2 * 7
        assert set(data["evidence"]) == {"pool"} and set(data["batch_size"]) == {5}
        assert (data["law_std_error"] > 0).all() and scores(data).abs().max() <= 4

    def test_rewards_and_seeds(self, folder, monkeypatch):
        asked = arithmetic(folder, "estimator=grpo")
        data, rewards = rewards_of(asked, monkeypatch)
        assert len(rewards) == 5 * 32 and set(rewards) == {0.0, 1.0}
        again, _ = rewards_of(asked, monkeypatch)
        assert to_csv(again) == to_csv(data)

    def test_what_is_asked(self, folder):
        overrides = arithmetic(folder, "policy.prompts=[plain,examples]", "policy.chat=false")
        config = checked("gradient_mse", *overrides)
        _, held_out = config.task.questions()
        plain, examples = config.policy.panels(config.task).values()
        for problem, short, long in zip(
            held_out.problems, texts(plain, folder), texts(examples, folder), strict=True
        ):
            assert short.endswith(f"\n\nExpression: {problem.text}\nCalculation:")
            assert long.endswith(short.split("\n\n")[1]) and long.startswith(short.split("\n")[0])
            assert (short.count(" = "), long.count("Expression: ")) == (0, 6)
        assert list(plain.reward.answers) == [str(each.answer) for each in held_out.problems]

    def test_last_number_counts(self, folder):
        (panel,) = found(arithmetic(folder)).values()
        judged = {text: panel.reward.judge(text, "4") for text in ("4", "1+3=4.", "4 5", "no")}
        assert judged == {"4": 1, "1+3=4.": 1, "4 5": 0, "no": 0}

    def test_chat_template(self, folder):
        (bare,) = found(arithmetic(folder, "policy.chat=false")).values()
        (chat,) = found(arithmetic(folder)).values()
        extra = len("user\n\nassistant\n") + 3  # and the marks around them
        assert chat.prompts.tokens.shape[1] == bare.prompts.tokens.shape[1] + extra


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "reward"),
        [
            ("gsm8k", "accuracy"),
            ("math", "accuracy_and_format"),
            # Each file and each reward is in one of these two.
            pytest.param("gsm8k", "accuracy_and_format", marks=pytest.mark.slow),
            pytest.param("math", "accuracy", marks=pytest.mark.slow),
        ],
    )
    def test_end_to_end(self, name, reward, folder, files, monkeypatch):
        asked = read(name, folder, files, f"task.reward={reward}", "estimator=grpo")
        data, rewards = rewards_of(asked, monkeypatch)
        assert list(data["task"]) == [f"{name}: tiny-qwen, plain"] * 2
        assert len(rewards) == 5 * 32 and set(rewards) <= {0.0, 1.0, 2.0}
        assert (scores(data).abs() <= 4).all()

    @pytest.mark.parametrize(("reward", "form"), [("accuracy", 0), ("accuracy_and_format", 1)])
    def test_verdicts(self, reward, form, folder, files):
        """Would catch: a format that counts where it should not, or text compared as text."""
        (panel,) = found(read("math", folder, files, f"task.reward={reward}")).values()
        half = r"\frac{1}{2}"
        judged = [panel.reward.judge(text, half) for text in (r"\boxed{0.5}", "0.5", r"\boxed{2}")]
        assert judged == [1 + form, 1, form]

    def test_what_is_asked(self, folder, files):
        all_of_them = ("task.num_questions=7", "policy.chat=false")
        (panel,) = found(read("gsm8k", folder, files, *all_of_them)).values()
        asked = dict(zip(texts(panel, folder), panel.reward.answers, strict=True))
        assert {text.split("\n\n")[1]: answer for text, answer in asked.items()} == {
            f"Problem: {text}": answer for text, answer in GSM8K
        }
        assert all(r"\boxed{}" in text and text.endswith("\n\nSolution:") for text in asked)

    def test_seed_chooses_the_questions(self, folder, files):
        def chosen(*overrides):
            (panel,) = found(read("gsm8k", folder, files, *overrides)).values()
            return list(panel.reward.answers)

        few, again = chosen("task.num_questions=3"), chosen("task.num_questions=3")
        assert few == again == chosen("task.num_questions=5")[:3]
        assert few != chosen("task.num_questions=3", "task.seed=1")

    def test_train_set_is_a_file_of_its_own(self, folder, files):
        """Held out, accuracy alone counts; the train set is taken whole."""
        asked = read("math", folder, files, f"task.train_path={files / 'math.jsonl'}")
        config = checked("gradient_mse", *asked, "task.num_questions=2")
        train, held_out = config.policy.training_sets(config.task)
        assert (len(train.prompts), len(held_out.prompts)) == (5, 2)
        assert train.reward.judge(r"\boxed{1}", "1") == 2
        assert held_out.reward.judge(r"\boxed{1}", "1") == 1


class TestGroupSizes:
    """The sweep over group sizes on a model of the user's."""

    @pytest.mark.parametrize(
        "pool",
        [
            InThisProcess,
            # The main job of `test_experiments` has processes of its own, too.
            pytest.param(language_group_size.ProcessPoolExecutor, marks=pytest.mark.slow),
        ],
    )
    def test_end_to_end(self, pool, folder, files, tmp_path, monkeypatch):
        """Accuracy on held-out questions is sampled; noise components come from a pool."""
        monkeypatch.setattr(language_group_size, "ProcessPoolExecutor", pool)
        few = ("budget=8", "group_size=[2,4]", "iterations=[1]", "seeds=2", "noise_seeds=1")
        asked = read("gsm8k", folder, files, f"task.train_path={files / 'gsm8k.jsonl'}")
        asked = [each for each in asked if not each.startswith("group_size")]
        noise = ("noise_questions=3", "noise_outputs=32", "learning_rate=1e-3", "optimizer=adamw")
        code, _, error = call_main(language_group_size, *asked, *few, *noise, f"output={tmp_path}")
        assert code == 0, error
        (path,) = tmp_path.rglob("data.csv")
        data = pd.read_csv(path)
        assert len(data) == 2 * 2 * 2 and set(data["task"]) == {"gsm8k: tiny-qwen"}
        assert set(data["accuracy"] * 5 % 1) == {0.0}  # of five questions
        assert data[data["iteration"] == 0]["accuracy"].nunique() == 1
        first = data[data["seed"] == 0]
        assert (first["prompt"] >= 0).all() and (first[["oracle", "residual"]] >= 0).all(axis=None)


class TestMistakes:
    def refuses(self, message, output, *overrides):
        """What transformers prints while it loads comes before the line."""
        code, _, error = call_main(gradient_mse, *overrides, f"output={output}")
        assert code == 2 and error.endswith(f"error: {message}\n") and "Traceback" not in error
        assert not output.exists()

    def test_context_that_is_too_short(self, folder, tmp_path):
        asked = arithmetic(folder, "task.max_tokens=500", "policy.chat=false")
        (panel,) = found(arithmetic(folder, "policy.chat=false")).values()
        longest = panel.prompts.tokens.shape[1]
        self.refuses(
            f"task.max_tokens must be at most {512 - longest}: the model's context holds 512 "
            f"tokens and the longest prompt {longest}, got 500",
            tmp_path / "out",
            *asked,
        )

    def test_more_questions_than_the_file_has(self, folder, files, tmp_path):
        self.refuses(
            "num_questions must be at most the 7 there are, got 50",
            tmp_path / "out",
            *read("gsm8k", folder, files, "task.num_questions=50"),
        )

    def test_file_of_another_kind(self, folder, files, tmp_path):
        asked = read("gsm8k", folder, files, f"task.path={files / 'math.jsonl'}")
        self.refuses(
            f"{files / 'math.jsonl'}, line 1: question must be there, got the keys "
            "['problem', 'solution', 'type']",
            tmp_path / "out",
            *asked,
        )

    def test_words_that_the_tokenizer_does_not_know(self, folder, files, tmp_path):
        path = tmp_path / "odd.jsonl"
        path.write_text(json.dumps({"question": "How many?", "answer": "#### 2"}) + "\n")
        asked = read("gsm8k", folder, files, f"task.path={path}", "task.num_questions=1")
        code, _, error = call_main(gradient_mse, *asked, f"output={tmp_path / 'out'}")
        assert code == 2 and error.endswith("lost are '?'\n")

    def test_without_the_extra(self, folder, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        code, _, error = call_main(gradient_mse, *arithmetic(folder), f"output={tmp_path / 'out'}")
        assert code == 2 and error.count("\n") == 1
        assert error.startswith("error: transformers must be installed for this (pip install ")
