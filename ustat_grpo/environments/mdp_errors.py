"""Monte Carlo error of policy gradients on a finite MDP: whole episodes, all estimators at once."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ustat_grpo.compiled.rng import draw_key
from ustat_grpo.compiled.threads import available_threads
from ustat_grpo.environments.mdp_kernels import (
    Played,
    PlayTables,
    add_up,
    cumulative,
    play_groups,
    play_tables,
)
from ustat_grpo.environments.mdp_moments import MdpSnapshot, policy_tables
from ustat_grpo.estimators import Estimator, SideInformation
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import instance
from ustat_grpo.monte_carlo import Precision
from ustat_grpo.monte_carlo.comparison import Comparison
from ustat_grpo.monte_carlo.replications import replicate, require_replications

if TYPE_CHECKING:
    import pandas as pd


_CHUNK_BYTES = 2**25
"""Memory for the episodes of a chunk of replicates, and for their advantages."""

_FIRST_ROUND = 1024


def gradient_errors(
    snapshot: MdpSnapshot,
    estimators: Sequence[Estimator] | Mapping[str, Estimator],
    group_sizes: Sequence[int],
    batch_size: int | None,
    *,
    replications: int | Precision,
    rng: np.random.Generator,
) -> "pd.DataFrame":
    """Measure E‖ĝ − ∇J‖² of minibatch gradients by simulation of whole episodes.

    All estimators see the same starts and episodes, and a larger group begins with the episodes of
    a smaller one, so that differences between rows are paired. The same `rng` state gives the same
    numbers for any number of threads.

    Args:
        snapshot: the problem at one θ, of `ustat_grpo.environments.snapshot`.
        estimators: what to compare; a mapping names the rows, else `ustat_grpo.monte_carlo.label`
            does. V(x) and b*(x) are known to them exactly.
        group_sizes: the G to measure, each at least 1 (2 for leave-one-out baselines).
        batch_size: B i.i.d. starts, or None to take every start once, weighted by f(x).
        replications: number of replicates, at least 2, or the `ustat_grpo.Precision` to reach.
        rng: gives the key of the random streams.

    Returns:
        The columns of `ustat_grpo.gradient_mse`: one row a (group size, estimator), with estimator,
        batch_size, group_size, replications, mse, std_error (of mse), and bias_norm.

    Raises:
        TypeError: if the snapshot, an estimator or the generator is an object of another kind.
        ValueError: if an argument is out of its range.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Grpo, Precision, laws
        >>> from ustat_grpo import environments as envs
        >>> mdp, policy = envs.frozen_lake(("SF", "HG"), horizon=4), envs.tabular_softmax(4, 4)
        >>> here, rng = envs.snapshot(mdp, policy, np.zeros(16)), np.random.default_rng(0)
        >>> table = envs.gradient_errors(
        ...     here, [Grpo()], [2], batch_size=8, replications=Precision(0.1), rng=rng
        ... )
        >>> errors = laws.mse.grpo(here.moments, group_size=2)
        >>> exact = laws.mse.minibatch(errors, here.moments, batch_size=8)
        >>> bool(abs(table.mse[0] - exact) < 4 * table.std_error[0])
        True
    """
    instance("snapshot", snapshot, MdpSnapshot, "environments.snapshot(mdp, policy, theta)")
    compared = Comparison.of(estimators, group_sizes, batch_size)
    require_replications(replications)
    replicates = _Replicates(snapshot, compared, draw_key(rng))
    found = replicate(replications, _FIRST_ROUND, replicates.nothing(), replicates.extend)
    bias = np.linalg.norm(found.gradient_sum / found.count - snapshot.gradient, axis=-1)
    return compared.table(replicates.num_slots, found, bias)


class _Sums(NamedTuple):
    """What a number of replicates add up to."""

    count: int
    error_sum: Array  # (C,)
    square_sum: Array  # (C,)
    gradient_sum: Array  # (C, d)

    @property
    def mean(self) -> Array:
        return self.error_sum / self.count

    @property
    def std_error(self) -> Array:
        deviation = np.maximum(self.square_sum - self.error_sum * self.mean, 0.0)
        return np.sqrt(deviation / (self.count - 1) / self.count)


def _added(left: _Sums, right: _Sums) -> _Sums:
    return _Sums(
        left.count + right.count,
        left.error_sum + right.error_sum,
        left.square_sum + right.square_sum,
        left.gradient_sum + right.gradient_sum,
    )


@dataclass(frozen=True, eq=False)
class _Replicates:
    """Replicates of a minibatch gradient, for E estimators at S group sizes: C = S·E columns."""

    snapshot: MdpSnapshot
    compared: Comparison
    key: np.uint64

    def __post_init__(self) -> None:
        """Ask every estimator once, for its errors, and work out what the threads share."""
        nothing = np.zeros((1, self.num_slots, self.compared.group_sizes[-1]))
        self._weights(np.zeros((1, self.num_slots), dtype=np.int64), nothing)
        _ = self._policy_tables, self._play_tables

    @property
    def num_slots(self) -> int:
        """Groups in a minibatch."""
        batch_size = self.compared.batch_size
        return len(self.snapshot.mdp.starts) if batch_size is None else batch_size

    @cached_property
    def chunk(self) -> int:
        """Replicates that are held at once; whatever the number of threads, for equal sums."""
        mdp, columns = self.snapshot.mdp, self._num_columns
        episodes = self.num_slots * self.compared.group_sizes[-1]
        doubles = episodes * (mdp.horizon / 2 + columns)
        pairs = mdp.num_states * mdp.num_actions
        doubles += columns * (pairs + 2 * self.snapshot.policy.dimension)
        return max(1, min(_FIRST_ROUND, int(_CHUNK_BYTES / 8 / doubles)))

    def nothing(self) -> _Sums:
        """Return the sums of no replicate."""
        columns = self._num_columns
        gradients = np.zeros((columns, self.snapshot.policy.dimension))
        return _Sums(0, np.zeros(columns), np.zeros(columns), gradients)

    def extend(self, before: _Sums, wanted: int, most: int) -> _Sums:
        """Add whole chunks of replicates until there are `wanted`; the last may end at `most`."""
        starts = range(before.count, wanted, self.chunk)
        lengths = [min(self.chunk, most - start) for start in starts]
        with ThreadPoolExecutor(available_threads()) as pool:
            return reduce(_added, pool.map(self.run, starts, lengths), before)  # in order

    def run(self, first: int, replications: int) -> _Sums:
        """Run some replicates on the calling thread."""
        probs, scores = self._policy_tables
        shape = replications, self.num_slots, self.compared.group_sizes[-1]
        played = Played(
            np.empty(shape[:2], dtype=np.int64),
            np.empty((*shape, self._play_tables.horizon), dtype=np.int32),
            np.empty(shape, dtype=np.int64),
            np.empty(shape),
        )
        all_once = self.compared.batch_size is None
        play_groups(self._play_tables, cumulative(probs), self.key, all_once, first, played)
        weights = self._weights(played.prompts, played.returns)
        sizes = np.searchsorted(self.compared.group_sizes, np.arange(shape[2]), side="right")
        sums = np.zeros((replications, probs.size, weights.shape[-1]))
        add_up(played, weights, sizes * len(self.compared.estimators), sums)
        gradients = sums.transpose(0, 2, 1) @ scores.reshape(probs.size, -1)
        errors = np.sum((gradients - self.snapshot.gradient) ** 2, axis=-1)
        return _Sums(
            replications, errors.sum(axis=0), (errors**2).sum(axis=0), gradients.sum(axis=0)
        )

    @property
    def _num_columns(self) -> int:
        return len(self.compared.group_sizes) * len(self.compared.estimators)

    @cached_property
    def _policy_tables(self) -> tuple[Array, Array]:
        return policy_tables(self.snapshot.mdp, self.snapshot.policy, self.snapshot.theta)

    @cached_property
    def _play_tables(self) -> PlayTables:
        return play_tables(self.snapshot.mdp)

    def _weights(self, prompts: NDArray[np.int64], returns: Array) -> Array:
        """Advantages, times the weight of the start over G; 0 outside the group, (R, B, G, C)."""
        here, compared = self.snapshot, self.compared
        share = np.full(prompts.shape, 1 / self.num_slots)
        if compared.batch_size is None:
            share = here.mdp.start_probs[prompts]
        side = SideInformation(here.value[prompts], here.optimal_baseline[prompts])
        columns = len(compared.group_sizes), len(compared.estimators)
        weights = np.zeros((*returns.shape, *columns))
        for s, size in enumerate(compared.group_sizes):
            for e, estimator in enumerate(compared.estimators.values()):
                advantages = estimator.advantages(returns[..., :size], side)
                weights[..., :size, s, e] = advantages * (share / size)[..., None]
        return weights.reshape(*returns.shape, -1)
