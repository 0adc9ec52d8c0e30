"""Accuracy against group size: tables, pairing, divergence; one run or many."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from experiments.group_size import language_group_size, language_training
from experiments.group_size.language_group_size import SeededRun, report, run
from experiments.group_size.resolution import summary
from experiments.running.parts import Parts
from experiments.tasks.policies import PosedTask
from support import tiny_policies
from support.apps import InThisProcess, call_main, checked, configuration, refuses
from ustat_grpo.lm import language_model
from ustat_grpo.lm.questions.rewards import ExactMatch
from ustat_grpo.lm.scoring import log_probs

ROOT = Path(__file__).parents[3]
COLUMNS = [
    "task", "estimator", "optimizer", "budget", "group_size", "batch_size", "iteration", "seed",
    "accuracy", "mean_reward", "prompt", "oracle", "residual",
]  # fmt: skip
FEW = (
    "start=beginner",
    "budget=16",
    "group_size=[2,4]",
    "iterations=[1,3]",
    "seeds=2",
    "noise_seeds=1",
    "noise_questions=10",
    "learning_rate=0.5",
)
CELLS = [SeededRun(size, seed) for size in (2, 4) for seed in (0, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The policies' files."""
    return tiny_policies.save_all(tmp_path_factory.mktemp("policies"))


@pytest.fixture(scope="module")
def asked(folder):
    """Return the overrides of a small sweep, and more."""
    return lambda *more: (*tiny_policies.asked(folder), *FEW, *more)


@pytest.fixture(scope="module")
def config(asked):
    """Return the configuration object of a small sweep."""
    return lambda *more: checked("language_group_size", *asked(*more))


