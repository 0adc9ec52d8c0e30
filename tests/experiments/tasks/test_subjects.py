"""Every task has the same verbs; what an app does not know, it refuses in one sentence."""

from __future__ import annotations

import numpy as np
import pytest
from hydra.core.config_store import ConfigStore

from experiments.gradient_error import fixed_budget, gradient_mse
from experiments.group_size import finite_prompts, group_size
from experiments.running.estimators import resolve
from experiments.running.options import ScheduleConfig
from experiments.tasks import bandits, runs_table
from experiments.tasks.bandits import Bandit, TokenBanditTask, TugOfWarTask
from experiments.tasks.errors_table import COLUMNS
from experiments.tasks.kinds import for_kind, of_kind
from experiments.tasks.language import Arithmetic
from experiments.tasks.policies import PosedTask, SmallPolicies
from experiments.tasks.resolve import _SUBJECTS, subject, trained_subject
from experiments.tasks.sequential import FrozenLake, Gym
from experiments.tasks.subject import FirstBatch, TrainingAsked
from support.apps import checked, in_this_process
from ustat_grpo.noise import estimate_noise

CART = Gym(name="cartpole", env_id="CartPole-v1", features="affine", num_prompts=2, num_copies=8,
           num_outputs=32, iterations=[1, 3])  # fmt: skip
SUBJECTS = {
    "bandit": subject(Bandit(num_prompts=8, num_actions=4)),
    "tug_of_war": subject(TugOfWarTask()),
    "frozenlake": subject(FrozenLake(objectives=[0.25])),
    "cartpole": subject(CART),
    "arithmetic": subject(
        Arithmetic(num_questions=5, num_train=10, num_outputs=32, brute_force_replications=0),
        SmallPolicies(skills=["intermediate"]),
    ),
}
every_subject = pytest.mark.parametrize("name", SUBJECTS)


def test_every_kind_is_a_subject_but_one():
    """Membership is read from the store. Would catch: a task that no app can resolve."""
    stored = ConfigStore.instance().list("task_schema")
    kinds = {ConfigStore.instance().load(f"task_schema/{each}").node._metadata.object_type
             for each in stored}  # fmt: skip
    assert kinds - set(_SUBJECTS) == {TokenBanditTask}
    assert set(_SUBJECTS) <= kinds


@every_subject
class TestVerbs:
    def test_panels_begin_with_the_name(self, name):
        found = SUBJECTS[name]
        assert found.name == name
        panels = list(found.prepare())
        assert panels and all(panel.startswith(f"{name}: ") for panel in panels)

    def test_gradient_errors_of_every_panel(self, name):
        found = SUBJECTS[name]
        asked = checked(
            "gradient_mse", "task=tug_of_war", "estimator=grpo", "group_size=[4]",
            "scale.precision=0.3", "threads=1",
        ).asked  # fmt: skip
        found.require_errors(asked)
        table = found.gradient_errors(asked)
        assert set(table["task"]) == set(found.prepare())
        assert list(table) == COLUMNS
        assert (table[["mse", "law"]] > 0).all(axis=None)

    def test_first_batches(self, name):
        with SUBJECTS[name].first_policies(threads=1) as policies:
            for policy in policies:
                sample = policy.draw(FirstBatch(16, 4), np.random.default_rng(0))
                assert policy.name.startswith(f"{name}: ")
                assert len(sample.rewards) == 64
                estimate_noise(sample)
                known = policy.noise
                assert known is None or min(known.prompt, known.oracle, known.residual) >= 0


@pytest.mark.parametrize("name", ["cartpole", "arithmetic"])
def test_pools_refuse_groups_that_are_too_large(name):
    asked = checked("gradient_mse", "task=tug_of_war", "group_size=[2,17]").asked
    with pytest.raises(ValueError, match=r"^group_size must be at most half .*=32, got 17$"):
        SUBJECTS[name].require_errors(asked)


