"""Gradient errors of language models: pool and brute force against the laws, seeds, mistakes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from experiments.gradient_error import gradient_mse
from experiments.running.estimators import _COMPARED
from experiments.running.runner import to_csv
from experiments.tasks import language_errors
from support import tiny_policies
from support.apps import call_main, checked, refuses
from ustat_grpo.lm.models.checkpoints import save_policy
from ustat_grpo.lm.scoring import log_probs

COLUMNS = [
    "task", "estimator", "batch_size", "group_size", "replications", "mse", "std_error",
    "bias_norm", "law", "law_std_error", "evidence",
]  # fmt: skip
SIZES = (2, 4, 16)
PANELS = [f"arithmetic: {skill}" for skill in tiny_policies.STEPS]
POOL = ("task.num_outputs=512", f"group_size={list(SIZES)}".replace(" ", ""))
FEW = ("task.num_questions=5", "task.num_outputs=32", "group_size=[2,4]",
       "task.brute_force_replications=2")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The policies' files."""
    return tiny_policies.save_all(tmp_path_factory.mktemp("policies"))


@pytest.fixture(scope="module")
def measure(folder):
    """Return what the app computes."""

    def call(*overrides, skills=()):
        asked = tiny_policies.asked(folder, *skills)
        return gradient_mse.run(checked("gradient_mse", *asked, "threads=1", *overrides))

    return call


@pytest.fixture(scope="module")
def data(measure):
    """Every estimator, each question once."""
    return measure(*POOL, "estimator=all", "task.brute_force_group_size=4")


@pytest.fixture(scope="module")
def few(measure):
    """A small table of the default estimators."""
    return measure(*FEW)


def scores(data, law="law"):
    """Measured less law, in standard errors of both."""
    error = np.hypot(data["std_error"], data["law_std_error"])
    return (data["mse"] - data[law]) / error


class TestTable:
    def test_columns_and_rows(self, data):
        assert list(data) == COLUMNS
        names = list(_COMPARED)
        once = [(size, name, "pool") for size in SIZES for name in names]
        once += [(4, name, "brute force") for name in names if name != "optimal_baseline"]
        assert data["task"].tolist() == [panel for panel in PANELS for _ in once]
        keys = data[["group_size", "estimator", "evidence"]].itertuples(index=False, name=None)
        assert list(keys) == once * len(PANELS)
        assert set(data["batch_size"]) == {25}
        assert data.drop(columns="bias_norm").notna().all(axis=None)

    def test_replications_are_groups_or_minibatches(self, data):
        pool, whole = (data[data["evidence"] == kind] for kind in ("pool", "brute force"))
        assert (pool["replications"] * pool["group_size"] == 512).all()
        assert set(whole["replications"]) == {8}

    def test_pool_and_brute_force_against_the_laws(self, data):
        """Would catch a law that is off by a quarter, at G = 2 and 4."""
        assert scores(data).abs().max() <= 4
        small = data[(data["evidence"] == "pool") & (data["group_size"] <= 4)]
        for wrong in (0.75, 1.25):
            assert (scores(small.assign(wrong=wrong * small["law"]), "wrong").abs() > 4).all()

    def test_pool_and_brute_force_against_each_other(self, data):
        """Neither knows a law. Would catch a forgotten 1/B, or a pool cut into wrong groups."""
        both = data[(data["group_size"] == 4) & (data["estimator"] != "optimal_baseline")]
        wide = both.pivot(index=["task", "estimator"], columns="evidence")
        error = np.hypot(*(wide["std_error", kind] for kind in ("pool", "brute force")))
        z = (wide["mse", "pool"] - wide["mse", "brute force"]) / error
        assert len(z) == 12 and z.abs().max() <= 4
        assert (error / wide["mse", "pool"]).max() < 0.3

    def test_what_is_known_exactly_has_no_error(self, data):
        """Vanilla's law is made of V(x) and ‖W‖² of the solution only."""
        exact = data["estimator"] == "vanilla"
        relative = data["law_std_error"] / data["law"]
        assert (relative[exact] < 1e-12).all() and relative[~exact].between(1e-5, 0.1).all()

    def test_a_wrong_law_would_be_noticed(self, measure, monkeypatch):
        """G for G − 1 in GRPO's second term, the nearest mistake."""

        def wrong(moments, *, group_size):
            norm, gradient = moments.score_norm_squared, moments.gradient_norm_squared
            second = norm * moments.reward_variance + gradient
            return (moments.oracle_norm_squared - gradient) / group_size + second / group_size**2

        monkeypatch.setitem(_COMPARED, "grpo", _COMPARED["grpo"]._replace(errors=wrong))
        alone = ("estimator=grpo", "task.brute_force_replications=0", "group_size=2")
        assert (scores(measure("task.num_outputs=512", *alone)).abs() > 4).all()


