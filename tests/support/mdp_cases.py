"""Small MDPs made by hand or at random, exact objectives, and runs of Algorithm 1 on them."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from support.training_options import configured
from ustat_grpo import Decay, Grpo
from ustat_grpo.compiled import thread_limit
from ustat_grpo.environments.mdp import TabularMdp
from ustat_grpo.environments.mdp_training import optimize_mdp

MOVES = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])


def lake(discount=1.0, horizon=6):
    """The map SF/HG, slippery; starts in both free cells, not equally likely."""
    next_state = np.tile(np.arange(4)[:, None, None], (1, 4, 3))
    for s in (0, 1):
        for a in range(4):
            cells = np.clip(np.array(divmod(s, 2)) + MOVES[[a - 1, a, (a + 1) % 4]], 0, 1)
            next_state[s, a] = cells @ [2, 1]
    moved = (np.arange(4) < 2)[:, None, None]
    return TabularMdp(
        next_state, np.full((4, 4, 3), 1 / 3), (moved & (next_state == 3)) * 1.0, next_state >= 2,
        np.array([0, 1]), np.array([0.7, 0.3]), horizon, discount,
    )  # fmt: skip


def random_mdp(discount=1.0):
    """Rewards of every size, outcomes that do not exist, and ends that some episodes never see."""
    rng, shape = np.random.default_rng(8), (4, 3, 3)
    probs = rng.random(shape) * (rng.random(shape) > 0.3) + np.eye(3)
    probs /= probs.sum(axis=2, keepdims=True)
    return TabularMdp(
        rng.integers(4, size=shape), probs, rng.normal(size=shape), rng.random(shape) < 0.3,
        np.array([2, 0, 1]), np.array([0.2, 0.5, 0.3]), 5, discount,
    )  # fmt: skip


FEATURES = np.random.default_rng(4).normal(size=(4, 2))
PROBLEMS = {
    "lake": (lake(), None),
    "lake, discounted": (lake(0.8), None),
    "lake, features": (lake(), FEATURES),
    "random": (random_mdp(), None),
    "random, discounted, features": (random_mdp(0.7), FEATURES),
}


def start(name):
    """θ₀."""
    mdp, features = PROBLEMS[name]
    rows = mdp.num_states if features is None else features.shape[1]
    return 0.5 * np.random.default_rng(11).normal(size=rows * mdp.num_actions)


def climb(name="lake", estimator=None, *, seed=0, threads=1, **options):
    """Runs of Algorithm 1 on a problem; `options` replace any argument or field of the config."""
    mdp, features = PROBLEMS[name]
    arguments = {
        "mdp": mdp, "features": features, "batch_size": 2, "group_size": 4, "num_iterations": 12,
        "schedule": Decay(3.0, 2.0), "num_runs": 7, "theta0": start(name),
        "rng": np.random.default_rng(seed),
        "estimator": Grpo() if estimator is None else estimator,
    }  # fmt: skip
    config, rest = configured(arguments | options)
    with thread_limit(threads):
        return optimize_mdp(config=config, **rest)


def objective(mdp, features, theta):
    """J(θ) by plain recursion."""
    return mdp.start_probs @ values(mdp, policy_of(mdp, features, theta)[1])[mdp.starts]


def policy_of(mdp, features, theta):
    """φ, shape (S, F), and π, shape (S, A)."""
    phi = np.eye(mdp.num_states) if features is None else features
    return phi, softmax(phi @ theta.reshape(-1, mdp.num_actions), axis=1)


def values(mdp, probs):
    """V of every state, with all of the time to go."""
    value = np.zeros(mdp.num_states)
    for _ in range(mdp.horizon):
        later = mdp.discount * np.where(mdp.terminated, 0.0, value[mdp.next_state])
        value = np.einsum("sa,sak,sak->s", probs, mdp.probs, mdp.rewards + later)
    return value
