"""The arithmetic questions as a bandit, and policies trained to a given skill."""

from __future__ import annotations

import numpy as np
import pytest

from ustat_grpo import SoftmaxBandit, arithmetic_choice, random_bandit, train_to


@pytest.fixture(scope="module")
def bandit():
    return arithmetic_choice(rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def small():
    return arithmetic_choice(50, 8, rng=np.random.default_rng(0))


def skill(bandit, theta):
    """The mean probability of the right answer, by the softmax written out."""
    logits = bandit.features @ theta + bandit.offsets
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    policy = weights / weights.sum(axis=1, keepdims=True)
    return (policy * bandit.reward_probs[..., 1]).sum(axis=1).mean()


class TestBandit:
    def test_the_papers_size(self, bandit):
        assert bandit.features.shape == (500, 16, 45)
        assert bandit.reward_probs.shape == (500, 16, 2)
        assert bandit.dimension == 45
        np.testing.assert_array_equal(bandit.reward_levels, [0, 1])
        np.testing.assert_array_equal(bandit.prompt_probs, 1 / 500)

    def test_one_answer_of_each_question_is_right(self, bandit):
        np.testing.assert_array_equal(np.unique(bandit.reward_probs), [0, 1])
        np.testing.assert_array_equal((bandit.reward_probs[..., 1] == 1).sum(axis=1), 1)
        np.testing.assert_array_equal(bandit.reward_probs.sum(axis=-1), 1)

    def test_habit_is_the_spread_of_the_fixed_logits(self, bandit):
        """8000 normal logits, |z| ≤ 4. Would catch a variance in place of a deviation."""
        count = bandit.offsets.size
        assert abs(bandit.offsets.mean()) <= 4 / np.sqrt(count)
        assert abs(bandit.offsets.std() - 1) <= 4 / np.sqrt(2 * count)
        wide = arithmetic_choice(habit=2.0, rng=np.random.default_rng(0))
        np.testing.assert_array_equal(wide.offsets, 2 * bandit.offsets)
        np.testing.assert_array_equal(wide.features, bandit.features)

    def test_no_habit(self):
        plain = arithmetic_choice(50, 8, habit=0.0, rng=np.random.default_rng(0))
        assert not plain.offsets.any()
        assert skill(plain, np.zeros(45)) == pytest.approx(1 / 8, rel=1e-12)

    def test_is_determined_by_the_stream(self):
        one, same, other = (
            arithmetic_choice(50, 8, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
        )
        for part in ("features", "reward_probs", "offsets"):
            np.testing.assert_array_equal(getattr(one, part), getattr(same, part))
            assert not np.array_equal(getattr(one, part), getattr(other, part))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_problems": 7}, "^num_problems must be a multiple of 5 .*, got 7$"),
            ({"num_candidates": 1}, "^num_candidates must .* at least 2, got 1$"),
            ({"habit": np.nan}, "^habit must be a finite number, got nan$"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            arithmetic_choice(rng=np.random.default_rng(0), **arguments)

    @pytest.mark.parametrize("rng", [None, 7])
    def test_rng_of_another_type_is_refused_by_name(self, rng):
        with pytest.raises(TypeError, match=r"^rng must be a numpy\.random\.Generator, got"):
            arithmetic_choice(rng=rng)

    def test_rng_is_required(self):
        with pytest.raises(TypeError, match="rng"):
            arithmetic_choice()


class TestTrainTo:
    def test_hits_what_was_asked(self, bandit):
        for objective in (0.1, 0.25, 0.5, 0.75, 0.95):
            assert skill(bandit, train_to(bandit, objective)) == pytest.approx(objective, abs=1e-9)

    def test_skill_rises_along_one_path(self, small):
        """A later aim passes through all earlier ones: the ascent goes on, and never falls."""
        aims = (0.2, 0.4, 0.6, 0.8)
        thetas = [train_to(small, aim) for aim in aims]
        norms = [np.linalg.norm(theta) for theta in thetas]
        assert norms == sorted(norms)
        for theta, aim in zip(thetas, aims, strict=True):
            between = [skill(small, share * theta) for share in (0, 0.5, 1)]
            assert between == sorted(between)
            assert between[-1] == pytest.approx(aim, abs=1e-9)

    def test_starts_along_the_gradient(self, small):
        start = small.at(np.zeros(small.dimension))
        theta = train_to(small, start.objective + 1e-4)
        cosine = theta @ start.gradient / np.linalg.norm(theta) / np.linalg.norm(start.gradient)
        assert cosine == pytest.approx(1, abs=1e-12)

    def test_where_it_stands_is_no_distance(self, small):
        start = small.at(np.zeros(small.dimension)).objective
        assert np.linalg.norm(train_to(small, start)) < 1e-9

    def test_any_bandit(self):
        bandit = random_bandit(8, 4, rng=np.random.default_rng(0))
        start = bandit.at(np.zeros(bandit.dimension)).objective
        reached = bandit.at(train_to(bandit, start + 0.05)).objective
        assert reached == pytest.approx(start + 0.05, abs=1e-9)

    def test_an_aim_below_the_start(self, small):
        with pytest.raises(ValueError, match=r"^objective must be at least J\(0\) = .*, got 0.01$"):
            train_to(small, 0.01)

    @pytest.mark.parametrize("objective", [1.0, 1.5, np.nan])
    def test_an_aim_out_of_reach(self, small, objective):
        """Would catch: an ascent without end, and a message that calls 1 the best below 1."""
        with pytest.raises(ValueError, match=rf"^objective must .*, got {objective}") as error:
            train_to(small, objective)
        assert not str(error.value).endswith(" 1")

    def test_a_bandit_without_slope(self):
        """All answers are equally good: nowhere to go, and no division by zero."""
        flat = SoftmaxBandit.tabular([0, 1], np.full((2, 3, 2), 0.5))
        with pytest.raises(ValueError, match=r"^objective must .*got 0\.7"):
            train_to(flat, 0.7)
