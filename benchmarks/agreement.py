"""Nothing is timed before it is right: mean errors against exact laws, runs against each other."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from benchmarks import plain_optimization
from benchmarks.plain import WAYS
from benchmarks.plain_optimization import Ascent
from benchmarks.settings import ESTIMATORS
from ustat_grpo import Constant, Grpo, Snapshot, TrainingConfig, laws, optimize
from ustat_grpo.monte_carlo import gradient_mse

LARGEST_SCORE = 4.0


def disagreements(
    snapshot: Snapshot, group_sizes: list[int], most_replicates: int
) -> Iterator[str]:
    """Yield a line for each way whose error lies over four standard errors from the law."""
    rng = np.random.default_rng(1)
    for group_size in group_sizes:
        law = exact_errors(snapshot, group_size)
        replications = int(
            np.clip(400_000 // (len(snapshot.value) * group_size), 100, most_replicates)
        )
        for name, way in WAYS.items():
            calls = -(-replications // 20)
            errors = np.concatenate([way(snapshot, group_size, 20, rng) for _ in range(calls)])
            std_error = errors.std(axis=0, ddof=1) / np.sqrt(len(errors))
            yield from _far(name, group_size, (errors.mean(axis=0) - law) / std_error)
        table = gradient_mse(snapshot, ESTIMATORS, [group_size], None, replications=5_000, rng=rng)
        scores = (table["mse"].to_numpy() - law) / table["std_error"].to_numpy()
        yield from _far("gradient_mse", group_size, scores)


def optimization_disagreements(ascents: list[Ascent], num_runs: int) -> Iterator[str]:
    """Yield a line for each two ways whose mean objectives differ by over four standard errors."""
    rng = np.random.default_rng(4)
    for ascent in ascents:
        reached = objectives_reached(ascent, num_runs, 20, rng)
        means = {name: each.mean() for name, each in reached.items()}
        variances = {name: each.var(ddof=1) / num_runs for name, each in reached.items()}
        for one, other in combinations(reached, 2):
            difference = means[one] - means[other]
            score = difference / np.sqrt(variances[one] + variances[other])
            if not abs(score) <= LARGEST_SCORE:
                yield (f"{one}, G = {ascent.group_size}: {score:+.1f} standard errors off {other} "
                       "after 20 iterations")  # fmt: skip


def objectives_reached(
    ascent: Ascent, num_runs: int, num_iterations: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """J(θ) of every run of every way and of `optimize`, each from draws of its own."""
    bandit = ascent.bandit
    reached = {}
    for name, way in plain_optimization.WAYS.items():
        ends = way(ascent, num_runs, num_iterations, rng)
        reached[name] = np.array([bandit.at(theta).objective for theta in ends])
    config = TrainingConfig(
        estimator=Grpo(),
        batch_size=ascent.batch_size,
        group_size=ascent.group_size,
        num_iterations=num_iterations,
        schedule=Constant(ascent.rate),
    )
    start = np.zeros(bandit.dimension)
    runs = optimize(bandit, config, theta0=start, num_runs=num_runs, rng=rng)
    return reached | {"optimize": runs.objective[:, -1]}


def exact_errors(snapshot: Snapshot, group_size: int) -> np.ndarray:
    """The laws of vanilla, oracle and GRPO, every prompt taken once."""
    moments = snapshot.moments
    return np.array(
        [
            laws.mse.minibatch(law(moments, group_size=group_size), moments, batch_size=None)
            for law in (laws.mse.vanilla, laws.mse.oracle, laws.mse.grpo)
        ]
    )


def _far(way: str, group_size: int, scores: np.ndarray) -> Iterator[str]:
    for estimator, score in zip(ESTIMATORS, scores, strict=True):
        if not abs(score) <= LARGEST_SCORE:
            yield f"{way}, G = {group_size}, {estimator}: {score:+.1f} standard errors off the law"
