"""A group shares its start and nothing else, wherever an environment hides its noise."""

from __future__ import annotations

import random
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FlattenObservation, StickyAction

from support.hidden_noise import FOUND_AS_GENERATOR, Corridor, drawn_in_advance, keyed_by_seed
from support.registered import made
from support.toy_environments import Counting, OneStep, Walk
from ustat_grpo.environments import self_check
from ustat_grpo.environments.copies import EnvironmentCopies
from ustat_grpo.environments.policies import tabular_softmax
from ustat_grpo.environments.rollouts import group_rollouts
from ustat_grpo.environments.stepping import take_step

TAKEN_UP_WITHOUT_A_WORD = [
    Corridor,
    Walk,
    OneStep,
    Counting,
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "FrozenLake-v1",
    lambda: gym.make("FrozenLake-v1", is_slippery=False),
    lambda: made("CliffWalking", is_slippery=True),
    lambda: made("Taxi", is_rainy=True, fickle_passenger=True),
    lambda: FlattenObservation(gym.make("Blackjack-v1")),
    lambda: StickyAction(gym.make("CartPole-v1"), 0.25),
    "ustat_grpo/ContextualBandit-v0",
    "ustat_grpo/Arithmetic-v0",
]


@pytest.fixture(autouse=True)
def global_generators():
    """Put back what the corridors reseed."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def opened(make, **options) -> None:
    with EnvironmentCopies(make, 2, **options):
        pass


@pytest.mark.parametrize("make", TAKEN_UP_WITHOUT_A_WORD)
def test_no_false_alarm(make):
    """Would catch: a deterministic environment, rare noise or a hidden card taken for a fault."""
    opened(make)


@pytest.mark.parametrize("source", FOUND_AS_GENERATOR)
def test_a_generator_that_is_not_np_random_is_found_wherever_it_is_held(source):
    """Would catch: G* = 6.6 for 12.0, as a group then has one noise, seeded by its reset."""
    for hide in FOUND_AS_GENERATOR[source]:
        with pytest.raises(ValueError, match=f"but it draws from {source}, which a group"):
            opened(lambda hide=hide: Corridor(hide))


def test_noise_without_a_generator_is_found_by_behaviour():
    """Would catch: a search for generators alone, which compiled code evades."""
    for hide, found in (
        (keyed_by_seed, "which only the seeds 0 and 8 of an earlier reset can have decided"),
        (drawn_in_advance, "start alike and step . gave .* whatever np_random they are given"),
    ):
        with pytest.raises(ValueError, match=found):
            opened(lambda hide=hide: Corridor(hide))


def test_noise_that_is_partly_hidden_is_found():
    """Would catch: a look at whether members of a group differ at all."""

    class Noisy(Corridor):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, reward + self.np_random.normal(), *rest

    with pytest.raises(ValueError, match="of an earlier reset can have decided"):
        opened(lambda: Noisy(keyed_by_seed))


def test_one_step_of_hidden_noise_is_found(monkeypatch):
    """Rewards that the reset has settled, 1 in 3 of 7: a variance within groups of 0 for 12/49.

    The mutant: without the comparison of starts that look alike, it is accepted.
    """

    class Settled(OneStep):
        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(seed=seed)
            self.settled = self.np_random.random(3) < 3 / 7
            return observation, info

        def step(self, action):
            return self.state, float(self.settled[action]), True, False, {}

    with pytest.raises(ValueError, match="start alike and step 1 gave"):
        opened(Settled)
    monkeypatch.setattr(self_check, "_pairs_alike", lambda environment: [])
    opened(Settled)


def test_a_hidden_start_is_told_from_noise_by_whoever_knows():
    """Nothing is random here after the reset, but its number is not shown."""

    class Guess(Counting):
        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(seed=seed)
            self.number = int(self.np_random.integers(2))
            return observation, info

        def step(self, action):
            return 0, float(action == self.number), True, False, {}

    with pytest.raises(ValueError, match="or pass hidden_start=True if it is a start that observ"):
        opened(Guess)
    opened(Guess, hidden_start=True)


def test_resets_without_a_seed_may_be_refused_by_an_environment():
    """Would catch: an error of its own for an environment whose resets need a seed."""

    class Strict(Walk):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=int(seed))

    opened(Strict)


class Giving(Counting):
    """Gives what it is told to, in place of what Gymnasium asks."""

    def __init__(self, *, reset=None, step=None, late=0, **changes) -> None:
        super().__init__()
        self.given_reset, self.given_step, self.late, self.changes = reset, step, late, changes

    def reset(self, *, seed=None, options=None):
        given = super().reset(seed=seed)
        return given if self.given_reset is None else self.given_reset

    def step(self, action):
        names = ("observation", "reward", "terminated", "truncated", "info")
        given = dict(zip(names, super().step(action), strict=True))
        given |= self.changes if self.taken > self.late else {}
        return tuple(given.values()) if self.given_step is None else self.given_step


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": None}, "the reward of a step must be one finite number, got None"),
        ({"reward": np.float32("nan")}, "must be one finite number, got np.float32(nan)"),
        ({"reward": float("inf")}, "must be one finite number, got inf"),
        ({"reward": np.array([1.0, 2.0])}, "must be one finite number, got array([1., 2.])"),
        ({"reward": 10**400}, "must be one finite number, got 1000000"),
        ({"reward": 10**5000}, "must be one finite number, got a value of type int"),
        ({"reward": np.ma.masked}, "must be one finite number, got masked"),
        ({"reward": 1j}, "must be one finite number, got 1j"),
        ({"reward": np.array([])}, "must be one finite number, got array([]"),
        ({"reward": [[1.0], [2.0, 3.0]]}, "must be one finite number, got [[1.0], [2.0, 3.0]]"),
        (
            {"reward": torch.tensor([0.5, 1.0], requires_grad=True)},
            "must be one finite number, got tensor([0.5000, 1.0000], requires_grad=True)",
        ),
        ({"reward": "a lot"}, "must be one finite number, got 'a lot'"),
        ({"reward": np.nan, "late": 2}, "must be one finite number, got nan"),
        (
            {"step": (0, 1.0, True, {})},
            "terminated, truncated, info), got 4 values",
        ),
        ({"step": 0}, "terminated, truncated, info), got one of int"),
        ({"reset": np.zeros(())}, "reset must return (observation, info), got one of ndarray"),
        ({"observation": 1}, "observations must lie in their space, Discrete(1), got 1"),
        ({"observation": 0.5}, "observations must lie in their space, Discrete(1), got 0.5"),
    ],
)
def test_what_gymnasium_does_not_allow_is_one_sentence(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        opened(lambda: Giving(**changes))


def test_a_reward_of_one_number_may_be_an_array():
    """Would catch: the IndexError or the broadcast of shape (1,) that many environments give."""
    for reward in (np.array([2.0]), np.float32(2), True, torch.tensor([[2.0]])):
        opened(lambda reward=reward: Giving(reward=reward))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_reward_may_be_a_tensor_of_any_type_with_derivatives(dtype):
    """Would catch: "Can't call numpy() on Tensor that requires grad", and bfloat16's TypeError."""
    reward = torch.tensor(0.5, requires_grad=True, dtype=dtype)
    environment = Giving(reward=reward)
    environment.reset(seed=0)
    assert take_step(environment, 0).reward == 0.5


def test_a_time_limit_does_not_hide_that_a_step_gave_four_values():
    """Would catch: "not enough values to unpack", from inside of a wrapper."""
    with pytest.raises(ValueError, match=r"truncated, info\), but a wrapper found not enough val"):
        opened(lambda: gym.wrappers.TimeLimit(Giving(step=(0, 1.0, True, {})), 5))


def test_a_return_that_overflows_is_one_sentence(rng):
    """Would catch: an infinite return, and NaN gradients of it."""
    with (
        EnvironmentCopies(lambda: Giving(reward=1e308), 2) as copies,
        pytest.raises(ValueError, match="returns must be finite, but the sum of the rewards"),
    ):
        group_rollouts(copies, tabular_softmax(1, 2), np.zeros(2), [0], 2, rng=rng)
