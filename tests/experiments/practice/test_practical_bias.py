"""The app `practical_bias`: its numbers by other means, its figure, its readings, mistakes."""

from __future__ import annotations

import functools
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.practice import practical_bias
from experiments.practice.language_bias import _Old
from experiments.practice.readings import practical_bias as readings
from figures import practical_bias as figure
from figures.palette import draw_tasks
from support.apps import checked, refuses
from theory.token_problems import cross_token_matrix
from ustat_grpo.lm.exact import objective_gradient
from ustat_grpo.lm.scoring import log_probs, squared_norm
from ustat_grpo.optimization.token_updates import mean_ascent

BANDIT = (
    "task=token_bandit", "task.num_prompts=2", "task.num_tokens=3", "task.num_values=2",
    "task.dimension=3", "task.learning_rates=[0.01,0.3]", "num_minibatches=[2,4]", "budget=64",
    "group_size=4",
)  # fmt: skip
LANGUAGE = (
    "task=arithmetic", "policy.skills=[beginner]", "num_questions=5", "runs=2",
    "num_minibatches=[2]", "learning_rates=[1e-05]", "budget=16", "group_size=4",
)  # fmt: skip


@functools.cache
def table(*overrides):
    return practical_bias.run(checked("practical_bias", *overrides))


class TestTokenBandit:
    def test_columns_and_rows(self):
        data = table(*BANDIT, "scale.runs=2")
        assert list(data) == practical_bias.COLUMNS
        assert len(data) == 4 * 2 * 2 + 2 * 2  # ratios and the penalty, then sampled paths
        assert set(data["task"]) == {"token_bandit: 3 tokens"}
        assert not data.drop(columns=["std_error", "runs"]).isna().any(axis=None)

    def test_exact_bias_by_hand(self):
        """Would catch: bias at the first minibatch, or after m updates."""
        bandit, theta = checked("practical_bias", *BANDIT).task.start
        old, moved = bandit.at(theta), theta
        for _ in range(3):
            moved = moved + 0.3 * bandit.at(moved).gradient
        now = bandit.at(moved)
        bias = mean_ascent(now, old, "token") - now.gradient
        data = table(*BANDIT, "scale.runs=2")
        row = "ratio == 'token' and path == 'exact' and num_minibatches == 4"
        (found,) = data.query(f"{row} and learning_rate == 0.3")["squared_bias"]
        assert found == pytest.approx(float(bias @ bias), rel=1e-12)

    def test_law_is_the_cross_token_matrix(self):
        """Would catch: a Jacobian transposed, m for m − 1."""
        bandit, theta = checked("practical_bias", *BANDIT).task.start
        old = bandit.at(theta)
        constant = np.sum((cross_token_matrix(old) @ old.gradient) ** 2)
        rows = table(*BANDIT, "scale.runs=2").query("ratio == 'token' and path == 'exact'")
        moved = rows["learning_rate"] * (rows["num_minibatches"] - 1)
        np.testing.assert_allclose(rows["law"], moved**2 * constant, rtol=1e-7)

    def test_sequence_ratio_has_none_and_its_penalty_has(self):
        rows = table(*BANDIT, "scale.runs=2").query("ratio == 'sequence'")
        assert rows.query("penalty_weight == 0")["squared_bias"].max() < 1e-24
        assert rows.query("penalty_weight > 0")["squared_bias"].min() > 1e-12

    def test_sampled_bias_meets_its_law(self):
        """Where η is small. Would catch: the law of exact steps, less than half of this one."""
        data = table(*BANDIT, "scale.runs=1000").query("learning_rate == 0.01")
        rows = data.query("path == 'sampled'")
        z = (rows["squared_bias"] - rows["law"]) / rows["std_error"]
        assert np.abs(z).max() < 4
        exact = data.query("ratio == 'token' and path == 'exact'")["law"].to_numpy()
        mutant = (rows["squared_bias"] - exact) / rows["std_error"]
        assert mutant.min() > 4


@functools.cache
def policies():
    """Return π_old of five questions, and a policy a little off."""
    config = checked("practical_bias", *LANGUAGE, "task.num_questions=5")
    (panel,) = config.policy.panels(config.task).values()
    old = _Old.of(panel)
    now = deepcopy(old.model)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in now.parameters():
            noise = torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)
            parameter += 0.01 * noise
    return old, now


