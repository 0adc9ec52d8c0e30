"""The app `training_path`: every column against the laws it quotes."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest

from experiments.group_size import training_path
from support.apps import checked
from ustat_grpo import Decay, laws
from ustat_grpo.bandits.expansion import expand
from ustat_grpo.laws.covariance import grpo
from ustat_grpo.laws.path import expected_gap

TINY = ("task=tug_of_war", "iterations=[1,4,30]")
BANDIT = ("task=bandit", "task.num_prompts=4", "task.num_actions=3")
SCHEDULES = {
    "constant": ([], np.full(30, 1.0)),  # the task's own rate
    "decay": (
        ["schedule.kind=decay", "schedule.rate=12", "schedule.offset=9"],
        Decay(12.0, 9.0).rates(30),
    ),
}


@functools.cache
def follow(*overrides):
    """Return what `run` computes, and the start of the only panel."""
    config = checked("training_path", *TINY, *overrides)
    (start,) = config.task.starts.values()
    return training_path.run(config), start


def ascend(start, rates):
    """Return the policies after each iteration of exact gradient ascent, the first one last."""
    theta, policies = start.theta0, []
    for rate in rates:
        theta = theta + rate * start.bandit.at(theta).gradient
        policies.append(start.bandit.at(theta))
    return [*policies, start.bandit.at(start.theta0)]


class TestTable:
    def test_rows(self):
        data, _ = follow()
        assert list(data["iteration"]) == [1, 4, 30]
        assert set(data["task"]) == {"tug_of_war: t = -1"}
        assert not data.isna().any(axis=None)

    def test_one_path_a_panel(self):
        targets = "task.group_size_targets=[4,16]"
        data = training_path.run(checked("training_path", *BANDIT, targets, "iterations=[2,5]"))
        keys = list(zip(data["task"], data["iteration"], strict=True))
        names = ("bandit: G* = 4", "bandit: G* = 16")
        assert keys == [(name, n) for name in names for n in (2, 5)]
        alone = training_path.run(
            checked("training_path", *BANDIT, "task.group_size_targets=[16]", "iterations=[5]")
        )
        pd.testing.assert_series_equal(data.iloc[3], alone.iloc[0], check_names=False)

    def test_other_iterations_and_scales_change_no_row(self):
        data, _ = follow()
        one, _ = follow("iterations=[4]", "scale=paper")
        pd.testing.assert_series_equal(data.iloc[1], one.iloc[0], check_names=False)


@pytest.mark.parametrize("schedule", SCHEDULES)
class TestValues:
    @pytest.fixture
    def path(self, schedule):
        """The table, the policies at its rows, and the laws of the gap there."""
        overrides, rates = SCHEDULES[schedule]
        data, start = follow(*overrides)
        gaps = expected_gap(
            expand(start.bandit.at), grpo, theta0=start.theta0, rates=rates,
            checkpoints=[1, 4, 30], best_objective=start.bandit.best_objective,
        )  # fmt: skip
        policies = ascend(start, rates)
        return data, [policies[n - 1] for n in (1, 4, 30)], gaps

    def test_gradient_error_is_that_of_the_policy_after_n_steps(self, path):
        data, policies, _ = path
        noises = [policy.noise for policy in policies]
        columns = {
            "objective": [policy.objective for policy in policies],
            "gradient_error_optimal": [laws.group_size.optimal(noise) for noise in noises],
            "paper_optimal": [laws.group_size.optimal(noise) - 1 for noise in noises],
        }
        for name, values in columns.items():
            np.testing.assert_allclose(data[name], values, rtol=1e-12)

    def test_near_optimal_sizes_lose_five_per_cent(self, path):
        """Would catch: an interval of another tolerance, or its ends exchanged."""
        data, policies, _ = path
        for row, policy in zip(data.itertuples(), policies, strict=True):
            low, best, high = (
                laws.group_size.error_at_budget(policy.noise, group_size=size, budget=64)
                for size in (
                    row.near_optimal_low, row.gradient_error_optimal, row.near_optimal_high
                )
            )  # fmt: skip
            np.testing.assert_allclose([low / best, high / best], 1.05, rtol=1e-9)
            assert row.near_optimal_low < row.gradient_error_optimal < row.near_optimal_high

    def test_gap_optimal_is_that_of_the_law_of_the_gap(self, path):
        data, _, gaps = path
        optimal = [gap.best_group_size for gap in gaps]
        np.testing.assert_allclose(data["gap_optimal"], optimal, rtol=1e-12)

    def test_gap_optimal_has_the_least_law(self, path):
        """On a grid of real G; ∞ where the law falls for ever."""
        data, _, gaps = path
        grid = 1 + np.geomspace(0.3, 100, 2001)
        for wanted, gap in zip(data["gap_optimal"], gaps, strict=True):
            law = [gap.gap(batch_size=64 / size, group_size=size) for size in grid]
            if np.isinf(wanted):
                assert law[-1] == min(law) and law[-1] < law[-2]
            else:
                assert grid[np.argmin(law)] == pytest.approx(wanted, rel=0.01)

    def test_a_policy_one_step_behind_would_be_noticed(self, path, schedule):
        overrides, rates = SCHEDULES[schedule]
        _, start = follow(*overrides)
        policies = ascend(start, rates)
        data = path[0]
        for row, behind in zip(data.itertuples(), (-1, 2, 28), strict=True):
            mutant = laws.group_size.optimal(policies[behind].noise)
            assert abs(row.gradient_error_optimal - mutant) > 1e-6


def test_where_noise_does_good_few_prompts_are_best():
    """At t = −1 J is convex. Would catch: an infinity that is dropped, or G* of the gradient."""
    data, start = follow()
    assert np.linalg.eigvalsh(expand(start.bandit.at)(start.theta0).hessian).min() > -1e-12
    assert np.isinf(data["gap_optimal"].iloc[0])
    assert np.isfinite(data["gap_optimal"].iloc[1:]).all()
    assert np.isfinite(data["gradient_error_optimal"]).all()