class TestMinibatch:
    def test_independent_prompts(self, measure, data, folder):
        """(mean error at a prompt + c₁)/B, with c₁ by autograd. Would catch a lost c₁."""
        drawn = measure(*POOL, "batch_size=8")
        assert set(drawn["batch_size"]) == {8} and set(drawn["evidence"]) == {"pool"}
        assert scores(drawn).abs().max() <= 4
        noise = prompt_noise(checked("gradient_mse", *tiny_policies.asked(folder)))
        key = ["task", "estimator", "group_size"]
        once = data[data["evidence"] == "pool"].set_index(key)
        for row in drawn.itertuples():
            same = once.loc[(row.task, row.estimator, row.group_size)]
            assert row.mse == pytest.approx((25 * same["mse"] + noise[row.task]) / 8, rel=1e-5)
            assert row.std_error == pytest.approx(25 / 8 * same["std_error"], rel=1e-10)
            assert noise[row.task] / 8 > 0.02 * row.mse


def prompt_noise(config):
    """c₁ = mean ‖g(x)‖² − ‖∇J‖² of each panel, one backward pass a question."""
    found = {}
    for name, panel in config.policy.panels(config.task).items():
        parameters = list(panel.model.parameters())
        chances = log_probs(panel.model, panel.reward.solutions).sum(dim=-1).exp()
        gradients = torch.stack(
            [
                torch.cat([
                    part.flatten()
                    for part in torch.autograd.grad(chance, parameters, retain_graph=True)
                ])
                for chance in chances
            ]
        ).double()  # fmt: skip
        squares = gradients.square().sum(dim=1).mean() - gradients.mean(dim=0).square().sum()
        found[name] = float(squares)
    return found


class TestOtherRewards:
    """Accuracy plus format: nothing is known exactly."""

    REWARD = "task.reward=accuracy_and_format"

    def test_pool_against_the_laws(self, measure):
        """No gradient is exact, so there is no brute force. Would catch a law off by two thirds."""
        few = ("group_size=[2,8]", "task.num_questions=15", "task.num_outputs=256")
        data = measure(*few, self.REWARD, "estimator=all")
        assert set(data["evidence"]) == {"pool"} and len(data) == 2 * 2 * len(_COMPARED)
        assert (data["law_std_error"] > 0).all()
        assert scores(data).abs().max() <= 4
        small = data[(data["group_size"] == 2) & (data["task"] == PANELS[1])]
        for wrong in (1 / 3, 5 / 3):
            assert (scores(small.assign(wrong=wrong * small["law"]), "wrong").abs() > 4).all()

    def test_rewards_are_0_1_or_2(self, folder, monkeypatch):
        more = ("task.num_questions=10", "task.num_outputs=64")
        config = checked("gradient_mse", *tiny_policies.asked(folder), *FEW, *more, self.REWARD)
        seen = []

        def look(pool):
            seen.extend(np.concatenate([prompt.rewards for prompt in pool.prompts]))
            return genuine(pool)

        genuine = language_errors.pool_moments
        monkeypatch.setattr(language_errors, "pool_moments", look)
        gradient_mse.run(config)
        assert len(seen) == 2 * 10 * 64 and set(seen) == {0.0, 1.0, 2.0}


