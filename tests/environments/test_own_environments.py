"""What Gymnasium asks of our environments, and the bandits' tables, text, errors and speed."""

from __future__ import annotations

import importlib

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from support.pace import loops
from ustat_grpo import TugOfWar
from ustat_grpo.environments import registration
from ustat_grpo.environments.contextual_bandit import (
    ContextualBanditEnv,
    ContextualBanditVectorEnv,
)

BANDIT, TUG_OF_WAR = "ustat_grpo/ContextualBandit-v0", "ustat_grpo/TugOfWar-v0"
IDS = (BANDIT, TUG_OF_WAR, "ustat_grpo/Arithmetic-v0")


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("render_mode", [None, "ansi"])
def test_gymnasium_finds_no_fault(name, render_mode):
    """Warnings are errors here."""
    check_env(gymnasium.make(name, render_mode=render_mode).unwrapped)


def test_registering_again_changes_nothing():
    """Would catch: a warning of Gymnasium when the module is reloaded."""
    before = {name: gymnasium.registry[name] for name in IDS}
    importlib.reload(registration)
    assert all(gymnasium.registry[name] is spec for name, spec in before.items())


def trajectory(name, seed):
    """Two episodes: the second shows whether the stream goes on as it should."""
    env = gymnasium.make(name)
    env.action_space.seed(5)
    seen = []
    for start in (seed, None):
        seen.append(env.reset(seed=start)[0])
        over = False
        while not over:
            observation, reward, over, _, _ = env.step(env.action_space.sample())
            seen += [observation, reward]
    return np.concatenate([np.ravel(each) for each in seen])


@pytest.mark.parametrize("name", IDS)
def test_a_seed_fixes_the_trajectory(name):
    first = trajectory(name, 3)
    np.testing.assert_array_equal(trajectory(name, 3), first)
    assert any(not np.array_equal(trajectory(name, seed), first) for seed in range(4, 12))


def test_default_table_depends_on_its_seed_only():
    tables = [
        gymnasium.make_vec(BANDIT, num_envs=2, table_seed=seed).unwrapped.success
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(tables[0], gymnasium.make(BANDIT).unwrapped.success)
    np.testing.assert_array_equal(tables[0], tables[1])
    assert tables[0].shape == (16, 4) and not np.array_equal(tables[0], tables[2])


@pytest.mark.parametrize("signal", [0.25, 1.0])
def test_tug_of_war_has_the_table_of_the_bandit(signal, rng):
    """Two contexts that want opposite actions, in both environments."""
    expected = np.array([[1 - signal, 1 + signal], [1 + signal, 1 - signal]]) / 2
    assert TugOfWar(signal=signal).bandit.reward_levels[1] == 1
    envs = gymnasium.make_vec(TUG_OF_WAR, num_envs=8, signal=signal)
    for env in (gymnasium.make(TUG_OF_WAR, signal=signal).unwrapped, envs.unwrapped):
        np.testing.assert_allclose(env.success, expected, rtol=0, atol=1e-15)
    contexts, _ = envs.reset(seed=0)
    if signal == 1:
        assert envs.step(1 - contexts)[1].all()


def test_a_bandit_shows_its_last_step_as_text():
    env = gymnasium.make(BANDIT, render_mode="ansi", success=[[0, 1]])
    env.reset(seed=0)
    assert env.render() == "context 0"
    env.step(1)
    assert env.render() == "context 0, action 1, reward 1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"success": [0.1, 0.2]}, r"success must be 2-dimensional .* got shape \(2,\)"),
        ({"success": [[0.1, 1.5]]}, r"success must lie in \[0, 1\], got 1.5"),
        ({"success": [[-0.25, 0.5]]}, r"success must lie in \[0, 1\], got -0.25"),
        ({"success": [[np.nan, 0.5]]}, "success must be finite, got 1 NaN"),
        ({"prompt_probs": [0.5, 0.5]}, "success has 16, prompt_probs has 2"),
        ({"success": [[0.5]], "prompt_probs": [0.5]}, "prompt_probs must sum to 1"),
        ({"table_seed": -1}, "table_seed must be an integer of at least 0, got -1"),
    ],
)
def test_bad_tables_are_refused(arguments, message):
    for environment in (ContextualBanditEnv, ContextualBanditVectorEnv):
        with pytest.raises(ValueError, match=message):
            environment(**arguments)


def test_other_mistakes_are_refused():
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1, got 0"):
        ContextualBanditVectorEnv(0)
    with pytest.raises(ValueError, match="render_mode must be None or 'ansi', got 'human'"):
        ContextualBanditEnv(render_mode="human")
    with pytest.raises(ValueError, match=r"signal must be at most 1, got 1\.5"):
        gymnasium.make(TUG_OF_WAR, signal=1.5)


@pytest.mark.parametrize("action", [4, -1, 0.5, "0", None])
def test_a_wrong_action_is_refused(action):
    """Would catch: an action that is looked up in the row of another context."""
    env, envs = ContextualBanditEnv(), ContextualBanditVectorEnv(2)
    env.reset(seed=0)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"action must be an integer in \[0, 4\), got"):
        env.step(action)
    for actions in ([0, action], [0], [0, 1, 2], 0):
        with pytest.raises(ValueError, match=r"actions must be 2 integers in \[0, 4\), got"):
            envs.step(actions)


def test_a_step_needs_a_reset():
    env, envs = ContextualBanditEnv(), ContextualBanditVectorEnv(2)
    with pytest.raises(ResetNeeded, match="call reset"):
        envs.step(np.array([0, 1]))
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(0)
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(0)


def test_the_vector_environment_is_fast():
    """10⁶ steps/s at eight copies on a machine of ours, or half of it. Would catch: a loop."""
    envs = gymnasium.make_vec(BANDIT, num_envs=8, vectorization_mode="vector_entry_point")
    actions = np.zeros(8, dtype=np.int64)
    envs.reset(seed=0)

    def thousands_of_steps():
        for _ in range(2_000):
            envs.step(actions)

    assert loops(thousands_of_steps, repeats=20) < 1.6
