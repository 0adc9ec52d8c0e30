"""The plain ways to run Algorithm 1 with GRPO on a tabular bandit with 0/1 rewards, many times.

Each takes an `Ascent`, a number of runs and of iterations, starts every run at θ = 0 and returns
where the runs end, shape (runs, P·K). None knows of the library's compiled loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ustat_grpo import SoftmaxBandit
from ustat_grpo.inputs.arrays import Array


@dataclass(frozen=True, eq=False)
class Ascent:
    """What is run: θ ← θ + η ĝ(θ), on equally likely prompts.

    Args:
        bandit: the problem.
        batch_size: B, prompts in a minibatch.
        group_size: G, outputs of each prompt.
        rate: η.
    """

    bandit: SoftmaxBandit
    batch_size: int
    group_size: int
    rate: float


Way = Callable[[Ascent, int, int, np.random.Generator], Array]


def torch_runs(
    ascent: Ascent, num_runs: int, num_iterations: int, rng: np.random.Generator
) -> Array:
    """Differentiate a surrogate loss with autograd at each iteration, run by run."""
    import torch

    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    bandit, group_size = ascent.bandit, ascent.group_size
    offsets = torch.from_numpy(bandit.offsets)
    success = torch.from_numpy(bandit.reward_probs @ bandit.reward_levels)
    ends = np.empty((num_runs, bandit.dimension))
    for run in range(num_runs):
        theta = torch.zeros_like(offsets, requires_grad=True)
        for _ in range(num_iterations):
            prompts = torch.randint(len(offsets), (ascent.batch_size,), generator=generator)
            log_policy = torch.log_softmax(theta + offsets, dim=1)[prompts]
            with torch.no_grad():
                actions = torch.multinomial(
                    log_policy.exp(), group_size, replacement=True, generator=generator
                )
                chances = success[prompts].gather(1, actions)
                rewards = torch.bernoulli(chances, generator=generator)
                others = (rewards.sum(1, keepdim=True) - rewards) / (group_size - 1)
                advantages = rewards - others
            surrogate = (advantages * log_policy.gather(1, actions)).mean()
            (estimate,) = torch.autograd.grad(surrogate, theta)
            with torch.no_grad():
                theta.add_(estimate, alpha=ascent.rate)
        ends[run] = theta.detach().numpy().ravel()
    return ends


def numpy_search(
    ascent: Ascent, num_runs: int, num_iterations: int, rng: np.random.Generator
) -> Array:
    """Move all runs at once; an output's action is found by searching the distribution function."""
    return _numpy(_search, ascent, num_runs, num_iterations, rng)


def numpy_compare(
    ascent: Ascent, num_runs: int, num_iterations: int, rng: np.random.Generator
) -> Array:
    """Move all runs at once; an output's action is the number of ends below its uniform number.

    The fastest layout that we found: K − 1 plain comparisons take less time than a search, one-hot
    arrays or NumPy's multinomial.
    """
    return _numpy(_compare, ascent, num_runs, num_iterations, rng)


def _search(weights: Array, uniform: Array) -> NDArray[np.intp]:
    """Actions (G, rows) of unnormalised policies (K, rows), for uniform numbers below Σ_k."""
    rows = np.arange(weights.shape[1])
    totals = weights.sum(axis=0)
    ends = (np.cumsum(weights, axis=0) / totals + rows).T.ravel()
    found = np.searchsorted(ends, uniform / totals + rows, side="right")
    return np.minimum(found - rows * len(weights), len(weights) - 1)


def _compare(weights: Array, uniform: Array) -> NDArray[np.uint8]:
    """The same, by comparing with one end after the other."""
    actions = np.zeros(uniform.shape, dtype=np.uint8)
    ends = np.zeros(uniform.shape[1])
    for weight in weights[:-1]:
        ends += weight
        actions += uniform >= ends
    return actions


def _numpy(
    draw: Callable[[Array, Array], NDArray[Any]],
    ascent: Ascent,
    num_runs: int,
    num_iterations: int,
    rng: np.random.Generator,
) -> Array:
    """Actions lie on the first axis, outputs of a group too.

    Advantages of a group add up to 0, so that the policy's part of the scores cancels: they are
    just counted.
    """
    bandit, group_size = ascent.bandit, ascent.group_size
    assert bandit.offsets is not None
    num_prompts, num_actions = bandit.reward_probs.shape[:2]
    success = (bandit.reward_probs @ bandit.reward_levels).T.ravel()
    logits = np.tile(bandit.offsets.T, num_runs)  # (K, runs·P); no overflow below 700
    first_rows = num_prompts * np.arange(num_runs)[:, None]
    step = ascent.rate / (ascent.batch_size * (group_size - 1))
    for _ in range(num_iterations):
        prompts = rng.integers(num_prompts, size=(num_runs, ascent.batch_size))
        rows = (first_rows + prompts).ravel()
        if len(rows) < logits.shape[1]:
            weights = np.exp(logits.take(rows, axis=1))
        else:
            weights = np.exp(logits).take(rows, axis=1)
        uniform = rng.random((group_size, len(rows))) * weights.sum(axis=0)
        actions = draw(weights, uniform)
        chances = success[actions * np.intp(num_prompts) + prompts.ravel()]
        rewards = rng.random(uniform.shape) < chances
        centred = rewards - rewards.mean(axis=0)
        cells = actions * np.intp(logits.shape[1]) + rows
        gradient = np.bincount(cells.ravel(), centred.ravel(), minlength=logits.size)
        logits += step * gradient.reshape(logits.shape)
    ends = logits.reshape(num_actions, num_runs, num_prompts).transpose(1, 2, 0)
    return (ends - bandit.offsets).reshape(num_runs, bandit.dimension)


WAYS: dict[str, Way] = {
    "torch_runs": torch_runs,
    "numpy_search": numpy_search,
    "numpy_compare": numpy_compare,
}
