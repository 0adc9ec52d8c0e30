"""The harness against the exact laws over many runs: errors of a part in a thousand show."""

import numpy as np
import pytest

from support.problems import random_snapshot
from ustat_grpo import Grpo, gradient_mse, laws

RUNS = 40
REPLICATIONS = 60_000


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [None, 9], ids=["tabular", "dense"])
@pytest.mark.parametrize("batch_size", [None, 5], ids=["all once", "i.i.d."])
@pytest.mark.parametrize("group_size", [4, 64, 300, 5000])
def test_many_independent_runs_against_the_law(dimension, batch_size, group_size, rng):
    """Each way of drawing has a bias of its own to hide; 40 runs together show 0.1 % or less.

    Would catch: Poisson counts that are not conditioned, an alias table off by a column's share,
    error bars 20 % too small (mean z² outside 4 standard errors of a χ² mean).
    """
    snapshot = random_snapshot(rng, 7, 5, reward_levels=(-0.5, 0.0, 1.3), dimension=dimension)
    exact = laws.mse.minibatch(
        laws.mse.grpo(snapshot.moments, group_size=group_size),
        snapshot.moments,
        batch_size=batch_size,
    )
    z = np.empty(RUNS)
    for run in range(RUNS):
        options = {"replications": REPLICATIONS, "rng": np.random.default_rng(run)}
        (row,) = gradient_mse(snapshot, [Grpo()], [group_size], batch_size, **options).itertuples()
        z[run] = (row.mse - exact) / row.std_error
    assert abs(z.mean()) * np.sqrt(RUNS) <= 4
    assert abs((z**2).mean() - 1) <= 4 * np.sqrt(2 / RUNS)
