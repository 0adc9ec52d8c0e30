"""The app `estimator_zoo`: laws by enumeration, table, jobs, mistakes."""

from __future__ import annotations

import functools
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from experiments.zoo import estimator_zoo
from experiments.zoo.entries import CRITIC_ERROR, ZOO, PromptProblem
from experiments.zoo.estimator_zoo import MEASURES, measures
from experiments.zoo.moments import MeanAndSecond
from experiments.zoo.table import show
from support.apps import call_main, checked, refuses
from support.problems import random_snapshot
from theory.enumeration import ordered_groups, outcomes
from ustat_grpo import SideInformation, gradient
from ustat_grpo.estimators import LIBRARIES

TINY = ("task=bandit", "task.num_prompts=6", "task.num_actions=3", "task.group_size_targets=[4,8]",
        "group_size=[2,4]", "batch_size=3", "scale.runs=4")  # fmt: skip
WITH_LAW = [name for name, entry in ZOO.items() if entry.law is not None]
SNAPSHOTS = {
    "features": random_snapshot(np.random.default_rng(5), 3, 3, dimension=2),
    "one-hot": random_snapshot(np.random.default_rng(6), 3, 3),
}
every_snapshot = pytest.mark.parametrize("kind", SNAPSHOTS)


def told(snapshot, prompt):
    """Every version of what an estimator may be told, with its chance."""
    value = snapshot.value[prompt]
    chance = snapshot.mean_reward[prompt, snapshot.action_probs[prompt].argmax()]
    for sign in (-1, 1):
        for greedy, prob in ((0.0, 1 - chance), (1.0, chance)):
            yield prob / 2, SideInformation(
                np.asarray(value), np.asarray(snapshot.optimal_baseline[prompt]),
                np.asarray(value + sign * CRITIC_ERROR), np.asarray(greedy),
            )  # fmt: skip


def enumerated(estimator, snapshot, size, keep=lambda rewards: np.ones(len(rewards))):
    """Return (E ĝ, E‖ĝ‖², P(kept)) of one group at a random prompt, over every group there is."""
    mean, second, kept = np.zeros(snapshot.dimension), 0.0, 0.0
    for prompt, frequency in enumerate(snapshot.prompt_probs):
        possible = outcomes(snapshot, prompt)
        members, probs = ordered_groups(possible.probs, size)
        scores, rewards = possible.scores[members], possible.rewards[members]
        for chance, side in told(snapshot, prompt):
            weights = frequency * chance * probs * keep(rewards)
            found = gradient(estimator, scores, rewards, side)
            mean += weights @ found
            second += weights @ np.sum(found**2, axis=-1)
            kept += weights.sum()
    return mean / kept, second / kept, kept


def mixed(rewards):
    return rewards.min(axis=-1) < rewards.max(axis=-1)


class TestLaws:
    @every_snapshot
    @pytest.mark.parametrize(
        ("name", "size"), [(n, g) for n in WITH_LAW for g in (2, 3, 5) if g >= ZOO[n].least]
    )
    def test_law_is_enumeration(self, name, size, kind):
        """To 1e-12; the law of the next group size is not within a thousandth."""
        entry, snapshot = ZOO[name], SNAPSHOTS[kind]
        if name == "dynamic_sampling":
            estimator, keep = ZOO["grpo_trl"].estimator, mixed
        else:
            estimator, keep = entry.estimator, lambda rewards: np.ones(len(rewards))
        mean, second, kept = enumerated(estimator, snapshot, size, keep)
        norm, target = mean @ mean, snapshot.gradient
        wanted = [mean @ target / np.sqrt(norm * (target @ target)), norm, second / norm - 1]
        problem = PromptProblem(snapshot)
        np.testing.assert_allclose(entry.law(problem, size), wanted, rtol=1e-11, atol=1e-12)
        mutant = entry.law(problem, size + 1).scale_free_error
        assert abs(mutant / wanted[2] - 1) > 1e-3
        assert entry.cost(problem, size) == pytest.approx(
            {"remax": 1 + 1 / size, "dynamic_sampling": 1 / kept}.get(name, 1.0), rel=1e-12
        )

    @every_snapshot
    def test_dead_groups(self, kind):
        snapshot = SNAPSHOTS[kind]
        _, _, kept = enumerated(ZOO["rloo"].estimator, snapshot, 4, mixed)
        assert PromptProblem(snapshot).dead_groups(4) == pytest.approx(1 - kept, rel=1e-12)


class TestShipped:
    def test_every_form_of_every_library_is_in_the_zoo(self):
        assert {form for entry in ZOO.values() for form in entry.forms} == set(LIBRARIES)

    @pytest.mark.parametrize("name", [n for n, e in ZOO.items() if len(e.forms) > 1])
    def test_forms_of_one_entry_differ_by_a_factor(self, name):
        """Would catch: two libraries in one row that weigh outputs differently."""
        rewards = np.random.default_rng(1).integers(0, 2, (6, 4)).astype(float)
        first, *others = (
            LIBRARIES[form].estimator.advantages(rewards).ravel() for form in ZOO[name].forms
        )
        for other in others:
            np.testing.assert_allclose(other * (first @ first), first * (other @ first), atol=1e-9)


