"""Plans from first batches are judged by sweeps: weights, paired errors, tables and mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.group_size.confidence import compare
from experiments.group_size.group_size_rules import nearest
from experiments.planning import planned_group_size as app
from experiments.planning.planned_group_size import BEST, COLUMNS, FALLBACK, GRID, PLANNED, Planned
from experiments.planning.planned_panels import GAP_LAW, GRADIENT_LAW
from experiments.planning.planned_sweeps import Sweep, fingerprint, tabled_sweeps
from experiments.tasks.bandits import panel_rng
from experiments.tasks.first_batches import bandit_sample
from experiments.tasks.subject import FirstBatch
from support.apps import checked, refuses
from ustat_grpo.noise import OutputSample, estimate_noise
from ustat_grpo.planner import plan

REFERENCE = Path(app.__file__).parents[1] / "reference"
EPISODES = REFERENCE / "sequential_group_size.csv"
LANGUAGE = REFERENCE / "language_group_size.csv"
TINY = ("task=weak_tug_of_war", "budgets=[64]", "plans=12", "iterations=[5,20]", "scale.runs=40")
SIZES = [2, 4, 8, 16]


def sweep(losses=None, **fields) -> Sweep:
    """A sweep whose best size is 4 and worst 16: excess 0.1, 0, 0.2, 0.4 with errors of 0.01."""
    base = Sweep(
        budget=64,
        iteration=9,
        optimizer="sgd",
        runs=50,
        sizes=SIZES,
        excess=np.array([0.1, 0.0, 0.2, 0.4]),
        std_errors=np.array([0.01, 0.0, 0.01, 0.01]),
        may_be_best=np.array([True, True, False, False]),
    )
    return base if losses is None else Sweep(**{**vars(base), "losses": losses, **fields})


def planned(recommended, at_estimate=None) -> Planned:
    """Plans at N = 64 whose estimates do not matter."""
    noise = estimate_noise(sample())
    trusting = recommended if at_estimate is None else at_estimate
    return Planned([noise] * len(recommended), {64: recommended}, {64: trusting})


def sample(rewards=None) -> OutputSample:
    rng = np.random.default_rng(0)
    shape = (10, 4)
    drawn = rng.random(shape) if rewards is None else np.full(shape, rewards)
    return OutputSample.from_scores(list(rng.normal(size=(*shape, 3))), list(drawn))


def by_rule(rows) -> pd.DataFrame:
    return pd.DataFrame(rows).set_index("rule")


@pytest.fixture(scope="module")
def data():
    """What `run` computes."""
    return app.run(checked("planned_group_size", *TINY))


class TestJudged:
    def test_by_hand(self):
        """3 of 4 plans are near 4, one near 8: excess 0.2/4, the worst loses 0.4."""
        rows = by_rule(app.judged(sweep(), planned([4, 5, 3, 9], [99] * 4), {"law": 2.2}))
        assert rows["excess"].to_dict() == pytest.approx(
            {PLANNED: 0.05, "planned at the estimate": 0.4, "fixed 8": 0.2, "fixed 16": 0.4,
             "fixed 64": 0.4, BEST: 0.0, "law": 0.1}
        )  # fmt: skip
        assert rows["relative_excess"]["fixed 8"] == pytest.approx(0.5)
        assert rows.loc[PLANNED, "in_confidence_set"] == 0.75
        assert rows.loc["law", "in_confidence_set"] == 1
        assert rows["over_planned"]["fixed 8"] == pytest.approx(0.15)
        shares = rows.loc[PLANNED, [f"share_{size}" for size in GRID]]
        assert shares.to_list() == [0, 0.75, 0.25, 0, 0, 0, 0]

    def test_errors_of_a_table_are_bounds(self):
        """Contrast 0.25 of G = 8; the plans scatter: 0.2 once in four, sd 0.1."""
        rows = by_rule(app.judged(sweep(), planned([4, 4, 4, 8]), {}))
        assert rows.loc[PLANNED, "std_error"] == pytest.approx(np.hypot(0.25 * 0.01, 0.1 / 2))
        over = rows.loc["fixed 16", "over_planned_std_error"]
        assert over == pytest.approx(np.hypot(0.01 + 0.25 * 0.01, 0.1 / 2))
        assert rows.loc[BEST, "std_error"] == 0

    def test_the_same_size_is_no_difference(self):
        rows = by_rule(app.judged(sweep(), planned([8, 8]), {}))
        assert rows.loc["fixed 8", "over_planned"] == 0
        assert rows.loc["fixed 8", "over_planned_std_error"] == 0

    def test_errors_of_runs_are_paired(self):
        """A mixture's error is that of the mixture run by run: what runs share cancels."""
        rng = np.random.default_rng(1)
        losses = rng.normal(size=(50, 1)) * 10 + rng.normal(size=(50, 4)) * 0.1 + [0.2, 0, 0.3, 1]
        table = compare(losses, SIZES)
        found = sweep(
            losses, excess=table["excess"].to_numpy(),
            std_errors=table["excess_std_error"].to_numpy(),
        )  # fmt: skip
        rows = by_rule(app.judged(found, planned([4, 4, 8, 16] * 25), {}))
        mixture = losses @ [0, 0.5, 0.25, 0.25] - losses[:, 1]
        assert rows.loc[PLANNED, "excess"] == pytest.approx(mixture.mean(), rel=1e-12)
        of_plans = np.std(table["excess"].to_numpy()[[1, 1, 2, 3] * 25], ddof=1) / 10
        exact = np.hypot(stats.sem(mixture), of_plans)
        assert rows.loc[PLANNED, "std_error"] == pytest.approx(exact, rel=1e-12)
        for size, rule in ((8, "fixed 8"), (16, "fixed 16")):
            expected = table["excess_std_error"][size]
            assert rows.loc[rule, "std_error"] == pytest.approx(expected, rel=1e-12)