TRAINED = {"bandit": Bandit(num_prompts=8, num_actions=4), "tug_of_war": TugOfWarTask(),
           "frozenlake": FrozenLake(objectives=[0.25]), "cartpole": CART}  # fmt: skip


class TestTraining:
    @pytest.mark.parametrize("name", TRAINED)
    def test_one_table_of_runs_whatever_the_task(self, name):
        """A row a run and checkpoint; runs of a number begin alike at every group size."""
        compared, sizes = resolve({"grpo": {}, "vanilla": {}}), [4, 2]
        asked = TrainingAsked(compared, 8, sizes, [1, 3], ScheduleConfig(), 4, 0, 1, Kept())
        with in_this_process():
            runs = trained_subject(TRAINED[name]).training_runs(asked)
        assert list(runs) == runs_table.COLUMNS and not runs.isna().any(axis=None)
        assert all(panel.startswith(f"{name}: ") for panel in runs["task"])
        assert len(runs) == runs["task"].nunique() * 2 * 2 * runs["run"].nunique() * 2
        last = runs.query("estimator == 'grpo' and iteration == iteration.max()")
        last = last[last["task"] == last["task"].iloc[0]]
        wide = runs_table.by_group_size(last, sizes)
        assert wide.flags.c_contiguous and wide.shape == (runs["run"].nunique(), 2)
        np.testing.assert_array_equal(wide[:, 0], last.query("group_size == 4")["objective"])

    def test_language_models_are_trained_by_their_chapter(self):
        task = Arithmetic(num_questions=5, num_train=10)
        with pytest.raises(ValueError, match=r"^task must be a bandit that .*, got arithmetic$"):
            trained_subject(task)


class Kept:
    """Computes every run, and keeps none."""

    def __call__(self, _module):
        return self

    @staticmethod
    def tables(names, compute, _title):
        tables = dict(compute(list(names.values())))
        return {name: tables[run] for name, run in names.items()}


class TestKinds:
    def test_the_entry_of_the_kind(self):
        assert for_kind(CART, {FrozenLake: "table", Gym: "episodes"}, "") == "episodes"
        assert of_kind(CART, Gym, "") is CART

    def test_others_are_refused_by_name(self):
        with pytest.raises(ValueError, match=r"^task must be bandit, got cartpole$"):
            for_kind(CART, {Bandit: 1}, "task must be bandit")
        with pytest.raises(ValueError, match=r"^task must be bandit, got cartpole$"):
            of_kind(CART, Bandit, "task must be bandit")

    @pytest.mark.parametrize(
        ("app", "task", "message"),
        [
            (gradient_mse, "token_bandit", "task must be one with policies that are compared"),
            (group_size, "success_probability", "task must be a bandit that is trained on, or an"),
            (finite_prompts, "frozenlake", "task must be a bandit that is trained on, got frozen"),
            (fixed_budget, "frozenlake", "task must be a bandit, got frozenlake"),
        ],
    )
    def test_apps(self, app, task, message, tmp_path):
        """Would catch: a traceback from deep inside, or a folder for a job that cannot be."""
        config = checked(app.APP.name, f"task={task}")
        with pytest.raises(ValueError, match=f"^{message}"):
            app.APP.prepare(config)

    def test_a_task_of_bandits(self):
        task = TugOfWarTask()
        assert bandits.bandit_task(task) is task


class TestPanels:
    def test_the_first_questions(self):
        panel = SUBJECTS["arithmetic"].posed.training_sets().train
        first = panel.first(3)
        assert len(first.prompts) == len(first.exact_match.solutions) == 3
        assert panel.is_exact and first.model is panel.model

    def test_a_reward_that_knows_no_solution(self):
        task = Arithmetic(num_questions=5, num_train=10, reward="accuracy_and_format")
        found = PosedTask(task, SmallPolicies(skills=["beginner"]))
        panel = found.training_sets().train
        assert not panel.is_exact and not found.is_exact
        assert panel.first(3).reward is panel.reward
        with pytest.raises(ValueError, match=r"^reward must know .*, got AccuracyAndFormat$"):
            _ = panel.exact_match
