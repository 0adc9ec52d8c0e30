"""Transition tables against the environments that they were read from, and their error messages."""

from __future__ import annotations

import re
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.wrappers import (
    Autoreset,
    RecordEpisodeStatistics,
    StickyAction,
    TimeAwareObservation,
    TimeLimit,
    TransformReward,
)

from support.registered import made
from ustat_grpo.environments.mdp import TabularMdp, frozen_lake, make_frozen_lake, tabular_mdp
from ustat_grpo.environments.mdp_moments import objective

EPISODES = 20_000
LAKE = ["SFF", "FHF", "FFG"]


def uneven_policy(mdp: TabularMdp) -> np.ndarray:
    """A policy that prefers to go down and right."""
    return np.random.default_rng(5).dirichlet([1.0, 3.0, 3.0, 1.0], size=mdp.num_states)


@pytest.fixture(scope="module")
def played() -> np.ndarray:
    """Returns of episodes of the environment itself; the time limit ends many."""
    environment = make_frozen_lake(LAKE, horizon=6)
    cumulative = uneven_policy(frozen_lake(LAKE)).cumsum(axis=1)
    actions, returns = np.random.default_rng(1), np.zeros(EPISODES)
    for episode in range(EPISODES):
        state, _ = environment.reset(seed=1 if episode == 0 else None)
        over = False
        while not over:
            action = np.searchsorted(cumulative[state], actions.random())
            state, reward, terminated, truncated, _ = environment.step(min(int(action), 3))
            returns[episode] += float(reward)
            over = terminated or truncated
    return returns


def z_score(returns: np.ndarray, mdp: TabularMdp) -> float:
    error = returns.std(ddof=1) / np.sqrt(len(returns))
    return (returns.mean() - objective(mdp, uneven_policy(mdp))) / error


def test_the_environment_earns_what_the_table_says(played):
    """Would see a mean return off by 0.012 (4 standard errors): less than any mutant below."""
    assert abs(z_score(played, frozen_lake(LAKE, horizon=6))) <= 4


@pytest.mark.parametrize(
    "mutant",
    [
        frozen_lake(LAKE, horizon=8),
        frozen_lake(LAKE, horizon=6, is_slippery=False),
        frozen_lake(LAKE, horizon=6, discount=0.9),
        replace(frozen_lake(LAKE, horizon=6), starts=np.array([0]), start_probs=np.ones(1)),
    ],
    ids=["later limit", "no slipping", "discounted", "one start"],
)
def test_another_table_is_rejected(played, mutant):
    assert abs(z_score(played, mutant)) > 4


@pytest.mark.parametrize("name", ["CliffWalking", "Taxi"])
def test_environments_without_chance_step_as_their_tables_do(name):
    environment = made(name, max_episode_steps=300)
    mdp = tabular_mdp(environment)
    assert mdp.horizon == 300
    rng = np.random.default_rng(2)
    state, _ = environment.reset(seed=3)
    assert state in mdp.starts
    for _ in range(299):
        action = int(rng.integers(mdp.num_actions))
        assert mdp.probs[state, action, 0] == 1
        row = state, action, 0
        state, reward, terminated, truncated, _ = environment.step(action)
        assert (mdp.next_state[row], mdp.rewards[row]) == (state, reward)
        assert mdp.terminated[row] == terminated
        if terminated or truncated:
            state, _ = environment.reset()


