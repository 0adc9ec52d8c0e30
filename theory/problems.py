"""The finite problems on which claims are checked."""

import numpy as np
from numpy.typing import ArrayLike

from ustat_grpo import Snapshot, SoftmaxBandit

REWARD_LEVELS = (-1.0, 0.5, 2.0)


def random_problem(
    seed: int,
    *,
    num_prompts: int = 2,
    num_actions: int = 3,
    num_levels: int = 3,
    dimension: int | None = None,
) -> Snapshot:
    """Draw a problem without symmetry: unequal prompts, rewards of both signs, m ≠ 0.

    Args:
        seed: of the problem.
        num_prompts: P.
        num_actions: K.
        num_levels: L, at most 3.
        dimension: d of the features; None for one parameter per (prompt, action).
    """
    rng = np.random.default_rng(seed)
    shape = (num_prompts, num_actions)
    features = None if dimension is None else rng.normal(size=(*shape, dimension))
    bandit = SoftmaxBandit(
        features,
        np.array(REWARD_LEVELS[:num_levels]),
        rng.dirichlet(np.ones(num_levels), size=shape),
        rng.dirichlet(np.full(num_prompts, 2.0)),
        rng.normal(size=shape),
    )
    return bandit.at(rng.normal(size=bandit.dimension))


def small_problems() -> tuple[Snapshot, ...]:
    """Return problems of 2 to 4 actions and three reward levels, tabular and with features."""
    return (
        random_problem(1, num_actions=2, num_prompts=3),
        random_problem(2, num_actions=3, dimension=2),
        random_problem(3, num_actions=4),
        random_problem(4, num_actions=4, dimension=3),
    )


def tiny_problems() -> tuple[Snapshot, ...]:
    """Return problems small enough to list every minibatch."""
    return (
        random_problem(5, num_actions=2, num_levels=2),
        random_problem(6, num_actions=2, num_levels=2, dimension=2),
    )


def two_actions(chance: float, success: ArrayLike) -> Snapshot:
    """Return one prompt, two actions, one parameter and 0/1 rewards.

    The score is 1 − chance for action 1 and −chance for action 0. At chance ½ its square does not
    depend on the action, which is Assumption 2 in its strongest form.

    Args:
        chance: π(1).
        success: P(Z = 1) for actions 0 and 1, shape (2,).
    """
    right = np.asarray(success, dtype=float)
    bandit = SoftmaxBandit(
        np.array([[[0.0], [1.0]]]),
        np.array([0.0, 1.0]),
        np.stack([1 - right, right], axis=-1)[None],
        offsets=np.array([[0.0, np.log(chance / (1 - chance))]]),
    )
    return bandit.at([0.0])