class TestPlans:
    def test_a_batch_without_signal_is_refused(self):
        assert app.estimated(sample(rewards=1.0)) is None
        assert app.estimated(sample()) is not None

    def test_refused_batches_fall_back(self, monkeypatch):
        config = checked("planned_group_size", *TINY)
        monkeypatch.setattr(app, "estimated", lambda drawn: None)
        rows = app.run(config).query("rule == @PLANNED")
        assert (rows["refused"] == 1).all() and (rows["lower_bound"] == 0).all()
        assert (rows[f"share_{FALLBACK}"] == 1).all()

    def test_every_batch_has_a_plan_of_its_own(self, data):
        """Would catch: the point estimate's G for the planned one, one batch for all plans."""
        ((panel, start),) = checked("planned_group_size", *TINY).task.starts.items()
        streams = panel_rng(0, f"{panel}, 32 prompts of 8").spawn(12)
        there = start.bandit.at(start.theta0)
        plans = [
            plan(estimate_noise(bandit_sample(there, FirstBatch(32, 8), rng)), budget=64)
            for rng in streams
        ]
        rows = data.query("num_prompts == 32 and iteration == 5").set_index("rule")
        for rule, chosen in (
            (PLANNED, [each.recommended.group_size for each in plans]),
            ("planned at the estimate", [each.at_estimate.group_size for each in plans]),
        ):
            sizes = [nearest(size, [2, 4, 8, 16, 32]) for size in chosen]
            for size in GRID:
                assert rows.loc[rule, f"share_{size}"] == pytest.approx(sizes.count(size) / 12)
        bounds = sum(estimate.optimal.is_lower_bound for estimate in plans) / 12
        assert rows.loc[PLANNED, "lower_bound"] == pytest.approx(bounds)

    def test_large_batches_plan_what_the_law_wants(self):
        """Would catch: plans for another budget, other c's, a grid by difference."""
        config = checked("planned_group_size", "task=tug_of_war", *TINY[1:], "plans=5",
                         "first_batches=[[4000,8]]")  # fmt: skip
        rows = app.run(config).set_index("rule")
        shares = [f"share_{size}" for size in GRID]
        planned, law = rows.loc[PLANNED, shares], rows.loc[GRADIENT_LAW, shares]
        np.testing.assert_array_equal(planned.to_numpy(), law.to_numpy())


