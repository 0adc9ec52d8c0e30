"""Each reading of the optimisation's tables on tables whose answer is known, for every verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from experiments.convergence import readings as convergence
from experiments.group_size import readings as optimised
from support.optimisation_tables import (
    POLICIES,
    POLICY,
    crossed,
    gap_bound_table,
    limit_law_table,
    training_path_table,
)

SIZES = [2, 4, 8, 16]


def bowl(size, best):
    """Return a gap that is least at one group size, and the larger the farther from it."""
    return 1 + np.log2(size / best) ** 2


class TestLawOfTheGap:
    OFF = np.array([0.1, -0.3, 0.2])

    def table(self, *factors):
        """Return gaps that are off by a multiple of OFF of their law; budgets largest first."""
        budgets = 64 * 16 ** np.arange(len(factors))[::-1]
        off = np.outer(factors[::-1], self.OFF).ravel()
        data = pd.DataFrame({"budget": np.repeat(budgets, 3), "gap": 2 + 2 * off})
        return data.assign(law=2.0, std_error=0.12)

    def test_numbers(self):
        reading = optimised.law_of_the_gap(self.table(1, 0.04))
        assert reading.verdict.startswith("refined") and "(6 points)" in reading.claim
        rms = np.sqrt(np.mean((self.OFF / 0.06) ** 2))
        assert reading.obtained == (
            f"N = 64: 67% within 4 std. errors, rms z {rms:.1f}, median deviation 20.00%, "
            f"largest 30%; N = 1024: 100% within 4 std. errors, rms z {rms / 25:.1f}, "
            "median deviation 0.80%, largest 1%"
        )

    @pytest.mark.parametrize("factors", [(1,), (1, 0.1), (0.04, 0.04), (1, 0.02, 0.04)])
    def test_refuted_unless_every_larger_budget_is_closer_and_the_largest_close(self, factors):
        assert optimised.law_of_the_gap(self.table(*factors)).verdict == "refuted"

    def test_a_missing_law_is_no_agreement(self):
        data = self.table(1, 0.1)
        data.loc[0, "law"] = np.nan
        assert optimised.law_of_the_gap(data).verdict == "refuted"


class TestOrderOfGaps:
    def read(self, vanilla, noise=0.01):
        """Return the reading of four cells in which GRPO's gap is 1 and the oracle's 0.98."""
        data = crossed(task=["bandit: a"], budget=[64], group_size=[2, 4], iteration=[5, 9],
                       estimator=["vanilla", "grpo", "oracle"])  # fmt: skip
        data["gap"] = np.ravel([[each, 1.0, 0.98] for each in vanilla])
        (reading,) = optimised.order_of_gaps(data.assign(std_error=noise))
        return reading

    def test_larger_everywhere(self):
        reading = self.read([1.1, 1.2, 1.3, 1.4])
        assert reading.verdict == "reproduced"
        assert reading.obtained.startswith("larger in 4, smaller in 0")
        assert reading.obtained.endswith("GRPO within 2.04% of the oracle (median)")

    def test_smaller_somewhere_or_tied(self):
        """Tied at 2√2 standard errors, 0.0283."""
        reading = self.read([1.1, 0.9, 1.028, 1.029])
        assert reading.verdict == "refuted"
        assert reading.obtained.startswith("larger in 2, smaller in 1")


UNRESOLVED = "refuted by the law, not resolved by measurement"
READINGS = {
    "budget": (optimised.universal_in_budget, "N"),
    "iteration": (optimised.universal_in_iterations, "n"),
}


@pytest.mark.parametrize("column", READINGS)
class TestUniversal:
    """The same question of two columns; at the last iteration, and at the largest budget."""

    def table(self, column, best=(4, 4), optimal=(5.0, 5.0), std_error=0.01, tasks=(POLICY,)):
        """Return a sweep whose gap and law are least at the sizes given, one a value (10, 40)."""
        other = "iteration" if column == "budget" else "budget"
        data = crossed(task=tasks, estimator=["vanilla", "grpo"], group_size=SIZES[::-1],
                       **{column: [10, 40], other: [3, 70]})  # fmt: skip
        best, data["optimal"] = (data[column].map({10: a, 40: b}) for a, b in (best, optimal))
        data["gap"] = data["law"] = bowl(data["group_size"], best)
        looked_at = (data["estimator"] == "grpo") & (data[other] == 70)
        data.loc[~looked_at, ["gap", "law", "optimal"]] = np.nan
        return data.assign(std_error=std_error)

    def read(self, column, **options):
        (reading,) = READINGS[column][0](self.table(column, **options))
        return reading

    def test_one_size_for_all(self, column):
        symbol = READINGS[column][1]
        assert self.read(column) == optimised.Reading(
            f"weak tug of war: t = 0: the best G for the gap does not depend on {symbol}",
            f"one G for every {symbol}",
            f"best by measurement, {symbol} = 10: 4 (ties 4; law 4, G* = 5); "
            f"{symbol} = 40: 4 (ties 4; law 4, G* = 5); all tied at G = 4",
            "reproduced",
        )

    def test_it_moves_beyond_the_noise_or_within(self, column):
        """4 and 8 differ by 1: tied at 2√2·0.4, though not at 2·0.4."""
        reading = self.read(column, best=(4, 8))
        assert reading.verdict == "refuted"
        assert reading.obtained.endswith("no G is tied with the best at all")
        reading = self.read(column, best=(4, 8), std_error=0.4)
        assert reading.verdict == "reproduced"
        assert "10: 4 (ties 2, 4, 8; law 4" in reading.obtained
        assert "40: 8 (ties 4, 8, 16; law 8" in reading.obtained
        assert reading.obtained.endswith("all tied at G = 4, 8")

    @pytest.mark.parametrize(("std_error", "tied"), [(0.352, "4"), (0.355, "2, 4, 8")])
    def test_ties_are_two_unpaired_standard_errors(self, column, std_error, tied):
        """1/(2√2) = 0.3536. Would catch: the noise of one of the two left out, 1/2."""
        assert f"10: 4 (ties {tied};" in self.read(column, std_error=std_error).obtained

    @pytest.mark.parametrize(("last", "verdict"), [(7, "reproduced"), (7.1, UNRESOLVED)])
    def test_the_law_may_move_by_half(self, column, last, verdict):
        """Of G − 1, from 4 to 6. Would catch: a factor of G, which lets 7.1 pass."""
        for optimal in ((5, last), (last, 5)):
            reading = self.read(column, optimal=optimal)
            assert reading.verdict == verdict
            assert f"law 4, G* = {last:.3g}" in reading.obtained

    @pytest.mark.parametrize("none", [np.inf, np.nan])
    def test_without_an_inner_optimum(self, column, none):
        for optimal, value in (((none, 5.0), 10), ((5.0, none), 40)):
            reading = self.read(column, optimal=optimal)
            assert reading.verdict == UNRESOLVED
            assert f"{value}: 4 (ties 4; law 4, no inner G*)" in reading.obtained
        assert self.read(column, optimal=(none, none)).verdict == "reproduced"

    def test_policies_in_their_own_order_with_laws_of_their_own(self, column):
        data = self.table(column, tasks=POLICIES[::-1])
        data["law"] = data["law"].where(data["task"] == POLICIES[0], bowl(data["group_size"], 16))
        first, second = READINGS[column][0](data)
        assert first.claim.startswith(POLICIES[1]) and second.claim.startswith(POLICIES[0])
        assert "10: 4 (ties 4; law 16," in first.obtained
        assert "10: 4 (ties 4; law 4," in second.obtained


class TestLimitLaw:
    """The table's means are 2.5 std. errors from their law, which β² changes by a factor of 9."""

    LAST = "iteration == 1000 and estimator == 'oracle'"
    SPOILT = (("mean", 1.081), ("mean", 0.919), ("mean", np.nan), ("law_mean", np.nan),
              ("ks_p_value", 9e-4), ("ks_p_value", np.nan))  # fmt: skip

    def read(self, column=None, value=None, where=LAST):
        data = limit_law_table()
        if column:
            data.loc[data.eval(where), column] = value
        (reading,) = convergence.limit_law(data)
        return reading

    def test_numbers(self):
        reading = self.read("mean", 0.96)
        assert reading.verdict.startswith("refined")
        assert reading.claim == "weak tug of war: t = 0: nΔ_n follows Σ w_k χ²₁, n = 1000"
        assert reading.obtained == (
            "vanilla: 1.0500 ± 0.0200 (law 1.0000), KS p = 0.40; "
            "grpo: 1.0500 ± 0.0200 (law 1.0000), KS p = 0.40; "
            "oracle: 0.9600 ± 0.0200 (law 1.0000), KS p = 0.40; "
            "without β² the law is off by a factor of 9"
        )

    @pytest.mark.parametrize(("column", "value"), SPOILT)
    def test_one_estimator_off_is_enough(self, column, value):
        assert self.read(column, value).verdict == "refuted"
        assert self.read(column, value, "iteration == 10").verdict.startswith("refined")

    def test_every_policy_at_its_own_last_iteration(self):
        early = limit_law_table(["t: a"], (5, 20)).assign(ks_p_value=0.0)
        late = limit_law_table(["t: b"])
        first, second = convergence.limit_law(pd.concat([early, late], ignore_index=True))
        assert first.claim.endswith("n = 20") and second.claim.endswith("n = 1000")
        assert first.verdict == "refuted" and second.verdict.startswith("refined")


