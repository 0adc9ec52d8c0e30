"""Algorithm 1 on a finite MDP: policy-gradient ascent over whole episodes, many runs at once."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.compiled.rng import draw_key
from ustat_grpo.compiled.threads import in_parts
from ustat_grpo.environments import mdp_ascent
from ustat_grpo.environments.mdp import TabularMdp
from ustat_grpo.environments.mdp_kernels import play_tables
from ustat_grpo.environments.mdp_moments import best_objective
from ustat_grpo.estimators import Estimator
from ustat_grpo.estimators.probing import AdvantageRule, advantage_rule
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, instance, integer
from ustat_grpo.optimization import Runs, TrainingConfig, ascent
from ustat_grpo.optimization import layout as ascent_layout
from ustat_grpo.optimization.schedules import learning_rates
from ustat_grpo.optimization.training_config import require_training_config

_IRREGULAR = np.array([-1.3, 0.4, 2.1])
"""Returns of no two levels: only estimators that are affine in them can be read off."""


def optimize_mdp(
    mdp: TabularMdp,
    config: TrainingConfig,
    *,
    theta0: ArrayLike,
    num_runs: int,
    rng: np.random.Generator,
    features: Float[Array, "S F"] | None = None,
) -> Runs:
    """Run Algorithm 1 many times: θ ← θ + η_i ĝ(θ), ĝ of B start states and G episodes of each.

    An episode takes a_t from π_θ(·∣s_t) = softmax(φ(s_t)ᵀΘ), Θ = θ row by row, until it ends or T
    steps have passed. With return Z = Σ_t γᵗ r_t, advantage A(Z) and score W,

        ĝ = (1/BG) Σ A W,   W = Σ_t φ(s_t) ⊗ (e_{a_t} − π_θ(·∣s_t)).

    The same `rng` state gives the same runs for any number of threads, and run r is the same
    however many there are. Calls with the same `rng` state but another estimator, group size or
    schedule use the same uniform numbers: larger groups begin with the episodes of smaller ones,
    larger minibatches with their start states. Differences should be taken run by run.

    Args:
        mdp: the problem; a start state is a prompt, an episode an output.
        config: what a run does: Algorithm 1 on i.i.d. starts, without projection. The estimator
            must be affine in the returns, or depend on their number of ones if all are 0 or 1.
        theta0: where all runs start, shape (F·A,); F = S without features.
        num_runs: R.
        rng: gives the key of the random streams.
        features: φ of every state, shape (S, F); one-hot if None.

    Returns:
        Objectives E V(X) at the checkpoints, exact, and their gaps to `best_objective`: that of
        policies that may look at the clock, which a policy of the state alone need not reach.

    Raises:
        TypeError: if process, configuration or generator is an object of another kind.
        ValueError: if an argument is out of its range, the configuration asks for more than that,
            or the estimator needs b*(x).
        FloatingPointError: if a run's θ does not stay finite.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Constant, Grpo, TrainingConfig
        >>> from ustat_grpo.environments import frozen_lake, optimize_mdp
        >>> config = TrainingConfig(
        ...     estimator=Grpo(),
        ...     batch_size=8,
        ...     group_size=4,
        ...     num_iterations=20,
        ...     schedule=Constant(4.0),
        ...     checkpoints=[1, 20],
        ... )
        >>> mdp, rng = frozen_lake(("SF", "HG"), horizon=4), np.random.default_rng(0)
        >>> runs = optimize_mdp(mdp, config, theta0=np.zeros(16), num_runs=5, rng=rng)
        >>> first, last = runs.gap.mean(axis=0)
        >>> runs.gap.shape, bool(last < first)
        ((5, 2), True)
    """
    instance("mdp", mdp, TabularMdp, "frozen_lake()")
    _require_supported(config)
    integer("num_runs", num_runs)
    rates = learning_rates(config.schedule, config.num_iterations)
    points = np.array(config.checkpoints)
    tables = _tables(mdp, _features(features, mdp))
    start = _start(theta0, tables.features.shape[2] or tables.mean_reward.size)
    rule = _rule(config.estimator, config.group_size, mdp)
    shared = ascent.Ascent(start, rates, points, config.group_size, ascent.IID)
    left = ascent_layout.checkpoints(config, num_runs, len(start))
    key = draw_key(rng)

    def part(first: int, last: int) -> None:
        own = ascent.Checkpoints(left.objective[first:last], left.theta[first:last])
        state = _state(tables, config.batch_size, shared)
        mdp_ascent.ascend(tables, rule, shared, state, ascent.ThreadRuns(key, first, own))

    in_parts(num_runs, part)
    ascent.require_finite(left, points, rates)
    return Runs(points, left.objective, best_objective(mdp) - left.objective, left.theta)


def _require_supported(config: TrainingConfig) -> None:
    """Raise unless the loop can do what is asked."""
    require_training_config(config)
    where = "decision processes"
    config.require_algorithm_1(where)
    if config.projection is not None:
        raise ValueError(f"projection must be None on {where}, got {config.projection!r}")


def _rule(estimator: Estimator, group_size: int, mdp: TabularMdp) -> AdvantageRule:
    """Return what the estimator does to returns, or raise if the loop cannot do it."""
    levels = np.arange(2.0) if mdp.has_binary_returns else _IRREGULAR
    rule = advantage_rule(estimator, group_size, levels)
    if rule.optimal_baseline != 0.0:
        raise ValueError(
            "estimator must not look at b*(x), which is not worked out on the way through an MDP, "
            f"got {estimator!r}"
        )
    return rule


def _features(features: ArrayLike | None, mdp: TabularMdp) -> Array:
    """Return ∂logits/∂θ in every state, shape (S, A, F·A), or (0, 0, 0) for one-hot features."""
    if features is None:
        return np.empty((0, 0, 0))
    rows = finite("features", features, ndim=2)
    if len(rows) != mdp.num_states:
        raise ValueError(
            f"features must have a row for each of the {mdp.num_states} states, got {len(rows)}"
        )
    by_action = rows[:, None, :, None] * np.eye(mdp.num_actions)[:, None, :]
    return by_action.reshape(mdp.num_states, mdp.num_actions, -1)


def _start(theta0: ArrayLike, dimension: int) -> Array:
    """Return θ₀, or raise if its length is wrong."""
    start = finite("theta0", theta0, ndim=1)
    if len(start) != dimension:
        raise ValueError(f"theta0 must have length {dimension}, got {len(start)}")
    return start


def _tables(mdp: TabularMdp, features: Array) -> mdp_ascent.MdpTables:
    """Return an MDP and its features as the arrays that the loop reads."""
    kept = mdp.discount * mdp.probs * ~mdp.terminated
    return mdp_ascent.MdpTables(
        play=play_tables(mdp),
        start_probs=mdp.start_probs,
        mean_reward=np.einsum("sak,sak->sa", mdp.probs, mdp.rewards),
        kept=kept.reshape(-1, kept.shape[2]),
        features=features,
        offsets=np.zeros(kept.shape[:2]),
    )


def _state(
    tables: mdp_ascent.MdpTables, batch_size: int, shared: ascent.Ascent
) -> mdp_ascent.MdpState:
    """Return the memory of one thread."""
    shape, group_size = tables.mean_reward.shape, shared.group_size
    return mdp_ascent.MdpState(
        theta=np.empty(len(shared.theta0)),
        prompts=np.empty(batch_size, dtype=np.int64),
        drawn=np.arange(shape[0]),
        probs=np.empty(shape),
        action_ends=np.empty(shape),
        value=np.zeros(shape[0]),
        later=np.empty(shape[0]),
        weights=np.zeros(shape),
        passed=np.empty((group_size, tables.play.horizon), dtype=np.int32),
        lengths=np.empty(group_size, dtype=np.int64),
        returns=np.empty(group_size),
    )
