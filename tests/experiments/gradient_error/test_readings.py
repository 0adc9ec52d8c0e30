"""Each reading of the reference tables on tables whose answer is known, for every verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from experiments.gradient_error.readings import (
    agreement,
    best_group_size,
    closeness,
    decrease,
    order,
)
from experiments.running.reading import Reading

SIZES = (8, 32, 64)
POLICIES = ("t: low", "t: high")


def table(mse, policies=POLICIES, sizes=SIZES, std_error=0.01):
    """Return the error `mse(estimator, policy, size)` of three estimators in long form.

    Args:
        mse: gives a number; `policy` counts from 0.
        policies: names of the panels.
        sizes: group sizes.
        std_error: relative.
    """
    rows = [
        (panel, name, size, mse(name, number, size))
        for number, panel in enumerate(policies)
        for size in sizes
        for name in ("vanilla", "grpo", "oracle")
    ]
    data = pd.DataFrame(rows, columns=["task", "estimator", "group_size", "mse"])
    return data.assign(std_error=std_error * data["mse"], law=data["mse"])


def as_in_the_paper(name, policy, size):
    """Vanilla above GRPO above the oracle; less for a larger group, less for a better policy."""
    excess = {"vanilla": 1.0, "grpo": 1 / (size - 1), "oracle": 0.0}[name]
    return (1 + excess) / size / (1 + policy)


class TestAgreement:
    def test_z_of_every_point(self):
        data = table(as_in_the_paper)
        data["law"] = data["mse"] - data["std_error"] * np.resize([3.9, -1.0, 0.0], len(data))
        reading = agreement(data)
        assert reading.verdict == "reproduced"
        assert "18 points" in reading.claim
        root_mean_square = np.sqrt((3.9**2 + 1) / 3)
        assert f"largest |z| 3.9, root mean square {root_mean_square:.2f}" in reading.obtained
        assert "relative std. error ≤ 1.0e-02" in reading.obtained

    @pytest.mark.parametrize("z", [4.1, -4.1])
    def test_one_point_off_is_enough(self, z):
        data = table(as_in_the_paper)
        data.loc[5, "law"] = data.loc[5, "mse"] - z * data.loc[5, "std_error"]
        assert agreement(data).verdict == "refuted"

    @pytest.mark.parametrize("column", ["mse", "law", "std_error"])
    def test_a_missing_number_is_no_agreement(self, column):
        """Would catch: NaN, which every maximum of pandas leaves out."""
        data = table(as_in_the_paper)
        data.loc[5, column] = np.nan
        assert agreement(data).verdict == "refuted"


class TestOrder:
    def test_everywhere(self):
        reading = order("a_task", table(as_in_the_paper))
        assert reading == Reading(
            "a task: vanilla > GRPO > oracle at every G and policy",
            "6 of 6 cells",
            "vanilla above GRPO in 6, below it in 0, and below the oracle in 0 of 6; "
            "GRPO above the oracle in 4 (differences beyond 2 std. errors)",
            "reproduced",
        )

    def test_one_cell_where_vanilla_is_below(self):
        def mse(name, policy, size):
            if (name, policy, size) == ("vanilla", 1, 8):
                return as_in_the_paper("grpo", policy, size) * 0.9
            return as_in_the_paper(name, policy, size)

        reading = order("t", table(mse))
        assert reading.verdict == "refuted"
        assert "vanilla above GRPO in 5, below it in 1, and below the oracle in 0" in (
            reading.obtained
        )

    def test_vanilla_better_than_the_oracle(self):
        def mse(name, policy, size):
            factor = 0.5 if name == "vanilla" else 1.0
            return factor * as_in_the_paper("oracle", policy, size)

        reading = order("t", table(mse))
        assert reading.verdict == "refuted"
        assert "below it in 6, and below the oracle in 6 of 6" in reading.obtained

    def test_grpo_better_than_the_oracle(self):
        """The claim has two signs, and the second counts."""

        def mse(name, policy, size):
            factor = 0.5 if name == "grpo" else 1.0
            return factor * as_in_the_paper("oracle" if name == "grpo" else name, policy, size)

        assert order("t", table(mse)).verdict == "refuted"

    def test_within_the_noise_nothing_is_clear(self):
        reading = order("t", table(as_in_the_paper, std_error=1.0))
        assert reading.verdict == "refuted"
        assert "vanilla above GRPO in 0, below it in 0" in reading.obtained


class TestCloseness:
    def test_ratios_with_their_standard_errors(self):
        reading = closeness("a_task", table(as_in_the_paper))
        assert reading.verdict == "reproduced"
        assert "a task" in reading.claim
        shown = [
            f"{ratio:.3f} ± {ratio * 0.01 * np.sqrt(2):.3f} at G = {size}"
            for size in SIZES
            for ratio in [1 + 1 / (size - 1)]
        ]
        assert reading.obtained == f"largest ratio over policies {', '.join(shown)}"

    def test_the_worst_policy_counts(self):
        def mse(name, policy, size):
            far = name == "grpo" and policy == 1
            return as_in_the_paper(name, policy, size) * (1.2 if far else 1.0)

        reading = closeness("t", table(mse))
        assert reading.verdict == "refuted"
        assert f"{1.2 * 64 / 63:.3f}" in reading.obtained

    def test_far_at_eight(self):
        """The claim speaks of G = 8 and 32 too, not of 64 alone."""

        def mse(name, policy, size):
            far = name == "grpo" and size < 64
            return as_in_the_paper(name, policy, size) * (3.0 if far else 1.0)

        assert closeness("t", table(mse)).verdict == "refuted"


class TestDecrease:
    def test_with_size_and_skill(self):
        reading = decrease("a_task", table(as_in_the_paper))
        assert reading.verdict == "reproduced"
        assert "with G: yes; with skill: yes" in reading.obtained
        levels = [as_in_the_paper("grpo", policy, 8) for policy in (0, 1)]
        assert f"GRPO at G = 8, policies in order: {levels[0]:.3g}, {levels[1]:.3g}" in (
            reading.obtained
        )

    @pytest.mark.parametrize("policies", [("t: 9", "t: 10"), ("t: b", "t: a"), ("t: a", "t: b")])
    def test_policies_in_their_own_order(self, policies):
        """Would catch: names sorted as text, where 10 comes before 9."""
        assert decrease("t", table(as_in_the_paper, policies)).verdict == "reproduced"

    def test_sizes_in_any_order(self):
        reading = decrease("t", table(as_in_the_paper, sizes=(64, 8, 32)))
        assert reading.verdict == "reproduced"
        assert "GRPO at G = 8" in reading.obtained

    def test_not_with_skill(self):
        reading = decrease("t", table(lambda name, policy, size: (1 + policy) / size))
        assert reading.verdict == "refuted"
        assert "with G: yes; with skill: no" in reading.obtained

    def test_not_with_size(self):
        reading = decrease("t", table(lambda name, policy, size: size / (1 + policy)))
        assert reading.verdict == "refuted"
        assert "with G: no; with skill: yes" in reading.obtained


class TestBestGroupSize:
    def budget(self, best, low=10.0, high=40.0, by_law=16):
        """Return a table at a fixed budget whose GRPO error is least at the sizes given."""
        policies = [f"a_task: {number}" for number in range(len(best))]
        sizes = (4, 8, 16, 32, 64)

        def mse(name, policy, size):
            if name != "grpo":  # must not be looked at
                return 1.0 / size
            return 1.0 + np.log2(size / best[policy]) ** 2

        return table(mse, policies, sizes).assign(
            law=lambda data: 1.0 + np.log2(data["group_size"] / by_law) ** 2,
            optimal=20.0,
            near_optimal_low=low,
            near_optimal_high=high,
        )

    def test_inside(self):
        reading = best_group_size(self.budget([16, 32]))
        assert reading.verdict == "reproduced"
        assert reading.expected == "2 of 2 policies"
        assert reading.obtained == (
            "2 of 2; measured (G*): a task: 0: 16 (20.00); a task: 1: 32 (20.00)"
        )

    def test_one_outside(self):
        reading = best_group_size(self.budget([16, 64]))
        assert reading.verdict == "refuted"
        assert reading.obtained.startswith("1 of 2; ")
        assert "a task: 1: 64 (20.00)" in reading.obtained

    def test_no_divisor_inside(self):
        """Between 2 and 4 the interval may hold no divisor; the law's own best one then counts."""
        between = {"low": 4.5, "high": 7.5, "by_law": 8}
        assert best_group_size(self.budget([8, 8], **between)).verdict == "reproduced"
        assert best_group_size(self.budget([8, 32], **between)).verdict == "refuted"
