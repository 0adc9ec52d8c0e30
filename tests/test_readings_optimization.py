"""Each reading of the optimisation's tables on tables whose answer is known, for every verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from experiments import readings_optimization as optimised
from optimisation_tables import (
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

    def table(self, **off):
        """Return gaps that are off by the given shares of their law; budgets largest first."""
        parts = [
            pd.DataFrame(
                {"budget": int(name[1:]), "law": 2.0, "std_error": 0.12, "gap": 2 + 2 * by}
            )
            for name, by in off.items()
        ]
        return pd.concat(parts[::-1], ignore_index=True)

    def test_numbers(self):
        reading = optimised.law_of_the_gap(self.table(N64=self.OFF, N1024=self.OFF / 10))
        assert reading.verdict.startswith("refined")
        assert "(6 points)" in reading.claim
        rms = np.sqrt(np.mean((self.OFF / 0.06) ** 2))
        assert reading.obtained == (
            f"N = 64: 67% within 4 std. errors, rms z {rms:.1f}, median deviation 20.00%, "
            f"largest 30%; N = 1024: 100% within 4 std. errors, rms z {rms / 10:.1f}, "
            "median deviation 2.00%, largest 3%"
        )

    @pytest.mark.parametrize("factors", [(1, 1), (1, 1.2), (1, 0.1, 0.2)])
    def test_refuted_unless_every_larger_budget_is_closer(self, factors):
        off = {f"N{64 * 4**i}": self.OFF * factor for i, factor in enumerate(factors)}
        assert optimised.law_of_the_gap(self.table(**off)).verdict == "refuted"

    def test_a_missing_law_is_no_agreement(self):
        data = self.table(N64=self.OFF, N1024=self.OFF / 10)
        data.loc[0, "law"] = np.nan
        assert optimised.law_of_the_gap(data).verdict == "refuted"


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
        data = crossed(
            task=tasks,
            estimator=["vanilla", "grpo"],
            group_size=SIZES[::-1],
            **{column: [10, 40], other: [3, 70]},
        )
        place = data[column].map({10: 0, 40: 1})
        data["gap"] = data["law"] = bowl(data["group_size"], place.map(dict(enumerate(best))))
        data["optimal"] = place.map(dict(enumerate(optimal)))
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

    def test_it_moves(self, column):
        reading = self.read(column, best=(4, 8))
        assert reading.verdict == "refuted"
        assert reading.obtained.endswith("no G is tied with the best at all")

    def test_it_moves_within_the_noise(self, column):
        """4 and 8 differ by 1: tied at 2√2·0.4, though not at 2·0.4."""
        reading = self.read(column, best=(4, 8), std_error=0.4)
        assert reading.verdict == "reproduced"
        assert "10: 4 (ties 2, 4, 8; law 4" in reading.obtained
        assert "40: 8 (ties 4, 8, 16; law 8" in reading.obtained
        assert reading.obtained.endswith("all tied at G = 4, 8")

    @pytest.mark.parametrize(("std_error", "tied"), [(0.352, "4"), (0.355, "2, 4, 8")])
    def test_ties_are_two_unpaired_standard_errors(self, column, std_error, tied):
        """1/(2√2) = 0.3536. Would catch: the noise of one of the two left out, 1/2."""
        assert f"10: 4 (ties {tied};" in self.read(column, std_error=std_error).obtained

    @pytest.mark.parametrize(
        ("optimal", "verdict"),
        [((5, 7), "reproduced"), ((7, 5), "reproduced"), ((5, 7.1), "refuted")],
    )
    def test_the_law_may_move_by_half(self, column, optimal, verdict):
        """Of G − 1, from 4 to 6. Would catch: a factor of G, which lets 7.1 pass."""
        reading = self.read(column, optimal=optimal)
        assert reading.verdict == verdict
        assert f"law 4, G* = {optimal[1]:.3g}" in reading.obtained

    @pytest.mark.parametrize("none", [np.inf, np.nan])
    @pytest.mark.parametrize("where", [0, 1])
    def test_without_an_inner_optimum(self, column, none, where):
        optimal = [5.0, 5.0]
        optimal[where] = none
        reading = self.read(column, optimal=optimal)
        assert reading.verdict == "refuted"
        assert f"{(10, 40)[where]}: 4 (ties 4; law 4, no inner G*)" in reading.obtained
        assert reading.obtained.count("G* = 5") == 1

    def test_law_and_measurement_apart(self, column):
        data = self.table(column)
        data["law"] = data["law"].where(data["law"].isna(), bowl(data["group_size"], 16))
        (reading,) = READINGS[column][0](data)
        assert "10: 4 (ties 4; law 16, G* = 5)" in reading.obtained

    def test_one_reading_a_policy_in_their_own_order(self, column):
        data = self.table(column, tasks=POLICIES[::-1])
        readings = list(READINGS[column][0](data))
        assert [reading.claim.split(":")[1] for reading in readings] == [" G* = 16", " G* = 4"]


class TestLimitLaw:
    """The table's means are 2.5 std. errors from their law, which β² changes by a factor of 9."""

    LAST = "iteration == 1000 and estimator == 'oracle'"

    def read(self, column=None, value=None, where=LAST):
        data = limit_law_table()
        if column:
            data.loc[data.eval(where), column] = value
        (reading,) = optimised.limit_law(data)
        return reading

    def test_numbers(self):
        reading = self.read("mean", 0.96)
        assert reading.verdict.startswith("refined")
        assert reading.claim == "weak tug of war: t = 0: nΔ_n follows Σ w_k χ²₁, n = 1000"
        shown = ("1.0500 ± 0.0200", "1.0500 ± 0.0200", "0.9600 ± 0.0200")
        parts = [
            f"{name}: {mean} (law 1.0000), KS p = 0.40"
            for name, mean in zip(("vanilla", "grpo", "oracle"), shown, strict=True)
        ]
        ending = "; without β² the law is off by a factor of 9"
        assert reading.obtained == "; ".join(parts) + ending

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("mean", 1.081),
            ("mean", 0.919),
            ("mean_std_error", 0.01),
            ("ks_p_value", 9e-4),
            *[(name, np.nan) for name in ("mean", "law_mean", "ks_p_value")],
        ],
    )
    def test_one_estimator_off_is_enough(self, column, value):
        assert self.read(column, value).verdict == "refuted"
        assert self.read(column, value, "iteration == 10").verdict.startswith("refined")

    def test_every_policy_at_its_own_last_iteration(self):
        early = limit_law_table(["t: a"], (5, 20)).assign(ks_p_value=0.0)
        late = limit_law_table(["t: b"])
        first, second = optimised.limit_law(pd.concat([early, late], ignore_index=True))
        assert first.claim.endswith("n = 20") and second.claim.endswith("n = 1000")
        assert first.verdict == "refuted" and second.verdict.startswith("refined")


