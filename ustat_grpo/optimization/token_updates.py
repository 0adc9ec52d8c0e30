"""Mean updates of Algorithm 2 on a token bandit, summed over every output: no noise is left.

Outputs are those of π_old and the scores those of π_θ, so an update depends on two policies.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.bandits.token_bandit import TokenBandit, TokenSnapshot
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, integer
from ustat_grpo.optimization.practice import penalty_slope, ratio_of


def ratio_weights(now: TokenSnapshot, old: TokenSnapshot, ratio: str) -> Float[Array, "P M T"]:
    """Return ρ of each token of an output of π_old; see `ustat_grpo.optimization.practice.RATIOS`.

    Raises:
        ValueError: if `ratio` is none of them.
    """
    drift = now.token_log_probs - old.token_log_probs
    return np.broadcast_to(ratio_of(ratio, drift), drift.shape)


def weighted_scores(now: TokenSnapshot, old: TokenSnapshot, ratio: str) -> Float[Array, "P M d"]:
    """Return Σ_t ρ_t w_t of each output of π_old: what its advantage multiplies."""
    weights = ratio_weights(now, old, ratio)
    return np.einsum("pmt,pmtd->pmd", weights, now.token_scores)


def mean_ascent(
    now: TokenSnapshot,
    old: TokenSnapshot,
    ratio: str,
    advantages: Float[Array, "P M"] | None = None,
) -> Float[Array, " d"]:
    """Return the mean of a policy gradient at θ from outputs of π_old.

        E_old[A Σ_t ρ_t w_t],    A = Z − V_old(x) unless given.

    Args:
        now: at θ.
        old: at θ_old.
        ratio: how tokens are weighed.
        advantages: E[A∣x, y], the mean over the rest of the group, shape (P, M).
    """
    if advantages is None:
        advantages = old.rewards - old.value[:, None]
    weights = now.prompt_probs[:, None] * old.output_probs * advantages
    return np.einsum("pm,pmd->d", weights, weighted_scores(now, old, ratio))


def penalty_slopes(
    now: TokenSnapshot, reference: TokenSnapshot, penalty: str
) -> Float[Array, "P M T"]:
    """Return k′(ℓ) of each token, ℓ = log π_θ − log π_ref; see `practice.PENALTIES`.

    Raises:
        ValueError: if `penalty` is none of them.
    """
    return penalty_slope(penalty, now.token_log_probs - reference.token_log_probs)


def mean_penalty(
    now: TokenSnapshot, old: TokenSnapshot, reference: TokenSnapshot, penalty: str
) -> Float[Array, " d"]:
    """Return E_old[Σ_t k′(ℓ_t) w_t], the gradient of a penalty from outputs of π_old.

    Args:
        now: at θ.
        old: whose outputs they are; `now` itself for those of π_θ.
        reference: π_ref.
        penalty: k, one of `ustat_grpo.optimization.practice.PENALTIES`.

    Raises:
        ValueError: if `penalty` is none of them.
    """
    slopes = penalty_slopes(now, reference, penalty)
    weights = now.prompt_probs[:, None] * old.output_probs
    return np.einsum("pm,pmt,pmtd->d", weights, slopes, now.token_scores)


def mean_path(
    bandit: TokenBandit,
    theta: ArrayLike,
    update: Callable[[TokenSnapshot, TokenSnapshot], Array],
    *,
    learning_rate: float,
    num_minibatches: int,
) -> list[TokenSnapshot]:
    """Return the policies that the minibatches of one outer iteration meet, without noise.

    θ₁ = θ_old and θ_{j+1} = θ_j + η·update(θ_j, θ_old).

    Args:
        bandit: the problem.
        theta: θ_old, shape (d,).
        update: mean of a minibatch's update, from the policy that it meets and π_old.
        learning_rate: η.
        num_minibatches: m.
    """
    parameters = finite("theta", theta, ndim=1)
    path = [bandit.at(parameters)]
    for _ in range(integer("num_minibatches", num_minibatches) - 1):
        parameters = parameters + learning_rate * update(path[-1], path[0])
        path.append(bandit.at(parameters))
    return path
