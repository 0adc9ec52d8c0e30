"""The app `finite_prompts`: three laws against runs, the wrong ones rejected, mistakes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.group_size import finite_prompts, group_size
from support.apps import checked, refuses
from ustat_grpo.bandits.expansion import expand
from ustat_grpo.laws.covariance import grpo
from ustat_grpo.laws.path import expected_gap

NAMES = ("iid", "without_replacement", "epochs")
SMALL = ("budget=16", "group_size=[2,4]", "iterations=[2,5]", "scale.runs=30", "threads=1")
TINY = (
    "task=arithmetic_choice", "task.num_problems=10", "task.num_candidates=4",
    "task.accuracies=[0.4]", *SMALL,
)  # fmt: skip
BANDIT = (
    "task=bandit", "task.num_prompts=4", "task.num_actions=3", "task.group_size_targets=[4]", *SMALL
)  # fmt: skip


def measure(*overrides, tiny=TINY):
    """Return what `run` computes."""
    config = checked("finite_prompts", *tiny, *overrides)
    return finite_prompts.APP.compute(config, Path("none"))


@pytest.fixture(scope="module")
def precise():
    """8000 runs by way of drawing, group size and iteration; small steps, as the law asks for."""
    data = measure("scale.runs=8000", "iterations=[4,8]", "schedule.rate=0.3")
    return data.set_index(["prompt_sampling", "group_size", "iteration"])


class TestTable:
    def test_rows(self):
        data = measure()
        assert not data.isna().any(axis=None)
        found = zip(data["prompt_sampling"], data["group_size"], data["iteration"], strict=True)
        assert list(found) == list(itertools.product(NAMES, (2, 4), (2, 5)))
        assert (data["batch_size"] * data["group_size"] == 16).all()
        assert set(data["task"]) == {"arithmetic_choice: accuracy 0.4"}
        for column, value in {"num_prompts": 10, "budget": 16, "runs": 30}.items():
            assert set(data[column]) == {value}

    def test_a_minibatch_of_distinct_prompts_has_at_most_all(self):
        """Of 10 prompts, 20 cannot be distinct; 10 are all of them; epochs allow both."""
        data = measure("budget=40", "group_size=[2,4,8]", "iterations=[2]")
        batches = data.groupby("prompt_sampling")["batch_size"].apply(list)
        assert batches["without_replacement"] == [10, 5]
        assert batches["iid"] == batches["epochs"] == [20, 10, 5]
        assert not data.isna().any(axis=None)

    def test_neither_threads_nor_other_jobs_change_a_row(self):
        both = measure("threads=2")
        pd.testing.assert_frame_equal(both, measure())
        one = measure("prompt_sampling=[epochs]", "group_size=4", "iterations=[2]")
        same = both.query("prompt_sampling == 'epochs' and group_size == 4 and iteration == 2")
        pd.testing.assert_frame_equal(one, same.reset_index(drop=True))
        assert (one["gap"] != measure("seed=1", "prompt_sampling=[epochs]")["gap"].iloc[2]).all()

    def test_iid_prompts_are_those_of_the_app_group_size(self):
        """The same draws: rows of both apps can be laid side by side."""
        data = measure("prompt_sampling=[iid]")
        other = group_size.run(checked("group_size", *TINY, "estimator=grpo"), Path("none"))
        common = ["task", "budget", "group_size", "iteration", "runs", "gap", "std_error", "law"]
        pd.testing.assert_frame_equal(data[common], other[common])


class TestLaw:
    def test_three_ways_of_drawing(self, precise):
        z = (precise["gap"] - precise["law"]) / precise["std_error"]
        assert len(z) == 12 and z.abs().max() <= 4

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("wrong", NAMES)
    def test_the_laws_of_other_ways_are_rejected(self, precise, name, wrong):
        """After 8 iterations; would catch: the law of one way beside the runs of another."""
        at_end = precise.xs(8, level="iteration")
        runs, law = at_end.loc[name], at_end.loc[wrong, "law"]
        far = ((runs["gap"] - law) / runs["std_error"]).abs().max() > 4
        assert far == (name != wrong)

    @pytest.mark.parametrize("kind", ["constant", "decay"])
    def test_all_prompts_at_once_have_no_prompt_noise(self, kind):
        """B = P: only outputs are random, and an epoch is an iteration."""
        overrides = ("budget=20", "group_size=2", f"schedule.kind={kind}", "schedule.rate=2")
        data = measure(*overrides).set_index("prompt_sampling")
        config = checked("finite_prompts", *TINY, *overrides)
        (start,) = config.task.starts.values()
        gaps = expected_gap(
            expand(start.bandit.at), grpo, theta0=start.theta0,
            rates=2 / (np.arange(1, 6) if kind == "decay" else np.ones(5)),
            checkpoints=[2, 5], best_objective=start.bandit.best_objective,
        )  # fmt: skip
        wanted = [gap.path_gap + gap.output / 20 + gap.pair / 20 for gap in gaps]
        for name in ("without_replacement", "epochs"):
            np.testing.assert_allclose(data.loc[name, "law"], wanted, rtol=1e-10)

    def test_epochs_have_no_law_where_prompts_share_no_parameters(self):
        data = measure(tiny=BANDIT).set_index("prompt_sampling")
        assert data.loc["epochs", "law"].isna().all()
        assert not data.drop(columns="law").isna().any(axis=None)
        others = data.drop("epochs")
        assert set(others.index) == {"iid", "without_replacement"}
        assert not others["law"].isna().any()


MISTAKES = {
    "unknown way of drawing": (
        ["prompt_sampling=['foo']"],
        "prompt_sampling must be among iid, without_replacement, epochs, got 'foo'",
    ),
    "one unknown among others": (
        ["prompt_sampling=[iid,shuffled]"],
        "prompt_sampling must be among iid, without_replacement, epochs, got 'shuffled'",
    ),
    "no sampling": (["prompt_sampling=[]"], "prompt_sampling must hold different names, got []"),
    "one twice": (
        ["prompt_sampling=[iid,iid]"],
        "prompt_sampling must hold different names, got ['iid', 'iid']",
    ),
    "only larger minibatches": (
        ["prompt_sampling=[without_replacement]", "budget=64", "group_size=[2]"],
        "batch_size must be at most the 10 prompts of arithmetic_choice: accuracy 0.4 "
        "for prompt_sampling without_replacement, got 32",
    ),
    "size does not divide": (["group_size=3"], "group_size must divide the budget 16, got 3"),
    "single outputs": (
        ["group_size=[4,1]"],
        "group_size must be at least 2 for a leave-one-out baseline, got 1",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_take_one_line_before_any_work(mistake, tmp_path):
    overrides, message = MISTAKES[mistake]
    folder = tmp_path / "results"
    refuses(finite_prompts, message, folder, *TINY, *overrides)
