"""Policies from scratch: checkpoints where targets are reached, a curve, and mistakes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.gradient_error import gradient_mse
from experiments.tasks import pretrain
from support import tiny_policies
from support.apps import call_main, checked, configuration, refuses
from ustat_grpo.arithmetic.problems import KINDS
from ustat_grpo.lm.models.checkpoints import load_policy
from ustat_grpo.lm.questions.questions import arithmetic_questions
from ustat_grpo.lm.scoring import log_probs
from ustat_grpo.lm.training import pretraining

EASY = tuple(each.removeprefix("task.") for each in tiny_policies.EASY)
SMALL = (
    "shape.width=16",
    "shape.num_layers=1",
    "shape.num_heads=2",
    "shape.hidden_width=32",
    "settings.batch_size=50",
    "settings.num_steps=80",
    "settings.learning_rate=0.02",
    "settings.warmup=5",
    "settings.problems_per_kind=200",
    "settings.steps_per_check=10",
    "num_held_out=25",
    "threads=1",
    *EASY,
)


def to(**targets):
    """Return overrides of a small run to these targets only."""
    named = ", ".join(f"{name}: {accuracy}" for name, accuracy in targets.items())
    return (*SMALL, "~targets", f"+targets={{{named}}}")


def command(folder, *overrides):
    """Run the app; return exit code, stdout, stderr."""
    folders = (f"output={folder}", f"policies={folder / 'policies'}")
    return call_main(pretrain, *overrides, *folders)


def weights(folder, name):
    """Return the weights of a policy; the bytes of its file begin with names in any order."""
    return load_policy(folder / "policies" / f"{name}.safetensors").state_dict()


def same(ours, theirs):
    return all(torch.equal(each, theirs[name]) for name, each in ours.items())


def test_settings_are_those_of_the_library():
    """They stand twice, so that the door of the experiments does not wait for torch."""
    assert pretrain.Settings().build() == pretraining.Pretraining()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a run to two targets left its files."""
    folder = tmp_path_factory.mktemp("pretrained")
    code, out, error = command(folder, *to(low=0.06, high=0.08))
    assert (code, error) == (0, "")
    assert "low written" in out and "high written" in out
    return folder


@pytest.fixture(scope="module")
def curve(folder):
    """The table of that run."""
    (path,) = folder.rglob("data.csv")
    return pd.read_csv(path)


class TestRun:
    def test_curve(self, curve):
        assert list(curve) == ["task", "policy", "step", "loss", "accuracy", *KINDS]
        assert set(curve["task"]) == {"arithmetic: pretraining"}
        assert list(curve["step"]) == [10 * (n + 1) for n in range(len(curve))]
        np.testing.assert_allclose(curve[list(KINDS)].mean(axis=1), curve["accuracy"], rtol=1e-6)
        assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]

    def test_policies_are_kept_where_targets_were_reached(self, curve):
        """Would catch: a policy of the step before, or a run that goes on."""
        kept = curve.dropna(subset=["policy"]).set_index("policy")
        assert list(kept.index) == ["low", "high"]
        for name, target in {"low": 0.06, "high": 0.08}.items():
            before = curve[curve["step"] < kept.loc[name, "step"]]
            assert kept.loc[name, "accuracy"] >= target and (before["accuracy"] < target).all()
        assert kept.loc["high", "step"] == curve["step"].iloc[-1] < 80

    @pytest.mark.parametrize("name", ["low", "high"])
    def test_checkpoint_has_the_accuracy_of_the_curve(self, name, folder, curve):
        model = load_policy(folder / "policies" / f"{name}.safetensors")
        config = checked("pretrain", *SMALL)
        rng, ranges = np.random.default_rng(config.seed), config.ranges.build()
        _, held_out = arithmetic_questions(5, 25, rng=rng, ranges=ranges)
        accuracy = log_probs(model, held_out.solutions).sum(dim=-1).exp().mean().item()
        row = curve.set_index("policy").loc[name]
        assert accuracy == pytest.approx(row["accuracy"], rel=1e-5)

    def test_other_apps_read_the_policies(self, folder, tmp_path):
        asked = (*tiny_policies.asked(folder / "policies", "low", "high"), "threads=1")
        few = ("task.num_outputs=32", "task.brute_force_replications=0", "group_size=2")
        assert call_main(gradient_mse, *asked, *few, f"output={tmp_path}")[0] == 0

    def test_the_same_weights_for_the_same_seed(self, folder, tmp_path):
        assert command(tmp_path, *to(low=0.06))[0] == 0
        assert same(weights(tmp_path, "low"), weights(folder, "low"))
        assert command(tmp_path / "other", *to(low=0.06), "seed=1")[0] == 0
        assert not same(weights(tmp_path / "other", "low"), weights(folder, "low"))

    def test_two_targets_at_one_check(self, tmp_path):
        assert command(tmp_path, *to(one=0.00001, two=0.00002))[0] == 0
        assert same(weights(tmp_path, "one"), weights(tmp_path, "two"))
        (path,) = tmp_path.rglob("data.csv")
        assert pd.read_csv(path)["policy"].tolist() == ["two"]


