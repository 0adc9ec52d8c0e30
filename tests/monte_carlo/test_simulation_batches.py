"""The plain path of the simulator: whole batches, and what a bandit knows beside the rewards."""

from __future__ import annotations

import numpy as np
import pytest

from support.minibatches import minibatches
from support.problems import random_snapshot
from ustat_grpo import (
    BatchStdNormalised,
    Critic,
    DropEqualGroups,
    GreedyBaseline,
    GroupMean,
    Grpo,
    HitScaled,
    JamesStein,
    LengthWeightedMean,
    PassAtK,
    ScoreWeightedMean,
    Shrinkage,
    StdNormalised,
    Vanilla,
    Whitened,
)
from ustat_grpo.compiled import thread_limit
from ustat_grpo.estimators import NOTHING
from ustat_grpo.monte_carlo.simulation import Simulation, form_of

KEY = np.uint64(2**63 + 12345)
BEYOND = {
    "batch std": BatchStdNormalised(),
    "reinforce++": Whitened(Vanilla()),
    "hits": HitScaled(GroupMean()),
    "dropped": DropEqualGroups(StdNormalised()),
    "James-Stein": JamesStein(),
    "greedy": GreedyBaseline(),
    "score-weighted": ScoreWeightedMean(),
}


class Alone:
    """A mutant: the estimator is handed each group as a batch of its own."""

    def __init__(self, inner):
        self.inner = inner

    def advantages(self, rewards, side=NOTHING):
        return self.inner.advantages(rewards[..., None, :])[..., 0, :]


class Spy:
    """Vanilla that keeps what it was handed; its square keeps it out of the compiled loop."""

    def __init__(self):
        self.seen = []

    def advantages(self, rewards, side=NOTHING):
        if rewards.ndim == 3:
            self.seen.append((rewards, side))
        return rewards**2


def tiny(dimension=2, **options):
    return random_snapshot(np.random.default_rng(3), 2, 2, dimension=dimension, **options)


def measured(snapshot, batch_size, group_size, replications=10_000):
    """Return mean errors of all estimators and their standard errors."""
    run = Simulation(snapshot, BEYOND, [group_size], batch_size, KEY)
    errors = run.run(0, replications)[0][:, 0]
    return errors.mean(axis=0), errors.std(axis=0) / np.sqrt(replications)


@pytest.mark.parametrize(("batch_size", "group_size"), [(1, 3), (2, 2), (None, 3)])
@pytest.mark.parametrize("dimension", [None, 2], ids=["tabular", "dense"])
def test_batches_and_side_information_against_enumeration(batch_size, group_size, dimension):
    """Sums over every minibatch and greedy reward. Would see an error of 15 % in any estimator.

    The nearest wrong answers have tests of their own: groups handed out one by one, which are
    rejected, and another prompt's ‖W‖², which estimators are not told.
    """
    snapshot = tiny(dimension)
    every = minibatches(snapshot, batch_size, group_size, greedy=True)
    exact = np.array([every.error(each, snapshot.gradient) for each in BEYOND.values()])
    mean, std_error = measured(snapshot, batch_size, group_size)
    assert (abs(mean - exact) <= 4 * std_error).all()
    assert (4 * std_error < 0.15 * exact).all()


@pytest.mark.parametrize("name", ["batch std", "reinforce++", "dropped"])
def test_groups_handed_out_one_by_one_are_rejected(name):
    snapshot = tiny()
    every = minibatches(snapshot, 2, 2)
    wrong = every.error(Alone(BEYOND[name]), snapshot.gradient)
    run = Simulation(snapshot, {name: BEYOND[name]}, [2], 2, KEY)
    errors = run.run(0, 4000)[0][:, 0, 0]
    assert abs(errors.mean() - wrong) / errors.std() * np.sqrt(4000) > 10


@pytest.mark.parametrize("estimator", BEYOND.values(), ids=BEYOND)
@pytest.mark.parametrize("num_prompts", [1, 2, 9])
@pytest.mark.parametrize("group_size", [3, 16])
def test_no_affine_form(estimator, num_prompts, group_size):
    """Would catch: a problem of one prompt, whose batches are then thought to be groups."""
    snapshot = random_snapshot(np.random.default_rng(0), num_prompts, 3)
    assert form_of(estimator, group_size, snapshot) is None


