"""GRPO against an actor–critic: what memory and time are, tables, pairing, figure."""

from __future__ import annotations

from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from experiments.critic import critic
from experiments.critic import readings as readings_critic
from experiments.critic.cost import held_bytes, phase_bytes, phase_seconds
from experiments.critic.critic import COLUMNS, report, run
from figures import critic as figure
from support import tiny_policies
from support.apps import checked, refuses
from support.optimisation_tables import assert_apart, legend_names
from ustat_grpo.lm.exact import solution_probs
from ustat_grpo.lm.training.actor_critic import Learner
from ustat_grpo.lm.training.model_training import AdamW, Sgd

MEGA = 1_000_000
FEW = (
    "start=beginner",
    "budget=16",
    "group_size=[2,4]",
    "critic_group_size=[1,4]",
    "iterations=[1,3]",
    "seeds=2",
    "noise_seeds=1",
    "noise_questions=10",
    "cost_steps=2",
    "learning_rate=0.5",
)
METHODS = [("grpo", 2), ("grpo", 4), ("critic", 1), ("critic", 4), ("token_critic", 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The policies' files."""
    return tiny_policies.save_all(tmp_path_factory.mktemp("policies"))


@pytest.fixture
def asked(folder):
    """Return the overrides of a small comparison, and more."""
    return lambda *more: (*tiny_policies.asked(folder), *FEW, *more)


@pytest.fixture(scope="module")
def data(folder, tmp_path_factory):
    """The table of a small comparison."""
    made = checked("critic", *tiny_policies.asked(folder), *FEW)
    return run(made, tmp_path_factory.mktemp("runs"))


class TestMemory:
    def test_of_a_graph_that_is_known(self):
        """Forward keeps two tensors of 4 MB. Backward has those, dL/dz, dL/dy and dL/dx.

        The weights were there before. Would catch: a sum in place of a peak, weights counted again,
        what is freed counted on.
        """
        weights = torch.ones(MEGA, requires_grad=True)

        def step(phase):
            with phase("sampling"):
                torch.zeros(5 * MEGA)  # freed at once
            with phase("forward"):
                one = weights.exp()
                two = one.exp()
            with phase("backward"):
                torch.autograd.grad(two, weights, torch.ones(MEGA))

        found = phase_bytes(step)
        assert found["sampling"] == pytest.approx(20 * MEGA, rel=1e-3)
        assert found["forward"] == pytest.approx(8 * MEGA, rel=1e-3)
        assert found["backward"] == pytest.approx(20 * MEGA, rel=1e-3)

    def test_of_what_an_operation_needs_inside(self):
        """A softmax copies what is not contiguous. Would catch: a count of results alone, 4 MB."""
        wide = torch.ones(1000, 1000).T

        def step(phase):
            with phase("one"):
                wide.log_softmax(dim=-1)

        assert phase_bytes(step)["one"] == pytest.approx(8 * MEGA, rel=0.01)

    def test_of_networks(self):
        """Adam remembers two numbers a weight."""
        network = torch.nn.Linear(100, 10)
        for optimizer, moments in ((Sgd(), 0), (AdamW(), 2)):
            weights = 4 * 1010
            expected = {"weights": weights, "gradients": weights, "moments": moments * weights}
            assert held_bytes(Learner(network, 0.1, optimizer)) == expected

    def test_time(self):
        def step(phase):
            for name in ("short", "long"):
                with phase(name):
                    torch.ones(10_000 if name == "short" else 5 * MEGA).sin().sum()

        found = phase_seconds(step)
        assert 0 < found["short"] < found["long"]
        assert found["step"] >= found["short"] + found["long"]


class TestTable:
    def test_a_number_a_row(self, data):
        assert list(data) == COLUMNS
        assert data["value"].notna().all()
        keys = [each for each in COLUMNS if each != "value"]
        assert not data.duplicated(keys).any()
        found = data[["method", "group_size"]].drop_duplicates().itertuples(index=False, name=None)
        assert sorted(found) == sorted(METHODS)
        assert (data["group_size"] * data["batch_size"] == data["budget"]).all()

    def test_what_is_measured_where(self, data):
        training = data.dropna(subset=["seed"])
        assert set(training.query("method == 'grpo'")["quantity"]) == {"accuracy", "mean_reward"}
        errors = training.query("quantity == 'critic_rmse'")
        assert len(errors) == 3 * 2 * 3  # critics, seeds, checkpoints
        excess = training.query("quantity == 'excess'")
        assert set(excess["method"]) == {"critic"} and set(excess["seed"]) == {0}

    def test_runs_of_a_seed_share_questions(self, data):
        """Would catch: methods that are compared on questions of their own."""
        first = data.query("quantity == 'mean_reward' and iteration == 1")
        wide = first.pivot(index=["method", "group_size"], columns="seed", values="value")
        four = wide.query("group_size == 4")
        one = wide.query("group_size == 1")
        assert (four.nunique() == 1).all() and (one.nunique() == 1).all()
        assert wide.loc["critic", 1][0] != wide.loc["critic", 1][1]

    def test_error_at_the_start_is_that_of_nought(self, data, folder):
        """V̂ = 0 there, so that the RMSE is √(E V²) over the train set, and all of V is its bias."""
        made = checked("critic", *tiny_policies.asked(folder), *FEW)
        panel = made.posed.training_sets().train
        value = solution_probs(panel.model, panel.reward.solutions).double().numpy()
        start = data.query("iteration == 0 and method == 'critic'").set_index("quantity")["value"]
        np.testing.assert_allclose(start["critic_rmse"], np.sqrt(np.mean(value**2)), rtol=1e-6)
        np.testing.assert_allclose(start["critic_bias"], -np.mean(value), rtol=1e-6)
        variance = np.mean(value * (1 - value))
        np.testing.assert_allclose(start["reward_variance"], variance, rtol=1e-6)

    def test_excess_follows_the_policy_that_is_trained(self, data):
        """Would catch: moments of the policy at the start beside a critic of the end."""
        rows = data.query("method == 'critic' and group_size == 1 and seed == 0")
        wide = rows.pivot(index="iteration", columns="quantity", values="value")
        assert wide["residual"].nunique() == wide["score_norm"].nunique() == 3

    def test_costs(self, data):
        """The critic's weights and moments are beside the policy's; parts make up the step."""
        cost = data[data["seed"].isna()]
        found = cost.pivot(
            index=["optimizer", "method", "group_size"], columns=["quantity", "part"],
            values="value",
        )  # fmt: skip
        assert len(found) == 2 * len(METHODS)
        memory, seconds = found["bytes"], found["seconds"]
        parts = seconds[["sampling", "critic", "policy"]].sum(axis=1)
        assert (parts <= 1.5 * seconds["step"]).all() and (parts > 0).all()
        held = ["policy weights", "policy moments", "critic weights", "critic moments"]
        working = ["sampling working", "policy working", "critic working"]
        peak = memory[held].sum(axis=1) + memory[working].max(axis=1)
        np.testing.assert_allclose(memory["peak"], peak)
        adam = memory.xs("adamw")
        np.testing.assert_allclose(adam["policy moments"], 2 * adam["policy weights"])
        assert memory.loc["adamw"].xs("grpo")["critic weights"].isna().all()
        same = (found.xs(("critic", 4), level=[1, 2]), found.xs(("grpo", 4), level=[1, 2]))
        sampling = [each["bytes", "sampling working"].to_numpy() for each in same]
        np.testing.assert_allclose(*sampling, rtol=0.02)  # the same outputs


class TestCommand:
    def test_report_fits_eighty_columns(self, data):
        console = Console(width=80, file=StringIO())
        console.print(report(data))
        text = console.file.getvalue()
        assert max(map(len, text.splitlines())) <= 80 and "…" not in text
        assert all(f" {method} " in text for method, _ in METHODS) and "nan" not in text

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (
                "group_size=[1,4]",
                "group_size must be at least 2 for a leave-one-out baseline, got 1",
            ),
            ("noise_outputs=8", "noise_outputs must be an integer of at least 16, got 8"),
            (
                "task.reward=accuracy_and_format",
                "task.reward must be exact_match, got accuracy_and_format",
            ),
        ],
    )
    def test_mistakes(self, asked, tmp_path, wrong, message):
        refuses(critic, message, tmp_path / "none", *asked(wrong))

    def test_other_tasks_are_refused(self):
        with pytest.raises(ValueError, match="task must be arithmetic, got tug_of_war"):
            critic.CriticConfig(task=SimpleNamespace(name="tug_of_war"))


