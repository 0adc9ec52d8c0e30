"""First batches of bandits, as a user would take them where training begins, and their noise.

Here a snapshot draws them; an environment is played and a language model sampled by their own
subjects, and what is measured is the same, an `OutputSample`.
"""

import numpy as np

from experiments.tasks.subject import FirstBatch
from ustat_grpo import Snapshot
from ustat_grpo.noise import OutputSample


def bandit_sample(snapshot: Snapshot, size: FirstBatch, rng: np.random.Generator) -> OutputSample:
    """Draw prompts i.i.d., outputs to each and their rewards, and measure them.

    Advantages of a group add up to zero, so ĝ_b = Σ a_i W_i = Σ a_i φ(x_b, y_i): scores need not be
    centred, and with one-hot features two prompts share no coordinate unless they are the same.

    Args:
        snapshot: of a bandit.
        size: of the batch, with at least 3 outputs to each prompt.
        rng: source of randomness.
    """
    num_prompts, num_outputs = size
    prompts, actions, rewards = snapshot.sample_groups(num_prompts, num_outputs, rng)
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
