"""Errors of gradients over whole episodes: from a table or a pool, against exact laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.gradient_error import gradient_mse
from experiments.running.estimators import _COMPARED
from experiments.running.runner import to_csv
from experiments.tasks.errors_table import COLUMNS
from support.apps import call_main, checked
from ustat_grpo import Moments
from ustat_grpo.environments.contextual_bandit import ContextualBanditEnv

P = 8
LAKE = ("task=frozenlake", "task.objectives=[0.1,0.4]", "group_size=[2,8]", "scale.precision=0.02",
        "threads=2")  # fmt: skip
BANDIT = ("task=gym", "env_id=ustat_grpo.environments:ustat_grpo/ContextualBandit-v0",
          f"task.num_prompts={P}", "task.trained=[0,3]", "group_size=[2,8]")  # fmt: skip
CART = ("task=cartpole", "task.num_prompts=4", "task.num_copies=16", "task.trained=[0]",
        "group_size=[2,8]")  # fmt: skip


def measure(*overrides):
    """Return what the app computes."""
    return gradient_mse.APP.compute(checked("gradient_mse", *overrides), Path("none"))


@pytest.fixture(scope="module")
def lake():
    """Every estimator on FrozenLake, each start once."""
    return measure(*LAKE, "estimator=all")


@pytest.fixture(scope="module")
def bandit():
    """Every estimator on the contextual bandit, at many episodes of each start."""
    return measure(*BANDIT, "task.num_outputs=256", "estimator=all")


@pytest.fixture(scope="module")
def cart():
    """Every estimator on CartPole."""
    return measure(*CART, "task.num_outputs=256", "estimator=all")


def scores(data, law="law"):
    """Measured less law, in standard errors of both."""
    error = np.hypot(data["std_error"], data["law_std_error"])
    return (data["mse"] - data[law]) / error


class TestTable:
    def test_simulated(self, lake):
        assert list(lake) == COLUMNS
        keys = lake[["task", "group_size", "estimator"]].itertuples(index=False, name=None)
        panels = ("frozenlake: J = 0.1", "frozenlake: J = 0.4")
        expected = {
            (panel, size, name) for panel in panels for size in (2, 8) for name in _COMPARED
        }
        assert len(lake) == len(expected) and set(keys) == expected
        assert set(lake["batch_size"]) == {11} and set(lake["evidence"]) == {"simulation"}
        assert not lake.isna().any(axis=None) and not lake["law_std_error"].any()
        assert (lake["std_error"] <= 0.021 * lake["mse"]).all()

    def test_from_a_pool(self, bandit):
        assert list(bandit) == COLUMNS
        keys = bandit[["task", "group_size", "estimator"]].itertuples(index=False, name=None)
        assert list(keys) == [
            (panel, size, name)
            for panel in ("gym: 0 iterations", "gym: 3 iterations")
            for size in (2, 8)
            for name in _COMPARED
        ]
        assert set(bandit["batch_size"]) == {P} and set(bandit["evidence"]) == {"pool"}
        assert (bandit["replications"] * bandit["group_size"] == 256).all()
        assert bandit["bias_norm"].isna().all()
        assert bandit.drop(columns="bias_norm").notna().all(axis=None)

    def test_minibatch(self, bandit):
        """(mean error at a start + c₁)/B; would catch a lost 1/B, and a lost c₁ in the law."""
        drawn = measure(*BANDIT, "task.num_outputs=256", "estimator=all", "batch_size=4",
                        "task.trained=[3]")  # fmt: skip
        once = bandit[bandit["task"] == "gym: 3 iterations"].reset_index(drop=True)
        assert set(drawn["batch_size"]) == {4}
        assert scores(drawn).abs().max() <= 4
        np.testing.assert_allclose(drawn["std_error"], P / 4 * once["std_error"], rtol=1e-10)
        prompt = (4 * drawn["mse"] - P * once["mse"])[drawn["estimator"] != "group_mean"]
        assert prompt.min() > 0.01 * once["mse"].max()
        np.testing.assert_allclose(prompt, prompt.iloc[0], rtol=1e-6)


class TestLaws:
    @pytest.mark.parametrize("batch", ["null", "4"])
    def test_of_a_table(self, lake, batch):
        """Would catch a law that is off by a tenth, at any estimator."""
        data = lake if batch == "null" else measure(*LAKE, "estimator=all", f"batch_size={batch}")
        assert scores(data).abs().max() <= 4
        for wrong in (0.9, 1.1):
            assert (scores(data.assign(wrong=wrong * data["law"]), "wrong").abs() > 4).all()

    def test_of_a_pool(self, bandit, cart):
        """Would catch a law off by a third on the bandit, or halved on CartPole, at G = 2.

        Measured error and law are of one pool, so their difference is less than their error bars.
        """
        for data, wrongs in ((bandit, (2 / 3, 4 / 3)), (cart, (0.5,))):
            assert scores(data).abs().max() <= 4
            small = data[(data["group_size"] == 2) & (data["estimator"] != "vanilla")]
            for wrong in wrongs:
                assert scores(small.assign(wrong=wrong * small["law"]), "wrong").abs().max() > 4

    def test_of_a_pool_are_those_of_the_bandit(self, bandit):
        """Policies of no training, whose moments are known: θ = 0, all by hand.

        Would catch: moments of another policy, noise that a group shares, a prompt for each seed
        that has the context of another.
        """
        start = bandit[bandit["task"] == "gym: 0 iterations"]
        exact = start.assign(exact=by_hand(start))
        z = (exact["law"] - exact["exact"]) / exact["law_std_error"]
        assert z.abs().max() <= 4
        assert scores(exact.assign(law_std_error=0.0), "exact").abs().max() <= 4
        assert (exact["law_std_error"] < 0.1 * exact["law"]).all()

    @pytest.mark.parametrize("task", ["lake", "bandit"])
    def test_a_wrong_law_would_be_noticed(self, task, monkeypatch):
        """G for G − 1 in GRPO's second term, the nearest mistake, at G = 2."""

        def wrong(moments, *, group_size):
            norm, gradient = moments.score_norm_squared, moments.gradient_norm_squared
            second = norm * moments.reward_variance + gradient
            return (moments.oracle_norm_squared - gradient) / group_size + second / group_size**2

        monkeypatch.setitem(_COMPARED, "grpo", _COMPARED["grpo"]._replace(errors=wrong))
        pool = (*BANDIT, "task.num_outputs=256", "task.trained=[0]")
        asked = LAKE if task == "lake" else pool
        assert (scores(measure(*asked, "estimator=grpo", "group_size=2")).abs() > 4).all()


