"""The app `noise_coverage`: what it counts, its table, readings and figure."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.ledger.planner import coverage_tables
from experiments.planning import noise_coverage as app
from experiments.planning.noise_coverage import Truth
from experiments.planning.noise_readings import coverage as readings
from experiments.planning.populations import population_of_bandit
from figures import noise_coverage as figure
from support.apps import checked, refuses
from ustat_grpo.noise import NoiseEstimate, OutputSample, estimate_noise

BANDIT = ("task.group_size_targets=[3]", "task.num_prompts=8", "task.num_actions=4")
SMALL = (*BANDIT, "num_prompts=[8,32]", "num_outputs=[4]", "replicates=100")
COVERAGES = [name for name in app.COLUMNS if name.endswith("_coverage")]


def streams(count):
    return np.random.default_rng(0).spawn(count)


class TestCoverage:
    @pytest.fixture
    def population(self):
        config: Any = checked("noise_coverage", *BANDIT)
        (snapshot,) = config.task.snapshots.values()
        return population_of_bandit(snapshot)

    def test_counts_what_covers(self, population):
        """Truth, or twice the truth: the estimates of 128 prompts tell these apart."""
        samples, noise = list(population.samples(128, 8, streams(40))), population.noise
        found = app.coverage(samples, Truth.of(noise))
        assert found["replicates"] == 40 and found["refused"] == 0
        assert min(found[name] for name in COVERAGES) > 0.8
        estimates = [estimate_noise(sample) for sample in samples]
        assert found["low"] == pytest.approx(np.median([e.optimal.low for e in estimates]))
        assert found["high"] == pytest.approx(np.median([e.optimal.high for e in estimates]))
        oracle = [estimate.oracle for estimate in estimates]
        assert found["oracle_estimate"] == pytest.approx(np.mean(oracle))
        assert found["oracle_std_error"] == pytest.approx(np.std(oracle, ddof=1) / np.sqrt(40))
        assert found["surely_claims"] == 1
        off = replace(noise, residual=9 * noise.residual)  # moves G* and both ends of the set
        found = app.coverage(samples, Truth.of(off))
        assert found["residual_coverage"] == 0 and found["oracle_coverage"] > 0.8
        for name in ("optimal", "surely", "possibly"):
            assert found[f"{name}_coverage"] < 0.5

    def test_a_lower_bound_covers_all_above(self, population):
        """Gradients so alike that the estimate of c₁ is negative; c₁ = 0 has G* = ∞."""
        scores, rewards = np.random.default_rng(0).normal(size=(8, 3)), np.arange(8.0)
        alike = [
            OutputSample.from_scores(
                list(scores + 0.01 * rng.normal(size=(64, 8, 3))), [rewards] * 64
            )
            for rng in streams(5)
        ]
        noise = replace(population.noise, prompt=0.0)
        found = app.coverage(alike, Truth.of(noise))
        assert found["lower_bounds"] == 1 and np.isinf(found["high"])
        assert found["optimal"] == np.inf and found["optimal_coverage"] == 1

    def test_no_signal_is_refused_and_counted(self, population):
        (sample,) = population.samples(16, 4, streams(1))
        dead = replace(sample, rewards=np.repeat(sample.rewards[::4], 4))
        found = app.coverage([dead, sample, dead], Truth.of(population.noise))
        assert found["replicates"] == 3 and found["refused"] == 2
        assert found["oracle_estimate"] == estimate_noise(sample).oracle
        found = app.coverage([dead], Truth.of(population.noise))
        assert found["refused"] == 1 and np.isnan(found["optimal_coverage"])

    def test_without_residual_noise_there_is_no_plan(self, population, monkeypatch):
        """No batch of outputs is known whose c₃ is below 0; of blocks there are."""
        none = NoiseEstimate(np.array([[0.0, 1.0, -1.0], [0.0, 2.0, -2.0]] * 8), 0.95)
        monkeypatch.setattr(app, "estimate_noise", lambda *_, **__: none)
        found = app.coverage(
            list(population.samples(16, 4, streams(1))), Truth.of(population.noise)
        )
        assert np.isnan([found["surely_coverage"], found["possibly_coverage"]]).all()
        assert found["optimal_coverage"] == 1  # anything may be


@cache
def table(*overrides):
    return app.run(checked("noise_coverage", *overrides))


class TestRun:
    def test_bandit(self):
        data = table(*SMALL)
        assert list(data) == app.COLUMNS and len(data) == 2
        assert set(data["task"]) == {"bandit: G* = 3"}
        assert data["optimal"].to_numpy() == pytest.approx(3.0)
        assert data[COVERAGES].min(axis=None) > 0.8
        assert not data.isna().any(axis=None)

    def test_a_cell_does_not_depend_on_the_others(self):
        alone = table(*BANDIT, "num_prompts=[32]", "num_outputs=[3,4]", "replicates=100")
        pd.testing.assert_frame_equal(
            alone.query("num_outputs == 4").reset_index(drop=True),
            table(*SMALL).query("num_prompts == 32").reset_index(drop=True),
        )

    def test_language_model(self):
        torch.set_num_threads(1)
        data = table(
            "task=arithmetic", "policy.skills=[intermediate]", "task.num_outputs=32",
            "num_questions=5", "num_prompts=[8]", "num_outputs=[4]", "replicates=20",
        )  # fmt: skip
        (row,) = data.to_dict("records")
        assert row["task"] == "arithmetic: intermediate" and row["replicates"] == 20
        assert row["refused"] < 10 and row["optimal"] > 2.4

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (("num_prompts=[4]",), "num_prompts must be an integer of at least 8, got 4"),
            (("num_outputs=[2]",), "num_outputs must be an integer of at least 3, got 2"),
            (("task=tug_of_war",), "task must be bandit or arithmetic, got tug_of_war"),
            (("task=arithmetic", "task.num_questions=5"),
             "num_questions must be at most task.num_questions = 5, got 200"),
        ],
    )  # fmt: skip
    def test_refuses(self, overrides, message, tmp_path):
        refuses(app, message, tmp_path / "results", *overrides)


def coverages(**changed):
    """A table of one population in which all intervals cover 95 %, but for what is changed."""
    rows = [
        {"task": "bandit: G* = 3", "num_prompts": prompts, "num_outputs": outputs,
         "replicates": 2000, "refused": 0, **dict.fromkeys(COVERAGES, 0.95),
         "surely_claims": 0.8, "lower_bounds": 0.1,
         "optimal": 3.0, "low": 2.8, "high": 3.3,
         **{name: 1.0 for name in app.COMPONENTS},
         **{f"{name}_estimate": 1.01 for name in app.COMPONENTS},
         **{f"{name}_std_error": 0.01 for name in app.COMPONENTS}}
        for prompts in (32, 128, 512) for outputs in (8, 16)
    ]  # fmt: skip
    data = pd.DataFrame(rows)
    for name, value in changed.items():
        data.loc[3, name] = value  # B = 128, M = 16
    return data


class TestReadings:
    def test_all_within(self):
        covered, near, unbiased = readings(coverages())
        assert {each.verdict for each in (covered, near, unbiased)} == {"reproduced"}
        assert "B = 128: 95.0% (c₁, M = 8) to 95.0%" in covered.obtained
        assert "std. error ≤ 0.5%" in covered.obtained and "refused" not in covered.obtained
        assert "B = 512: 95.0% (for certain at bandit: G* = 3, M = 8)" in near.obtained
        assert near.obtained.endswith("80% to 80% of plans call a group size so for certain")
        assert unbiased.obtained == "largest |z| 1.0, root mean square 1.00"

    @pytest.mark.parametrize("name", [f"{name}_coverage" for name in ("prompt", "optimal")])
    @pytest.mark.parametrize(
        ("share", "verdict"),
        [(0.92, "reproduced"), (0.98, "reproduced"), (0.9, "refuted"), (0.999, "refuted"),
         (0.915, "not resolved: too few samples")],
    )  # fmt: skip
    def test_one_cell_is_enough(self, name, share, verdict):
        assert next(readings(coverages(**{name: share}))).verdict == verdict

    def test_the_set_is_read_by_itself(self):
        covered, near, _ = readings(coverages(possibly_coverage=0.9))
        assert covered.verdict == "reproduced" and near.verdict == "refuted"
        assert "B = 128: 90.0% (perhaps at bandit: G* = 3, M = 16) to 95.0%" in near.obtained

    def test_a_promise_may_be_kept_too_often(self):
        _, near, _ = readings(coverages(surely_coverage=1.0))
        assert near.verdict == "reproduced"
        _, near, _ = readings(coverages(surely_coverage=0.88))
        assert near.verdict == "refuted"

    def test_intervals_from_the_most_outputs(self):
        covered, *_ = readings(coverages(high=np.inf, lower_bounds=0.6))
        assert covered.obtained.endswith(
            "G* = 3, its median intervals at these B and M = 16, and how many have no upper end: "
            "2.8 to 3.3 (10%), 2.8 to ∞ (60%), 2.8 to 3.3 (10%)"
        )

    def test_few_prompts_are_reported_only(self):
        data = coverages()
        data.loc[0, "residual_coverage"] = 0.8
        covered, *_ = readings(data)
        assert covered.verdict == "reproduced"
        assert "B = 32: 80.0% (c₃, M = 8) to 95.0%" in covered.obtained

    def test_refused_samples_are_told_and_none_is_no_agreement(self):
        covered, *_ = readings(coverages(refused=20))
        assert covered.obtained.endswith("refused: 1.0% or less")
        covered, *_ = readings(coverages().query("num_prompts < 512"))
        assert covered.verdict == "not attempted at these B"
        covered, *_ = readings(coverages(oracle_coverage=np.nan))
        assert covered.verdict != "reproduced"

    def test_a_bias_is_seen(self):
        for estimate in (1.05, np.nan):
            *_, unbiased = readings(coverages(oracle_estimate=estimate))
            assert unbiased.verdict == "refuted"


def test_the_tables_of_the_ledger_have_a_row_a_cell():
    text = coverage_tables(coverages(surely_coverage=np.nan, high=np.inf))
    noise, plans = (part.splitlines() for part in text.split("\n\n") if part.startswith("|"))
    assert len(noise) == len(plans) == 2 + 6
    assert noise[2] == "| bandit: G* = 3 | 8, 32 | 95.0 | 95.0 | 95.0 | 95.0 |"
    (odd,) = [line for line in plans if "–" in line]
    assert "| 16, 128 | – | 95.0 | 2.8 to ∞ | 10% |" in odd
    other = coverage_tables(coverages(task="arithmetic: beginner"))
    assert "| arithmetic: beginner, G* = 3 | 16, 128 |" in other


class TestFigure:
    def test_draws_the_table(self):
        built = figure.build(coverages(optimal_coverage=1.0))
        assert [axes.get_title() for axes in built.axes] == [
            "bandit\ngradient's G* = 3, $M = 8$", "bandit\ngradient's G* = 3, $M = 16$",
        ]  # fmt: skip
        left, right = built.axes
        assert left.get_ylim() == right.get_ylim() and left.get_ylim()[1] == 100
        drawn = {each.get_label(): each for each in right.containers}
        assert list(drawn) == list(figure._NAMES.values())
        line, _, (bars,) = drawn["$G^*$"]
        assert line.get_ydata() == pytest.approx([95, 100, 95])
        low, high = np.array(bars.get_segments()[1])[:, 1]
        # Wilson's interval where all of n cover: from n/(n + z²) to 1.
        assert (low, high) == pytest.approx((100 * 2000 / (2000 + 1.959964**2), 100))