class TestLanguage:
    @pytest.mark.parametrize("ratio", ["token", "none"])
    def test_bias_is_that_of_differentiated_surrogates(self, ratio):
        """Would catch: a ratio that is differentiated, padding that counts, a missing 1/P."""
        old, now = policies()
        found = log_probs(now, old.solutions)
        drift = (found - old.log_probs) * old.solutions.mask
        terms = drift.exp() if ratio == "token" else drift
        surrogate = (old.value * terms * old.solutions.mask).sum() / len(old.solutions)
        mean = torch.autograd.grad(surrogate, list(now.parameters()))
        truth = objective_gradient(now, old.solutions)
        wanted = [a - b for a, b in zip(mean, truth, strict=True)]
        obtained = old.bias(now, ratio)
        for left, right in zip(obtained, wanted, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
        assert squared_norm(obtained) > 1e-8

    def test_no_bias_at_the_old_policy(self):
        old, _ = policies()
        assert squared_norm(old.bias(old.model, "token")) < 1e-24

    def test_table(self):
        data = table(*LANGUAGE)
        assert list(data) == practical_bias.COLUMNS
        assert list(zip(data["ratio"], data["path"], strict=True)) == [
            ("token", "exact"), ("none", "exact"), ("token", "sampled"),
        ]  # fmt: skip
        exact = data.query("path == 'exact'")
        np.testing.assert_allclose(exact["squared_bias"], exact["law"], rtol=0.02)
        assert (data["sampling_error"] > 0).all()


class TestFigure:
    def test_two_panels_a_policy_and_the_sequence_ratio_in_none(self, tmp_path):
        data = table(*BANDIT, "scale.runs=2")
        built = figure.build(data)
        assert [axes.get_title().split(", ")[1] for axes in built.axes] == [
            "exact steps", "sampled steps",
        ]  # fmt: skip
        drawn = {line.get_label(): line.get_ydata() for line in built.axes[0].lines}
        rows = data.query("path == 'exact' and ratio == 'token'")
        np.testing.assert_allclose(sorted(drawn["token ratio"]), sorted(rows["squared_bias"]))
        assert min(map(min, drawn.values())) > 1e-20
        data.to_csv(tmp_path / "data.csv", index=False)
        (png,) = draw_tasks(tmp_path / "data.csv", tmp_path, figure.NAME, figure.build)
        assert png.exists()


def readable(power=2.0, level=1e-6):
    """A table whose squared bias is level·(η(m−1))^power, and twice that for sampled steps."""
    rows = []
    for ratio, path, factor in (("token", "exact", 1), ("none", "exact", 9),
                                ("sequence", "exact", 0), ("token", "sampled", 2)):  # fmt: skip
        for number in (2, 4, 8):
            for rate in (0.1, 1.0):
                moved = rate * (number - 1)
                rows.append(SimpleNamespace(
                    task="arithmetic: a", ratio=ratio, penalty_weight=0.0, path=path,
                    num_minibatches=number, learning_rate=rate, budget=64, group_size=4,
                    squared_bias=factor * level * moved**power, sampling_error=1.0,
                ).__dict__)  # fmt: skip
    return pd.DataFrame(rows)


class TestReadings:
    def test_orders_are_recognised_and_wrong_ones_refuted(self):
        order, share = readings(readable())
        assert order.verdict.startswith("refined") and "2.00 … 2.00" in order.obtained
        assert share.verdict == "reproduced" and "2.0 times" in share.obtained
        order, _ = readings(readable(power=1.0))
        assert order.verdict == "refuted"

    def test_bias_beyond_the_sampling_error_is_reported(self):
        """2·level·(η(m−1))² = 1 lies between η(m−1) = 1 and 3."""
        _, share = readings(readable(level=0.2))
        assert share.verdict.startswith("refined")
        assert "token, sampled steps: from η(m−1) = 3 on (at most 20 of it)" in share.obtained


MISTAKES = {
    "num_minibatches must be an integer of at least 2, got 1": ["num_minibatches=[1,2]"],
    "budget must be a multiple of num_minibatches·group_size = 12, got 64": ["num_minibatches=[3]"],
    "task must be token_bandit or arithmetic, got bandit": ["task=bandit"],
    "task.reward must be exact_match, got accuracy_and_format": [
        "task=arithmetic", "task.reward=accuracy_and_format",
    ],
    "policy.skills must name at least one policy, got []": ["task=arithmetic", "policy.skills=[]"],
}  # fmt: skip


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_take_one_line_before_any_work(message, tmp_path):
    shared = ["budget=64", "group_size=4"]
    refuses(practical_bias, message, tmp_path / "results", *shared, *MISTAKES[message])