@pytest.mark.usefixtures("house_style")
class TestFigure:
    def test_levels_and_curves(self, data):
        """RMSE of each critic, and σ/√(G−1) of each group size of GRPO."""
        error, excess, accuracy, *_ = figure.build(data).axes
        assert [len(axes.containers) for axes in (error, excess, accuracy)] == [3, 2, 5]
        variance = data.query("quantity == 'reward_variance'").groupby("iteration")["value"].mean()
        grey = [line for line in error.lines if str(line.get_color()) == "0.45"]
        for line, size in zip(grey, (2, 4), strict=True):
            np.testing.assert_allclose(line.get_ydata(), np.sqrt(variance / (size - 1)))

    def test_bars_are_the_peak_and_the_step(self, data):
        *_, memory, seconds, _ = figure.build(data).axes
        cost = data.query("optimizer == 'adamw'").pivot(
            index=["method", "group_size"], columns=["quantity", "part"], values="value"
        )
        for axes, names, scale in (
            (memory, [("bytes", "peak")], 1e6),
            (seconds, [("seconds", part) for part in ("sampling", "critic", "policy")], 1e-3),
        ):
            tops = {}
            for bar in axes.patches:
                y = round(bar.get_y(), 3)
                tops[y] = max(tops.get(y, 0.0), bar.get_x() + bar.get_width())
            expected = cost[names].sum(axis=1) / scale
            np.testing.assert_allclose(sorted(tops.values()), sorted(expected))

    def test_share_of_the_network(self, data):
        """Below one half, and at N what the formula says. Would catch: S/(S + A)."""
        share = figure.build(data).axes[-1]
        memory = data.query("method == 'critic' and group_size == 4 and optimizer == 'adamw'")
        row = memory.set_index(["quantity", "part"])["value"]["bytes"]
        state = 4 * row["critic weights"]  # gradients and two moments are as large
        active = max(row[f"{phase} working"] for phase in ("sampling", "critic", "policy"))
        adam = share.lines[0]
        assert (np.diff(adam.get_ydata()) < 0).all() and max(adam.get_ydata()) < 50
        np.testing.assert_allclose(adam.get_ydata()[-1], 100 * state / (2 * state + active))
        assert adam.get_xdata()[-1] == pytest.approx(16)

    def test_nothing_is_drawn_over_anything(self, data):
        assert_apart(figure.build(data))

    def test_legend_names_everything_once(self, data):
        names = legend_names(figure.build(data))
        assert len(names) == len(set(names)) == 5 + 1 + 3 + 3 + 3


class TestReadings:
    def test_they_say_what_the_table_says(self, data):
        found = list(readings_critic.critic(data))
        assert len(found) == 5
        for reading in found:
            assert "nan" not in reading.obtained
        memory = found[0]
        row = data.query("quantity == 'bytes' and optimizer == 'adamw' and group_size == 4")
        peaks = row.query("part == 'peak'").set_index("method")["value"]
        assert f"{1 - peaks['grpo'] / peaks['critic']:.0%}" in memory.obtained