@pytest.mark.parametrize("features", [None, 3], ids=["tabular", "dense"])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_what_estimators_are_told(features, batch_size):
    """‖W‖² belongs to the output whose reward stands there; a greedy reward to its prompt."""
    snapshot = random_snapshot(
        np.random.default_rng(1), 3, 4, reward_levels=(0.0, 1.0, 5.0), dimension=features
    )
    spy = Spy()
    Simulation(snapshot, {"spy": spy}, [4, 300], batch_size, KEY).run(0, 64)
    seen = {rewards.shape[-1]: (rewards, side) for rewards, side in spy.seen}
    slots = 3 if batch_size is None else batch_size
    for size, (rewards, side) in seen.items():
        assert rewards.shape == (64, slots, size)
        prompts = np.argmin(np.abs(side.value[..., None] - snapshot.value), axis=-1)
        if batch_size is None:
            np.testing.assert_array_equal(prompts, np.broadcast_to(np.arange(3), (64, 3)))
        np.testing.assert_array_equal(side.optimal_baseline, snapshot.optimal_baseline[prompts])
        possible = snapshot.score_norm_squared[prompts][:, :, None, :]
        assert (side.score_norm_squared[..., None] == possible).any(axis=-1).all()
        assert side.greedy_reward.shape == (64, slots)
    np.testing.assert_array_equal(seen[4][1].greedy_reward, seen[300][1].greedy_reward)


def test_greedy_rewards_follow_the_most_likely_action():
    """6000 draws: their mean and mean square are within 4 standard errors of that action's."""
    snapshot = random_snapshot(
        np.random.default_rng(1), 3, 4, reward_levels=(0.0, 1.0, 5.0), dimension=2
    )
    spy = Spy()
    Simulation(snapshot, {"spy": spy}, [2], None, KEY).run(0, 6000)
    drawn = np.concatenate([side.greedy_reward for _, side in spy.seen])
    assert drawn.shape == (6000, 3)
    for x in range(3):
        probs = snapshot.reward_probs[x, np.argmax(snapshot.action_probs[x])]
        for power in (1, 2):
            values = snapshot.reward_levels**power
            mean = probs @ values
            std_error = np.sqrt((probs @ values**2 - mean**2) / 6000)
            assert abs((drawn[:, x] ** power).mean() - mean) <= 4 * std_error


def test_where_a_run_starts_changes_no_greedy_reward():
    """Replicates are addressed by number."""
    snapshot = tiny()
    whole = Simulation(snapshot, {"greedy": GreedyBaseline()}, [4], 3, KEY).run(0, 600)[0]
    for threads in (2, 3):
        run = Simulation(snapshot, {"dropped": BEYOND["dropped"], "greedy": GreedyBaseline()},
                         [2, 4], 3, KEY)  # fmt: skip
        with thread_limit(threads):
            np.testing.assert_array_equal(run.run(0, 600)[0][:, 1:, 1:], whole)


def test_estimators_that_take_0_and_1_only():
    """pass@k meets no reward of a probe that the problem does not have; pass@1 is GRPO."""
    snapshot = tiny()
    run = Simulation(snapshot, {"pass@1": PassAtK(1), "grpo": Grpo()}, [4], 3, KEY)
    errors = run.run(0, 100)[0]
    np.testing.assert_allclose(errors[..., 0], errors[..., 1], rtol=1e-10)
    graded = tiny(reward_levels=(0.0, 2.0))
    with pytest.raises(ValueError, match=r"^rewards must be 0 or 1 for the PassAtK estimator"):
        Simulation(graded, {"pass@2": PassAtK(2)}, [4], 3, KEY).run(0, 10)


@pytest.mark.parametrize(
    ("estimator", "missing"), [(Critic(), "prediction"), (LengthWeightedMean(), "lengths")]
)
def test_what_a_bandit_does_not_know(estimator, missing):
    with pytest.raises(ValueError, match=rf"^{missing} must be given for the"):
        Simulation(tiny(), {"x": estimator}, [4], 3, KEY).run(0, 10)


def test_two_outputs_weigh_the_same_without_each_other():
    """At G = 2 the score-weighted mean of the others is GRPO's, compiled loop and all."""
    form = form_of(ScoreWeightedMean(), 2, tiny())
    assert form is not None and (form.own, form.other) == (1.0, -1.0)
    assert form_of(Shrinkage(0.5), 2, tiny()) is not None
