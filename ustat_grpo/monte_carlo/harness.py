"""Monte Carlo error of policy-gradient estimators: many replicates, all estimators at once."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING

import numpy as np

from ustat_grpo.bandits.snapshot import Snapshot
from ustat_grpo.compiled.rng import draw_key
from ustat_grpo.estimators import Estimator
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import integer, real
from ustat_grpo.monte_carlo.kernels import REPLICATES_PER_BLOCK
from ustat_grpo.monte_carlo.simulation import Simulation

if TYPE_CHECKING:
    import pandas as pd


_CHUNK_BYTES = 2**23
"""Memory for the errors and gradient sums of one chunk of replicates."""

_LARGEST_GROWTH = 8
"""A precision is approached in rounds: early error bars are too rough to trust further ahead."""


def gradient_mse(
    snapshot: Snapshot,
    estimators: Sequence[Estimator] | Mapping[str, Estimator],
    group_sizes: Sequence[int],
    batch_size: int | None,
    *,
    replications: int | None = None,
    precision: float | None = None,
    rng: np.random.Generator,
    num_threads: int | None = None,
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
        replications: number of replicates, at least 2; or give `precision`.
        precision: run until every std_error/mse is at most this.
        rng: gives the key of the random streams.
        num_threads: threads to use; all cores if None.

    Returns:
        One row a (group size, estimator), with columns estimator, batch_size (prompts in a
        replicate), group_size, replications, mse, std_error (of mse), and bias_norm: ‖mean ĝ − ∇J‖,
        whose noise is about √(mse/replications) for an unbiased estimator.

    Raises:
        ValueError: if an argument is out of its range, or not exactly one of `replications` and
            `precision` is given.

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
    import pandas as pd

    for name, given in {"estimators": estimators, "group_sizes": group_sizes}.items():
        if not isinstance(given, Iterable):
            raise ValueError(f"{name} must be a sequence, got {given!r}")
    named = _named(estimators)
    sizes = sorted({integer("group_size", size) for size in group_sizes})
    if not sizes or not named:
        raise ValueError("estimators and group_sizes must not be empty")
    if batch_size is not None:
        integer("batch_size", batch_size)
    if (replications is None) == (precision is None):
        raise ValueError(
            "exactly one of replications and precision must be given, got "
            f"replications={replications} and precision={precision}"
        )
    threads = (os.cpu_count() or 1) if num_threads is None else integer("num_threads", num_threads)
    simulation = Simulation(snapshot, named, sizes, batch_size, draw_key(rng))
    if precision is None:
        wanted = integer("replications", replications, at_least=2)
        measured = _extend(_Measured.nothing(simulation), simulation, wanted, threads)
    else:
        target = real("precision", precision, above=0.0)
        measured = _until_precise(simulation, target, threads)
    bias = measured.gradient_sum / measured.count - snapshot.gradient
    rows = [
        {
            "estimator": name,
            "batch_size": simulation.num_slots,
            "group_size": size,
            "replications": measured.count,
            "mse": measured.mean[s, e],
            "std_error": measured.std_error[s, e],
            "bias_norm": float(np.linalg.norm(bias[s, e])),
        }
        for s, size in enumerate(sizes)
        for e, name in enumerate(named)
    ]
    return pd.DataFrame(rows)


def label(estimator: Estimator) -> str:
    """Return the name of an estimator in tables: its class in snake case, and its parameters.

    Examples:
        >>> from ustat_grpo import Grpo, Shrinkage
        >>> from ustat_grpo.monte_carlo import label
        >>> label(Grpo()), label(Shrinkage(weight=0.5))
        ('grpo', 'shrinkage(weight=0.5, target=0.0)')
    """
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(estimator).__name__).lower()
    if not is_dataclass(estimator):
        return name
    values = [f"{field.name}={getattr(estimator, field.name)!r}" for field in fields(estimator)]
    return f"{name}({', '.join(values)})" if values else name


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


def _extend(measured: _Measured, simulation: Simulation, wanted: int, threads: int) -> _Measured:
    """Add replicates until there are `wanted`, chunk by chunk, merging block by block."""
    doubles = measured.mean.size * (simulation.snapshot.dimension + REPLICATES_PER_BLOCK)
    largest = REPLICATES_PER_BLOCK * max(threads, _CHUNK_BYTES // (8 * doubles))
    while measured.count < wanted:
        missing = min(wanted - measured.count, largest)
        errors, sums = simulation.run(measured.count, missing, threads)
        for block, gradient_sum in zip(_block_statistics(errors), sums, strict=True):
            measured = measured.with_block(*block, gradient_sum)
    return measured


def _until_precise(simulation: Simulation, precision: float, threads: int) -> _Measured:
    """Add rounds of replicates until every relative standard error is small enough."""
    measured = _Measured.nothing(simulation)
    wanted = REPLICATES_PER_BLOCK
    while True:
        measured = _extend(measured, simulation, wanted, threads)
        exact = measured.square_deviation == 0
        relative = float(np.where(exact, 0.0, measured.std_error / (measured.mean + exact)).max())
        if relative <= precision:
            return measured
        growth = min(1.05 * (relative / precision) ** 2, _LARGEST_GROWTH)
        blocks = int(np.ceil(growth * measured.count / REPLICATES_PER_BLOCK))
        wanted = blocks * REPLICATES_PER_BLOCK


def _named(estimators: Sequence[Estimator] | Mapping[str, Estimator]) -> dict[str, Estimator]:
    """Return the estimators by name, or raise if two share one."""
    if isinstance(estimators, Mapping):
        return dict(estimators)
    named = {label(estimator): estimator for estimator in estimators}
    if len(named) < len(estimators):
        raise ValueError(f"estimators must differ, got {[label(e) for e in estimators]}")
    return named
