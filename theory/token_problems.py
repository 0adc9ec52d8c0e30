"""Token bandits on which claims about Algorithm 2 are checked, and their first-order constants."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from theory.enumeration import Outcomes
from ustat_grpo.bandits.token_bandit import TokenBandit, TokenSnapshot, random_token_bandit
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.optimization.token_updates import mean_ascent, mean_penalty, weighted_scores

_HALVINGS = 5


@dataclass(frozen=True)
class Start:
    """A token bandit and the θ_old whose policy draws the outputs."""

    bandit: TokenBandit
    theta: Float[Array, " d"]

    @cached_property
    def old(self) -> TokenSnapshot:
        """The policy π_old."""
        return self.bandit.at(self.theta)

    def at(self, displacement: ArrayLike) -> TokenSnapshot:
        """Return π_θ at θ_old plus a displacement, shape (d,) or a number for all coordinates."""
        return self.bandit.at(self.theta + np.asarray(displacement))


def token_problem(
    seed: int,
    *,
    num_tokens: int = 3,
    dimension: int = 4,
    reward_levels: ArrayLike = (0.0, 1.0),
) -> Start:
    """Draw a problem of two prompts and tokens of two values."""
    rng = np.random.default_rng(seed)
    bandit = random_token_bandit(
        2, num_tokens, dimension=dimension, reward_levels=reward_levels, rng=rng
    )
    return Start(bandit, 0.5 * rng.normal(size=dimension))


def rare_token(rarity: float) -> Start:
    """Return a problem in which one token of one prefix has a probability near 1/rarity."""
    common = token_problem(1)
    bandit = common.bandit
    assert bandit.offsets is not None
    offsets = bandit.offsets.copy()
    offsets[0, 0] = (0.0, -np.log(rarity))
    return Start(replace(bandit, offsets=offsets), common.theta)


def practical_outcomes(now: TokenSnapshot, old: TokenSnapshot, ratio: str, prompt: int) -> Outcomes:
    """List the outputs of π_old at a prompt; their scores are Σ_t ρ_t w_t under π_θ."""
    scores = weighted_scores(now, old, ratio)[prompt]
    return Outcomes(scores, old.rewards[prompt], old.output_probs[prompt])


def bias(now: TokenSnapshot, old: TokenSnapshot, ratio: str) -> Float[Array, " d"]:
    """Return the mean of a policy gradient less ∇J(θ)."""
    return mean_ascent(now, old, ratio) - now.gradient


def penalty_bias(
    now: TokenSnapshot, old: TokenSnapshot, reference: TokenSnapshot, penalty: str
) -> Float[Array, " d"]:
    """Return the mean of a penalty's gradient less what it is for outputs of π_θ itself."""
    on_old = mean_penalty(now, old, reference, penalty)
    return on_old - mean_penalty(now, now, reference, penalty)


def cross_token_matrix(old: TokenSnapshot) -> Float[Array, "d d"]:
    """C = E[Z Σ_{s≠t} w_t w_sᵀ], the part of J's Hessian that joins different tokens."""
    weights = old.prompt_probs[:, None] * old.output_probs * old.rewards
    same = np.einsum("pm,pmti,pmtj->ij", weights, old.token_scores, old.token_scores)
    return np.einsum("pm,pmi,pmj->ij", weights, old.scores, old.scores) - same


def output_matrix(old: TokenSnapshot) -> Float[Array, "d d"]:
    """E[A WWᵀ], A = Z − V(x)."""
    centred = old.rewards - old.value[:, None]
    weights = old.prompt_probs[:, None] * old.output_probs * centred
    return np.einsum("pm,pmi,pmj->ij", weights, old.scores, old.scores)


def penalty_matrix(old: TokenSnapshot, slopes: Float[Array, "P M T"]) -> Float[Array, "d d"]:
    """D = E[(Σ_t k′_t w_t) Wᵀ] for the slopes k′ of a penalty at π_old."""
    weights = old.prompt_probs[:, None] * old.output_probs
    pulled = np.einsum("pmt,pmti->pmi", slopes, old.token_scores)
    return np.einsum("pm,pmi,pmj->ij", weights, pulled, old.scores)


def at_zero(function: Callable[[float], ArrayLike], step: float = 0.02) -> Array:
    """Return the limit at 0 of a smooth function: Richardson's extrapolation from halved steps."""
    values = [np.asarray(function(step / 2**halving)) for halving in range(_HALVINGS + 1)]
    for order in range(1, _HALVINGS + 1):
        pairs = pairwise(values)
        values = [fine + (fine - coarse) / (2**order - 1) for coarse, fine in pairs]
    return values[0]
