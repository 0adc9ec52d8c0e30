"""The problems of the experiments are what their configurations say."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from experiments.tasks.bandits import ArithmeticChoice, Bandit, TugOfWarTask, panel_rng

SMALL = {"num_problems": 50, "num_candidates": 8}
TASKS = {
    "arithmetic_choice": ArithmeticChoice(**SMALL),
    "bandit": Bandit(num_prompts=8, num_actions=4),
    "tug_of_war": TugOfWarTask(),
}
ACCURACIES = (0.15, 0.4, 0.7)
every_task = pytest.mark.parametrize("name", TASKS)


def optimal_group_size(snapshot):
    """1 + √(c₃/c₁), of a problem whose every prompt is equally likely."""
    moments, gradients = snapshot.moments, snapshot.prompt_gradients
    if snapshot.features is None:
        blocks = np.zeros((len(gradients), len(gradients), gradients.shape[1]))
        blocks[np.arange(len(gradients)), np.arange(len(gradients))] = gradients
        gradients = blocks.reshape(len(gradients), -1)
    residual = moments.score_norm_squared * moments.reward_variance + (gradients**2).sum(axis=1)
    prompt = ((gradients - gradients.mean(axis=0)) ** 2).sum(axis=1)
    return 1 + np.sqrt(residual.mean() / prompt.mean())


@pytest.fixture(scope="module")
def snapshots():
    """The arithmetic task in full."""
    return ArithmeticChoice().snapshots


class TestEveryTask:
    @every_task
    def test_three_policies_named_by_the_task(self, name):
        panels = list(TASKS[name].snapshots)
        assert len(panels) == 3
        assert all(panel.startswith(f"{name}: ") for panel in panels)
        assert TASKS[name].name == name

    @every_task
    def test_is_the_same_every_time(self, name):
        """Would catch: a global seed."""
        np.random.seed(1)
        once = TASKS[name].snapshots
        np.random.seed(2)
        again = TASKS[name].snapshots
        for panel, snapshot in once.items():
            for part in ("prompt_probs", "action_probs", "reward_probs", "gradient"):
                np.testing.assert_array_equal(
                    getattr(snapshot, part), getattr(again[panel], part), err_msg=part
                )

    @pytest.mark.parametrize("kind", [ArithmeticChoice, Bandit])
    def test_the_seed_matters(self, kind):
        sizes = SMALL if kind is ArithmeticChoice else {}
        one, other = (next(iter(kind(seed=s, **sizes).snapshots.values())) for s in (1, 2))
        assert not np.array_equal(one.action_probs, other.action_probs)


class TestArithmeticChoice:
    def test_the_papers_questions(self, snapshots):
        assert list(snapshots) == [f"arithmetic_choice: accuracy {a}" for a in ACCURACIES]
        for snapshot in snapshots.values():
            assert snapshot.action_probs.shape == (500, 16)
            np.testing.assert_array_equal(snapshot.prompt_probs, 1 / 500)

    def test_accuracies_are_hit(self, snapshots):
        """By a sum over questions of the probability of the right answer."""
        for accuracy, snapshot in zip(ACCURACIES, snapshots.values(), strict=True):
            right = snapshot.reward_probs[..., 1] == 1
            assert (right.sum(axis=1) == 1).all()
            assert snapshot.action_probs[right].mean() == pytest.approx(accuracy, abs=1e-9)

    def test_policies_answer_the_same_questions(self, snapshots):
        first, *others = snapshots.values()
        for other in others:
            np.testing.assert_array_equal(first.features, other.features)
            np.testing.assert_array_equal(first.reward_probs, other.reward_probs)

    def test_questions_differ_in_difficulty(self, snapshots):
        """Would catch: lost offsets, without which all prompts of a kind look alike."""
        for snapshot in snapshots.values():
            assert snapshot.value.std() > 0.1

    @pytest.mark.parametrize("accuracy", [0.0, 1.0, -0.1, 1.5, np.nan])
    def test_accuracy_out_of_range(self, accuracy):
        with pytest.raises(ValueError, match=rf"^task\.accuracies must .*, got {accuracy}$"):
            ArithmeticChoice(accuracies=[0.5, accuracy])


class TestBandit:
    def test_targets_are_hit(self):
        snapshots = Bandit().snapshots
        assert list(snapshots) == [f"bandit: G* = {target}" for target in (4, 16, 64)]
        for target, snapshot in zip((4, 16, 64), snapshots.values(), strict=True):
            assert snapshot.action_probs.shape == (64, 16)
            assert optimal_group_size(snapshot) == pytest.approx(target, rel=1e-9)

    @pytest.mark.parametrize("parameter", ["num_prompts", "num_actions"])
    def test_sizes_out_of_range(self, parameter):
        with pytest.raises(ValueError, match=rf"^task\.{parameter} must .* at least 2, got 1$"):
            Bandit(**{parameter: 1})


class TestTugOfWar:
    def test_two_prompts_an_axis(self):
        for axes in (1, 2):
            for snapshot in TugOfWarTask(num_axes=axes, num_flat=2).snapshots.values():
                assert snapshot.action_probs.shape == (2 * axes, 2)
                assert snapshot.dimension == axes + 2

    def test_the_policy_at_each_coordinate(self):
        for t, snapshot in zip((-1, 0, 1), TugOfWarTask().snapshots.values(), strict=True):
            expected = [1 / (1 + np.exp(-t)), 1 / (1 + np.exp(2 - t))]
            np.testing.assert_allclose(snapshot.action_probs[:, 1], expected, rtol=1e-12)

    def test_the_optimum_is_at_one(self):
        snapshots = TugOfWarTask(coordinates=[0.9, 1.0, 1.1]).snapshots
        left, best, right = (each.objective for each in snapshots.values())
        assert best > max(left, right)
        assert np.linalg.norm(snapshots["tug_of_war: t = 1"].gradient) < 1e-12

    def test_signal_out_of_range(self):
        with pytest.raises(ValueError, match=r"^signal must be at most 1, got 2$"):
            _ = TugOfWarTask(signal=2).snapshots


class TestPanelRng:
    def test_is_keyed_by_seed_and_name(self):
        def draw(seed, panel):
            return panel_rng(seed, panel).integers(2**62)

        assert draw(0, "a: 1") == draw(0, "a: 1")
        assert len({draw(0, "a: 1"), draw(1, "a: 1"), draw(0, "a: 2"), draw(0, "b: 1")}) == 4

    def test_is_the_same_in_every_process(self):
        """Would catch: Python's own hash of a string, which is salted anew in each process."""
        expected = np.random.default_rng([3, zlib.crc32(b"bandit: G* = 4")])
        assert panel_rng(3, "bandit: G* = 4").integers(2**62) == expected.integers(2**62)

    def test_no_two_panels_share_a_stream(self):
        panels = [panel for task in TASKS.values() for panel in task.snapshots]
        draws = {panel_rng(0, panel).integers(2**62) for panel in panels}
        assert len(draws) == len(panels)
