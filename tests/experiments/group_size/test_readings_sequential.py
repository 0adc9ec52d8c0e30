"""Readings of tables whose answer is known by construction."""

import numpy as np
import pandas as pd
import pytest

from experiments.gradient_error import readings as gradient_error
from experiments.group_size import sequential_readings as sequential

SIZES = (2, 4, 8, 16, 32, 64)


def errors(vanilla=3.0, off=1.0, residual=0.1):
    """Errors vanilla/G, 1/G + residual/(G(G−1)) and 1/G of one policy, measured times `off`."""
    rows = []
    for size in SIZES:
        laws = {
            "vanilla": vanilla / size,
            "grpo": 1 / size + residual / (size * (size - 1)),
            "oracle": 1 / size,
        }
        rows += [
            {"task": "frozenlake: J = 0.1", "estimator": name, "group_size": size, "law": law,
             "law_std_error": 0.0, "mse": off * law, "std_error": 0.01 * law}
            for name, law in laws.items()
        ]  # fmt: skip
    return pd.DataFrame(rows)


def sweep(best=4, worse=0.1, sure=True, budgets=(64,), **noise):
    """Objectives that fall with the distance of log G to that of the best; vanilla's lower.

    The law's best is G* = 1 + √(9/1) = 4, where it is best at once: in the first checkpoint all is
    the other way round.
    """
    noise = {"prompt": 1.0, "oracle": 1.0, "residual": 9.0, "prompt_std_error": 0.0} | noise
    rows = []
    for budget in budgets:
        for iteration in (10, 100):
            for name, lower in {"vanilla": worse, "grpo": 0.0, "oracle": 0.05}.items():
                for size in SIZES:
                    loss = 0.02 * abs(np.log2(size / best)) * (1 if iteration == 100 else -1)
                    error = (
                        noise["prompt"] * size + noise["oracle"] + noise["residual"] / (size - 1)
                    )
                    rows.append(
                        {"task": "frozenlake: J = 0.1", "estimator": name, "budget": budget,
                         "group_size": size, "iteration": iteration, "runs": 50,
                         "objective": 0.5 - loss - lower, "std_error": 0.01,
                         "excess": loss, "excess_std_error": 0.001,
                         "in_confidence_set": size == best or not sure,
                         "predicted_mse": error / budget, **noise}
                    )  # fmt: skip
    return pd.DataFrame(rows)


class TestErrors:
    def test_laws_that_hold(self):
        agreement, order, close = gradient_error.errors({"frozenlake": errors()})
        assert agreement.claim == "frozenlake: the exact laws give every measured error (18 points)"
        assert [each.verdict for each in (agreement, order, close)] == ["reproduced"] * 3
        assert "vanilla above GRPO in 6" in order.obtained

    def test_laws_that_do_not(self):
        agreement, order, close = gradient_error.errors(
            {"cartpole": errors(vanilla=0.9, off=1.1, residual=20.0)}
        )
        assert agreement.verdict == order.verdict == close.verdict == "refuted"
        assert "largest |z| 10.0" in agreement.obtained

    def test_error_of_the_law_counts(self):
        """Would catch: moments of a pool taken for exact."""
        loose = errors(off=1.1).assign(law_std_error=errors()["law"])
        agreement, *_ = gradient_error.errors({"cartpole": loose})
        assert agreement.verdict == "reproduced"

    def test_closeness_is_asked_where_it_could_be_told(self):
        loose = errors().assign(std_error=lambda rows: 0.1 * rows["mse"])
        assert len(list(gradient_error.errors({"cartpole": loose}))) == 2

    def test_three_a_task(self):
        assert len(list(gradient_error.errors({"frozenlake": errors(), "cartpole": errors()}))) == 6