class TestBounds:
    def read(self, change=lambda data: None):
        data = gap_bound_table()
        change(data)
        return list(optimised.bounds(data))

    def test_numbers(self):
        constant, decay = self.read()
        assert constant.verdict == decay.verdict == "reproduced"
        assert constant.claim.startswith("weak tug of war: t = 0, constant rate: ")
        assert decay.claim.startswith("weak tug of war: t = 0, decay rate: ")
        assert constant.expected == "12 of 12 means + 4 std. errors"
        last = gap_bound_table().query("iteration == 1000 and schedule == 'decay'")
        loose = np.sort(last["law"] / last["gap"])[1]  # of three estimators
        assert decay.obtained == (
            f"12 of 12; at the last one the bound is {9 * loose:.3g} times the gap, iterated "
            f"step by step {4 * loose:.3g} times"
        )

    @pytest.mark.parametrize("iteration", [1, 10, 1000])
    @pytest.mark.parametrize("margin", [3.9, -1.0])
    def test_a_single_gap_above_the_bound_is_seen(self, iteration, margin):
        """A gap that is 3.9 std. errors below its bound is not safely below it."""

        def raise_one(data):
            where = f"schedule == 'decay' and iteration == {iteration} and estimator == 'grpo'"
            (row,) = data.index[data.eval(where)]
            data.loc[row, "gap"] = data.loc[row, "bound"] - margin * data.loc[row, "std_error"]
            data["recursive_bound"] = np.inf

        constant, decay = self.read(raise_one)
        assert (constant.verdict, decay.verdict) == ("reproduced", "refuted")
        assert decay.obtained.startswith("11 of 12; ")

    def test_the_recursive_bound_counts_too(self):
        def lower_one(data):
            data.loc[3, "recursive_bound"] = data.loc[3, "gap"]

        assert [reading.verdict for reading in self.read(lower_one)] == ["refuted", "reproduced"]

    @pytest.mark.parametrize("column", ["gap", "std_error", "bound", "recursive_bound"])
    def test_a_missing_number_is_not_below(self, column):
        def lose_one(data):
            data.loc[3, column] = np.nan

        assert [reading.verdict for reading in self.read(lose_one)] == ["refuted", "reproduced"]