class TestSeeds:
    def test_the_same_bytes_for_the_same_seed(self, measure, few):
        assert to_csv(few) == to_csv(measure(*FEW))
        other = measure(*FEW, "seed=1")
        assert (other["mse"] != few["mse"]).all()

    def test_another_group_size_changes_no_row(self, measure):
        """Would catch: draws that depend on what else is asked, here G = 2 and 8."""
        few = measure(*FEW, "group_size=[4]")
        many = measure(*FEW, "group_size=[2,4,8]")
        same = many[(many["group_size"] == 4) | (many["evidence"] == "brute force")]
        assert to_csv(few) == to_csv(same)

    def test_another_estimator_changes_no_row(self, measure):
        few = measure(*FEW, "estimator=grpo")
        many = measure(*FEW, "estimator=all")
        assert to_csv(few) == to_csv(many[many["estimator"] == "grpo"])

    def test_another_policy_changes_no_row(self, measure, few):
        """Would catch: streams keyed by a policy's place in the list."""
        one = measure(*FEW, skills=["intermediate"])
        assert to_csv(one) == to_csv(few[few["task"] == PANELS[1]])


class TestCommand:
    def test_writes_the_table(self, folder, few, tmp_path):
        asked = (*tiny_policies.asked(folder), *FEW, "threads=1")
        code, out, error = call_main(gradient_mse, *asked, f"output={tmp_path}")
        assert (code, error) == (0, "") and "written after" in out
        (path,) = tmp_path.rglob("data.csv")
        assert path.parent.name.startswith("arithmetic_Ball_G2-4_")
        assert path.read_text() == to_csv(few)
        assert list(pd.read_csv(path)) == COLUMNS


MISTAKES = {
    "reward": (
        ["task.reward=nope"],
        "task.reward must be one of exact_match, accuracy_and_format, got 'nope'",
    ),
    "shares": (
        ["task.num_questions=7"],
        "task.num_questions must be a multiple of 5 for equal shares, got 7",
    ),
    "shares of the train set": (
        ["task.num_train=6"],
        "task.num_train must be a multiple of 5 for equal shares, got 6",
    ),
    "more questions than there are": (
        ["task.num_questions=100"],
        "ranges must hold 25 distinct multiplication problems for num_problems=125, got 12 in "
        "OperandRanges(sums=(1, 3), factors=(2, 5), divisors=(2, 4), quotients=(2, 5), "
        "multipliers=(2, 4))",
    ),
    "no range": (["task.ranges.sums=[3,1]"], "sums must not be empty (lowest > highest), got (3, 1"
                 ")"),
    "outputs beyond the context": (
        ["task.max_tokens=30"],
        "task.max_tokens must be at most 20: the model's context holds 32 tokens and the longest "
        "prompt 12, got 30",
    ),
    "no policy": (["policy.skills=[]"], "policy.skills must name at least one policy, got []"),
    "policy that is not shipped": (
        ["policy.folder=null", "policy.skills=[expert]"],
        "skill must be one of beginner, intermediate, advanced, got 'expert'",
    ),
    "blocks of the pool": (
        ["task.num_outputs=100"],
        "task.num_outputs must be a multiple of 16, got 100",
    ),
    "small pool": (
        ["task.num_outputs=16"],
        "task.num_outputs must be an integer of at least 32, got 16",
    ),
    "one group only": (
        ["group_size=[4,64]", "task.num_outputs=64"],
        "group_size must be at most half of task.num_outputs=64, got 64",
    ),
    "one minibatch": (
        ["task.brute_force_replications=1"],
        "task.brute_force_replications must be 0 or at least 2, got 1",
    ),
    "single outputs": (
        ["group_size=1"],
        "group_size must be at least 2 for a leave-one-out baseline, got 1",
    ),
    "folder without a model": (
        ["policy=hf", "policy.path=/nowhere"],
        "policy.path must be a folder with config.json, model.safetensors and tokenizer.json, got "
        "/nowhere (no such folder)",
    ),
    "model without a folder": (["policy=hf"], "policy.path must be given"),
    "reward of words": (
        ["policy=hf", "policy.path=/nowhere", "task.reward=accuracy_and_format"],
        "task.reward must be exact_match for policy=hf, got accuracy_and_format",
    ),
    "GSM8K without a file": (["task=gsm8k"], "task.path must be given"),
    "GSM8K without its file": (
        ["task=gsm8k", "task.path=/nowhere", "policy.path=/nowhere"],
        "task.path must be a GSM8K file (train.jsonl or train.parquet with question and answer), "
        "got /nowhere (no such file)",
    ),
    "GSM8K to a small policy": (
        ["task=gsm8k", "task.path=/nowhere", "policy=small"],
        "policy must be hf for task=gsm8k, got small",
    ),
    "MATH with examples": (
        ["task=math", "task.path=/nowhere", "policy.path=/nowhere", "policy.prompts=[examples]"],
        "policy.prompts must be plain or chat for task=math, got ['examples']",
    ),
    "way to ask": (
        ["task=math", "task.path=/nowhere", "policy.path=/nowhere", "policy.prompts=[poem]"],
        "policy.prompts must be one of plain, chat, examples, got 'poem'",
    ),
}  # fmt: skip


