"""How Algorithm 1 draws its minibatches: i.i.d., without replacement, in epochs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import chi2, norm

from support.training_options import optimized
from ustat_grpo import Constant, ConstantBaseline, SoftmaxBandit
from ustat_grpo.optimization.training_config import PROMPT_SAMPLING

# Which prompts a minibatch held, read off θ₁ − θ₀: every reward is 1, and a prompt's block moves
# by the number of its outputs with action 0 less 0.37 times the number of its outputs.
TINY = 1e-9
OFFSETS = [0.0, np.log(0.63 / 0.37)]


def prompt_counts(
    num_prompts, batch_size, sampling, num_iterations=1, num_runs=2000, group_size=1, baseline=0.0
):
    """How often each prompt was in the minibatch, shape (R, n, P)."""
    bandit = SoftmaxBandit.tabular(
        [1.0], np.ones((num_prompts, 2, 1)), offsets=np.tile(OFFSETS, (num_prompts, 1))
    )
    runs = optimized(
        bandit, ConstantBaseline(baseline), batch_size=batch_size, group_size=group_size,
        num_iterations=num_iterations, num_runs=num_runs, checkpoints=range(1, num_iterations + 1),
        schedule=Constant(TINY), theta0=np.zeros(2 * num_prompts), prompt_sampling=sampling,
        rng=np.random.default_rng(4),
    )  # fmt: skip
    outputs = batch_size * group_size
    moves = np.diff(runs.theta, axis=1, prepend=0.0)[..., ::2] * outputs / (TINY * (1 - baseline))
    table = {
        (c, k): k - 0.37 * c * group_size
        for c in range(batch_size + 1) for k in range(c * group_size + 1)
    }  # fmt: skip
    distance = abs(moves[..., None] - np.array(list(table.values())))
    assert distance.min(axis=-1).max() < 1e-6
    counts = np.array([c for c, _ in table])[distance.argmin(axis=-1)]
    assert (counts.sum(axis=-1) == batch_size).all()
    return counts


def uniform_z(numbers, num_values):
    """Pearson's statistic for equally likely values, on the normal scale."""
    counts, expected = np.bincount(numbers, minlength=num_values), len(numbers) / num_values
    assert len(counts) == num_values
    return norm.isf(chi2.sf(((counts - expected) ** 2).sum() / expected, num_values - 1))


@pytest.mark.parametrize(("num_prompts", "batch_size"), [(5, 3), (4, 4), (6, 1)])
def test_minibatches_without_replacement_hold_distinct_prompts(num_prompts, batch_size):
    """All subsets are equally likely, and all pairs of them at two iterations.

    Would catch: a shuffle that depends on the last one, one that never moves the last place.
    """
    counts = prompt_counts(num_prompts, batch_size, "without_replacement", 3, 20_000)
    assert counts.max() == 1
    subsets = list(itertools.combinations(range(num_prompts), batch_size))
    codes = [sum(2**x for x in subset) for subset in subsets]
    numbers = np.searchsorted(np.sort(codes), counts @ 2 ** np.arange(num_prompts))
    if len(subsets) == 1:  # B = P
        return
    for first, second in itertools.combinations(range(3), 2):
        both = numbers[:, first] * len(subsets) + numbers[:, second]
        assert abs(uniform_z(both, len(subsets) ** 2)) <= 4
    assert counts.sum(axis=1).max() > 1  # the next minibatch begins anew


@pytest.mark.parametrize(("num_prompts", "batch_size"), [(5, 3), (5, 5), (2, 5), (7, 1), (4, 6)])
def test_an_epoch_holds_each_prompt_once(num_prompts, batch_size):
    """After i minibatches each prompt was drawn ⌊iB/P⌋ or ⌈iB/P⌉ times.

    Also where an epoch ends inside a minibatch. Would catch: prompts that are lost there.
    """
    taken = prompt_counts(num_prompts, batch_size, "epochs", 10, 200).cumsum(axis=1)
    epochs = np.arange(1, 11) * batch_size / num_prompts
    assert (taken >= np.floor(epochs)[:, None]).all()
    assert (taken <= np.ceil(epochs)[:, None]).all()


def test_all_orders_of_an_epoch_are_equally_likely():
    """All 36 pairs of orders of 3 prompts in two epochs.

    Would catch: one order for both epochs, and swaps with any place: 4/27 and 5/27 for 1/6.
    """
    order = prompt_counts(3, 1, "epochs", 6, 20_000).argmax(axis=-1).reshape(-1, 2, 3)
    permutations = np.array(list(itertools.permutations(range(3)))) @ [9, 3, 1]
    numbers = np.searchsorted(permutations, order @ [9, 3, 1])
    assert abs(uniform_z(numbers @ [6, 1], 36)) <= 4
    naive = np.random.default_rng(0).choice(6, 20_000, p=np.array([4, 5, 5, 5, 4, 4]) / 27)
    assert uniform_z(naive, 6) > 4


@pytest.mark.parametrize("sampling", PROMPT_SAMPLING)
def test_other_estimators_and_group_sizes_meet_the_same_prompts(sampling):
    """Would catch: a key with G or the estimator in it, outputs and prompts from one stream."""
    counts = prompt_counts(5, 3, sampling, 4)
    for other in ({"group_size": 4}, {"baseline": 2.0}, {"group_size": 2, "baseline": 0.5}):
        np.testing.assert_array_equal(prompt_counts(5, 3, sampling, 4, **other), counts)


@pytest.mark.parametrize("sampling", PROMPT_SAMPLING)
def test_larger_minibatches_begin_with_the_prompts_of_smaller_ones(sampling):
    """In every iteration; in epochs in the first only, since later ones go on where they were."""
    one, three = (prompt_counts(5, size, sampling, 4) for size in (1, 3))
    last = 1 if sampling == "epochs" else 4
    assert (three >= one)[:, :last].all()


def test_iid_prompts_come_twice():
    """A pair of 5 prompts is equal in a fifth of minibatches. Would catch: 'iid' that is not."""
    counts = prompt_counts(5, 2, "iid", 1, 20_000)[:, 0]
    twice = (counts == 2).any(axis=1)
    assert abs(twice.mean() - 0.2) <= 4 * np.sqrt(0.2 * 0.8 / 20_000)
    assert abs(uniform_z(counts[twice].argmax(axis=1), 5)) <= 4
