"""Pools that are kept question by question, beside gradients that are written out."""

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.running.runner import to_csv
from experiments.tasks.kept_pools import PromptOutputs, drawn, whole_gradients
from experiments.tasks.language import Panel
from ustat_grpo import Grpo, Oracle, SideInformation, Vanilla
from ustat_grpo.lm import arithmetic_questions, shipped_policy

ESTIMATORS = {"vanilla": Vanilla(), "grpo": Grpo(), "oracle": Oracle()}


@pytest.fixture(scope="module")
def panel():
    _, questions = arithmetic_questions(5, 5, rng=np.random.default_rng(1))
    policy = shipped_policy("intermediate", dtype=torch.float64)
    return Panel(policy, questions.prompts, questions.exact_match, 6, 64)


@pytest.fixture(scope="module")
def tables(panel):
    return [drawn(panel, n, 32, torch.Generator().manual_seed(n)) for n in range(5)]


def of(tables):
    return [PromptOutputs.of(table) for table in tables]


def test_a_table_that_was_kept_says_the_same(tables, tmp_path):
    """Would catch: rewards or tokens that come back as something else."""
    for table, outputs in zip(tables, of(tables), strict=True):
        path = tmp_path / "a.csv"
        path.write_text(to_csv(table))
        again = PromptOutputs.of(pd.read_csv(path))
        np.testing.assert_allclose(again.pool.gram, outputs.pool.gram, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(again.pool.place, outputs.pool.place)
        np.testing.assert_array_equal(again.pool.rewards, outputs.pool.rewards)
        assert again.tokens == outputs.tokens


def test_whole_gradients_of_one_question_are_those_of_its_products(panel, tables):
    """‖Σ a_i W_i‖² = aᵀKa by two ways through the model. Would catch: weights of other outputs."""
    alone = panel._replace(prompts=panel.prompts[2:3])
    (outputs,) = of(tables[2:3])
    whole = whole_gradients(alone, [outputs], ESTIMATORS, 8, 4)
    pool, value = outputs.pool, np.array(outputs.pool.rewards.mean())
    for name, estimator in ESTIMATORS.items():
        exact = []
        for group in np.arange(32).reshape(4, 8):
            known = SideInformation(value, value)
            weights = estimator.advantages(pool.rewards[group], known) / 8
            gram = pool.gram[np.ix_(pool.place[group], pool.place[group])]
            exact.append(weights @ gram @ weights)
        np.testing.assert_allclose(whole.squares[name], exact, rtol=1e-9, atol=1e-12)


def test_errors_and_the_objective_are_of_different_gradients(panel, tables):
    """By all pairs. Would catch: products of a gradient with itself, a mean not taken off."""
    whole = whole_gradients(panel, of(tables), ESTIMATORS, 8, 4)
    parts = [whole_gradients(panel, of(shifted(tables, r)), ESTIMATORS, 8, 2) for r in range(4)]
    gradients = [
        torch.cat([part.flatten() for part in each.sums["grpo"]]) / 2 for each in parts
    ]  # of the same outputs twice: the gradient itself
    stacked = torch.stack(gradients).numpy()
    gram = stacked @ stacked.T
    between = (gram.sum() - gram.trace()) / 12
    assert whole.objective_norm("grpo") == pytest.approx(between, rel=1e-9)
    deviations = ((stacked - stacked.mean(axis=0)) ** 2).sum() / 3
    assert whole.errors("grpo").mean() == pytest.approx(deviations, rel=1e-9)


def shifted(tables, number):
    """Return tables in which the group of that number comes twice, and nothing else."""
    rows = np.tile(np.arange(number * 8, number * 8 + 8), 2)
    changed = []
    for table in tables:
        count = sum(name.startswith("product_") for name in table)
        repeated = table.copy().iloc[: max(16, count)].reset_index(drop=True)
        repeated.loc[:15, ["place", "reward"]] = table.loc[rows, ["place", "reward"]].to_numpy()
        changed.append(repeated)
    return changed
