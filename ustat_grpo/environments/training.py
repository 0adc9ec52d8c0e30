"""Algorithm 1 of arXiv 2603.01162 on any environment: ascent of J by groups of episodes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from ustat_grpo.compiled.rng import draw_key
from ustat_grpo.environments.copies import EnvironmentCopies
from ustat_grpo.environments.policies import Policy
from ustat_grpo.environments.rollouts import (
    episode_scores,
    group_rollouts,
    require_discount,
    require_policy,
    require_seeds,
)
from ustat_grpo.estimators import Estimator, SideInformation, gradient
from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import increasing, integer, real


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """One run of n iterations, looked at C times.

    Args:
        checkpoints: iterations after which θ was kept, shape (C,).
        theta: θ after them, shape (C, d).
        mean_return: mean reward Z of the B·G episodes of each iteration, which were played before
            its update, shape (n,).
        num_steps: steps of these episodes in all, shape (n,).

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import TrainedRun
        >>> run = TrainedRun(
        ...     checkpoints=np.array([2]),
        ...     theta=np.zeros((1, 4)),
        ...     mean_return=np.array([0.25, 0.5]),  # before the first update, and between the two
        ...     num_steps=np.array([8, 8]),
        ... )
        >>> run.mean_return.tolist(), run.theta.shape
        ([0.25, 0.5], (1, 4))
    """

    checkpoints: Int[Integers, " C"]
    theta: Float[Array, "C d"]
    mean_return: Float[Array, " n"]
    num_steps: Int[Integers, " n"]


def train(
    copies: EnvironmentCopies,
    policy: Policy,
    estimator: Estimator,
    *,
    seeds: ArrayLike,
    batch_size: int,
    group_size: int,
    num_iterations: int,
    learning_rate: float,
    theta0: ArrayLike,
    checkpoints: Sequence[int],
    discount: float = 1.0,
    rng: np.random.Generator,
) -> TrainedRun:
    """Run Algorithm 1: θ ← θ + η ĝ(θ), with ĝ = (1/BG) Σ_b Σ_i A_bi W_bi of G episodes each.

    Calls with the same `rng` state but another estimator, group size or learning rate meet the same
    prompts, and play them with the same uniform numbers; larger batches begin with the prompts of
    smaller ones. Differences between calls should be taken run by run.

    Args:
        copies: play the episodes.
        policy: π.
        estimator: turns returns into advantages; may know scores and lengths of the episodes.
        seeds: the P prompts, equally likely, from which batches are drawn i.i.d., shape (P,).
        batch_size: B, prompts of an iteration.
        group_size: G, episodes of each prompt.
        num_iterations: n.
        learning_rate: η.
        theta0: where the run starts, shape (d,).
        checkpoints: increasing iterations after which θ is kept, shape (C,).
        discount: γ in (0, 1].
        rng: gives the key of the random streams.

    Raises:
        ValueError: if an argument is out of its range, or as `group_rollouts` does.
        FloatingPointError: if θ does not stay finite.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Grpo
        >>> from ustat_grpo.environments import EnvironmentCopies, tabular_softmax, train
        >>> with EnvironmentCopies("ustat_grpo/TugOfWar-v0") as copies:
        ...     run = train(
        ...         copies,
        ...         tabular_softmax(num_states=2, num_actions=2),
        ...         Grpo(),
        ...         seeds=range(8),
        ...         batch_size=8,
        ...         group_size=8,
        ...         num_iterations=10,
        ...         learning_rate=4.0,
        ...         theta0=np.zeros(4),
        ...         checkpoints=[10],
        ...         rng=np.random.default_rng(0),
        ...     )
        >>> run.theta.shape, bool(run.mean_return[-3:].mean() > run.mean_return[:3].mean())
        ((1, 4), True)
    """
    theta = require_policy(copies, policy, theta0)
    population = require_seeds(seeds)
    integer("batch_size", batch_size)
    integer("group_size", group_size)
    points = increasing(
        "checkpoints", checkpoints, at_most=integer("num_iterations", num_iterations)
    )
    rate = real("learning_rate", learning_rate, above=0.0)
    require_discount(discount)
    key = int(draw_key(rng))
    means, steps = np.empty(num_iterations), np.empty(num_iterations, dtype=np.int64)
    kept = []
    for iteration in range(1, num_iterations + 1):
        coordinates = np.random.SeedSequence(key, spawn_key=(iteration,))
        prompt_rng, play_rng = np.random.default_rng(coordinates).spawn(2)
        batch = population[prompt_rng.integers(len(population), size=batch_size)]
        episodes = group_rollouts(
            copies, policy, theta, batch, group_size, discount=discount, rng=play_rng
        )
        scores = episode_scores(policy, theta, episodes)
        side = SideInformation(lengths=episodes.lengths)
        with np.errstate(over="ignore", invalid="ignore"):  # see what follows
            move = gradient(estimator, scores, episodes.returns, side).mean(axis=0)
            theta = theta + rate * move
        _require_finite(theta, rate, iteration)
        means[iteration - 1], steps[iteration - 1] = episodes.returns.mean(), episodes.lengths.sum()
        if iteration in points:
            kept.append(theta)
    return TrainedRun(points, np.array(kept), means, steps)


def _require_finite(theta: Array, rate: float, iteration: int) -> None:
    if not np.isfinite(theta).all():
        raise FloatingPointError(
            f"training diverged at iteration {iteration}, where theta is not finite: "
            f"learning_rate must be smaller, got {rate:g}"
        )