class TestBounds:
    """Twelve gaps a schedule, of which row 2 is an early one of the constant rate."""

    def read(self, **spoilt):
        data = gap_bound_table()
        for name, value in spoilt.items():
            data.loc[2, name] = value(data.loc[2]) if callable(value) else value
        return list(convergence.bounds(data))

    def test_numbers(self):
        constant, decay = self.read()
        assert constant.verdict == decay.verdict == "reproduced"
        assert constant.claim.startswith("weak tug of war: t = 0, constant rate: ")
        assert constant.expected == "12 of 12 means + 4 std. errors"
        last = gap_bound_table().query("iteration == 1000 and schedule == 'decay'")
        loose = np.sort(last["law"] / last["gap"])[1]  # of three estimators
        assert decay.obtained == (
            f"12 of 12; at the last one the bound is {9 * loose:.3g} times the gap, iterated "
            f"step by step {4 * loose:.3g} times"
        )

    @pytest.mark.parametrize("bound", ["bound", "recursive_bound"])
    @pytest.mark.parametrize("margin", [3.9, -1.0])
    def test_a_single_gap_above_a_bound_is_seen(self, bound, margin):
        """A gap that is 3.9 std. errors below its bound is not safely below it."""
        limit = {bound: lambda row: row["gap"] + margin * row["std_error"]}
        readings = self.read(**limit)
        assert [reading.verdict for reading in readings] == ["refuted", "reproduced"]
        assert readings[0].obtained.startswith("11 of 12; ") or bound == "recursive_bound"

    @pytest.mark.parametrize("column", ["gap", "std_error", "bound", "recursive_bound"])
    def test_a_missing_number_is_not_below(self, column):
        readings = self.read(**{column: np.nan})
        assert [reading.verdict for reading in readings] == ["refuted", "reproduced"]