class TestRules:
    """Rules on two policies of least gaps 1 and 2; excesses are those of the last iteration."""

    NAMES = ("law (gap)", "paper", "two", "measured best")

    def table(self, **excess):
        data = crossed(task=POLICIES, budget=[64, 256], iteration=[25, 100], rule=self.NAMES)
        least = data["task"].map(dict(zip(POLICIES, (1.0, 2.0), strict=True)))
        excess = {name.replace("_", " "): values for name, values in excess.items()}
        excess["law (gap)"] = excess.pop("law")
        place = data["task"].map(dict(zip(POLICIES, (0, 1), strict=True)))
        last = data.eval("budget == 256 and iteration == 100")
        data["excess"] = [
            excess.get(rule, (0.0, 0.0))[where] if chosen else 50.0
            for rule, where, chosen in zip(data["rule"], place, last, strict=True)
        ]
        data["gap"] = least + data["excess"]
        data["relative_excess"] = data["excess"] / least
        return data.assign(std_error=0.01 * (1 + place), group_size=4 + 4 * place)

    def test_worst_policy_with_its_own_error(self):
        """By excess the second would be worst for the paper's rule; by share it is the first."""
        data = self.table(law=(0.01, 0.04), paper=(0.2, 0.3), two=(0.5, 1.2))
        data["std_error"] = data["rule"].map({"paper": 0.03, "two": 0.08}).fillna(0.01)
        reading = optimised.rules(data)
        assert "over 2 policies" in reading.claim
        assert reading.obtained == (
            "law (gap): 2.0% ± 0.5% (G = 8 on bandit: G* = 16); "
            "paper: 20.0% ± 3.0% (G = 4 on bandit: G* = 4); "
            "two: 60.0% ± 4.0% (G = 8 on bandit: G* = 16); "
            "measured best: 0.0% ± 1.0% (G = 4 on bandit: G* = 4)"
        )
        assert reading.verdict.endswith("the law of the gap loses 2.0% at worst, 'paper' 20.0%")

    def test_the_safest_rival_is_the_one_that_loses_least_at_worst(self):
        """Two is best on the first policy, but the worst case counts."""
        data = self.table(law=(0.01, 0.04), paper=(0.3, 0.1), two=(0.0, 1.0))
        assert optimised.rules(data).verdict.endswith("'paper' 30.0%")
        data = self.table(law=(0.01, 0.04), paper=(0.6, 0.1), two=(0.0, 1.0))
        assert optimised.rules(data).verdict.endswith("'two' 50.0%")

    def test_a_law_that_loses_shows_what_it_loses(self):
        data = self.table(law=(0.5, 0.0), paper=(0.01, 0.0), two=(0.9, 0.0))
        ending = "the law of the gap loses 50.0% at worst, 'paper' 1.0%"
        assert optimised.rules(data).verdict.endswith(ending)


class TestFinitePrompts:
    def read(self, epochs, iid=4, **columns):
        """Return the reading of a table with the least gaps at the sizes given."""
        names = ["iid", "without_replacement", "epochs"]
        best = dict(zip(names, (iid, 8, epochs), strict=True))
        data = crossed(task=[POLICY], budget=[256], prompt_sampling=names,
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
            "best measured G, iid: 4 (ties 4; law 4; largest |z| 1.2); "
            "without replacement: 8 (ties 8; law 8; largest |z| 1.2); "
            "epochs: 16 (ties 16; law 16; largest |z| 1.2)"
        )

    @pytest.mark.parametrize("epochs", [2, 4])
    def test_it_stays_or_moves_down(self, epochs):
        """That it moves without replacement is not enough."""
        assert self.read(epochs).verdict == "refuted"

    def test_ties_and_laws_of_their_own(self):
        reading = self.read(16, std_error=0.4, law=lambda data: bowl(data["group_size"], 2) + 0.1)
        assert "iid: 4 (ties 2, 4, 8; law 2; largest |z| " in reading.obtained
        assert "epochs: 16 (ties 8, 16; law 2;" in reading.obtained

    def test_largest_z_has_no_sign(self):
        reading = self.read(16, law=lambda data: data["gap"] + 0.01 * data["group_size"])
        assert reading.obtained.count("largest |z| 16.0") == 3


class TestAlongThePath:
    def read(self, **columns):
        (reading,) = optimised.along_the_path(training_path_table().assign(**columns))
        return reading

    @pytest.mark.parametrize(
        ("wanted", "verdict"),
        [
            ([5.0, 6.0, 6.5, 7.0], "reproduced for the gradient's error"),
            ([5.0, 6.0, 6.5, 7.1], "refuted"),
            ([7.1, 6.0, 6.5, 5.0], "refuted"),
            ([5.0, 9.0, 9.0, 5.0], "refuted"),  # back where it was
            ([5.0, 6.0, np.nan, 5.0], "refuted"),
            ([5.0, 6.0, np.inf, 5.0], "refuted"),
        ],
    )
    def test_verdict_is_of_the_whole_path(self, wanted, verdict):
        reading = self.read(gradient_error_optimal=wanted)
        assert reading.verdict == verdict
        ends = f"from {wanted[0]:.3g} to {wanted[-1]:.3g} over 1000 iterations"
        assert ends in reading.obtained

    def test_points_without_an_inner_optimum(self):
        reading = self.read(gap_optimal=[np.inf, 9.04, 7.96, np.nan])
        ending = "inner optimum of the gap at n = 1, 10, 100, 1000: none, 9.04, 7.96, none"
        assert reading.obtained.endswith(ending)

    def test_one_reading_a_policy(self):
        readings = list(optimised.along_the_path(training_path_table(POLICIES[::-1])))
        assert [each.claim[:15] for each in readings] == ["bandit: G* = 16", "bandit: G* = 4:"]