class TestRun:
    def test_columns_and_rows(self, data):
        assert list(data) == COLUMNS
        assert not data.isna().any(axis=None)
        rules = [PLANNED, "planned at the estimate", "fixed 8", "fixed 16", "fixed 64", BEST,
                 GRADIENT_LAW, GAP_LAW]  # fmt: skip
        keys = [
            (prompts, iteration, rule)
            for prompts in (32, 128)
            for iteration in (5, 20)
            for rule in rules
        ]
        found = zip(data["num_prompts"], data["iteration"], data["rule"], strict=True)
        assert list(found) == keys
        assert set(data["task"]) == {"weak_tug_of_war: t = 0"} and set(data["num_sizes"]) == {5}

    def test_shares_and_excess(self, data):
        shares = data[[f"share_{size}" for size in GRID]].sum(axis=1)
        np.testing.assert_allclose(shares, 1.0)
        assert data["excess"].min() == 0 and data["relative_excess"].between(0, 1).all()
        best = data.query("rule == @BEST")
        assert (best[["excess", "std_error"]] == 0).all(axis=None)
        assert (best["in_confidence_set"] == 1).all()
        fixed = data.query("rule == 'fixed 64'")
        assert (fixed["share_32"] == 1).all()  # as far as a budget of 64 goes

    def test_differences_are_those_of_the_excess(self, data):
        planned = data.query("rule == @PLANNED").set_index(["num_prompts", "iteration"])["excess"]
        for row in data.itertuples():
            expected = row.excess - planned[row.num_prompts, row.iteration]
            assert row.over_planned == pytest.approx(expected, abs=1e-15)

    def test_episodes(self):
        data = app.run(checked("planned_group_size", "task=frozenlake", "plans=2", "budgets=[64]",
                               "first_batches=[[32,4]]"))  # fmt: skip
        law = data.query("rule == @GRADIENT_LAW and iteration == 200").iloc[0]
        table = pd.read_csv(EPISODES).query(
            "task == 'frozenlake: J = 0.1' and estimator == 'grpo' and budget == 64 "
            "and iteration == 200 and group_size == 16"
        )
        assert law["share_16"] == 1  # G* = 16.7
        assert law["excess"] == pytest.approx(table["excess"].item())
        assert law["std_error"] == pytest.approx(table["excess_std_error"].item())

    def test_language_models(self):
        data = app.run(checked("planned_group_size", "task=arithmetic", "plans=2", "budgets=[256]",
                               "first_batches=[[8,4]]"))  # fmt: skip
        assert set(data["task"]) == {"arithmetic: intermediate"}
        assert GRADIENT_LAW not in set(data["rule"])
        rows = data.query("rule == 'fixed 8' and iteration == 200").iloc[0]
        table = pd.read_csv(LANGUAGE).query("budget == 256 and iteration == 200")
        wide = table.pivot(index="seed", columns="group_size", values="accuracy")
        lost = wide[wide.mean().idxmax()] - wide[8]
        assert rows["excess"] == pytest.approx(lost.mean(), abs=1e-12)
        assert rows["std_error"] == pytest.approx(stats.sem(lost), abs=1e-12)


class TestTables:
    def test_every_cell_is_read(self):
        found = list(tabled_sweeps(EPISODES, "frozenlake: J = 0.1"))
        assert [(each.budget, each.iteration) for each in found] == [
            (budget, iteration) for budget in (256, 64) for iteration in (25, 50, 100, 200)
        ]
        spoken = list(tabled_sweeps(LANGUAGE, "arithmetic: intermediate"))
        cells = {(each.optimizer, each.budget, each.iteration) for each in spoken}
        assert len(cells) == len(spoken) == 16 and 0 not in {each.iteration for each in spoken}
        assert {each.runs for each in spoken} == {10}

    def test_mistakes(self, tmp_path):
        with pytest.raises(ValueError, match=r"sweep must hold GRPO's runs of lake, got none in"):
            list(tabled_sweeps(EPISODES, "lake"))
        other = tmp_path / "other.csv"
        other.write_text("task,budget\na,1\n")
        with pytest.raises(ValueError, match="sweep must be a table of paired runs by group size"):
            list(tabled_sweeps(other, "a"))
        with pytest.raises(ValueError, match=r"sweep must be an existing table, got none\.csv"):
            fingerprint(Path("none.csv"))


class TestCommand:
    def test_a_changed_sweep_is_another_job(self, tmp_path):
        table = tmp_path / "sweep.csv"
        table.write_bytes(EPISODES.read_bytes())
        config = checked("planned_group_size", "task=frozenlake", f"sweep={table}")
        before = app.describe(config)
        table.write_bytes(EPISODES.read_bytes() + b"\n")
        assert app.describe(config) != before

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (
                ["first_batches=[[32,2]]"],
                "first_batches must hold pairs of at least 8 prompts and at least 3 outputs, "
                "got [[32, 2]]",
            ),
            (
                ["first_batches=[[32]]"],
                "first_batches must hold pairs of at least 8 prompts and at least 3 outputs, "
                "got [[32]]",
            ),
            (["budgets=[6]"], "budgets must be multiples of 4 from 8 on, got 6"),
            (["sweep=x.csv"], "sweep must be null on weak_tug_of_war, whose sweeps are run, "
                              "got x.csv"),
            (["task=frozenlake", "sweep=x.csv"], "sweep must be an existing table, got x.csv"),
            (["task=frozenlake"], "budgets must be among those of the sweep, [64, 256], got 8"),
            (["task=gsm8k", "task.path=x", "policy.path=x"],
             "task must be a bandit, an environment or arithmetic, got gsm8k"),
        ],
    )  # fmt: skip
    def test_mistakes(self, overrides, message, tmp_path):
        refuses(app, message, tmp_path / "results", *TINY, "budgets=[8]", *overrides)
