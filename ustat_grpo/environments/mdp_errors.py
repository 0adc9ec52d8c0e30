"""Monte Carlo error of policy gradients on a finite MDP: whole episodes, all estimators at once."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ustat_grpo.compiled.rng import draw_key
from ustat_grpo.environments.mdp import TabularMdp
from ustat_grpo.environments.mdp_kernels import (
    Played,
    PlayTables,
    add_up,
    cumulative,
    play_groups,
    play_tables,
)
from ustat_grpo.environments.mdp_moments import MdpSnapshot, policy_tables, snapshot
from ustat_grpo.environments.policies import Policy
from ustat_grpo.estimators import Estimator, SideInformation
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import integer, real

if TYPE_CHECKING:
    import pandas as pd


_CHUNK_BYTES = 2**25
"""Memory for the episodes of a chunk of replicates, and for their advantages."""

_FIRST_ROUND = 1024
_LARGEST_GROWTH = 8
"""A precision is approached in rounds: early error bars are too rough to trust further ahead."""


def gradient_errors(
    mdp: TabularMdp,
    policy: Policy,
    theta: Float[Array, " d"],
    estimators: Mapping[str, Estimator],
    group_sizes: Sequence[int],
    batch_size: int | None,
    *,
    precision: float,
    rng: np.random.Generator,
    max_replications: int = 1_000_000,
    num_threads: int | None = None,
) -> "pd.DataFrame":
    """Measure E‖ĝ − ∇J‖² of minibatch gradients by simulation of whole episodes.

    All estimators see the same starts and episodes, and a larger group begins with the episodes of
    a smaller one, so that differences between rows are paired. The same `rng` state gives the same
    numbers for any number of threads.

    Args:
        mdp: the problem.
        policy: whose observations are the numbers of states.
        theta: θ, shape (d,).
        estimators: what to compare, by name; V(x) and b*(x) are known to them exactly.
        group_sizes: the G to measure, each at least 1 (2 for leave-one-out baselines).
        batch_size: B i.i.d. starts, or None to take every start once, weighted by f(x).
        precision: run until every std_error/mse is at most this.
        rng: gives the key of the random streams.
        max_replications: replicates after which to stop in any case; `std_error` then tells.
        num_threads: threads to use; all cores if None.

    Returns:
        The columns of `ustat_grpo.gradient_mse`: one row a (group size, estimator), with estimator,
        batch_size, group_size, replications, mse, std_error (of mse), and bias_norm.

    Raises:
        ValueError: if an argument is out of its range, or θ does not fit.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Grpo, laws
        >>> from ustat_grpo import environments as envs
        >>> mdp = envs.frozen_lake(("SF", "HG"), horizon=4)
        >>> policy, theta, rng = envs.tabular_softmax(4, 4), np.zeros(16), np.random.default_rng(0)
        >>> table = envs.gradient_errors(
        ...     mdp, policy, theta, {"grpo": Grpo()}, [2], batch_size=8, precision=0.1, rng=rng
        ... )
        >>> moments = envs.snapshot(mdp, policy, theta).moments
        >>> exact = laws.mse.minibatch(laws.mse.grpo(moments, group_size=2), moments, batch_size=8)
        >>> bool(abs(table.mse[0] - exact) < 4 * table.std_error[0])
        True
    """
    import pandas as pd

    sizes = sorted({integer("group_size", size) for size in group_sizes})
    if not sizes or not estimators:
        raise ValueError("estimators and group_sizes must not be empty")
    if batch_size is not None:
        integer("batch_size", batch_size)
    target = real("precision", precision, above=0.0)
    most = integer("max_replications", max_replications, at_least=2)
    threads = (os.cpu_count() or 1) if num_threads is None else integer("num_threads", num_threads)
    replicates = _Replicates(mdp, policy, theta, dict(estimators), sizes, batch_size, draw_key(rng))
    found = _until_precise(replicates, target, most, threads)
    bias = np.linalg.norm(found.gradient_sum / found.count - replicates.exact.gradient, axis=-1)
    rows = [
        {
            "estimator": name,
            "batch_size": replicates.num_slots,
            "group_size": size,
            "replications": found.count,
            "mse": found.mean[column],
            "std_error": found.std_error[column],
            "bias_norm": bias[column],
        }
        for column, (size, name) in enumerate((size, name) for size in sizes for name in estimators)
    ]
    return pd.DataFrame(rows)


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


def _until_precise(replicates: "_Replicates", precision: float, most: int, threads: int) -> _Sums:
    """Add rounds of replicates until every relative standard error is small enough."""
    parts: list[_Sums] = []
    count, wanted = 0, _FIRST_ROUND
    with ThreadPoolExecutor(threads) as pool:
        while True:
            starts = range(count, min(wanted, most), replicates.chunk)
            lengths = [min(replicates.chunk, most - start) for start in starts]
            parts.extend(pool.map(replicates.run, starts, lengths))
            total = reduce(_added, parts)  # in order, for equal sums
            parts, count, spread = [total], total.count, total.std_error
            relative = float(np.max(spread / np.where(spread > 0, total.mean, 1.0)))
            if relative <= precision or count >= most:
                return total
            wanted = int(np.ceil(count * min(1.05 * (relative / precision) ** 2, _LARGEST_GROWTH)))


@dataclass(frozen=True, eq=False)
class _Replicates:
    """Replicates of a minibatch gradient, for E estimators at S group sizes: C = S·E columns."""

    mdp: TabularMdp
    policy: Policy
    theta: Array
    estimators: dict[str, Estimator]
    group_sizes: list[int]
    batch_size: int | None
    key: np.uint64

    def __post_init__(self) -> None:
        """Ask every estimator once, for its errors, and work out what the threads share."""
        nothing = np.zeros((1, self.num_slots, self.group_sizes[-1]))
        self._weights(np.zeros((1, self.num_slots), dtype=np.int64), nothing)
        _ = self._policy_tables, self._play_tables

    @cached_property
    def exact(self) -> MdpSnapshot:
        """Gradient, V and b*."""
        return snapshot(self.mdp, self.policy, self.theta)

    @cached_property
    def num_slots(self) -> int:
        """Groups in a minibatch."""
        return len(self.mdp.starts) if self.batch_size is None else self.batch_size

    @cached_property
    def chunk(self) -> int:
        """Replicates that are held at once; whatever the number of threads, for equal sums."""
        columns = len(self.group_sizes) * len(self.estimators)
        pairs = self.mdp.num_states * self.mdp.num_actions
        episodes = self.num_slots * self.group_sizes[-1]
        doubles = episodes * (self.mdp.horizon / 2 + columns)
        doubles += columns * (pairs + 2 * self.policy.dimension)
        return max(1, min(_FIRST_ROUND, int(_CHUNK_BYTES / 8 / doubles)))

    def run(self, first: int, replications: int) -> _Sums:
        """Run some replicates on the calling thread."""
        probs, scores = self._policy_tables
        shape = replications, self.num_slots, self.group_sizes[-1]
        played = Played(
            np.empty(shape[:2], dtype=np.int64),
            np.empty((*shape, self.mdp.horizon), dtype=np.int32),
            np.empty(shape, dtype=np.int64),
            np.empty(shape),
        )
        all_once = self.batch_size is None
        play_groups(self._play_tables, cumulative(probs), self.key, all_once, first, played)
        weights = self._weights(played.prompts, played.returns)
        sizes = np.searchsorted(self.group_sizes, np.arange(shape[2]), side="right")
        sums = np.zeros((replications, probs.size, weights.shape[-1]))
        add_up(played, weights, sizes * len(self.estimators), sums)
        gradients = sums.transpose(0, 2, 1) @ scores.reshape(probs.size, -1)
        errors = np.sum((gradients - self.exact.gradient) ** 2, axis=-1)
        return _Sums(
            replications, errors.sum(axis=0), (errors**2).sum(axis=0), gradients.sum(axis=0)
        )

    @cached_property
    def _policy_tables(self) -> tuple[Array, Array]:
        return policy_tables(self.mdp, self.policy, self.theta)

    @cached_property
    def _play_tables(self) -> PlayTables:
        return play_tables(self.mdp)

    def _weights(self, prompts: NDArray[np.int64], returns: Array) -> Array:
        """Advantages, times the weight of the start over G; 0 outside the group, (R, B, G, C)."""
        all_once = self.batch_size is None
        share = (
            self.mdp.start_probs[prompts]
            if all_once
            else np.full(prompts.shape, 1 / self.num_slots)
        )
        side = SideInformation(self.exact.value[prompts], self.exact.optimal_baseline[prompts])
        columns = len(self.group_sizes), len(self.estimators)
        weights = np.zeros((*returns.shape, *columns))
        for s, size in enumerate(self.group_sizes):
            for e, estimator in enumerate(self.estimators.values()):
                advantages = estimator.advantages(returns[..., :size], side)
                weights[..., :size, s, e] = advantages * (share / size)[..., None]
        return weights.reshape(*returns.shape, -1)