def by_hand(rows):
    """Return the errors at θ = 0, where π(a) = ¼: each law at the context of every seed.

    Scores are e_a − ¼ in the block of the context, so ‖W‖² = ¾, and g_a = ¼(p_a − V). With 0/1
    rewards A² is p_a(1 − V)² + (1 − p_a)V² on average.
    """
    environment = ContextualBanditEnv()
    contexts = [int(environment.reset(seed=seed)[0]) for seed in range(P)]
    success = environment.success[contexts]
    value = success.mean(axis=1)
    gradient = ((success - value[:, None]) ** 2).sum(axis=1) / 16
    variance = value * (1 - value)
    objective = np.zeros((16, 4))
    np.add.at(objective, contexts, (success - value[:, None]) / 4 / P)
    prompt = gradient.mean() - (objective**2).sum()
    moments = Moments(
        prompt_probs=np.full(P, 1 / P), value=value, reward_variance=variance,
        score_norm_squared=np.full(P, 0.75), oracle_norm_squared=0.75 * variance,
        score_norm_reward_covariance=np.zeros(P), gradient_norm_squared=gradient,
        prompt_noise=prompt,
    )  # fmt: skip
    compared = checked("gradient_mse", "estimator=all").compared
    return [
        compared[name].law(moments, size, None)
        for name, size in zip(rows["estimator"], rows["group_size"], strict=True)
    ]


class TestSeeds:
    FEW = (*CART, "task.num_outputs=32")

    def test_the_same_bytes_for_the_same_seed(self):
        once, again = measure(*self.FEW), measure(*self.FEW)
        assert to_csv(once) == to_csv(again)
        assert (measure(*self.FEW, "seed=1")["mse"] != once["mse"]).all()

    @pytest.mark.parametrize("task", [CART, BANDIT], ids=["cartpole", "bandit"])
    def test_another_size_estimator_or_policy_changes_no_row(self, task):
        """Would catch: streams keyed by a place in a list, here of sizes, policies, estimators."""
        few = (*task, "task.num_outputs=32")
        many = measure(*few)
        last = "task.trained=[0]" if task is CART else "task.trained=[3]"
        one = measure(*few, "group_size=8", "estimator=grpo", last)
        same = (many["group_size"] == 8) & (many["estimator"] == "grpo")
        assert to_csv(one) == to_csv(many[same & (many["task"] == one["task"].iloc[0])])

    def test_neither_threads_nor_another_policy_change_a_simulated_row(self, lake):
        one = measure(*LAKE, "estimator=all", "task.objectives=[0.4]", "threads=1")
        assert to_csv(one) == to_csv(lake[lake["task"] == "frozenlake: J = 0.4"])

    def test_copies_change_no_row(self):
        """Would catch: episodes whose noise depends on which copy plays them."""
        pd.testing.assert_frame_equal(
            measure(*self.FEW), measure(*self.FEW, "task.num_copies=5"), rtol=1e-10
        )


class TestCommand:
    @pytest.mark.parametrize(
        ("task", "name"),
        [(CART, "cartpole_Ball_G2-8_"), (LAKE, "frozenlake_Ball_G2-8_")],
        ids=["cartpole", "frozenlake"],
    )
    def test_writes_the_table(self, task, name, tmp_path):
        few = ("scale.precision=0.1",) if task is LAKE else ("task.num_outputs=32",)
        code, out, error = call_main(gradient_mse, *task, *few, f"output={tmp_path}")
        assert (code, error) == (0, "") and "written after" in out
        (path,) = tmp_path.rglob("data.csv")
        assert path.parent.name.startswith(name)
        assert path.read_text() == to_csv(measure(*task, *few))
        assert list(pd.read_csv(path)) == COLUMNS
