"""The plain ways to measure the error of vanilla, oracle and GRPO on a tabular bandit.

Each takes a `Snapshot`, a group size and a number of replicates, samples every prompt once per
replicate, and returns ‖ĝ − ∇J‖², shape (replicates, 3). All are written as a careful user would,
vectorised where NumPy allows it, in chunks that fit the cache; none knows of the library's kernels.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ustat_grpo import Snapshot
from ustat_grpo.inputs.arrays import Array

Way = Callable[[Snapshot, int, int, np.random.Generator], Array]


def torch_backward(
    snapshot: Snapshot, group_size: int, replications: int, rng: np.random.Generator
) -> Array:
    """Differentiate a surrogate loss with autograd, replicate by replicate."""
    import torch

    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    logits = torch.log(torch.from_numpy(snapshot.action_probs)).requires_grad_()
    probs = torch.from_numpy(snapshot.action_probs)
    success = torch.from_numpy(snapshot.mean_reward)
    value = torch.from_numpy(snapshot.value)[:, None]
    truth = torch.from_numpy(snapshot.gradient).reshape(probs.shape)
    weight = torch.from_numpy(snapshot.prompt_probs)[:, None] / group_size
    errors = np.empty((replications, 3))
    for replicate in range(replications):
        actions = torch.multinomial(probs, group_size, replacement=True, generator=generator)
        rewards = torch.bernoulli(success.gather(1, actions), generator=generator)
        others = (rewards.sum(1, keepdim=True) - rewards) / (group_size - 1)
        for index, baseline in enumerate((0.0, value, others)):
            log_probs = torch.log_softmax(logits, dim=1).gather(1, actions)
            surrogate = (weight * log_probs * (rewards - baseline)).sum()
            (estimate,) = torch.autograd.grad(surrogate, logits)
            errors[replicate, index] = float(((estimate - truth) ** 2).sum())
    return errors


def numpy_bincount(
    snapshot: Snapshot, group_size: int, replications: int, rng: np.random.Generator
) -> Array:
    """Draw every output by inverting the distribution function, count cells with bincount."""
    cells = _cell_probs(snapshot)
    num_prompts, num_cells = cells.shape
    edges = (np.cumsum(cells, axis=1) + np.arange(num_prompts)[:, None]).ravel()
    offsets = np.arange(num_prompts)[:, None]
    uniform = rng.random((replications, num_prompts, group_size))
    drawn = np.searchsorted(edges, uniform + offsets, side="right")
    drawn += (np.arange(replications) * cells.size)[:, None, None]
    counts = np.bincount(drawn.ravel(), minlength=replications * cells.size)
    return _errors(snapshot, counts.reshape(replications, num_prompts, num_cells), group_size)


def numpy_multinomial(
    snapshot: Snapshot, group_size: int, replications: int, rng: np.random.Generator
) -> Array:
    """Draw the cell counts of each group with NumPy's multinomial."""
    cells = _cell_probs(snapshot)
    counts = rng.multinomial(group_size, cells, size=(replications, len(cells)))
    return _errors(snapshot, counts, group_size)


def _cell_probs(snapshot: Snapshot) -> Array:
    """P(reward level, action∣x), shape (P, L·K)."""
    joint = snapshot.action_probs[:, None, :] * snapshot.reward_probs.transpose(0, 2, 1)
    flat = joint.reshape(len(joint), -1)
    return flat / flat.sum(axis=1, keepdims=True)


def _errors(snapshot: Snapshot, counts: NDArray[np.int64], group_size: int) -> Array:
    """Squared errors of the three estimators from the counts (R, P, L·K)."""
    probs, levels = snapshot.action_probs, snapshot.reward_levels
    by_level = counts.reshape(*counts.shape[:2], len(levels), probs.shape[1])
    outputs = by_level.sum(axis=2, dtype=float)
    rewards = np.zeros_like(outputs)
    for index, level in enumerate(levels):
        if level != 0:
            rewards += level * by_level[:, :, index]
    total = rewards.sum(axis=-1, keepdims=True)
    truth = snapshot.gradient.reshape(probs.shape)
    scale = snapshot.prompt_probs[:, None] / group_size
    oracle = rewards - snapshot.value[:, None] * outputs
    grpo = (rewards - total / group_size * outputs) * (group_size / (group_size - 1))
    errors = np.empty((len(counts), 3))
    for index, weights in enumerate((rewards, oracle, grpo)):
        estimate = weights - probs * weights.sum(axis=-1, keepdims=True)
        estimate *= scale
        estimate -= truth
        errors[:, index] = np.einsum("rpk,rpk->r", estimate, estimate)
    return errors


WAYS: dict[str, Way] = {
    "torch_backward": torch_backward,
    "numpy_bincount": numpy_bincount,
    "numpy_multinomial": numpy_multinomial,
}
