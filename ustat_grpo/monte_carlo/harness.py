"""Monte Carlo error of policy-gradient estimators: many replicates, all estimators at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ustat_grpo.bandits.snapshot import Snapshot
from ustat_grpo.compiled.rng import draw_key
from ustat_grpo.compiled.threads import available_threads
from ustat_grpo.estimators import Estimator
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import instance
from ustat_grpo.monte_carlo.comparison import Comparison
from ustat_grpo.monte_carlo.kernels import REPLICATES_PER_BLOCK
from ustat_grpo.monte_carlo.replications import Precision, replicate, require_replications
from ustat_grpo.monte_carlo.simulation import Simulation

if TYPE_CHECKING:
    import pandas as pd


_CHUNK_BYTES = 2**23
"""Memory for the errors and gradient sums of one chunk of replicates."""


def gradient_mse(
    snapshot: Snapshot,
    estimators: Sequence[Estimator] | Mapping[str, Estimator],
    group_sizes: Sequence[int],
    batch_size: int | None,
    *,
    replications: int | Precision,
    rng: np.random.Generator,
) -> "pd.DataFrame":
    """Measure E‖ĝ − ∇J‖² of minibatch gradients by simulation.

    All estimators see the same prompts and outputs, and group sizes up to 256 are nested, so that
    differences between rows are paired. The same `rng` state gives the same numbers for any
    number of threads, and adding an estimator or a group size leaves the other rows as they are.

    Args:
        snapshot: the problem at one θ.
        estimators: what to compare; a mapping names the rows, else `label` does.
        group_sizes: the G to measure, each at least 1 (2 for leave-one-out baselines).
        batch_size: B i.i.d. prompts, or None to take every prompt once, weighted by f(x), as the
            paper's figure does over its question set.
        replications: number of replicates, at least 2, or the `Precision` to reach.
        rng: gives the key of the random streams.

    Returns:
        One row a (group size, estimator), with columns estimator, batch_size (prompts in a
        replicate), group_size, replications, mse, std_error (of mse), and bias_norm: ‖mean ĝ − ∇J‖,
        whose noise is about √(mse/replications) for an unbiased estimator.

    Raises:
        TypeError: if the snapshot, an estimator or the generator is an object of another kind.
        ValueError: if an argument is out of its range.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Grpo, SoftmaxBandit, gradient_mse, laws
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])
        >>> rng = np.random.default_rng(0)
        >>> table = gradient_mse(coin, [Grpo()], [2, 4], batch_size=8, replications=2000, rng=rng)
        >>> exact = [laws.mse.grpo(coin.moments, group_size=G)[0] / 8 for G in table.group_size]
        >>> bool((abs(table.mse - exact) < 4 * table.std_error).all())
        True
    """
    instance("snapshot", snapshot, Snapshot, "bandit.at(theta)")
    compared = Comparison.of(estimators, group_sizes, batch_size)
    require_replications(replications)
    simulation = Simulation(
        snapshot, compared.estimators, compared.group_sizes, batch_size, draw_key(rng)
    )
    measured = replicate(
        replications,
        REPLICATES_PER_BLOCK,
        _Measured.nothing(simulation),
        partial(_extend, simulation),
    )
    bias = measured.gradient_sum / measured.count - snapshot.gradient
    norms = [float(np.linalg.norm(each)) for each in bias.reshape(-1, bias.shape[-1])]
    return compared.table(simulation.num_slots, measured, np.array(norms))


@dataclass(frozen=True, eq=False)
class _Measured:
    """Running statistics of `count` replicates."""

    count: int
    mean: Array  # (S, E)
    square_deviation: Array  # (S, E): Σ (error − mean)²
    gradient_sum: Array  # (S, E, d)

    @classmethod
    def nothing(cls, simulation: Simulation) -> "_Measured":
        shape = len(simulation.group_sizes), len(simulation.estimators)
        dimension = simulation.snapshot.dimension
        return cls(0, np.zeros(shape), np.zeros(shape), np.zeros((*shape, dimension)))

    @property
    def std_error(self) -> Array:
        return np.sqrt(self.square_deviation / (self.count - 1) / self.count)

    def with_block(
        self, added: int, mean: Array, deviation: Array, gradient_sum: Array
    ) -> "_Measured":
        """Merge a block of replicates (Chan, Golub & LeVeque 1983)."""
        step, count = mean - self.mean, self.count + added
        return _Measured(
            count,
            self.mean + step * (added / count),
            self.square_deviation + deviation + step**2 * (self.count * added / count),
            self.gradient_sum + gradient_sum,
        )


def _block_statistics(errors: Array) -> Iterator[tuple[int, Array, Array]]:
    """Yield count, mean and Σ(error − mean)² of each block; the last one may be short.

    Each column is summed by itself, so that a sum does not depend on how many columns there are.
    """
    shape = errors.shape[1:]
    whole = len(errors) // REPLICATES_PER_BLOCK * REPLICATES_PER_BLOCK
    for part, length in ((errors[:whole], REPLICATES_PER_BLOCK), (errors[whole:], None)):
        if len(part):
            blocks = part.reshape(-1, length or len(part), int(np.prod(shape)))
            columns = np.ascontiguousarray(blocks.transpose(0, 2, 1))
            means = columns.mean(axis=2)
            deviations = ((columns - means[..., None]) ** 2).sum(axis=2)
            for mean, deviation in zip(means, deviations, strict=True):
                yield blocks.shape[1], mean.reshape(shape), deviation.reshape(shape)


def _extend(simulation: Simulation, measured: _Measured, wanted: int, most: int) -> _Measured:
    """Add whole blocks of replicates until there are `wanted`; the last may end at `most`."""
    doubles = measured.mean.size * (simulation.snapshot.dimension + REPLICATES_PER_BLOCK)
    largest = REPLICATES_PER_BLOCK * max(available_threads(), _CHUNK_BYTES // (8 * doubles))
    end = min(-(-wanted // REPLICATES_PER_BLOCK) * REPLICATES_PER_BLOCK, most)
    while measured.count < end:
        missing = min(end - measured.count, largest)
        errors, sums = simulation.run(measured.count, missing)
        for block, gradient_sum in zip(_block_statistics(errors), sums, strict=True):
            measured = measured.with_block(*block, gradient_sum)
    return measured
