"""Algorithms 1 and 2: policy-gradient ascent on a bandit, many independent runs at once."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from ustat_grpo.bandits.softmax import SoftmaxBandit
from ustat_grpo.compiled.rng import draw_key
from ustat_grpo.compiled.threads import in_parts
from ustat_grpo.estimators.probing import AdvantageRule, advantage_rule
from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import finite, instance, integer
from ustat_grpo.optimization import ascent, policy_rows, practical_ascent
from ustat_grpo.optimization import layout as ascent_layout
from ustat_grpo.optimization.regions import Box
from ustat_grpo.optimization.schedules import learning_rates
from ustat_grpo.optimization.training_config import TrainingConfig, require_training_config

_SAMPLING_CODES = {
    "iid": ascent.IID,
    "without_replacement": ascent.WITHOUT_REPLACEMENT,
    "epochs": ascent.EPOCHS,
}


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
    config: TrainingConfig,
    *,
    theta0: ArrayLike,
    num_runs: int,
    rng: np.random.Generator,
    reference: ArrayLike | None = None,
) -> Runs:
    """Run Algorithm 1 many times: θ ← Π(θ + η_i ĝ(θ)), ĝ of B prompts and G outputs of each.

    With `config.practice`, Algorithm 2: iteration i draws B prompts and G outputs of each from
    π_old = π_θ and makes an update of each minibatch b, at the same rate η_i,

        θ ← Π(θ + η_i · (1/∣b∣G) Σ [A ρ − κ k′(ℓ)] ∇ log π_θ(y∣x)),   ρ = π_θ(y∣x)/π_old(y∣x),

    clipped as in PPO. An output is one token here: token and sequence ratio are the same.

    The same `rng` state gives the same runs for any number of threads, and run r is the same
    however many there are. Calls with the same `rng` state but another estimator, group size,
    schedule or practice use the same uniform numbers, and larger i.i.d. minibatches begin with the
    prompts of smaller ones: differences between calls should be taken run by run.

    Args:
        bandit: the problem.
        config: what a run does; all prompt sampling but "iid" needs equally likely prompts.
        theta0: where all runs start, shape (d,), inside the projection's set Θ.
        num_runs: R.
        rng: gives the key of the random streams.
        reference: the parameter of π_ref, shape (d,); `theta0` if None.

    Raises:
        TypeError: if bandit, configuration or generator is an object of another kind.
        ValueError: if an argument is out of its range, or the configuration does not suit the
            problem.
        FloatingPointError: if a run's θ does not stay finite.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Constant, Grpo, TrainingConfig, TugOfWar, optimize
        >>> config = TrainingConfig(
        ...     estimator=Grpo(),
        ...     batch_size=8,
        ...     group_size=4,
        ...     num_iterations=50,
        ...     schedule=Constant(1.0),
        ...     checkpoints=[1, 50],
        ... )
        >>> task, rng = TugOfWar(), np.random.default_rng(0)
        >>> runs = optimize(task.bandit, config, theta0=task.theta(-1.0), num_runs=20, rng=rng)
        >>> first, last = runs.gap.mean(axis=0)
        >>> runs.gap.shape, bool(last < first / 2)
        ((20, 2), True)
    """
    instance("bandit", bandit, SoftmaxBandit, "TugOfWar().bandit")
    require_training_config(config)
    integer("num_runs", num_runs)
    rates = learning_rates(config.schedule, config.num_iterations)
    points = np.array(config.checkpoints)
    start = _start(bandit, theta0, config.projection)
    origin = start if reference is None else _parameter("reference", reference, bandit)
    sampling, size = _sampling(config, bandit), config.group_size
    practice = config.practice
    loop = _Loop(
        ascent_layout.tables(bandit),
        advantage_rule(config.estimator, size, bandit.reward_levels),
        ascent_layout.bounds(config.projection, bandit.dimension),
        ascent.Ascent(start, rates, points, size, sampling),
        # The faster loop of Algorithm 1 will do where all ratios are 1.
        None if practice.is_on_policy else ascent_layout.update(practice, bandit, origin),
        config.batch_size,
        draw_key(rng),
    )
    left = ascent_layout.checkpoints(config, num_runs, bandit.dimension)
    loop.run(left)
    ascent.require_finite(left, points, rates)
    return Runs(points, left.objective, bandit.best_objective - left.objective, left.theta)


class _Loop(NamedTuple):
    """A compiled loop with all that its runs share."""

    tables: policy_rows.BanditTables
    rule: AdvantageRule
    bounds: ascent.Bounds
    shared: ascent.Ascent
    update: practical_ascent.Update | None  # None for Algorithm 1
    batch_size: int
    key: np.uint64

    def run(self, left: ascent.Checkpoints) -> None:
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

        in_parts(len(left.objective), part)


def _parameter(name: str, value: ArrayLike, bandit: SoftmaxBandit) -> Array:
    """Return a parameter of the bandit, or raise if its length is wrong."""
    parameter = finite(name, value, ndim=1)
    if len(parameter) != bandit.dimension:
        raise ValueError(f"{name} must have length {bandit.dimension}, got {len(parameter)}")
    return parameter


def _start(bandit: SoftmaxBandit, theta0: ArrayLike, projection: Box | None) -> Array:
    """Return θ₀, or raise if its length is wrong or it lies outside Θ."""
    start = _parameter("theta0", theta0, bandit)
    if projection is not None:
        projection.require_start(start)
    return start


def _sampling(config: TrainingConfig, bandit: SoftmaxBandit) -> int:
    """Return the code of a way of drawing prompts, or raise if it does not suit the problem."""
    name, probs = config.prompt_sampling, bandit.prompt_probs
    assert probs is not None
    if name != "iid" and np.ptp(probs) > 1e-9 * probs.max():
        raise ValueError(f"prompt_sampling must be 'iid' for unequal prompt_probs, got {name!r}")
    if name == "without_replacement" and config.batch_size > len(probs):
        raise ValueError(
            f"batch_size must be at most the number of prompts, {len(probs)}, to draw them "
            f"without replacement, got {config.batch_size}"
        )
    return _SAMPLING_CODES[name]