class Surer(FrozenLakeEnv):
    """Slips half as often as its table says."""

    def step(self, action):
        if self.np_random.random() < 0.5:
            return super().step(action)
        outcomes = self.P[self.s][action]
        ahead = outcomes[len(outcomes) // 2]
        self.s = ahead[1]
        return self.s, ahead[2], ahead[3], False, {}


class Changed(FrozenLakeEnv):
    """A lake whose steps are changed from step `late` of an episode on, without a wrapper."""

    def __init__(self, change, late=0):
        super().__init__()
        self.change, self.late, self.taken = change, late, 0

    def reset(self, **options):
        self.taken = 0
        return super().reset(**options)

    def step(self, action):
        self.taken += 1
        given = super().step(action)
        return self.change(*given) if self.taken >= self.late else given


def cut(state, reward, terminated, _, info):
    return state, reward, terminated, not terminated, info


def ended(state, reward, _, truncated, info):
    return state, reward, True, truncated, info


def costly(state, reward, terminated, truncated, info):
    return state, reward - 1, terminated, truncated, info


def doubled(state, reward, terminated, truncated, info):
    return state, 2 * reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Changed(costly), ", reward -1, which is not among its outcomes there"),
        (lambda: Changed(doubled),
         "gave state 15, reward 2 and the end, which is not among its outcomes there"),
        (lambda: made("Taxi", fickle_passenger=True), "not among its outcomes there"),
        (lambda: TimeLimit(Surer(), 100), "its outcomes come more or less often: Pearson's"),
    ],
    ids=["costs", "doubled", "fickle", "other frequencies"],
)  # fmt: skip
def test_a_table_that_is_not_played_is_refused(make, message):
    """Would catch: "exact" .0124 where −7.50 is played."""
    with pytest.raises(ValueError, match=re.escape(message)):
        tabular_mdp(make(), horizon=100)


@pytest.mark.parametrize("late", [3, 12, 15, 20, 30, 60, 99])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (costly, "which is not among its outcomes there"),
        (ended, " and the end, which is not among its outcomes there"),
        (cut, "environment must play on until the horizon, 100 steps, but an episode was "
              "truncated after step {late}"),
    ],
)  # fmt: skip
def test_what_changes_late_is_refused(change, late, message):
    """Would catch: a check whose episodes are over in a hole after some seven steps."""
    with pytest.raises(ValueError, match=re.escape(message.format(late=late))):
        tabular_mdp(Changed(change, late), horizon=100)


def test_a_limit_is_the_horizon_or_refused():
    """Would catch: "exact" for 100 steps where episodes of three are played."""
    lake = gym.make("FrozenLake-v1")
    assert tabular_mdp(TimeLimit(lake, 3)).horizon == 3
    assert tabular_mdp(lake, horizon=20).horizon == 20
    for limited, horizon in ((TimeLimit(lake, 3), 100), (TimeLimit(TimeLimit(lake, 3), 9), None)):
        with pytest.raises(ValueError, match=r"^environment must play on until the horizon, "):
            tabular_mdp(limited, horizon=horizon)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda lake: TransformReward(lake, lambda reward: reward),
        lambda lake: StickyAction(lake, 0.1),
        lambda lake: TimeAwareObservation(lake),
        lambda lake: Autoreset(lake),
        lambda lake: type("Limit", (TimeLimit,), {})(lake, 100),
        lambda lake: RecordEpisodeStatistics(type("Own", (gym.Wrapper,), {})(lake)),
    ],
)
def test_a_wrapper_that_nobody_knows_is_refused(wrap):
    """Whatever it seems to do. Would catch: one that changes what few episodes meet."""
    with pytest.raises(ValueError, match=r"^environment must have no wrapper that may change what"):
        tabular_mdp(wrap(gym.make("FrozenLake-v1")))


@pytest.mark.parametrize("name", ["FrozenLake", "Taxi"])
def test_a_wrapper_that_changes_nothing_is_read_through(name):
    """Would catch: a check that refuses what anybody uses, or rain that the table knows of."""
    plain = made(name, **({"is_rainy": True} if name == "Taxi" else {}))
    wrapped = tabular_mdp(RecordEpisodeStatistics(plain))
    np.testing.assert_array_equal(wrapped.probs, tabular_mdp(plain).probs)


def test_other_observations_are_refused():
    lake = FrozenLakeEnv()
    lake.observation_space = gym.spaces.Discrete(17)
    with pytest.raises(ValueError, match=r"must have the 16 states and 4 actions of its table P, "):
        tabular_mdp(lake, horizon=100)


def test_a_lake_starts_in_every_free_cell():
    mdp = frozen_lake(LAKE)
    np.testing.assert_array_equal(mdp.starts, [0, 1, 2, 3, 5, 6, 7])
    np.testing.assert_allclose(mdp.start_probs, 1 / 7)
    assert (mdp.num_states, mdp.num_actions, mdp.horizon) == (9, 4, 100)
    environment = make_frozen_lake(LAKE)
    seen = {environment.reset(seed=seed)[0] for seed in range(100)}
    assert seen == set(mdp.starts.tolist())