class TestRules:
    """On two policies whose least gaps are 1 and 2, in the table's last rows."""

    def read(self, law=(0.01, 0.04), **rivals):
        """Return the reading of the excesses of each rule; earlier rows are no part of it."""
        excess = {"law (gap)": law, **rivals, "measured best": (0.0, 0.0)}
        data = crossed(rule=excess, task=POLICIES, budget=[64, 256], iteration=[25, 100])
        least = np.where(data["task"] == POLICIES[0], 1.0, 2.0)
        data["excess"] = 50.0
        last = data.eval("budget == 256 and iteration == 100")
        data.loc[last, "excess"] = np.ravel(list(excess.values()))
        data["gap"], data["relative_excess"] = least + data["excess"], data["excess"] / least
        noise = data["rule"].map({"paper": 0.03, "two": 0.08}).fillna(0.01)
        return optimised.rules(data.assign(std_error=noise, group_size=4.0 * least))

    def test_worst_policy_with_its_own_error(self):
        """Two loses more on the second policy, but a smaller share of its gap."""
        reading = self.read(paper=(0.1, 0.4), two=(0.5, 0.6))
        assert "over 2 policies" in reading.claim
        assert reading.obtained == (
            "law (gap): 2.0% ± 0.5% (G = 8 on bandit: G* = 16); "
            "paper: 20.0% ± 1.5% (G = 8 on bandit: G* = 16); "
            "two: 50.0% ± 8.0% (G = 4 on bandit: G* = 4); "
            "measured best: 0.0% ± 1.0% (G = 4 on bandit: G* = 4)"
        )
        assert reading.verdict == "reproduced"

    @pytest.mark.parametrize(("paper", "safest"), [((0.3, 0.1), "'paper'"), ((0.6, 0.1), "'two'")])
    def test_the_safest_rival_loses_least_at_worst(self, paper, safest):
        """Two is best on the first policy. Would catch: the mean, or the measured best."""
        verdict = self.read(law=(0.9, 0.0), paper=paper, two=(0.0, 1.0)).verdict
        assert verdict == f"refuted: {safest} loses less at worst"


