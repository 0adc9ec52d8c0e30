"""Pools of whole episodes: the moments and errors of a policy on any environment."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.environments.copies import EnvironmentCopies
from ustat_grpo.environments.policies import Policy
from ustat_grpo.environments.rollouts import episode_scores, group_rollouts, require_seeds
from ustat_grpo.estimators import Grpo, gradient
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import generator
from ustat_grpo.pools.prompt_pools import NUM_BLOCKS, Pool, PromptPool, whole_blocks


def episode_pool(
    copies: EnvironmentCopies,
    policy: Policy,
    theta: ArrayLike,
    seeds: ArrayLike,
    num_episodes: int,
    *,
    rng: np.random.Generator,
) -> Pool:
    """Play M episodes from the start of each seed and take the inner products of their scores.

    Prompt follows prompt, so that no more than M episodes and their M·d scores are held at once;
    what stays is M² numbers a prompt. Pools of the same `rng` state with fewer seeds or episodes
    are the beginnings of larger ones.

    Args:
        copies: play the episodes, and discount their returns.
        policy: π.
        theta: θ, shape (d,).
        seeds: reset seeds: all the P prompts there are, equally likely.
        num_episodes: M, of each seed; a multiple of `NUM_BLOCKS`, and at least twice that.
        rng: source of randomness.

    Raises:
        ValueError: if an argument is out of its range, the policy does not fit the environment, or
            an episode has not ended after `copies.max_steps`.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import EnvironmentCopies, episode_pool, tabular_softmax
        >>> policy, rng = tabular_softmax(num_states=2, num_actions=2), np.random.default_rng(0)
        >>> with EnvironmentCopies("ustat_grpo/TugOfWar-v0") as copies:
        ...     pool = episode_pool(
        ...         copies, policy, np.zeros(4), seeds=[0, 1], num_episodes=32, rng=rng
        ...     )
        >>> [len(prompt.rewards) for prompt in pool.prompts]
        [32, 32]
    """
    count, starts = whole_blocks("num_episodes", num_episodes), require_seeds(seeds)
    generator(rng)
    prompts = []
    parts = np.zeros((NUM_BLOCKS, policy.dimension))
    for start in starts[:, None]:
        episodes = group_rollouts(copies, policy, theta, start, count, rng=rng)
        scores, returns = episode_scores(policy, theta, episodes)[0], episodes.returns[0]
        prompts.append(PromptPool(scores @ scores.T, np.arange(count), returns))
        parts += _gradients_of_parts(scores, returns) / len(starts)
    return Pool(prompts, parts @ parts.T)


def _gradients_of_parts(
    scores: Float[Array, "M d"], returns: Float[Array, " M"]
) -> Float[Array, "K d"]:
    """Return the gradient that each part of the episodes of a prompt estimates.

    Parts are dealt out as `ustat_grpo.pools.measured_moments` leaves them out, and share no
    episode: so products of two of them, averaged over prompts, are unbiased for ‖∇J‖².
    """
    shares = returns.reshape(-1, NUM_BLOCKS).T
    dealt = scores.reshape(-1, NUM_BLOCKS, scores.shape[1]).swapaxes(0, 1)
    return gradient(Grpo(), dealt, shares)
