"""Algorithms 1 and 2: policy-gradient ascent on a bandit, many independent runs at once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from ustat_grpo.bandits.softmax import SoftmaxBandit
from ustat_grpo.compiled.rng import draw_key
from ustat_grpo.compiled.threads import in_parts
from ustat_grpo.estimators import Estimator
from ustat_grpo.estimators.probing import AdvantageRule, advantage_rule
from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import finite, increasing, integer
from ustat_grpo.optimization import ascent, policy_rows, practical_ascent
from ustat_grpo.optimization import layout as ascent_layout
from ustat_grpo.optimization.practice import Practice
from ustat_grpo.optimization.regions import Box
from ustat_grpo.optimization.schedules import Schedule, learning_rates

PROMPT_SAMPLING = {
    "iid": ascent.IID,
    "without_replacement": ascent.WITHOUT_REPLACEMENT,
    "epochs": ascent.EPOCHS,
}
"""How minibatches are drawn: i.i.d. from f; distinct prompts within each; epochs, each a shuffle
of all prompts, which minibatches take up one after the other."""

ON_POLICY = Practice()
"""Algorithm 1: each output is used once, and nothing is added to the policy gradient."""


@dataclass(frozen=True, eq=False)
class Runs:
    """What R runs have reached at C checkpoints.

    Args:
        checkpoints: iterations after which the runs were looked at, shape (C,).
        objective: J(θ_i), exact, shape (R, C).
        gap: suboptimality max J − J(θ_i), shape (R, C); see `SoftmaxBandit.best_objective`.
        theta: θ_i, shape (R, C, d); empty, (0, 0, 0), if it was not kept.

    Examples:
        >>> from ustat_grpo import Runs
        >>> import numpy as np
        >>> gap = np.array([[0.4, 0.1], [0.4, 0.3]])  # two runs, looked at twice
        >>> runs = Runs(np.array([1, 9]), objective=0.9 - gap, gap=gap, theta=np.empty((0, 0, 0)))
        >>> runs.gap.mean(axis=0).round(6).tolist()  # after 1 and after 9 iterations
        [0.4, 0.2]
    """

    checkpoints: Int[Integers, " C"]
    objective: Float[Array, "R C"]
    gap: Float[Array, "R C"]
    theta: Float[Array, "R C d"]


def optimize(
    bandit: SoftmaxBandit,
    estimator: Estimator,
    *,
    batch_size: int,
    group_size: int,
    num_iterations: int,
    schedule: Schedule,
    num_runs: int,
    theta0: ArrayLike,
    checkpoints: Sequence[int] | None = None,
    projection: Box | None = None,
    prompt_sampling: str = "iid",
    practice: Practice = ON_POLICY,
    reference: ArrayLike | None = None,
    keep_theta: bool = True,
    rng: np.random.Generator,
    num_threads: int | None = None,
) -> Runs:
    """Run Algorithm 1 many times: θ ← Π(θ + η_i ĝ(θ)), ĝ of B prompts and G outputs of each.

    With `practice`, Algorithm 2: iteration i draws B prompts and G outputs of each from π_old = π_θ
    and makes an update of each minibatch b, at the same rate η_i,

        θ ← Π(θ + η_i · (1/∣b∣G) Σ [A ρ − κ k′(ℓ)] ∇ log π_θ(y∣x)),   ρ = π_θ(y∣x)/π_old(y∣x),

    clipped as in PPO. An output is one token here: token and sequence ratio are the same.

    The same `rng` state gives the same runs for any number of threads, and run r is the same
    however many there are. Calls with the same `rng` state but another estimator, group size,
    schedule or practice use the same uniform numbers, and larger i.i.d. minibatches begin with the
    prompts of smaller ones: differences between calls should be taken run by run.

    Args:
        bandit: the problem.
        estimator: turns rewards into advantages.
        batch_size: B, prompts of an iteration.
        group_size: G, outputs of each prompt.
        num_iterations: n.
        schedule: of the learning rate η_i.
        num_runs: R.
        theta0: where all runs start, shape (d,).
        checkpoints: increasing iterations at which to record; the last one if None.
        projection: Θ, which must hold `theta0`; θ is unconstrained if None.
        prompt_sampling: a key of `PROMPT_SAMPLING`; all but "iid" need equally likely prompts.
        practice: how outputs are used.
        reference: the parameter of π_ref, shape (d,); `theta0` if None.
        keep_theta: whether to keep θ at the checkpoints, 8·R·C·d bytes.
        rng: gives the key of the random streams.
        num_threads: threads to use; all cores if None.

    Raises:
        ValueError: if an argument is out of its range.
        FloatingPointError: if a run's θ does not stay finite.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Constant, Grpo, TugOfWar, optimize
        >>> task = TugOfWar()
        >>> runs = optimize(
        ...     task.bandit,
        ...     Grpo(),
        ...     batch_size=8,
        ...     group_size=4,
        ...     num_iterations=50,
        ...     schedule=Constant(1.0),
        ...     num_runs=20,
        ...     theta0=task.theta(-1.0),
        ...     checkpoints=[1, 50],
        ...     rng=np.random.default_rng(0),
        ...     num_threads=1,
        ... )
        >>> first, last = runs.gap.mean(axis=0)
        >>> runs.gap.shape, bool(last < first / 2)
        ((20, 2), True)
    """
    for name, size in {"batch_size": batch_size, "group_size": group_size,
                       "num_runs": num_runs}.items():  # fmt: skip
        integer(name, size)
    practice.require_batch_size(batch_size)
    rates = learning_rates(schedule, num_iterations)
    wanted = [num_iterations] if checkpoints is None else checkpoints
    points = increasing("checkpoints", wanted, at_most=num_iterations)
    start = _start(bandit, theta0, projection)
    origin = start if reference is None else _parameter("reference", reference, bandit)
    sampling = _sampling(prompt_sampling, batch_size, bandit)
    threads = (os.cpu_count() or 1) if num_threads is None else integer("num_threads", num_threads)
    loop = _Loop(
        ascent_layout.tables(bandit),
        advantage_rule(estimator, group_size, bandit.reward_levels),
        ascent_layout.bounds(projection, bandit.dimension),
        ascent.Ascent(start, rates, points, group_size, sampling),
        None if _is_plain(practice) else ascent_layout.update(practice, bandit, origin),
        batch_size,
        draw_key(rng),
    )
    left = ascent.Checkpoints(
        np.empty((num_runs, len(points))),
        np.empty((num_runs, len(points), len(start)) if keep_theta else (0, 0, 0)),
    )
    loop.run(left, threads)
    ascent.require_finite(left, points, rates)
    return Runs(points, left.objective, bandit.best_objective - left.objective, left.theta)


def _is_plain(practice: Practice) -> bool:
    """Say whether the faster loop of Algorithm 1 will do: all ratios are 1, and none is clipped."""
    return practice.num_minibatches == 1 and practice.penalty_weight == 0


class _Loop(NamedTuple):
    """A compiled loop with all that its runs share."""

    tables: policy_rows.BanditTables
    rule: AdvantageRule
    bounds: ascent.Bounds
    shared: ascent.Ascent
    update: practical_ascent.Update | None  # None for Algorithm 1
    batch_size: int
    key: np.uint64

    def run(self, left: ascent.Checkpoints, num_threads: int) -> None:
        """Fill `left`, a part of the runs on each thread."""
        problem = ascent.AscentProblem(self.tables, self.rule, self.bounds)

        def part(first: int, last: int) -> None:
            own = ascent.Checkpoints(left.objective[first:last], left.theta[first:last])
            runs = ascent.ThreadRuns(self.key, first, own)
            state = ascent_layout.state(self.tables, self.batch_size, self.shared)
            if self.update is None:
                ascent.ascend(problem, self.shared, state, runs)
                return
            reuse = ascent_layout.reuse(self.tables)
            practical_ascent.ascend_in_practice(
                problem, self.shared, self.update, state, reuse, runs
            )

        in_parts(len(left.objective), num_threads, part)


def _parameter(name: str, value: ArrayLike, bandit: SoftmaxBandit) -> Array:
    """Return a parameter of the bandit, or raise if its length is wrong."""
    parameter = finite(name, value, ndim=1)
    if len(parameter) != bandit.dimension:
        raise ValueError(f"{name} must have length {bandit.dimension}, got {len(parameter)}")
    return parameter


def _start(bandit: SoftmaxBandit, theta0: ArrayLike, projection: Box | None) -> Array:
    """Return θ₀, or raise if its length is wrong or it lies outside Θ."""
    start = _parameter("theta0", theta0, bandit)
    if projection is None:
        return start
    projection.require_dimension(len(start))
    if not projection.contains(start):
        raise ValueError(
            "theta0 must lie inside the projection's set, got coordinates "
            f"{projection.coordinates(start)} for low={projection.low} and high={projection.high}"
        )
    return start


def _sampling(name: str, batch_size: int, bandit: SoftmaxBandit) -> int:
    """Return the code of a way of drawing prompts, or raise if it does not suit the problem."""
    if name not in PROMPT_SAMPLING:
        raise ValueError(f"prompt_sampling must be among {list(PROMPT_SAMPLING)}, got {name!r}")
    probs = bandit.prompt_probs
    assert probs is not None
    if name != "iid" and np.ptp(probs) > 1e-9 * probs.max():
        raise ValueError(f"prompt_sampling must be 'iid' for unequal prompt_probs, got {name!r}")
    if name == "without_replacement" and batch_size > len(probs):
        raise ValueError(
            f"batch_size must be at most the number of prompts, {len(probs)}, to draw them "
            f"without replacement, got {batch_size}"
        )
    return PROMPT_SAMPLING[name]