def test_measures_by_hand():
    """E ĝ = (2, 1), ∇J = (1, 0), E‖ĝ‖² = 7, B = 3."""
    found = measures(MeanAndSecond(*map(np.asarray, (2.0, 5.0, 7.0))), 1.0, 3)
    assert list(found) == list(MEASURES)
    np.testing.assert_allclose(list(found.values()), [2, 2, 0.2, 6, 1.2], rtol=1e-12)


@functools.cache
def table(*overrides):
    return estimator_zoo.run(checked("estimator_zoo", *TINY, *overrides))


class TestTable:
    def test_one_row_an_estimator_panel_and_group_size(self):
        data = table()
        assert list(data) == estimator_zoo.COLUMNS
        keys = data[["task", "estimator", "group_size"]]
        assert not keys.duplicated().any()
        assert len(data) == 2 * (2 * len(ZOO) - 1)  # pass@4 needs four outputs
        assert set(data.loc[data["evidence"] == "law", "estimator"]) == set(WITH_LAW)
        exact = data["evidence"] == "law"
        noise = data[[f"{name}_std_error" for name in MEASURES]].to_numpy()
        assert (noise[exact] == 0).all()
        certain = ~exact & (data["estimator"] == "score_weighted") & (data["group_size"] == 2)
        assert (noise[~exact & ~certain].max(axis=1) > 0).all()
        assert noise[certain].max() < 1e-9  # of two outputs there is one other: RLOO

    def test_the_oracle_is_the_measure(self):
        rows = table().query("estimator == 'oracle'")
        np.testing.assert_allclose(rows["relative_error"], 1, rtol=1e-12)
        np.testing.assert_allclose(rows["oracle_outputs"], rows["group_size"], rtol=1e-9)

    def test_unbiased_and_scaled(self):
        rows = table().query("group_size == 4").set_index("estimator")
        assert rows.loc[["vanilla", "rloo", "critic", "remax"], "squared_bias"].abs().max() < 1e-12
        np.testing.assert_allclose(rows.loc["dr_grpo", "gain"], 0.75, rtol=1e-12)
        np.testing.assert_allclose(
            rows.loc["dr_grpo", "scale_free_error"], rows.loc["rloo", "scale_free_error"],
            rtol=1e-12,
        )  # fmt: skip

    def test_other_panels_and_sizes_change_no_row(self):
        alone = table("group_size=[4]", "task.group_size_targets=[8]")
        wanted = table().query("group_size == 4 and task == 'bandit: G* = 8'")
        pd.testing.assert_frame_equal(alone, wanted.reset_index(drop=True))

    def test_one_prompt_has_no_batch(self):
        data = estimator_zoo.run(checked("estimator_zoo", "task=success_probability"))
        assert set(data["estimator"]) == set(WITH_LAW)
        at_two = data.query("group_size == 2").groupby("estimator")["gain"]
        for name, gain in (("grpo_paper", 2**0.5), ("grpo_trl", 0.5 / (0.5**0.5 + 1e-4))):
            np.testing.assert_allclose(at_two.get_group(name), gain, rtol=1e-12)

    def test_success_probability_is_as_dialled(self):
        task = checked("estimator_zoo", "task=success_probability").task
        for prob, snapshot in zip(task.probabilities, task.snapshots.values(), strict=True):
            moments = snapshot.moments
            product = moments.score_norm_squared * moments.reward_variance
            assert moments.value[0] == pytest.approx(prob, rel=1e-12)
            np.testing.assert_allclose(moments.gradient_norm_squared / product, 0.01, rtol=1e-9)

    def test_no_row_where_the_gradient_vanishes(self):
        data = estimator_zoo.run(
            checked("estimator_zoo", "task=tug_of_war", "group_size=[2]", "scale.runs=4")
        )
        assert set(data["task"]) == {"tug_of_war: t = -1", "tug_of_war: t = 0"}


@pytest.mark.parametrize("task", ["bandit", "success_probability"])
def test_what_is_printed_fits(task, tmp_path):
    data = table() if task == "bandit" else estimator_zoo.run(
        checked("estimator_zoo", "task=success_probability"))  # fmt: skip
    text = StringIO()
    show(data, Console(file=text, width=100))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 100 and "…" not in text.getvalue()
    for name in set(data["estimator"]):
        assert sum(line.split()[:1] == [name] for line in lines) == 2, name


class TestJobs:
    def test_command_prints_and_writes(self, tmp_path):
        code, out, _ = call_main(estimator_zoo, *TINY, f"output={tmp_path}")
        assert code == 0 and "james_stein" in out
        (path,) = tmp_path.rglob("data.csv")
        assert len(pd.read_csv(path)) == len(table())


MISTAKES = {
    "p of one": (
        ["task=success_probability", "task.probabilities=[1.0]"],
        "task.probabilities must be a finite number and above 0 and below 1, got 1.0",
    ),
    "too much correlation": (
        ["task=success_probability", "task.correlation=0.1"],
        "task.correlation must be at most p/(1 − p) and (1 − p)/p, got 0.1 at p = 0.02",
    ),
    "no gradient": (
        ["task=tug_of_war", "task.coordinates=[1]"],
        "task must have a policy with ∇J ≠ 0, got tug_of_war",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_take_one_line_before_any_work(mistake, tmp_path):
    overrides, message = MISTAKES[mistake]
    refuses(estimator_zoo, message, tmp_path / "results", *overrides)