class TestHeldOut:
    def test_are_those_of_the_arithmetic_task(self, monkeypatch, tmp_path):
        """At the defaults. Would catch: policies trained on the questions they are judged by."""
        given = []

        def look(_model, held_out, _settings, **_kwargs):
            given.append(held_out)
            raise ValueError("seen enough")

        monkeypatch.setattr(pretraining, "pretrain", look)
        assert command(tmp_path)[2] == "error: seen enough\n"
        _, asked = checked("gradient_mse", "task=arithmetic").task.questions()
        assert given[0].problems == asked.problems and len(asked.problems) == 500


class TestMistakes:
    def test_targets_that_are_not_reached(self, tmp_path):
        """What was reached is kept; there is no table."""
        overrides = (*to(low=0.00001, high=0.99), "settings.num_steps=10")
        code, _, error = command(tmp_path, *overrides)
        assert code == 2 and error.count("\n") == 1
        assert error.startswith(
            "error: targets must be reached within settings.num_steps=10, got accuracy 0.0"
        )
        assert error.endswith("and these left: {'high': 0.99}\n")
        assert [path.name for path in (tmp_path / "policies").iterdir()] == ["low.safetensors"]
        assert not list(tmp_path.rglob("data.csv"))

    def test_divergence_is_one_line(self, tmp_path):
        code, _, error = command(tmp_path, *to(high=0.99), "settings.learning_rate=1e30")
        assert code == 2 and error.count("\n") == 1
        assert error.startswith("error: loss must be finite, got nan at step ")

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (
                ["targets.beginner=0.5"],
                "targets must hold rising accuracies, got {'beginner': 0.5, 'intermediate': 0.4, "
                "'advanced': 0.72}",
            ),
            (["~targets"], "targets must hold rising accuracies, got {}"),
            (
                ["targets.advanced=1.5"],
                "targets.advanced must be a finite number and above 0 and below 1, got 1.5",
            ),
            (["settings.batch_size=7"], "batch_size must be a multiple of 5, got 7"),
            (["shape.num_heads=3"], "num_heads must divide the width 56, got 3"),
            (
                ["num_held_out=7"],
                "num_held_out must be a multiple of 5 for equal shares, got 7",
            ),
            (["ranges.sums=[3,1]"], "sums must not be empty (lowest > highest), got (3, 1)"),
        ],
    )
    def test_one_line_before_any_work(self, overrides, message, tmp_path):
        refuses(pretrain, message, tmp_path / "results", *overrides)


class TestDescribe:
    def test_threads_do_not_name_the_job_but_targets_do(self):
        def name(*overrides):
            return pretrain.APP.folder(configuration("pretrain", *overrides))

        assert name() == name("threads=1")
        assert name().name.startswith("beginner_intermediate_advanced_")
        assert name() != name("targets.beginner=0.1")
        assert name() != name("policies=elsewhere")  # where there is none yet


def test_checkpoints_belong_to_a_finished_job(tmp_path, monkeypatch):
    """Would catch: a job called finished whose policies are gone or cut."""
    asked = to(low=0.00001)
    assert command(tmp_path, *asked)[0] == 0
    (policy,) = tmp_path.rglob("low.safetensors")
    whole, trained = policy.read_bytes(), weights(tmp_path, "low")
    for damage in (lambda: policy.unlink(), lambda: policy.write_bytes(whole[:-4])):
        damage()
        code, _, error = command(tmp_path, *asked)
        assert code == 2 and error.count("\n") == 1
        assert f"was made before a change of {policy}: --stale runs the job again" in error
    assert command(tmp_path, *asked, "--stale")[0] == 0
    assert same(weights(tmp_path, "low"), trained)
