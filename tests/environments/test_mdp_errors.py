"""Simulated errors of episodes' gradients against the laws, and what the loop promises."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from theory.episode_moments import random_mdp
from theory.group_error import CASES
from ustat_grpo import GroupMean, Grpo, Precision, StdNormalised, laws
from ustat_grpo.compiled import thread_limit
from ustat_grpo.environments import mdp_errors
from ustat_grpo.environments.features import OneHot
from ustat_grpo.environments.mdp import TabularMdp, frozen_lake
from ustat_grpo.environments.mdp_errors import gradient_errors
from ustat_grpo.environments.mdp_kernels import (
    Played,
    add_up,
    cumulative,
    play_groups,
    play_tables,
)
from ustat_grpo.environments.mdp_moments import snapshot
from ustat_grpo.environments.policies import LinearSoftmax, action_probs, tabular_softmax
from ustat_grpo.laws import binary

LAKE = frozen_lake(["SFF", "FHF", "FFG"], horizon=12)
ESTIMATORS = {name: estimator for name, (estimator, _) in CASES.items()}
SIZES = [2, 4, 9]
COLUMNS = [
    "estimator", "batch_size", "group_size", "replications", "mse", "std_error", "bias_norm",
]  # fmt: skip


class Columns:
    """A feature map of a 3 × 3 lake: a constant, the column and the row."""

    num_features = 3

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return np.stack([np.ones(9), np.arange(9) % 3, np.arange(9) // 3], axis=1)[observations]


def problem(name: str):
    """An MDP, a policy, and a θ without symmetry."""
    mdp = random_mdp(1, horizon=6) if name == "rewards on the way" else LAKE
    features = Columns() if name == "linear policy" else OneHot(mdp.num_states)
    policy = LinearSoftmax(features, mdp.num_actions)
    return mdp, policy, np.random.default_rng(7).normal(size=policy.dimension)


def measure(
    name: str, batch_size: int | None, *, sizes=SIZES, estimators=None, threads=2, **options
):
    chosen = {"replications": Precision(0.01), "rng": np.random.default_rng(0)} | options
    named = ESTIMATORS if estimators is None else estimators
    with thread_limit(threads):
        return gradient_errors(snapshot(*problem(name)), named, sizes, batch_size, **chosen)


def exact(name: str, estimator: str, size: int, batch_size: int | None) -> float:
    moments = snapshot(*problem(name)).moments
    errors = CASES[estimator][1](moments, size)
    gain = laws.mse.group_mean_gain(size) if estimator == "group mean" else 1.0
    return laws.mse.minibatch(errors, moments, batch_size=batch_size, gain=gain)


def z_scores(table: pd.DataFrame, law) -> np.ndarray:
    known = [law(row.estimator, row.group_size) for row in table.itertuples()]
    return ((table.mse - known) / table.std_error).to_numpy()


OTHERWISE_COVERED = pytest.mark.slow
"""Every problem and every kind of batch is in a fast case of the same test."""


@pytest.mark.parametrize(
    ("name", "batch_size"),
    [
        ("lake", None),
        ("lake", 3),
        ("linear policy", None),
        ("rewards on the way", 3),
        pytest.param("linear policy", 3, marks=OTHERWISE_COVERED),
        pytest.param("rewards on the way", None, marks=OTHERWISE_COVERED),
    ],
)
def test_error_agrees_with_the_law(name, batch_size):
    """21 rows a problem, each within 1 %: would see an error that is 4 % off."""
    table = measure(name, batch_size)
    assert len(table) == 21
    assert (table.std_error / table.mse).max() <= 0.01
    scores = z_scores(table, lambda each, size: exact(name, each, size, batch_size))
    assert abs(scores).max() <= 4


def squares_for_pairs(moments, size):
    """The second-order term of GRPO with G² for G(G−1)."""
    wrong = laws.mse.oracle(moments, group_size=size) + moments.residual_norm_squared / size**2
    return laws.mse.minibatch(wrong, moments, batch_size=3)


def without_prompt_noise(moments, size):
    return float(moments.prompt_probs @ laws.mse.grpo(moments, group_size=size)) / 3


def of_the_oracle(moments, size):
    return laws.mse.minibatch(laws.mse.oracle(moments, group_size=size), moments, batch_size=3)


@pytest.mark.parametrize("mutant", [squares_for_pairs, without_prompt_noise, of_the_oracle])
@pytest.mark.parametrize("name", ["lake", "rewards on the way"])
def test_wrong_laws_of_grpo_are_rejected(name, mutant):
    """The least of them, without prompt noise, is 1.7 % off where standard errors are 0.3 %."""
    moments = snapshot(*problem(name)).moments
    table = measure(name, 3, estimators={"GRPO": Grpo()}, sizes=[4], replications=Precision(0.003))
    assert abs(z_scores(table, lambda each, size: exact(name, each, size, 3))).max() <= 4
    assert abs(z_scores(table, lambda _, size: mutant(moments, size))).min() > 4


def test_an_estimator_that_is_not_affine():
    """Standard deviations in the denominator: would see an error that is 2 % off."""
    known = snapshot(*problem("lake"))
    moments = known.moments
    estimators = {"normalised": StdNormalised(eps=1e-4, ddof=1)}
    table = measure("lake", None, estimators=estimators, replications=Precision(0.005))
    for row in table.itertuples():
        advantages = binary.std_normalised(row.group_size, eps=1e-4, ddof=1)
        outcome = binary.outcome_moments(moments)
        norm = moments.gradient_norm_squared
        gain = binary.gain(advantages, moments.value)
        spread = binary.variance(advantages, outcome, norm)
        shift = (moments.prompt_probs * (gain - 1)) @ known.gradients
        law = moments.prompt_probs**2 @ spread + shift @ shift
        assert abs(row.mse - law) <= 4 * row.std_error
        noise = np.sqrt(row.mse / row.replications)
        assert abs(row.bias_norm - np.linalg.norm(shift)) <= 4 * noise
        assert np.linalg.norm(shift) > 4 * noise


def test_bias_norm_is_noise_or_the_known_bias():
    """E‖mean ĝ − g‖² = mse/n if unbiased; the group mean adds ‖g‖/G."""
    size = np.linalg.norm(snapshot(*problem("lake")).gradient)
    for row in measure("lake", 3, sizes=[2]).itertuples():
        noise = np.sqrt(row.mse / row.replications)
        bias = size / 2 if row.estimator == "group mean" else 0.0
        assert abs(row.bias_norm - bias) <= 4 * noise < size / 2


@pytest.mark.parametrize("chunk_bytes", [10**6, 2**25])
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_no_bit(monkeypatch, chunk_bytes, threads):
    monkeypatch.setattr(mdp_errors, "_CHUNK_BYTES", chunk_bytes)
    one = measure("lake", 3, replications=Precision(0.03), threads=2)
    other = measure("lake", 3, replications=Precision(0.03), threads=threads)
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_the_generator_decides_and_moves_on():
    rng = np.random.default_rng(3)
    first, second = (measure("lake", None, replications=Precision(0.1), rng=rng) for _ in range(2))
    again = measure("lake", None, replications=Precision(0.1), rng=np.random.default_rng(3))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert (first.mse != second.mse).all()


def test_other_estimators_and_sizes_see_the_same_episodes():
    options = {"replications": Precision(1e-9, 700)}
    everything = measure("lake", 3, **options).set_index(["estimator", "group_size"])
    some = measure("lake", 3, estimators={"GRPO": Grpo()}, sizes=[4], **options).iloc[0]
    assert some.replications == 700
    assert some.mse == pytest.approx(everything.mse["GRPO", 4], rel=1e-12)
    assert some.std_error == pytest.approx(everything.std_error["GRPO", 4], rel=1e-9)


@pytest.mark.parametrize("most", [2, 1023, 2500])
def test_a_number_of_replications_is_that_of_a_precision_out_of_reach(most):
    asked = (measure("lake", 3, replications=each) for each in (most, Precision(1e-9, most)))
    pd.testing.assert_frame_equal(*asked, check_exact=True)


def test_estimators_without_names_are_labelled():
    table = measure("lake", 3, estimators=[Grpo(), GroupMean()], sizes=[2], replications=2)
    assert list(table.estimator) == ["grpo", "group_mean"]


@pytest.mark.parametrize("most", [2, 1023, 2500])
def test_replications_end_where_told(most):
    assert set(measure("lake", 3, replications=Precision(1e-9, most)).replications) == {most}


def test_precision_ends_where_the_error_is_exactly_zero():
    """A reward of zero throughout: every estimator's advantages vanish but for the constants'."""
    mdp, policy, theta = problem("lake")
    silent = TabularMdp(
        mdp.next_state, mdp.probs, 0 * mdp.rewards, mdp.terminated, mdp.starts, mdp.start_probs, 5
    )
    estimators = {"GRPO": Grpo(), "group mean": GroupMean()}
    rng = np.random.default_rng(0)
    here = snapshot(silent, policy, theta)
    table = gradient_errors(here, estimators, [2], 3, replications=Precision(0.1), rng=rng)
    assert (table.mse == 0).all() and (table.bias_norm == 0).all()


def test_columns_and_rows():
    chosen = {"estimators": {"b": Grpo(), "a": GroupMean()}, "sizes": [9, 2]}
    chosen["replications"] = Precision(0.2)
    table = measure("lake", None, **chosen)
    assert list(table.columns) == COLUMNS
    assert list(table.group_size) == [2, 2, 9, 9]
    assert list(table.estimator) == ["b", "a"] * 2
    assert set(table.batch_size) == {7}
    assert set(measure("lake", 3, **chosen).batch_size) == {3}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"estimators": {}}, "estimators and group_sizes must not be empty"),
        ({"sizes": []}, "estimators and group_sizes must not be empty"),
        ({"sizes": [4.0]}, "group_size must be an integer of at least 1, got 4.0"),
        ({"sizes": [1, 4]}, "group_size must be at least 2 for a leave-one-out baseline, got 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        (
            {"replications": 1},
            "replications must be an integer of at least 2 or a Precision, got 1",
        ),
        ({"replications": 0.1}, "replications must be an integer of at least 2 or a Precision"),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        measure("lake", **({"batch_size": 3} | wrong))


def test_seeds_are_refused():
    with pytest.raises(TypeError, match=r"^rng must be a numpy\.random\.Generator, got 3$"):
        measure("lake", 3, rng=3)


def play(mdp: TabularMdp, group_size: int, *, all_once: bool = True, num_slots: int = 0) -> Played:
    """200 minibatches under the policy of `problem`."""
    policy = tabular_softmax(mdp.num_states, mdp.num_actions)
    theta = np.random.default_rng(7).normal(size=policy.dimension)
    probs = action_probs(policy, theta, np.arange(mdp.num_states))
    shape = 200, num_slots or len(mdp.starts), group_size
    played = Played(
        np.zeros(shape[:2], dtype=np.int64),
        np.full((*shape, mdp.horizon), -1, dtype=np.int32),
        np.zeros(shape, dtype=np.int64),
        np.zeros(shape),
    )
    play_groups(play_tables(mdp), cumulative(probs), np.uint64(3), all_once, 0, played)
    return played


@pytest.mark.parametrize("mdp", [LAKE, random_mdp(1, horizon=6)], ids=["lake", "random"])
def test_episodes_follow_the_table(mdp):
    """Every step starts where one could lead, and only the last one ends or meets the limit."""
    played = play(mdp, 4)
    for index in np.ndindex(*played.returns.shape[:2]):
        assert played.prompts[index] == index[1]
        for member in range(4):
            length = played.lengths[(*index, member)]
            pairs = played.passed[(*index, member)]
            assert (pairs[:length] >= 0).all() and (pairs[length:] == -1).all()
            states, actions = np.divmod(pairs[:length], mdp.num_actions)
            assert states[0] == mdp.starts[index[1]]
            for time in range(length - 1):
                row = states[time], actions[time]
                onward = (mdp.probs[row] > 0) & ~mdp.terminated[row]
                assert states[time + 1] in mdp.next_state[row][onward]
            if length < mdp.horizon:
                assert mdp.terminated[states[-1], actions[-1]].any()


def test_larger_groups_begin_with_smaller_ones():
    small, large = play(LAKE, 4), play(LAKE, 9)
    np.testing.assert_array_equal(small.returns, large.returns[:, :, :4])
    np.testing.assert_array_equal(small.passed, large.passed[:, :, :4])


def test_starts_are_drawn_by_their_probabilities():
    """1200 draws at 0.3: would see 0.36."""
    drawn = play(random_mdp(1, horizon=6), 2, all_once=False, num_slots=6).prompts
    share = np.mean(drawn == 0)
    assert abs(share - 0.3) <= 4 * np.sqrt(0.3 * 0.7 / drawn.size)


def test_sums_by_pair_against_a_loop():
    played, rng = play(LAKE, 4), np.random.default_rng(2)
    advantages = rng.normal(size=(*played.returns.shape, 3))
    first_column = np.array([0, 0, 1, 3])
    sums = np.zeros((200, 36, 3))
    add_up(played, advantages, first_column, sums)
    expected = np.zeros_like(sums)
    for index in np.ndindex(*played.returns.shape):
        skipped = first_column[index[2]]
        for pair in played.passed[index][: played.lengths[index]]:
            expected[index[0], pair, skipped:] += advantages[index][skipped:]
    np.testing.assert_allclose(sums, expected, atol=1e-12)


def test_cumulative_probabilities_draw_nothing_impossible():
    probs = np.array([[0.2, 0.8, 0.0], [0.0, 1.0, 0.0], [0.1, 0.2, 0.7]])
    expected = [[0.2, 2.0, 2.0], [0.0, 2.0, 2.0], [0.1, 0.3, 2.0]]
    np.testing.assert_allclose(cumulative(probs), expected, rtol=1e-15)