class TestMistakes:
    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_one_line_before_any_work(self, mistake, folder, tmp_path):
        overrides, message = MISTAKES[mistake]
        other = any(each.startswith(("task=", "policy=")) for each in overrides)
        asked = ("task=arithmetic",) if other else tiny_policies.asked(folder)
        refuses(gradient_mse, message, tmp_path / "results", *asked, *overrides)

    @pytest.mark.parametrize("kind", ["missing", "no safetensors", "foreign"])
    def test_checkpoint_that_is_none(self, kind, tmp_path):
        path = tmp_path / "beginner.safetensors"
        if kind == "no safetensors":
            path.write_text("weights")
        elif kind == "foreign":
            save_file({"weights": torch.zeros(2)}, path)
        code, _, error = call_main(
            gradient_mse, *tiny_policies.asked(tmp_path, "beginner"), f"output={tmp_path / 'out'}"
        )
        assert code == 2 and error.count("\n") == 1
        assert error.startswith("error: path must be a ") and f", got {path} (" in error
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("tokens", [5, 50])
    def test_checkpoint_of_another_vocabulary(self, tokens, tmp_path):
        """Would catch: an IndexError, or outputs in tokens that nobody can read."""
        model = tiny_policies.untrained(vocabulary_size=tokens)
        save_policy(model, tmp_path / "beginner.safetensors")
        refuses(
            gradient_mse,
            f"policy.skills must know the 19 tokens of the questions, got beginner with {tokens}",
            tmp_path / "results",
            *tiny_policies.asked(tmp_path, "beginner"),
        )

    def test_checkpoint_whose_context_is_too_short(self, tmp_path):
        model = tiny_policies.untrained(context_length=12)
        save_policy(model, tmp_path / "beginner.safetensors")
        refuses(
            gradient_mse,
            "task.max_tokens must be at most 0: the model's context holds 12 tokens and the "
            "longest prompt 12, got 6",
            tmp_path / "results",
            *tiny_policies.asked(tmp_path, "beginner"),
        )

    def test_another_shape_is_no_mistake(self, folder, tmp_path):
        """A checkpoint says its own shape."""
        model = tiny_policies.untrained(width=8, num_layers=2, tied=True)
        save_policy(model, tmp_path / "beginner.safetensors")
        asked = (*tiny_policies.asked(tmp_path, "beginner"), *FEW, "threads=1")
        assert call_main(gradient_mse, *asked, f"output={tmp_path / 'out'}")[0] == 0
