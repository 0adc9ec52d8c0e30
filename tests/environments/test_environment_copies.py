"""Copies of an environment: what they refuse, and how they see actions and observations."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from support.toy_environments import Counting, Walk
from ustat_grpo.environments.copies import DEFAULT_MAX_STEPS, EnvironmentCopies
from ustat_grpo.environments.stepping import start_episode


def opened(make, *args, **kwargs) -> EnvironmentCopies:
    """Copies that nothing is held by."""
    with EnvironmentCopies(make, *args, **kwargs) as copies:
        return copies


@pytest.mark.parametrize("fault", ["own", "alias"])
def test_noise_of_its_own_is_refused(fault):
    """A group would share it, since it is seeded by the reset: no error, and no variance."""
    with pytest.raises(ValueError, match=f"from self.np_random, but it draws from {fault}, which"):
        opened(lambda: Walk(fault), 2)


@pytest.mark.parametrize("fault", ["start", "once"])
def test_an_environment_that_ignores_its_seed_is_refused(fault):
    """One of three starts by chance, always or after the first reset: by chance, 3⁻⁸ pass."""
    with pytest.raises(ValueError, match=r"must honour its seed, but two resets with seed \d gave"):
        opened(lambda: Walk(fault), 2)


def test_a_copy_that_differs_from_the_first_is_refused():
    """Each alone honours its seed; the last copy has another opinion of what it means."""
    made = []

    def make():
        made.append(Shifted(len(made)))
        return made[-1]

    with pytest.raises(ValueError, match="two resets with seed 0 gave the observations 0 and 2"):
        opened(make, 3)
    opened(lambda: Shifted(1), 3)


class Shifted(Counting):
    """Starts where it was told to when it was made."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.observation_space = spaces.Discrete(3)
        self.start = start

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.start, {}


def test_unseeded_noise_is_refused():
    with pytest.raises(ValueError, match=r"np_random and actions, step 1 gave \(observation \d"):
        opened(lambda: Walk("elsewhere"), 2)


def test_a_single_copy_is_checked_against_itself():
    with pytest.raises(ValueError, match="must honour its seed"):
        opened(lambda: Walk("start"), 1)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        ("Pendulum-v1", {}, r"action space must be Discrete, got Box\(-2\.0, 2\.0, \(1,\)"),
        (lambda: Counting(1), {}, r"at least 2 actions, got Discrete\(1\)"),
        ("Blackjack-v1", {}, r"FlattenObservation\), got Tuple\(Discrete\(32\)"),
        (lambda: Walk("shape"), {}, r"must have the shape of their space, \(\), got \(1,\)"),
        (lambda: "CartPole-v1", {}, "make must build a gymnasium.Env, got 'CartPole-v1'"),
        ("CartPole-v1", {"num_copies": 0}, "num_copies must be an integer of at least 1, got 0"),
        ("CartPole-v1", {"max_steps": 0}, "max_steps must be an integer of at least 1, got 0"),
    ],
)
def test_what_cannot_work_is_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        opened(make, **arguments)


def test_make_must_build_anew():
    environment = Walk()
    with pytest.raises(ValueError, match="must build a new environment at each call"):
        opened(lambda: environment, 2)


def test_copies_are_closed_when_they_are_refused_and_when_they_are_left():
    closed = []

    class Noted(Walk):
        def close(self):
            closed.append(self)

    with pytest.raises(ValueError, match="honour"):
        EnvironmentCopies(lambda: Noted("start"), 3)
    assert len(closed) == 3
    with EnvironmentCopies(Noted, 4) as copies:
        assert len(copies) == 4 and len(closed) == 3
    assert len(closed) == 7


def test_a_module_prefix_imports_what_registers_the_id():
    copies = opened("support.toy_environments:Walk-v0", 2)
    assert isinstance(copies.environments[1].unwrapped, Walk)
    assert (copies.num_actions, copies.first_action) == (2, 1)


def test_the_cap_is_the_given_one_or_the_time_limit_or_the_default():
    assert opened("CartPole-v1", 1).max_steps == 500
    assert opened(lambda: gym.make("CartPole-v1", max_episode_steps=60), 1).max_steps == 60
    assert opened("CartPole-v1", 1, max_steps=40).max_steps == 40
    assert opened(Walk, 1).max_steps == DEFAULT_MAX_STEPS


@pytest.mark.parametrize(
    ("space", "raw", "seen"),
    [
        (spaces.Discrete(3, start=5), [5, 7], [0, 2]),
        (spaces.Box(-1.0, 1.0, (2,), np.float32), [[0.5, 1], [0, -1]], [[0.5, 1], [0, -1]]),
        (spaces.MultiDiscrete([3, 4]), [[2, 3], [0, 1]], [[2, 3], [0, 1]]),
        (spaces.MultiBinary(2), [[1, 0], [1, 1]], [[1, 0], [1, 1]]),
    ],
)
def test_observations_of_every_kind_of_space(space, raw, seen):
    copies = opened(lambda: Still(space), 2)
    room = copies.empty_observations()
    assert room.shape == (2, *space.shape) and room.dtype == space.dtype
    room[:] = raw
    observed = copies.observed(room)
    np.testing.assert_array_equal(observed, seen)
    room[:] = 0
    np.testing.assert_array_equal(observed, seen)  # a copy: what was seen stays as it was


class Still(Counting):
    """Always at the same element of a space."""

    def __init__(self, space: spaces.Space) -> None:
        super().__init__()
        self.observation_space = space
        space.seed(0)
        self.element = space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.element, {}

    def step(self, action):
        return self.element, *super().step(action)[1:]


def test_start_episode_keeps_the_start_and_hands_over_the_noise(rng):
    environment = gym.make("FrozenLake-v1")
    assert start_episode(environment, 3, rng) == 0
    assert environment.unwrapped.np_random is rng


@pytest.mark.parametrize("discount", [0.0, 1.5, np.nan])
def test_a_discount_out_of_range_is_refused(discount):
    with pytest.raises(ValueError, match=rf"^discount must .*, got {discount}$"):
        opened(Counting, 2, discount=discount)