def test_the_lake_as_it_is_has_one_start():
    mdp = tabular_mdp(gym.make("FrozenLake-v1"))
    assert mdp.starts.tolist() == [0] and mdp.horizon == 100


def test_named_maps():
    assert len(frozen_lake("4x4").starts) == 11
    assert len(frozen_lake("8x8", horizon=30).starts) == 53


def test_a_slippery_step_goes_one_of_three_ways():
    """From the top left, right: down, right, or up, which stays."""
    mdp = frozen_lake(LAKE)
    reached = dict(zip(mdp.next_state[0, 2].tolist(), mdp.probs[0, 2].tolist(), strict=True))
    assert reached == pytest.approx({0: 1 / 3, 1: 1 / 3, 3: 1 / 3})
    assert not mdp.terminated[0, 2].any() and not mdp.rewards[0, 2].any()


@pytest.mark.parametrize(
    ("changed", "binary"),
    [
        ({}, True),
        ({"discount": 0.99}, False),
        ({"terminated": np.zeros((9, 4, 3), dtype=bool)}, False),
        ({"rewards": frozen_lake(LAKE).rewards * 2}, False),
        ({"rewards": frozen_lake(LAKE).rewards - 1}, False),
    ],
    ids=["lake", "discounted", "more than one reward", "reward 2", "costs"],
)
def test_binary_returns_are_seen(changed, binary):
    assert replace(frozen_lake(LAKE), **changed).has_binary_returns is binary


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"probs": np.ones((9, 4, 3))}, "probs must sum to 1 along the last axis"),
        ({"start_probs": np.full(7, 0.1)}, "start_probs must sum to 1 along the last axis"),
        ({"start_probs": np.array([0.5, 0.5])},
         "starts must have the shape of its probabilities, (2,), got (7,)"),
        ({"starts": np.full(7, 9)}, "starts must be below the number of states, 9, got 9"),
        ({"starts": np.full(7, -1)}, "starts must hold states 0, …, 8, got"),
        ({"next_state": np.zeros((9, 4, 3))}, "next_state must hold states 0, …, 8, got"),
        ({"rewards": np.zeros((9, 4))}, "rewards must be 3-dimensional and not empty"),
        ({"rewards": np.full((9, 4, 3), np.nan)}, "rewards must be finite, got 108 NaN"),
        ({"terminated": np.zeros((9, 4), dtype=bool)},
         "terminated must have the shape of its probabilities, (9, 4, 3), got (9, 4)"),
        ({"horizon": 0}, "horizon must be an integer of at least 1, got 0"),
        ({"discount": 0.0}, "discount must be a finite number and above 0, got 0.0"),
        ({"discount": 1.5}, "discount must be at most 1, got 1.5"),
    ],
)  # fmt: skip
def test_wrong_tables(changed, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        replace(frozen_lake(LAKE), **changed)


@pytest.mark.parametrize(
    ("lake", "message"),
    [
        ("5x5", "map_name must be one of 4x4, 8x8, or rows, got '5x5'"),
        (["SF", "G"], "map_name must have rows of S, F, H and G of one length, got ['SF', 'G']"),
        (["SX"], "map_name must have rows of S, F, H and G of one length, got ['SX']"),
        (["FG"], "map_name must have a start S, in rows of at least two, got ['FG']"),
        (["S"], "map_name must have a start S, in rows of at least two, got ['S']"),
    ],
)
def test_wrong_maps(lake, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        frozen_lake(lake)


def test_environments_without_a_table_or_a_limit():
    with pytest.raises(ValueError, match=r"^environment must have a transition table P and init"):
        tabular_mdp(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"^horizon must be given for an environment without max_"):
        tabular_mdp(made("CliffWalking"))
    assert tabular_mdp(made("CliffWalking"), horizon=9).horizon == 9
    with pytest.raises(ValueError, match=r"^horizon must be an integer of at least 1, got 0"):
        tabular_mdp(made("CliffWalking"), horizon=0)
