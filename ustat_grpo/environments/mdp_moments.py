"""Exact moments of whole episodes, by dynamic programming over a transition table.

With h steps to go from state s let W and Z be score and return of the rest of the episode, and
A = Z − V_h(s). The first step takes action a, has score w(s, a) and reward r, and leads to s′, from
where W′, Z′ and A′ follow; if it ends the episode, all three are 0. With
δ = r + γV_{h−1}(s′) − V_h(s), W = w + W′, A = δ + γA′ and E[W′∣s′] = E[A′∣s′] = 0,

    E[A²∣s, a]     = E[δ² + γ²E[A′²∣s′]]
    E[WAᵏ∣s, a]    = w E[Aᵏ∣s, a] + Σ_j C(k, j) γʲ E[δᵏ⁻ʲ E[W′A′ʲ∣s′]]
    E[‖W‖²Aᵏ∣s, a] = ‖w‖² E[Aᵏ∣s, a] + Σ_j C(k, j) γʲ E[δᵏ⁻ʲ (2w·E[W′A′ʲ∣s′] + E[‖W′‖²A′ʲ∣s′])],

and the policy averages over a. Returns enter through δ only: moments of Z itself would lose those
of A where all returns are large.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ustat_grpo.environments.mdp import TabularMdp
from ustat_grpo.environments.policies import Policy, action_probs
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, probabilities, real, without_rounding
from ustat_grpo.moments import Moments, OutcomeMoments

_FIRST_STEP = 1.0
_LAST_STEP = 1e-6
_MAX_STEPS = 10_000


@dataclass(frozen=True, eq=False)
class MdpSnapshot:
    """A finite MDP at one θ of a policy; a prompt is a start state, an output an episode.

    Args:
        mdp: the problem.
        policy: π.
        theta: θ, shape (d,).
        objective: J(θ) = E[Z].
        gradient: ∇J(θ), shape (d,).
        gradients: g(x) = E[WZ∣x], shape (P, d).
        value: V(x) = E[Z∣x], shape (P,).
        optimal_baseline: b*(x) = E[‖W‖²Z∣x]/E[‖W‖²∣x], shape (P,); V where the policy is certain.
        moments: what the laws need; with outcome moments if every return is 0 or 1.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import laws
        >>> from ustat_grpo.environments import frozen_lake, snapshot, tabular_softmax
        >>> policy = tabular_softmax(num_states=4, num_actions=4)
        >>> here = snapshot(frozen_lake(("SF", "HG")), policy, np.zeros(16))
        >>> here.value.round(4).tolist()  # from S and from F
        [0.3333, 0.6667]
        >>> round(laws.group_size.optimal(here.moments.noise), 2)
        23.27
    """

    mdp: TabularMdp
    policy: Policy
    theta: Float[Array, " d"]
    objective: float
    gradient: Float[Array, " d"]
    gradients: Float[Array, "P d"]
    value: Float[Array, " P"]
    optimal_baseline: Float[Array, " P"]
    moments: Moments


class EpisodeMoments(NamedTuple):
    """Moments of score W and centred return A from every state, at the full horizon."""

    value: Float[Array, " S"]  # V
    variance: Float[Array, " S"]  # E[A²]
    scores: Float[Array, "2 S d"]  # E[WAᵏ], k = 1, 2
    norms: Float[Array, "3 S"]  # E[‖W‖²Aᵏ], k = 0, 1, 2


def snapshot(mdp: TabularMdp, policy: Policy, theta: Float[Array, " d"]) -> MdpSnapshot:
    """Work out value, gradient and moments at θ exactly.

    Args:
        mdp: the problem.
        policy: whose observations are the numbers of states.
        theta: θ, shape (d,).

    Raises:
        ValueError: if θ or the policy's actions do not fit.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import frozen_lake, snapshot, tabular_softmax
        >>> mdp = frozen_lake(("SF", "HG"), is_slippery=False, horizon=1)
        >>> here = snapshot(mdp, tabular_softmax(num_states=4, num_actions=4), np.zeros(16))
        >>> here.objective, here.value.tolist()  # one move: F has the goal below
        (0.125, [0.0, 0.25])
    """
    theta = _fitting(mdp, policy, theta)
    found = episode_moments(mdp, policy, theta)
    weights, starts = mdp.start_probs, mdp.starts
    value = found.value[starts]
    gradients = found.scores[0, starts]
    gradient = weights @ gradients
    norm, covariance, oracle = found.norms[:, starts]
    deviations = gradients - gradient
    shift = np.divide(covariance, norm, out=np.zeros_like(norm), where=norm > 0)
    moments = Moments(
        prompt_probs=weights,
        value=value,
        reward_variance=found.variance[starts],
        score_norm_squared=norm,
        oracle_norm_squared=np.maximum(oracle, 0.0),  # rounding may pass zero
        score_norm_reward_covariance=covariance,
        gradient_norm_squared=np.einsum("pj,pj->p", gradients, gradients),
        prompt_noise=float(weights @ np.einsum("pj,pj->p", deviations, deviations)),
        outcome=_outcome(value, norm, covariance) if mdp.has_binary_returns else None,
    )
    return MdpSnapshot(
        mdp=mdp,
        policy=policy,
        theta=theta,
        objective=float(weights @ value),
        gradient=gradient,
        gradients=gradients,
        value=value,
        optimal_baseline=value + shift,
        moments=moments,
    )


def episode_moments(mdp: TabularMdp, policy: Policy, theta: Float[Array, " d"]) -> EpisodeMoments:
    """Run the recursion of this module over the horizon, from every state; arguments as above."""
    probs, scores = policy_tables(mdp, policy, theta)
    norm, size = np.einsum("sad,sad->sa", scores, scores), mdp.num_states
    value, variance = np.zeros((2, size))
    norms, products = np.zeros((3, size)), np.zeros((2, size, policy.dimension))
    for _ in range(mdp.horizon):
        reached = mdp.rewards + mdp.discount * np.where(mdp.terminated, 0.0, value[mdp.next_state])
        value = np.einsum("sa,sak,sak->s", probs, mdp.probs, reached)
        change = reached - value[:, None, None]  # δ
        whole = _kept_blocks(mdp, change)
        partial = whole[norm.size :, size:]  # k, j = 1, 2
        mean = np.stack([_mean(mdp, change), _mean(mdp, change**2)])
        mean[1] += (partial[norm.size :, size:] @ variance).reshape(norm.shape)
        ahead = (partial @ products.reshape(2 * size, -1)).reshape(2, *scores.shape)
        later = (whole @ norms.ravel()).reshape(3, *norm.shape)
        later[0] += norm
        later[1:] += norm * mean + 2 * np.einsum("sad,ksad->ksa", scores, ahead)
        variance = np.einsum("sa,sa->s", probs, mean[1])
        norms = np.einsum("sa,ksa->ks", probs, later)
        weights = (probs * mean).transpose(1, 0, 2)
        products = (weights @ scores).transpose(1, 0, 2) + np.einsum("sa,ksad->ksd", probs, ahead)
    return EpisodeMoments(value, variance, products, norms)


def objective(mdp: TabularMdp, probs: Float[Array, "S A"]) -> float:
    """Return J of a stationary policy, by its action probabilities alone.

    Args:
        mdp: the problem.
        probs: π(a∣s), shape (S, A).

    Raises:
        ValueError: if these are no probabilities of A actions in S states.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import frozen_lake, objective
        >>> mdp = frozen_lake(("SF", "HG"), is_slippery=False, horizon=2)
        >>> left, down, right, up = np.eye(4)
        >>> objective(mdp, np.array([right, down, left, left]))  # the best way from S and from F
        1.0
    """
    rows = probabilities("probs", probs, ndim=2)
    if rows.shape != mdp.probs.shape[:2]:
        shape = mdp.probs.shape[:2]
        raise ValueError(f"probs must have the shape (S, A) = {shape}, got {rows.shape}")
    *_, mean = _backward(mdp, rows)
    return float(mdp.start_probs @ np.einsum("sa,sa->s", rows, mean)[mdp.starts])


def best_objective(mdp: TabularMdp) -> float:
    """Return the largest J of policies that may look at the clock, by value iteration.

    No policy of the library's kind can do better: with a time limit the best action may depend on
    the steps that are left, which such a policy does not see. So this is an upper bound.

    Examples:
        >>> from ustat_grpo.environments import best_objective, frozen_lake
        >>> for horizon in (1, 2):
        ...     print(best_objective(frozen_lake(("SF", "HG"), is_slippery=False, horizon=horizon)))
        0.5
        1.0
    """
    kept, reward = _kept(mdp, mdp.discount * mdp.probs), _mean(mdp, mdp.rewards)
    value = np.zeros(mdp.num_states)
    for _ in range(mdp.horizon):
        value = (reward + (kept @ value).reshape(reward.shape)).max(axis=1)
    return float(mdp.start_probs @ value[mdp.starts])


def train_to(
    mdp: TabularMdp,
    policy: Policy,
    objective: float,
    *,
    theta0: Float[Array, " d"] | None = None,
) -> Float[Array, " d"]:
    """Follow the exact gradient of J until J is as asked.

    Args:
        mdp: the problem.
        policy: whose observations are the numbers of states.
        objective: the aim; the last step is shortened to meet it.
        theta0: where to start, shape (d,); if None where the policy starts with seed 0.

    Raises:
        ValueError: if J(θ₀) is above the aim, or the ascent does not reach it.

    Examples:
        >>> from ustat_grpo.environments import frozen_lake, snapshot, tabular_softmax, train_to
        >>> mdp, policy = frozen_lake(("SF", "HG"), horizon=8), tabular_softmax(4, 4)
        >>> theta = train_to(mdp, policy, objective=0.5)
        >>> round(snapshot(mdp, policy, theta).objective, 4)
        0.5
    """
    from scipy.optimize import root_scalar

    aim = real("objective", objective)
    start = policy.initial(np.random.default_rng(0)) if theta0 is None else theta0
    theta, length = _fitting(mdp, policy, start), _FIRST_STEP
    reached, gradient = _value_and_gradient(mdp, policy, theta)
    missing = float(without_rounding(aim - reached, max(abs(aim), abs(reached))))
    if missing == 0:
        return theta
    if missing < 0:
        raise ValueError(f"objective must be at least J(θ₀) = {reached:.4g}, got {objective}")
    for _ in range(_MAX_STEPS):
        norm = np.linalg.norm(gradient)
        if norm == 0 or length < _LAST_STEP:
            break
        step = length * gradient / norm
        ahead, new_gradient = _value_and_gradient(mdp, policy, theta + step)
        if ahead >= aim:

            def excess(share: float, start: Array = theta, step: Array = step) -> float:
                return _value_and_gradient(mdp, policy, start + share * step)[0] - aim

            return theta + root_scalar(excess, bracket=(0.0, 1.0), xtol=1e-12).root * step
        if ahead > reached:
            theta, reached, gradient = theta + step, ahead, new_gradient
        else:
            length /= 2
    raise ValueError(
        f"objective must be within reach of gradient ascent, got {objective} "
        f"with the best found at {reached:.4g} and an upper bound of {best_objective(mdp):.4g}"
    )


def _value_and_gradient(mdp: TabularMdp, policy: Policy, theta: Array) -> tuple[float, Array]:
    """J and ∇J = Σ_t γᵗ Σ_s P(s_t = s) Σ_a π(a∣s) Q_t(s, a) ∇ log π(a∣s)."""
    states = np.arange(mdp.num_states)
    probs = action_probs(policy, theta, states)
    means = list(_backward(mdp, probs))
    kept = _kept(mdp, mdp.discount * mdp.probs).T.tocsr()
    present = np.bincount(mdp.starts, mdp.start_probs, mdp.num_states)
    value = float(present @ np.einsum("sa,sa->s", probs, means[-1]))
    weights = np.zeros(probs.shape)
    for mean in reversed(means):
        flow = present[:, None] * probs
        weights += flow * mean
        present = kept @ flow.ravel()
    weights -= probs * weights.sum(axis=1, keepdims=True)
    one = np.zeros(len(states), dtype=np.int64)
    return value, policy.pull_back(theta, states, weights, one, 1)[0]


def _backward(mdp: TabularMdp, probs: Array) -> Iterator[Array]:
    """Yield E[Z∣s, a], shape (S, A), with 1, …, T steps to go."""
    kept, reward = _kept(mdp, mdp.discount * mdp.probs), _mean(mdp, mdp.rewards)
    value = np.zeros(mdp.num_states)
    for _ in range(mdp.horizon):
        mean = reward + (kept @ value).reshape(reward.shape)
        value = np.einsum("sa,sa->s", probs, mean)
        yield mean


def policy_tables(mdp: TabularMdp, policy: Policy, theta: Array) -> tuple[Array, Array]:
    """Return π(a∣s), shape (S, A), and w(s, a) = ∇ log π(a∣s), shape (S, A, d)."""
    probs = action_probs(policy, theta, np.arange(mdp.num_states))
    num_states, num_actions = probs.shape
    weights = np.eye(num_actions) - probs[:, None, :]
    found = policy.pull_back(
        theta,
        np.repeat(np.arange(num_states), num_actions),
        weights.reshape(-1, num_actions),
        np.arange(probs.size),
        probs.size,
    )
    return probs, found.reshape(num_states, num_actions, -1)


def _kept(mdp: TabularMdp, weights: Array) -> Any:
    """Σ of weights (S, A, K) over the outcomes that lead on to s′, sparse, shape (S·A, S)."""
    from scipy.sparse import csr_array

    on = np.flatnonzero(~mdp.terminated & (weights != 0))
    rows = on // mdp.probs.shape[2]
    shape = mdp.num_states * mdp.num_actions, mdp.num_states
    return csr_array((weights.ravel()[on], (rows, mdp.next_state.ravel()[on])), shape=shape)


def _kept_blocks(mdp: TabularMdp, change: Array) -> Any:
    """C(k, j) γʲ E[δᵏ⁻ʲ; the episode goes on to s′], shape (3·S·A, 3·S), j and k = 0, 1, 2."""
    from scipy.sparse import block_array

    def block(k: int, j: int) -> Any:
        return _kept(mdp, comb(k, j) * mdp.discount**j * mdp.probs * change ** max(k - j, 0))

    return block_array([[block(k, j) for j in range(3)] for k in range(3)], format="csr")


def _mean(mdp: TabularMdp, of_outcome: Array) -> Array:
    """Average over the outcomes of (s, a), shape (S, A)."""
    return np.einsum("sak,sak->sa", mdp.probs, of_outcome)


def _outcome(value: Array, norm: Array, covariance: Array) -> OutcomeMoments:
    joint = norm * value + covariance
    conditional = [
        np.divide(part, mass, out=np.zeros_like(mass), where=mass > 0)
        for part, mass in ((joint, value), (norm - joint, 1 - value))
    ]
    return OutcomeMoments(value, *conditional)


def _fitting(mdp: TabularMdp, policy: Policy, theta: Array) -> Array:
    checked = finite("theta", theta, ndim=1)
    if len(checked) != policy.dimension:
        raise ValueError(f"theta must have {policy.dimension} entries, got {len(checked)}")
    if policy.num_actions != mdp.num_actions:
        raise ValueError(f"policy must have the {mdp.num_actions} actions of the problem, "
                         f"got {policy.num_actions}")  # fmt: skip
    return checked