class TestFinitePrompts:
    def read(self, epochs, iid=4, **columns):
        """Return the reading of a table with the least gaps at the sizes given."""
        best = {"iid": iid, "without_replacement": 8, "epochs": epochs}
        data = crossed(task=[POLICY], budget=[256], prompt_sampling=best,
                       group_size=SIZES[::-1], iteration=[25, 100])  # fmt: skip
        data["gap"] = bowl(data["group_size"], data["prompt_sampling"].map(best))
        data.loc[data["iteration"] == 25, "gap"] = bowl(data["group_size"], 2)
        data = data.assign(num_prompts=500, std_error=0.01, law=data["gap"] - 0.012)
        (reading,) = optimised.finite_prompts(data.assign(**columns))
        return reading

    def test_it_moves_up(self):
        reading = self.read(epochs=16)
        assert reading.verdict.startswith("reproduced")
        assert "weak tug of war: t = 0, N = 256, 500 prompts" in reading.claim
        assert reading.obtained == (
            "best measured G, iid: 4 (ties 4; law 4, largest |z| 1.2); "
            "without replacement: 8 (ties 8; law 8, largest |z| 1.2); "
            "epochs: 16 (ties 16; law 16, largest |z| 1.2)"
        )

    @pytest.mark.parametrize(
        ("epochs", "verdict"), [(2, "refuted"), (4, "not resolved"), (16, "reproduced, for epochs")]
    )
    def test_it_stays_or_moves(self, epochs, verdict):
        """That it moves without replacement is not enough."""
        assert self.read(epochs).verdict == verdict

    def test_all_tied_is_no_move(self):
        assert self.read(16, std_error=100.0).verdict == "not resolved"

    def test_without_a_law(self):
        assert "epochs: 16 (ties 16; no law)" in self.read(16, law=np.nan).obtained

    def test_ties_and_laws_of_their_own(self):
        reading = self.read(16, std_error=0.4, law=lambda data: bowl(data["group_size"], 2))
        assert "iid: 4 (ties 2, 4, 8; law 2, largest |z| 12.5)" in reading.obtained
        assert "epochs: 16 (ties 8, 16; law 2, largest |z| 22.5)" in reading.obtained


class TestAlongThePath:
    def read(self, **columns):
        (reading,) = optimised.along_the_path(training_path_table().assign(**columns))
        return reading

    @pytest.mark.parametrize(("last", "verdict"), [(7.0, "reproduced"), (7.1, "refuted")])
    def test_it_may_move_by_half(self, last, verdict):
        """Of G − 1, from 4 to 6. Would catch: a factor of G, which lets 7.1 pass."""
        reading = self.read(gradient_error_optimal=[5.0, 6.0, 6.5, last])
        assert reading.verdict.startswith(verdict)
        assert f"from 5 to {last:.3g} over 1000 iterations" in reading.obtained
        assert self.read(gradient_error_optimal=[last, 6.0, 6.5, 5.0]).verdict == reading.verdict

    @pytest.mark.parametrize("between", [9.0, np.nan, np.inf])
    def test_verdict_is_of_the_whole_path(self, between):
        assert self.read(gradient_error_optimal=[5.0, 6.0, between, 5.0]).verdict == "refuted"

    def test_points_without_an_inner_optimum(self):
        reading = self.read(gap_optimal=[np.inf, 9.04, 7.96, np.nan])
        ending = "inner optimum of the gap at n = 1, 10, 100, 1000: none, 9.04, 7.96, none"
        assert reading.obtained.endswith(ending)
