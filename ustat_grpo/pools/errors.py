"""Measured error of policy gradients at every prompt of a pool of outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ustat_grpo.estimators import Estimator, Grpo, SideInformation
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import generator, integer
from ustat_grpo.moments import Moments
from ustat_grpo.pools.measured_moments import pool_moments
from ustat_grpo.pools.prompt_pools import Pool, PromptPool


@dataclass(frozen=True, eq=False)
class PromptErrors:
    """E‖ĝ(x) − g(x)‖² at each of P prompts.

    Args:
        mean: the error, shape (P,).
        std_error: of each, shape (P,), from the groups at that prompt; prompts are independent.
        num_groups: groups that were averaged at each prompt.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.pools import PromptErrors
        >>> errors = PromptErrors(mean=np.array([0.25]), std_error=np.array([0.01]), num_groups=9)
        >>> z = (errors.mean - 0.23) / errors.std_error  # beside a law that says 0.23
        >>> z.round(6).tolist()
        [2.0]
    """

    mean: Float[Array, " P"]
    std_error: Float[Array, " P"]
    num_groups: int


def pool_errors(
    pool: Pool, estimators: Mapping[str, Estimator], group_size: int, *, rng: np.random.Generator
) -> dict[str, PromptErrors]:
    """Measure the error of each estimator by cutting the pool of every prompt into groups.

    Groups of a prompt share no output. All estimators see the same groups, and the groups of one
    generator state are nested: those of size G are made of those of size G/2.

    Where V and g are not known exactly, the error is that of ‖ĝ‖² − 2ĝ·g′ + ‖g‖², with g′ the GRPO
    gradient of the outputs outside the group and the U-statistic for ‖g‖²: unbiased, whatever Eĝ.
    The oracle is told the pool's mean, which changes its error by order 1/M.

    Args:
        pool: the outputs.
        estimators: what to compare, by name.
        group_size: G, at most half of every prompt's pool.
        rng: shuffles the outputs.

    Raises:
        ValueError: if a prompt's pool does not hold two groups.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Grpo
        >>> from ustat_grpo.pools import Pool, PromptPool, pool_errors
        >>> rewards = np.tile([1.0, 0.0], 512)  # 1024 outputs, W = Z − ½
        >>> prompt = PromptPool(np.outer([1, -1], [1, -1]) / 4, np.tile([0, 1], 512), rewards)
        >>> pool = Pool([prompt], np.full((16, 16), 1 / 16))
        >>> rng = np.random.default_rng(0)
        >>> errors = pool_errors(pool, {"grpo": Grpo()}, 2, rng=rng)["grpo"]
        >>> exact = (1 / 4 * 1 / 4 + 1 / 16) / 2  # (sσ² + ‖g‖²)/(G(G−1))
        >>> errors.num_groups, bool(abs(errors.mean[0] - exact) < 4 * errors.std_error[0])
        (512, True)
    """
    generator(rng)
    size = integer("group_size", group_size)
    smallest = min(len(prompt.rewards) for prompt in pool.prompts)
    if 2 * size > smallest:
        raise ValueError(
            f"group_size must be at most half the pool of {smallest} outputs, got {group_size}"
        )
    moments = pool_moments(pool).moments
    errors: dict[str, list[Array]] = {name: [] for name in estimators}
    for place, prompt in enumerate(pool.prompts):
        order = rng.permutation(len(prompt.rewards))
        groups = order[: len(order) // size * size].reshape(-1, size)
        along, norm = _along(prompt, groups), moments.gradient_norm_squared[place]
        for name, estimator in estimators.items():
            weights = _weights(estimator, prompt.rewards[groups], moments, place)
            squared = _squared_norms(prompt, groups, weights)
            errors[name].append(squared - 2 * np.einsum("ni,ni->n", weights, along) + norm)
    return {name: _summary(found) for name, found in errors.items()}


def _summary(errors: Sequence[Array]) -> PromptErrors:
    mean = np.array([found.mean() for found in errors])
    std_error = np.array([found.std(ddof=1) / len(found) ** 0.5 for found in errors])
    return PromptErrors(mean, std_error, min(map(len, errors)))


def _weights(estimator: Estimator, rewards: Array, moments: Moments, place: int) -> Array:
    """Return advantage/G of every output of some groups at one prompt, shape (n, G)."""
    value = np.full(len(rewards), moments.value[place])
    norm = moments.score_norm_squared[place]
    shift = moments.score_norm_reward_covariance[place] / norm if norm > 0 else 0.0
    return estimator.advantages(rewards, SideInformation(value, value + shift)) / rewards.shape[1]


def _squared_norms(
    prompt: PromptPool, groups: NDArray[np.intp], weights: Float[Array, "n G"]
) -> Float[Array, " n"]:
    """Return ‖ĝ(x)‖² of each group."""
    rows = prompt.place[groups]
    within = prompt.gram[rows[:, :, None], rows[:, None, :]]
    return np.einsum("ni,nij,nj->n", weights, within, weights)


def _along(prompt: PromptPool, groups: NDArray[np.intp]) -> Float[Array, "n G"]:
    """Return W_i·g(x) of every output of the groups, or W_i·g′(x) where g is not known."""
    rows = prompt.place[groups]
    if prompt.solution is not None and prompt.value is not None:
        return prompt.value * prompt.gram[rows, prompt.solution]
    outside = np.repeat(prompt.rewards[None].astype(float), len(groups), axis=0)
    np.put_along_axis(outside, groups, np.nan, axis=1)
    weights = Grpo().advantages(outside) / (outside.shape[1] - groups.shape[1])
    return np.take_along_axis(weights @ prompt.gram[prompt.place], rows, axis=1)
