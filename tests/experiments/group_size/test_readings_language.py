"""Readings of tables whose answer is known by construction."""

import numpy as np
import pandas as pd
import pytest

from experiments.gradient_error import readings as gradient_error
from experiments.group_size import language_readings as language
from ustat_grpo.arithmetic.problems import KINDS

SIZES = (4, 8, 16, 32, 64)


def errors(vanilla=1.0, oracle=1.0, residual=1.0, noise=0.01):
    """Errors of three policies: vanilla/G, oracle/G, and oracle/G + residual/(G(G−1))."""
    rows = []
    for skill, scale in {"beginner": 4.0, "advanced": 1.0}.items():
        for size in SIZES:
            laws = {
                "vanilla": vanilla / size,
                "grpo": oracle / size + residual / (size * (size - 1)),
                "oracle": oracle / size,
            }
            for name, law in laws.items():
                found = {"task": f"arithmetic: {skill}", "estimator": name, "group_size": size,
                         "law": scale * law, "law_std_error": 1e-4 * law, "mse": scale * law,
                         "std_error": noise * law, "evidence": "pool",
                         "replications": 4}  # fmt: skip
                rows.append(found)
                if size == 16:
                    rows.append(found | {"evidence": "brute force", "std_error": 5 * noise * law})
    return pd.DataFrame(rows)


class TestFigureFour:
    def test_the_papers_order_is_recognised(self):
        order, close, fall = gradient_error.figure_four(errors(vanilla=3.0))
        assert order.verdict == "reproduced" and "vanilla above GRPO in 10" in order.obtained
        assert fall.verdict == "reproduced"
        assert close.verdict == "refuted"  # 1/31 and 1/63 are resolved by error bars of 0.01 %

    def test_the_reverse_order_is_recognised(self):
        """Would catch: a reading of the measured errors, whose error bars hide the order."""
        order, _, _ = gradient_error.figure_four(errors(vanilla=0.99, noise=1.0))
        assert order.verdict == "refuted"
        assert "below it in 10, and below the oracle in 10 of 10" in order.obtained

    def test_brute_force_that_agrees_and_that_does_not(self):
        agreeing = errors()
        assert gradient_error.brute_force(agreeing).verdict == "reproduced"
        off = agreeing.copy()
        off.loc[off["evidence"] == "brute force", "mse"] *= 1.5
        found = gradient_error.brute_force(off)
        assert found.verdict == "refuted"


def test_policies_that_were_kept():
    row = {"task": "arithmetic: pretraining", "loss": 1.0, "accuracy": 0.4}
    row |= dict.fromkeys(KINDS, 0.25)
    curve = pd.DataFrame(
        [row | {"step": 100, "policy": np.nan}, row | {"step": 200, "policy": "a"}]
    )
    (found,) = language.policies(curve)
    assert "after 200 steps" in found.claim and "two step 0.25" in found.obtained


def test_hard_prompts():
    rows = pd.DataFrame(
        {
            "task": "arithmetic: a",
            "group_size": [4, 4, 4, 64],
            "value": [0.05, 0.01, 0.9, 0.05],
            "ratio": [1.2, 0.9, 5.0, 0.1],
            "crossover": [20.0, 3.0, np.inf, 20.0],
            "score_norm_ratio": [1.0, 2.0, 9.0, 1.0],
        }
    )
    (found,) = gradient_error.hard_prompts(rows)
    assert found.verdict == "refuted"
    assert "never on 33% of 3 questions" in found.obtained
    assert "50% of the hard (V < 0.1, 2) and 100% of the easy (V > 0.5, 1)" in found.obtained


def sweep(best=4, spread=0.001, seeds=10, budgets=(256, 512)):
    """Accuracies that fall with the distance of log G to that of the best, and G* = 4."""
    rng, rows = np.random.default_rng(0), []
    for budget in budgets:
        for seed in range(seeds):
            common = 0.05 * rng.standard_normal()
            for size in SIZES:
                for iteration in (0, 100):
                    loss = 0.02 * abs(np.log2(size / best)) * (iteration > 0)
                    rows.append(
                        {"task": "arithmetic: a", "optimizer": "sgd", "budget": budget,
                         "group_size": size, "iteration": iteration, "seed": seed,
                         "accuracy": 0.5 + common - loss + spread * rng.standard_normal(),
                         "prompt": 1.0 if seed == 0 else np.nan, "oracle": 1.0, "residual": 9.0}
                    )  # fmt: skip
    return pd.DataFrame(rows)


class TestGroupSizes:
    def test_a_sweep_that_agrees_with_the_law(self):
        *finals, ranking, few, universal, steady, path = language.group_sizes(sweep())
        assert [each.verdict for each in finals] == ["reproduced"] * 2
        assert finals[0].expected == "G in 3.1 … 5.3"
        assert "may be best (95 %): 4;" in finals[0].obtained
        assert ranking.verdict == "reproduced" and "N = 512: 1.00" in ranking.obtained
        assert few.verdict == "refuted" and "in 2 of 2" in few.obtained
        assert universal.verdict == steady.verdict == "reproduced: not rejected"
        assert steady.obtained == "sgd, N = 256: 4; sgd, N = 512: 4"
        assert path.obtained.startswith("4.00 at the start; 4.00 … 4.00 after 100")

    def test_a_sweep_that_disagrees(self):
        """Would catch: unpaired tests, whose error bars the common noise of a seed would fill."""
        *finals, ranking, _, _, _, _ = language.group_sizes(sweep(best=64))
        assert ranking.verdict == "refuted"
        assert [each.verdict for each in finals] == ["refuted"] * 2

    def test_a_sweep_that_cannot_tell(self):
        *finals, _, few, _, _, _ = language.group_sizes(sweep(best=8, spread=0.3, seeds=6))
        assert few.verdict.startswith("reproduced")
        assert all(each.verdict == "reproduced" for each in finals)  # nothing is excluded

    def test_budgets_that_differ(self):
        data = pd.concat([sweep(budgets=(256,)), sweep(best=64, budgets=(512,))])
        *_, universal, steady, _ = language.group_sizes(data)
        assert universal.verdict == "refuted"
        assert universal.obtained == "N = 256: 4; N = 512: 64"
        assert steady.verdict == "reproduced: not rejected"

    def test_checkpoints_that_differ(self):
        """Would catch: sizes that are compared between budgets, and not between checkpoints."""
        later = sweep(best=64).query("iteration == 100").assign(iteration=200)
        *_, universal, steady, _ = language.group_sizes(pd.concat([sweep(), later]))
        assert universal.verdict == "reproduced: not rejected"
        assert steady.verdict == "refuted" and "every n = 100, 200 " in steady.claim
        assert steady.obtained == "sgd, N = 256: none; sgd, N = 512: none"


@pytest.mark.parametrize("growth", [1.0, 4.0])
def test_path_that_moves(growth):
    data = sweep()
    data.loc[data["iteration"] == 100, "residual"] *= growth**2
    *_, path = language.group_sizes(data)
    assert path.verdict == ("reproduced" if growth == 1.0 else "refuted")
