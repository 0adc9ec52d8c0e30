"""What the contextual bandit draws, one by one and many at once."""

from __future__ import annotations

from functools import cache

import gymnasium
import numpy as np
import pytest

from ustat_grpo.environments.contextual_bandit import (
    ContextualBanditEnv,
    ContextualBanditVectorEnv,
)

BANDIT = "ustat_grpo.environments.registration:ustat_grpo/ContextualBandit-v0"
SUCCESS = np.array([[0.0, 0.3, 0.55, 1.0], [0.7, 0.1, 0.9, 0.4], [0.25, 0.6, 0.45, 0.8]])
PROMPT_PROBS = np.array([0.5, 0.2, 0.3])


def vector(num_envs, **arguments):
    return gymnasium.make_vec(
        BANDIT, num_envs=num_envs, vectorization_mode="vector_entry_point", **arguments
    )


def draws_of_one(num_steps, rng):
    """Contexts, actions and rewards, each of shape (steps, 1)."""
    env = ContextualBanditEnv(SUCCESS, PROMPT_PROBS)
    env.reset(seed=7)
    actions, rows = rng.integers(4, size=num_steps), []
    for action in actions:
        context, _ = env.reset()
        rows.append((context, action, env.step(action)[1]))
    return tuple(np.array(column)[:, None] for column in zip(*rows, strict=True))


def draws_of_many(num_steps, rng, num_envs=8):
    """Contexts, actions and rewards, each of shape (steps, n)."""
    envs = ContextualBanditVectorEnv(num_envs, SUCCESS, PROMPT_PROBS)
    context, _ = envs.reset(seed=7)
    actions, rows = rng.integers(4, size=(num_steps, num_envs)), []
    for each in actions:
        following, reward, *_ = envs.step(each)
        rows.append((context, each, reward))
        context = following
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@cache
def many_draws():
    """40,000 steps of eight, which several tests look at."""
    return draws_of_many(40_000, np.random.default_rng(3))


def z_scores(contexts, actions, rewards, success=SUCCESS, prompt_probs=PROMPT_PROBS):
    """Standard errors between each cell's mean reward, each context's share, and the truth."""
    found, count = [], contexts.size
    for x, prob in enumerate(prompt_probs):
        found.append((np.mean(contexts == x) - prob) / np.sqrt(prob * (1 - prob) / count))
        for a, mean in enumerate(success[x]):
            here = rewards[(contexts == x) & (actions == a)]
            if mean in (0, 1):
                assert (here == mean).all()
            else:
                found.append((here.mean() - mean) / np.sqrt(mean * (1 - mean) / len(here)))
    return np.abs(found)


def correlations(contexts, actions, rewards):
    """√(number of pairs)·correlation of noise: rewards and contexts, across members and steps."""
    mean = SUCCESS[contexts, actions]
    noise = (rewards - mean) / np.sqrt(np.maximum(mean * (1 - mean), 1e-9))
    noise[(mean == 0) | (mean == 1)] = 0.0
    last = (contexts == 2) - PROMPT_PROBS[2]
    products = [series[:, :-1] * series[:, 1:] for series in (noise, last)]
    products += [series[:-1] * series[1:] for series in (noise, last)]
    products += [noise * last]
    return np.abs([each.mean() / each.std() * np.sqrt(each.size) for each in products])


def test_single_and_vector_environment_draw_from_the_table(rng):
    """Smallest wrong answer caught: one success rate off by 0.08 (one copy), 0.02 (eight)."""
    assert z_scores(*draws_of_one(20_000, rng)).max() <= 4
    assert z_scores(*many_draws()).max() <= 4


def test_the_comparison_rejects_wrong_tables():
    """Mutants: rates 0.01 too high, prompts taken for uniform, the new context rewarded."""
    contexts, actions, rewards = many_draws()
    shifted = np.where((SUCCESS > 0) & (SUCCESS < 1), SUCCESS + 0.01, SUCCESS)
    assert z_scores(contexts, actions, rewards, success=shifted).max() > 4
    assert z_scores(contexts, actions, rewards, prompt_probs=np.full(3, 1 / 3)).max() > 4
    interior = SUCCESS.clip(1e-3, 1 - 1e-3)
    assert z_scores(contexts[1:], actions[:-1], rewards[:-1], success=interior).max() > 4


