"""Nothing is timed before it is right: every way's mean error against the exact law."""

from collections.abc import Iterator

import numpy as np

from benchmarks.plain import WAYS
from benchmarks.settings import ESTIMATORS
from ustat_grpo import Snapshot, laws
from ustat_grpo.monte_carlo import gradient_mse

LARGEST_SCORE = 4.0


def disagreements(snapshot: Snapshot, group_sizes: list[int]) -> Iterator[str]:
    """Yield a line for each way whose error lies over four standard errors from the law."""
    rng = np.random.default_rng(1)
    for group_size in group_sizes:
        law = exact_errors(snapshot, group_size)
        replications = int(np.clip(400_000 // (len(snapshot.value) * group_size), 100, 2_000))
        for name, way in WAYS.items():
            calls = -(-replications // 20)
            errors = np.concatenate([way(snapshot, group_size, 20, rng) for _ in range(calls)])
            std_error = errors.std(axis=0, ddof=1) / np.sqrt(len(errors))
            yield from _far(name, group_size, (errors.mean(axis=0) - law) / std_error)
        table = gradient_mse(snapshot, ESTIMATORS, [group_size], None, replications=5_000, rng=rng)
        scores = (table["mse"].to_numpy() - law) / table["std_error"].to_numpy()
        yield from _far("gradient_mse", group_size, scores)


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
