"""Algorithm 1 of arXiv 2603.01162 on any environment: ascent of J by groups of episodes."""

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
    require_policy,
    require_seeds,
)
from ustat_grpo.estimators import SideInformation, gradient
from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.optimization import TrainingConfig
from ustat_grpo.optimization.schedules import learning_rates
from ustat_grpo.optimization.training_config import require_training_config


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """One run of n iterations, looked at C times.

    Args:
        checkpoints: iterations after which θ was kept, shape (C,).
        theta: θ after them, shape (C, d); empty, (0, d), if it was not kept.
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
    config: TrainingConfig,
    *,
    seeds: ArrayLike,
    theta0: ArrayLike,
    rng: np.random.Generator,
) -> TrainedRun:
    """Run Algorithm 1: θ ← Π(θ + η_i ĝ(θ)), with ĝ = (1/BG) Σ_b Σ_i A_bi W_bi of G episodes each.

    Calls with the same `rng` state but another estimator, group size or schedule meet the same
    prompts, and play them with the same uniform numbers; larger batches begin with the prompts of
    smaller ones. Differences between calls should be taken run by run.

    Args:
        copies: play the episodes, and discount their returns.
        policy: π.
        config: what the run does: Algorithm 1 on i.i.d. prompts. The estimator may know scores and
            lengths of the episodes.
        seeds: the P prompts, equally likely, from which batches are drawn i.i.d., shape (P,).
        theta0: where the run starts, shape (d,), inside the projection's set Θ.
        rng: gives the key of the random streams.

    Raises:
        TypeError: if copies, policy, configuration or generator is an object of another kind.
        ValueError: if an argument is out of its range, the configuration asks for more than
            Algorithm 1, or as `group_rollouts` does.
        FloatingPointError: if θ does not stay finite.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Constant, Grpo, TrainingConfig
        >>> from ustat_grpo.environments import EnvironmentCopies, tabular_softmax, train
        >>> config = TrainingConfig(
        ...     estimator=Grpo(),
        ...     batch_size=8,
        ...     group_size=8,
        ...     num_iterations=10,
        ...     schedule=Constant(4.0),
        ... )
        >>> policy, rng = tabular_softmax(num_states=2, num_actions=2), np.random.default_rng(0)
        >>> with EnvironmentCopies("ustat_grpo/TugOfWar-v0") as copies:
        ...     run = train(copies, policy, config, seeds=range(8), theta0=np.zeros(4), rng=rng)
        >>> run.theta.shape, bool(run.mean_return[-3:].mean() > run.mean_return[:3].mean())
        ((1, 4), True)
    """
    require_training_config(config)
    config.require_algorithm_1("environments")
    theta = require_policy(copies, policy, theta0)
    if config.projection is not None:
        config.projection.require_start(theta)
    population = require_seeds(seeds)
    rates = learning_rates(config.schedule, config.num_iterations)
    key = int(draw_key(rng))
    means, steps = np.empty(len(rates)), np.empty(len(rates), dtype=np.int64)
    kept = []
    for iteration, rate in enumerate(rates, start=1):
        coordinates = np.random.SeedSequence(key, spawn_key=(iteration,))
        prompt_rng, play_rng = np.random.default_rng(coordinates).spawn(2)
        batch = population[prompt_rng.integers(len(population), size=config.batch_size)]
        episodes = group_rollouts(copies, policy, theta, batch, config.group_size, rng=play_rng)
        scores = episode_scores(policy, theta, episodes)
        side = SideInformation(lengths=episodes.lengths)
        with np.errstate(over="ignore", invalid="ignore"):  # see what follows
            move = gradient(config.estimator, scores, episodes.returns, side).mean(axis=0)
            theta = theta + rate * move
        _require_finite(theta, rate, iteration)
        if config.projection is not None:
            theta = config.projection.project(theta)
        means[iteration - 1], steps[iteration - 1] = episodes.returns.mean(), episodes.lengths.sum()
        if config.keep_theta and iteration in config.checkpoints:
            kept.append(theta)
    at_checkpoints = np.array(kept).reshape(-1, len(theta))
    return TrainedRun(np.array(config.checkpoints), at_checkpoints, means, steps)


def _require_finite(theta: Array, rate: float, iteration: int) -> None:
    if not np.isfinite(theta).all():
        raise FloatingPointError(
            f"training diverged at iteration {iteration}, where theta is not finite: "
            f"the learning rate must be smaller, got {rate:g}"
        )