def test_members_and_steps_are_independent(rng):
    """Smallest correlation caught: 0.008. Mutants: a noise, or a context, shared by members."""
    contexts, actions, rewards = many_draws()
    assert correlations(contexts, actions, rewards).max() <= 4
    uniform = rng.random((40_000, 1))
    assert correlations(contexts, actions, 1.0 * (uniform < SUCCESS[contexts, actions])).max() > 4
    same = np.repeat(contexts[:, :1], 8, axis=1)
    means = SUCCESS[same, actions]
    assert correlations(same, actions, 1.0 * (rng.random(means.shape) < means)).max() > 4


def test_copies_of_one_seed_share_the_context_only(rng):
    """What a group needs; would catch a reward drawn by reset, before generators are replaced."""
    contexts, rewards = [], []
    for member in range(40):
        env = ContextualBanditEnv(np.full((16, 2), 0.5))
        contexts.append(env.reset(seed=11)[0])
        env.np_random = np.random.default_rng(member)
        rewards.append(env.step(0)[1])
    assert len(set(contexts)) == 1 and len(set(rewards)) == 2


@pytest.mark.parametrize(
    "num_envs",
    [
        pytest.param(1, marks=pytest.mark.slow),  # eight go over the ends of the same blocks
        8,
        2**13,
        2**14,
        2**14 + 1,
    ],
)
def test_every_step_rewards_the_observed_context(num_envs, rng):
    """Exact, over the ends of several blocks of random numbers (of at most 2¹⁴ steps)."""
    table = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0]])
    envs = vector(num_envs, success=table)
    contexts, _ = envs.reset(seed=1)
    for _ in range(2**14 * 2 // num_envs + 3):
        actions = rng.integers(3, size=num_envs)
        following, rewards, terminations, truncations, infos = envs.step(actions)
        np.testing.assert_array_equal(rewards, table[contexts, actions])
        np.testing.assert_array_equal(infos["final_obs"], contexts)
        assert terminations.all() and not truncations.any()
        if num_envs > 100:
            assert not np.array_equal(following, contexts)
        contexts = following


def test_vector_environment_returns_what_gymnasiums_own_returns():
    """Same spaces, shapes, dtypes and infos as single ones in Gymnasium's loop."""
    ours = vector(3)
    loop = gymnasium.make_vec(
        BANDIT,
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": ours.metadata["autoreset_mode"]},
    )
    for name in ("single_observation_space", "observation_space", "single_action_space"):
        assert getattr(ours, name) == getattr(loop, name)
    assert ours.action_space == loop.action_space and ours.num_envs == loop.num_envs
    results = [(*envs.reset(seed=0), *envs.step(np.array([0, 3, 1]))) for envs in (ours, loop)]
    for mine, theirs in zip(*results, strict=True):
        if isinstance(mine, dict):
            assert mine.keys() == theirs.keys()
            mine, theirs = list(mine.values()), list(theirs.values())
        else:
            mine, theirs = [mine], [theirs]
        for left, right in zip(mine, theirs, strict=True):
            assert type(left) is type(right)
            if isinstance(left, np.ndarray):
                assert left.dtype == right.dtype and left.shape == right.shape


def test_returned_arrays_belong_to_the_caller(rng):
    """Would catch: a view of what the environment goes on to use, or returned before."""
    spoiled, kept = vector(8), vector(8)
    kept.reset(seed=2)
    spoiled.reset(seed=2)[0][:] = 0
    for _ in range(5):
        actions = rng.integers(4, size=8)
        result, reference = spoiled.step(actions), kept.step(actions)
        for ours, theirs in zip(result[:4], reference[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)
            ours[:] = 0
        for array in (result[4]["final_obs"], result[4]["_final_obs"], actions):
            array[:] = 0


def test_vector_seeds_and_generators():
    """A generator that replaces another is used from the next reset on."""
    envs = vector(64)
    first, again = envs.reset(seed=5)[0], envs.reset(seed=5)[0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(envs.reset()[0], first)
    assert not np.array_equal(envs.reset(seed=6)[0], first)
    envs.np_random = np.random.default_rng(5)
    expected = np.random.default_rng(5).choice(16, (2**14 // 64, 64), p=np.full(16, 1 / 16))[0]
    np.testing.assert_array_equal(envs.reset()[0], expected)