class TestGroupSizes:
    def test_a_sweep_that_agrees_with_the_law(self):
        """u + 9/u ≤ 1.05·8 − 2 for u = G − 1 is u in 3.2 ± √1.24. Sizes 2 and 8 lose the same."""
        best, vanilla = sequential.group_sizes(sweep())
        assert best.claim.startswith("frozenlake, N = 64: the G that trains best")
        assert best.verdict == "reproduced"
        assert best.expected == "G* = 4.0; within 5 %: 3.1 … 5.3"
        assert best.obtained.startswith(
            "may be best (95 %): n = 10: 4; n = 100: 4; J by G at n = 100"
        )
        assert "over 50 runs 2: 0.48, 4: 0.5," in best.obtained
        assert "(std. error ≤ 0.01); the law's G = 4 loses 0 ± 0.001" in best.obtained
        assert best.obtained.endswith("rank correlation with the predicted error 0.99")
        assert vanilla.verdict == "reproduced"
        assert vanilla.obtained.startswith("better at 6, worse at 0 of 6")
        assert vanilla.obtained.endswith("best of all G: 0.5 against 0.4")

    def test_a_sweep_that_disagrees(self):
        """Would catch: the least error for the largest, or another checkpoint than the last."""
        best, vanilla = sequential.group_sizes(sweep(best=64, worse=-0.1))
        assert best.verdict == vanilla.verdict == "refuted"
        assert "the law's G = 4 loses 0.08 ± 0.001" in best.obtained
        assert best.obtained.endswith("-0.83")
        assert vanilla.obtained.startswith("better at 0, worse at 6 of 6")

    def test_a_sweep_that_cannot_tell(self):
        """Nothing is excluded; but what is not significant is no proof that GRPO is better."""
        best, vanilla = sequential.group_sizes(sweep(best=64, worse=0.02, sure=False))
        assert (
            best.verdict.startswith("not resolved") and "n = 10: any; n = 100: any" in best.obtained
        )
        assert vanilla.verdict == "refuted"
        assert vanilla.obtained.startswith("better at 0, worse at 0 of 6")

    @pytest.mark.parametrize(
        ("early", "late", "verdict"),
        [
            (sweep(sure=False), sweep(), "reproduced"),
            (sweep(best=64), sweep(), "refuted"),
            (sweep(), sweep(best=64), "refuted"),
        ],
    )
    def test_every_checkpoint_counts(self, early, late, verdict):
        data = pd.concat([early.query("iteration == 10"), late.query("iteration == 100")])
        best, _ = sequential.group_sizes(data)
        assert best.verdict == verdict

    @pytest.mark.parametrize(("best", "verdict"), [(8, "reproduced"), (4, "refuted")])
    def test_between_the_sizes_the_best_by_law_counts(self, best, verdict):
        """4 costs 11.3 and 8 costs 11.1, where G* = 5.7. Would catch: no size that is allowed."""
        found, _ = sequential.group_sizes(sweep(best=best, oracle=0.0, residual=22.0))
        assert found.expected == "G* = 5.7; within 5 %: 4.4 … 7.5"
        assert found.verdict == verdict

    def test_budgets_are_read_one_by_one(self):
        data = pd.concat([sweep(budgets=(64,)), sweep(best=64, budgets=(256,))])
        verdicts = [each.verdict for each in sequential.group_sizes(data)]
        assert verdicts == ["reproduced", "reproduced", "refuted", "reproduced"]

    def test_tasks_are_read_one_by_one(self):
        other = sweep(best=64).assign(task="cartpole: 0 iterations").query("estimator != 'oracle'")
        found = list(sequential.group_sizes(pd.concat([sweep(), other])))
        assert [each.claim.split(",")[0] for each in found] == ["frozenlake"] * 2 + ["cartpole"] * 2
        assert found[0].verdict == "reproduced" and found[2].verdict == "refuted"


class TestUncertainty:
    def test_ends_of_the_interval(self):
        """c₁ = 1 ± 2·0.25·0.98: G* from 1 + 3/√1.49 to 1 + 3/√0.51."""
        row = sweep(prompt_std_error=0.25).iloc[0].to_dict()
        reach = 1.959964 * 0.25
        expected = [4, 1 + 3 / np.sqrt(1 + reach), 1 + 3 / np.sqrt(1 - reach)]
        np.testing.assert_allclose(sequential.optimal(row), expected, rtol=1e-12)
        best, _ = sequential.group_sizes(sweep(prompt_std_error=0.25))
        assert best.expected.startswith("G* = 4.0 (3.5 to 5.2); within 5 %")

    def test_prompt_noise_that_may_be_none(self):
        """Would catch: a root of a negative number."""
        row = sweep(prompt=-1.0, prompt_std_error=1.0).iloc[0].to_dict()
        best, least, most = sequential.optimal(row)
        assert best == most == np.inf
        assert least == pytest.approx(1 + 3 / np.sqrt(0.959964))
        found, _ = sequential.group_sizes(
            sweep(best=64, prompt=-1.0, prompt_std_error=1.0).assign(
                predicted_mse=lambda rows: 1 + 9 / (rows["group_size"] - 1)
            )
        )
        assert found.expected.startswith("G* = inf (4.1 to inf); within 5 %: 181.0 … inf")
        assert found.verdict == "reproduced" and "the law's G = 64" in found.obtained