@pytest.fixture(scope="module")
def data(config, tmp_path_factory):
    """The table of that sweep."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(language_group_size, "ProcessPoolExecutor", InThisProcess)
        return run(config(), tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def grpo(config):
    """The first run of that sweep."""
    return trained(config(), CELLS[0])


@pytest.fixture
def in_process(monkeypatch):
    """Let runs train in this process: three seconds less for each sweep."""
    monkeypatch.setattr(language_group_size, "ProcessPoolExecutor", InThisProcess)


def trained(config, cell):
    return language_training.train_alone(config, cell).reindex(columns=COLUMNS)


class TestTable:
    def test_a_row_a_run_and_checkpoint(self, data):
        assert list(data) == COLUMNS
        keys = [(cell.group_size, cell.seed, n) for cell in CELLS for n in (0, 1, 3)]
        found = data[["group_size", "seed", "iteration"]].itertuples(index=False, name=None)
        assert list(found) == keys
        assert set(data["task"]) == {"arithmetic: beginner"} and set(data["optimizer"]) == {"sgd"}
        assert (data["group_size"] * data["batch_size"] == data["budget"]).all()

    def test_what_is_measured_when(self, data):
        """Noise components at every checkpoint of the first seed; no reward before training."""
        noise = data[["prompt", "oracle", "residual"]].notna()
        assert (noise.all(axis=1) == (data["seed"] == 0)).all()
        assert (noise.any(axis=1) == noise.all(axis=1)).all()
        assert (data["mean_reward"].notna() == (data["iteration"] > 0)).all()
        assert data["mean_reward"].dropna().between(0, 1).all()

    def test_all_begin_at_the_policy(self, data, config):
        """Accuracy is the mean probability of the solution to the held-out questions."""
        made = config()
        model = made.policy.models()["beginner"]
        _, held_out = made.task.questions()
        exact = log_probs(model, held_out.solutions).sum(dim=-1).exp().mean().item()
        start = data[data["iteration"] == 0]
        np.testing.assert_allclose(start["accuracy"], exact, rtol=1e-5)
        assert data[data["iteration"] == 3]["accuracy"].nunique() == len(CELLS)

    def test_learns(self, config, tmp_path, in_process):
        """Would catch: a step downhill, or none."""
        twenty = config("budget=64", "iterations=[20]", "learning_rate=1")
        data = run(twenty, tmp_path)
        first, last = (data[data["iteration"] == n]["accuracy"].to_numpy() for n in (0, 20))
        assert (last > first + 0.01).all()
        assert (data["mean_reward"].dropna() > 0.15).all()


class TestVariants:
    def test_adamw(self, config):
        adam = trained(config("optimizer=adamw", "learning_rate=0.01"), CELLS[3])
        plain = trained(config("learning_rate=0.01"), CELLS[3])
        assert set(adam["optimizer"]) == {"adamw"}
        assert adam["mean_reward"][1] == plain["mean_reward"][1]  # the same first outputs
        moved = [(table["accuracy"][1] - table["accuracy"][0]) for table in (adam, plain)]
        assert abs(moved[0]) > 3 * abs(moved[1])  # each weight by the rate, however flat

    def test_group_mean_is_grpo_at_another_rate(self, config, grpo):
        """Its gain (G−1)/G scales the rate. Would catch: estimators compared at unlike rates."""
        other = ("~estimators.grpo", "+estimators.group_mean={}")
        mean = trained(config(*other), CELLS[0])
        assert set(mean["estimator"]) == {"group_mean"}
        np.testing.assert_allclose(mean["accuracy"], grpo["accuracy"], rtol=1e-5)

    def test_oracle_knows_the_values(self, config, grpo):
        other = ("~estimators.grpo", "+estimators.oracle={}")
        table = trained(config(*other), CELLS[0])
        assert table["mean_reward"][1] == grpo["mean_reward"][1]
        assert table["accuracy"][1] != grpo["accuracy"][1]

    def test_accuracy_and_format(self, config, grpo):
        """Rewards are in {0, 1, 2}; accuracy is exact still; noise comes from a pool."""
        other = ("task.reward=accuracy_and_format", "noise_outputs=32")
        table = trained(config(*other), CELLS[0])
        assert table["accuracy"][0] == grpo["accuracy"][0]
        assert table["mean_reward"][1] > grpo["mean_reward"][1]
        noise = table[["prompt", "oracle", "residual"]]
        assert (noise["prompt"] >= 0).all() and (noise[["oracle", "residual"]] > 0).all(axis=None)


class TestPairing:
    def test_runs_of_a_seed_share_questions(self, config, monkeypatch):
        """Would catch: group sizes that are compared on questions of their own."""
        asked = {}

        class Watched(ExactMatch):
            def __call__(self, rollouts, questions):
                asked[cell].append(questions.tolist())
                return super().__call__(rollouts, questions)

        genuine = PosedTask.training_sets

        def watched(posed):
            sets = genuine(posed)
            reward = Watched(sets.train.reward.solutions)
            return sets._replace(train=sets.train._replace(reward=reward))

        monkeypatch.setattr(PosedTask, "training_sets", watched)
        for cell in CELLS:
            asked[cell] = []
            trained(config("noise_seeds=1"), cell)
        for seed in (0, 1):
            large, small = ([*asked[SeededRun(size, seed)]] for size in (2, 4))
            assert [len(step) for step in large] == [8] * 3
            assert [step[:4] for step in large] == small
        assert asked[SeededRun(2, 0)] != asked[SeededRun(2, 1)]

    def test_another_seed_or_budget_draws_anew(self, config):
        def rewards(*more):
            table = trained(config("iterations=[1,2,3]", *more), CELLS[1])
            return table["mean_reward"].dropna().tolist()

        assert rewards() == rewards() == rewards("group_size=[2,4,8]", "seeds=5")
        assert rewards() != rewards("seed=1")


class TestTogether:
    def test_an_ensemble_is_what_its_runs_are_alone(self, config):
        """Would catch: noise components of one seed measured by the draws of another."""
        both = config("noise_seeds=2", "seeds=3", "iterations=[2]")
        cells = [*CELLS, SeededRun(2, 2), SeededRun(4, 2)]
        together = dict(language_training.train_together(both, cells))
        assert together.keys() == set(cells)
        for cell, table in together.items():
            pd.testing.assert_frame_equal(
                table.reindex(columns=COLUMNS), trained(both, cell), rtol=1e-4, atol=1e-6
            )

    def test_a_gpu_takes_what_is_left_at_once(self, config, grpo, tmp_path, monkeypatch):
        """Would catch: finished runs trained again, or one process a run beside the GPU."""
        made, taken = config(), []

        def together(_config, cells):
            taken.extend(cells)
            return ((cell, grpo) for cell in cells)

        monkeypatch.setattr(language_model, "chosen_device", lambda _: SimpleNamespace(type="cuda"))
        monkeypatch.setattr(language_training, "train_together", together)
        Parts(language_group_size.__name__, made).write(tmp_path / f"{CELLS[0].name}.csv", grpo)
        assert len(run(made, tmp_path)) == 3 * len(CELLS) and taken == CELLS[1:]

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_a_gpu_gives_the_same_accuracies(self, config, tmp_path, in_process):
        here = run(config(), tmp_path / "cpu")
        there = run(config("policy.device=cuda"), tmp_path / "gpu")
        pd.testing.assert_frame_equal(here, there, rtol=1e-3, atol=1e-5)


class TestReport:
    def test_fits_eighty_columns(self, data):
        """Would catch: numbers cut off, in the worst case of seven sizes that may all be best."""
        data = data.assign(budget=1024, iteration=50 * data["iteration"])
        one = data[data["group_size"] == 2]
        many = [one.assign(group_size=size) for size in (2, 4, 8, 16, 32, 64)]
        wide = pd.concat([*many, data[data["group_size"] == 4].assign(group_size=128)])
        printed = {}
        for width in (80, 200):
            console = Console(width=width, file=StringIO())
            console.print(report(wide))
            printed[width] = [line.rstrip() for line in console.file.getvalue().splitlines()]
        assert printed[80] == printed[200] and max(map(len, printed[80])) <= 80
        text = "\n".join(printed[80])
        assert "2, 4, 8, 16, 32, 64, 128" in text and "…" in text
        for verdict in summary(wide):
            assert f" {verdict.rivals.better} over {verdict.rivals.worse} " in text
            assert f"{verdict.noise.floor:.4f}" in text and f"{verdict.optimal:.1f}" in text


class TestCommand:
    @pytest.mark.slow  # the main job of `test_experiments` has processes, too
    def test_processes_change_no_byte(self, asked, tmp_path, in_process, monkeypatch):
        """Here, and in two processes as a user has it; the report is the same, too."""
        reports = {}
        for where in ("here", "there"):
            if where == "there":
                monkeypatch.undo()
                monkeypatch.setenv("PYTHONPATH", str(ROOT))
            command = asked("processes=2", "threads=1", f"output={tmp_path / where}")
            code, out, error = call_main(language_group_size, *command)
            assert (code, error) == (0, "")
            reports[where] = out.split("written after")[1].split("\n", 1)[1]
        here, there = (list((tmp_path / where).rglob("*.csv")) for where in reports)
        assert len(here) == len(there) == len(CELLS) + 1
        for ours, theirs in zip(sorted(here), sorted(there), strict=True):
            assert ours.name == theirs.name and ours.read_bytes() == theirs.read_bytes()
        assert reports["here"] == reports["there"]

    def test_a_finished_job_reports_again(self, asked, tmp_path, in_process, monkeypatch):
        command = asked(f"output={tmp_path}")
        _, first, _ = call_main(language_group_size, *command)
        monkeypatch.setattr(language_training, "train_alone", None)
        code, again, _ = call_main(language_group_size, *command)
        assert code == 0 and "exists, skipped" in again
        assert again.split("skipped\n")[1] == first.split(" s\n")[-1]

    def test_processes_and_threads_do_not_name_the_job(self, asked):
        def name(*more):
            made = configuration("language_group_size", *asked(*more))
            return language_group_size.APP.folder(made).name

        assert name() == name("processes=1", "threads=2")
        assert name().startswith("arithmetic_sgd_N16_2seeds_")
        for other in ("seed=1", "learning_rate=0.1", "optimizer=adamw", "start=intermediate"):
            assert name(other) != name()


MISTAKES = {
    "budget": (["group_size=[2,3]"], "group_size must divide the budget 16, got 3"),
    "one size": (["group_size=[4]"], "group_size must hold at least two sizes to compare, got [4]"),
    "the same size": (
        ["group_size=[4,4]"],
        "group_size must hold at least two sizes to compare, got [4, 4]",
    ),
    "single outputs": (
        ["group_size=[1,2]"],
        "group_size must be at least 2 for a leave-one-out baseline, got 1",
    ),
    "estimators": (
        ["+estimators.oracle={}"],
        "estimators must hold one, got ['grpo', 'oracle']",
    ),
    "unknown baseline": (
        ["~estimators.grpo", "+estimators.optimal_baseline={}"],
        "estimators must not need what is not known (optimal_baseline), got ['optimal_baseline']",
    ),
    "unknown value": (
        ["~estimators.grpo", "+estimators.oracle={}", "task.reward=accuracy_and_format"],
        "estimators must not need what is not known (optimal_baseline, oracle), got ['oracle']",
    ),
    "few outputs": (
        ["noise_outputs=8"],
        "noise_outputs must be a multiple of 16, at least 16 for this task and policy, got 8",
    ),
    "few outputs for a pool": (
        ["task.reward=accuracy_and_format"],
        "noise_outputs must be a multiple of 16, at least 32 for this task and policy, got 16",
    ),
    "shares": (
        ["task.num_train=7"],
        "task.num_train must be a multiple of 5 for equal shares, got 7",
    ),
    "outputs beyond the context": (
        ["task.max_tokens=30"],
        "task.max_tokens must be at most 20: the model's context holds 32 tokens and the longest "
        "prompt 12, got 30",
    ),
}


class TestMistakes:
    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_one_line_before_any_work(self, mistake, asked, tmp_path):
        overrides, message = MISTAKES[mistake]
        refuses(language_group_size, message, tmp_path / "results", *asked(*overrides))

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["task=gsm8k"], "task.path must be given"),
            (
                ["task=gsm8k", "task.path=/x", "policy.path=/x", "noise_outputs=32"],
                "task.train_path must name the gsm8k train set, got None",
            ),
            (["policy=hf"], "policy.path must be given"),
        ],
    )
    def test_what_must_be_given(self, overrides, message, tmp_path):
        refuses(language_group_size, message, tmp_path / "results", *overrides)

    def test_start_that_is_not_there(self, asked, folder, tmp_path):
        refuses(
            language_group_size,
            f"path must be a safetensors file, got {folder / 'expert.safetensors'} (no such file)",
            tmp_path / "results",
            *asked("start=expert"),
        )

    def test_divergence_is_one_line_with_step_and_norm(self, asked, tmp_path, in_process):
        command = asked("learning_rate=1e9", f"output={tmp_path}")
        code, _, error = call_main(language_group_size, *command)
        assert code == 2 and error.count("\n") == 1
        start = "error: training diverged at iteration 2: the norm of the parameters must be at "
        assert error.startswith(start + "most 10000, got ")
        assert float(error.split("got ")[1]) > 1e4
        assert not list(tmp_path.rglob("data.csv"))
