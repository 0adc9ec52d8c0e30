"""Random finite problems for the tests, and their moments by explicit loops.

Nothing in them is uniform, symmetric or zero, so no error hides behind a coincidence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ustat_grpo import Moments, Snapshot, SoftmaxBandit


def random_problem(
    rng: np.random.Generator,
    num_prompts: int = 3,
    num_actions: int = 4,
    *,
    reward_levels: ArrayLike = (0.0, 1.0),
    dimension: int | None = None,
) -> tuple[SoftmaxBandit, np.ndarray]:
    """Return a bandit with uneven prompts and random offsets, and a random θ.

    Args:
        rng: source of everything random.
        num_prompts: P.
        num_actions: K.
        reward_levels: the values that a reward can take, shape (L,).
        dimension: d, the number of features; one-hot features (tabular) if None.
    """
    shape = (num_prompts, num_actions)
    bandit = SoftmaxBandit(
        None if dimension is None else rng.normal(size=(*shape, dimension)),
        np.asarray(reward_levels, dtype=float),
        rng.dirichlet(np.ones(np.size(reward_levels)), size=shape),
        rng.dirichlet(np.full(num_prompts, 3.0)),
        rng.normal(size=shape),
    )
    return bandit, rng.normal(size=bandit.dimension)


def random_snapshot(
    rng: np.random.Generator,
    num_prompts: int = 3,
    num_actions: int = 4,
    *,
    reward_levels: ArrayLike = (0.0, 1.0),
    dimension: int | None = None,
) -> Snapshot:
    """Return the problem of `random_problem` at its θ."""
    bandit, theta = random_problem(
        rng, num_prompts, num_actions, reward_levels=reward_levels, dimension=dimension
    )
    return bandit.at(theta)


def one_hot(num_prompts: int, num_actions: int) -> np.ndarray:
    """φ(x, y) with its one at x·K + y, set entry by entry."""
    features = np.zeros((num_prompts, num_actions, num_prompts * num_actions))
    for x in range(num_prompts):
        for y in range(num_actions):
            features[x, y, x * num_actions + y] = 1.0
    return features


def naive_policy(bandit: SoftmaxBandit, theta: np.ndarray) -> np.ndarray:
    """π(y|x) by loops over prompts and actions."""
    num_prompts, num_actions, _ = bandit.reward_probs.shape
    features = one_hot(num_prompts, num_actions) if bandit.features is None else bandit.features
    policy = np.zeros((num_prompts, num_actions))
    for x in range(num_prompts):
        weights = [
            np.exp(sum(features[x, y] * theta) + bandit.offsets[x, y]) for y in range(num_actions)
        ]
        policy[x] = [weight / sum(weights) for weight in weights]
    return policy


def cells(bandit: SoftmaxBandit, theta: np.ndarray, x: int) -> list[tuple]:
    """Every (probability given x, score, reward) of a prompt, one a pair of action and level."""
    policy = naive_policy(bandit, theta)
    num_prompts, num_actions, num_levels = bandit.reward_probs.shape
    features = one_hot(num_prompts, num_actions) if bandit.features is None else bandit.features
    mean = sum(policy[x, y] * features[x, y] for y in range(num_actions))
    return [
        (
            policy[x, y] * bandit.reward_probs[x, y, level],
            features[x, y] - mean,
            bandit.reward_levels[level],
        )
        for y in range(num_actions)
        for level in range(num_levels)
    ]


def expectation(of_prompt: list[tuple], statistic) -> np.ndarray:
    return sum(prob * statistic(score, reward) for prob, score, reward in of_prompt)


def naive_moments(bandit: SoftmaxBandit, theta: np.ndarray) -> dict[str, np.ndarray]:
    """All per-prompt fields of `Moments` and `OutcomeMoments`, and g(x), by sums over cells."""
    rows = []
    for x in range(len(bandit.prompt_probs)):
        row, of_prompt = {}, cells(bandit, theta, x)
        value = row["value"] = expectation(of_prompt, lambda w, z: z)
        statistics = {
            "gradient": lambda w, z, v=value: w * (z - v),
            "reward_variance": lambda w, z, v=value: (z - v) ** 2,
            "score_norm_squared": lambda w, z: w @ w,
            "oracle_norm_squared": lambda w, z, v=value: (w @ w) * (z - v) ** 2,
            "score_norm_reward_covariance": lambda w, z, v=value: (w @ w) * (z - v),
            "success_probability": lambda w, z: float(z == 1),
            "failure_probability": lambda w, z: float(z != 1),
            "success_score_norm_squared": lambda w, z: (w @ w) * (z == 1),
            "failure_score_norm_squared": lambda w, z: (w @ w) * (z != 1),
        }
        row |= {name: expectation(of_prompt, each) for name, each in statistics.items()}
        row["gradient_norm_squared"] = row["gradient"] @ row["gradient"]
        for outcome in ("success", "failure"):
            if row[f"{outcome}_probability"] > 0:
                row[f"{outcome}_score_norm_squared"] /= row[f"{outcome}_probability"]
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def moments_of(**changes):
    """Return moments of one made-up prompt."""
    numbers = {
        "value": 0.5,
        "reward_variance": 0.25,
        "score_norm_squared": 2.0,
        "oracle_norm_squared": 0.5,
        "score_norm_reward_covariance": 0.0,
        "gradient_norm_squared": 0.1,
    } | changes
    arrays = {name: np.array([number]) for name, number in numbers.items()}
    return Moments(prompt_probs=np.ones(1), prompt_noise=0.0, outcome=None, **arrays)
