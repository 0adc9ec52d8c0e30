"""First batches of outputs, as a user would take them where training begins, and their noise.

On a finite problem they are drawn by NumPy, on an environment they are played, and a language
model's are sampled and scored: what is measured of them is the same, an `OutputSample`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ustat_grpo import Snapshot
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.noise import OutputSample

if TYPE_CHECKING:
    from experiments.tasks.language import Panel
    from experiments.tasks.sequential import FrozenLake, Gym
    from ustat_grpo.environments import EnvironmentCopies


_COPIES = 64
"""Episodes of a table's environment that are played at once."""


class FirstBatch(NamedTuple):
    """The size of a first batch: prompts, and outputs to each."""

    num_prompts: int
    num_outputs: int


Draw = Callable[[FirstBatch, np.random.Generator], OutputSample]


def bandit_sample(
    snapshot: Snapshot, num_prompts: int, num_outputs: int, rng: np.random.Generator
) -> OutputSample:
    """Draw prompts i.i.d., outputs to each and their rewards, and measure them.

    Advantages of a group add up to zero, so ĝ_b = Σ a_i W_i = Σ a_i φ(x_b, y_i): scores need not be
    centred, and with one-hot features two prompts share no coordinate unless they are the same.

    Args:
        snapshot: of a bandit.
        num_prompts: B.
        num_outputs: M, to each prompt, at least 3.
        rng: source of randomness.
    """
    prompts = rng.choice(len(snapshot.prompt_probs), size=num_prompts, p=snapshot.prompt_probs)
    actions = _drawn(snapshot.action_probs[prompts][:, None], (num_prompts, num_outputs), rng)
    levels = _drawn(snapshot.reward_probs[prompts[:, None], actions], actions.shape, rng)
    rewards = snapshot.reward_levels[levels]
    advantages = (rewards - rewards.mean(axis=1, keepdims=True)) / (num_outputs - 1)
    if snapshot.features is None:
        total = np.zeros(snapshot.action_probs.shape)
        rows = np.zeros((num_prompts, snapshot.action_probs.shape[1]))
        np.add.at(rows, (np.arange(num_prompts)[:, None], actions), advantages)
        np.add.at(total, prompts, rows)
        products = np.einsum("bk,bk->b", rows, total[prompts])
    else:
        features = snapshot.features[prompts[:, None], actions]
        rows = np.einsum("bm,bmd->bd", advantages, features)
        products = rows @ rows.sum(axis=0)
    return OutputSample(
        rewards=rewards.ravel(),
        score_norms=snapshot.score_norm_squared[prompts[:, None], actions].ravel(),
        prompts=np.repeat(np.arange(num_prompts), num_outputs),
        gradient_norms=np.einsum("bj,bj->b", rows, rows),
        gradient_products=products,
    )


def language_sample(panel: "Panel", size: FirstBatch, rng: np.random.Generator) -> OutputSample:
    """Sample outputs to questions drawn i.i.d., and measure them in one pass.

    Args:
        panel: a policy and the questions that it learns from.
        size: of the batch.
        rng: gives the seed of the outputs.
    """
    import torch

    from ustat_grpo.lm.sampling import sample_groups
    from ustat_grpo.lm.scores.output_sample import measured_outputs
    from ustat_grpo.lm.training.training import run_rng

    questions = torch.as_tensor(rng.integers(len(panel.prompts), size=size.num_prompts))
    questions = questions.to(panel.prompts.tokens.device)
    rollouts = sample_groups(
        panel.model,
        panel.prompts[questions],
        size.num_outputs,
        max_tokens=panel.max_tokens,
        rng=run_rng(int(rng.integers(2**32))),
    )
    return measured_outputs(panel.model, rollouts, panel.reward(rollouts, questions))


@contextmanager
def episodes(task: "FrozenLake | Gym") -> Iterator[Draw]:
    """Open copies of a task's environment, and yield what plays first batches of its first policy.

    Starts are drawn i.i.d., as runs draw them: of a table by reset seeds that are all different,
    else among the task's own.
    """
    from ustat_grpo.environments import episode_scores, group_rollouts

    panel = next(iter(task.snapshots.values()))
    with _copies(task) as copies:

        def draw(size: FirstBatch, rng: np.random.Generator) -> OutputSample:
            seeds = _seeds(task, size.num_prompts, rng)
            played = group_rollouts(
                copies,
                panel.policy,
                panel.theta,
                seeds,
                size.num_outputs,
                discount=task.discount,
                rng=rng,
            )
            scores = episode_scores(panel.policy, panel.theta, played)
            return OutputSample.from_scores(list(scores), list(played.returns))

        yield draw


def _copies(task: "FrozenLake | Gym") -> AbstractContextManager["EnvironmentCopies"]:
    from experiments.tasks.sequential import FrozenLake
    from ustat_grpo.environments import EnvironmentCopies, make_frozen_lake

    if not isinstance(task, FrozenLake):
        return task.copies()
    make = partial(
        make_frozen_lake, task.map_name, is_slippery=task.is_slippery, horizon=task.horizon
    )
    return EnvironmentCopies(make, _COPIES)


def _seeds(task: "FrozenLake | Gym", count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    from experiments.tasks.sequential import FrozenLake

    if isinstance(task, FrozenLake):
        return rng.integers(2**31, size=count)
    return rng.choice(task.prompts, size=count)


def _drawn(probs: Array, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw from distributions along the last axis, whose others have the shape."""
    ends = probs.cumsum(axis=-1)
    numbers = rng.random(shape) * ends[..., -1]
    return (numbers[..., None] >= ends[..., :-1]).sum(axis=-1)
