"""Mean and second moment of a minibatch gradient, from draws that all estimators share.

A minibatch is B i.i.d. prompts with G outputs each; ĝ is the mean over its groups of ĝ(x).

Each ĝ has a companion r on the same draws, the leave-one-out gradient, whose mean is ∇J and whose
E‖r‖² is known: with a constant c, ĝ − c(r − ∇J) has the mean of ĝ and less noise. The constant is
settled on replicates that are used for nothing else. ‖E ĝ‖² is the mean of ⟨ĝ, ĝ′⟩ over pairs of
replicates from different blocks, hence unbiased.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ustat_grpo import Estimator, Grpo, SideInformation, Snapshot
from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.laws import mse

NUM_BLOCKS = 16
"""Blocks of replicates that standard errors are measured between."""

_OUTPUTS_AT_ONCE = 2**17
_COMPANION = "companion"


class MeanAndSecond(NamedTuple):
    """E ĝ by its two products that matter, and E‖ĝ‖²; numbers, or one for each jackknife sample."""

    along: Array  # ⟨E ĝ, ∇J⟩
    mean_norm_squared: Array  # ‖E ĝ‖²
    second: Array  # E‖ĝ‖²


class Minibatches(NamedTuple):
    """R minibatches, and what may be known of them beside the rewards."""

    prompts: Int[Integers, "R B"]
    actions: Int[Integers, "R B G"]
    rewards: Float[Array, "R B G"]
    side: SideInformation


Tell = Callable[[Snapshot, Integers, Integers, np.random.Generator], SideInformation]
"""What estimators are told of prompts (R, B) and actions (R, B, G) of a snapshot."""


def draw(
    snapshot: Snapshot, shape: tuple[int, int, int], tell: Tell, rng: np.random.Generator
) -> Minibatches:
    """Draw R minibatches of B prompts with G outputs; `shape` is (R, B, G).

    Action and reward come from one random number and a search, not from two and comparisons with
    every entry of a row, as in `Snapshot.sample_groups`: the table of the zoo rests on many draws.
    """
    joint = snapshot.action_probs[..., None] * snapshot.reward_probs
    num_prompts, num_levels = len(joint), joint.shape[-1]
    prompts = rng.choice(num_prompts, size=shape[:2], p=snapshot.prompt_probs)
    cells = joint.reshape(num_prompts, -1)
    # One sorted list for all prompts: prompt x owns the numbers between x and x + 1.
    bounds = np.cumsum(cells, axis=1)[:, :-1] + np.arange(num_prompts)[:, None]
    ends = np.column_stack([bounds, np.arange(1.0, num_prompts + 1)]).ravel()
    drawn = np.searchsorted(ends, prompts[..., None] + rng.random(shape), side="right")
    cell = drawn - prompts[..., None] * cells.shape[1]
    actions, levels = np.divmod(cell, num_levels)
    side = tell(snapshot, prompts, actions, rng)
    return Minibatches(prompts, actions, snapshot.reward_levels[levels], side)


@dataclass(frozen=True, eq=False)
class Score:
    """Gradients of minibatches from advantages, for one snapshot."""

    snapshot: Snapshot
    scores: Float[Array, "P K d"] | None

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Score":
        """Work the scores out once; one-hot ones are never stored."""
        return cls(snapshot, None if snapshot.features is None else snapshot.dense_scores())

    def gradients(self, batch: Minibatches, advantages: Float[Array, "R B G"]) -> Array:
        """Return ĝ = (1/BG) Σ A W of each minibatch, shape (R, d)."""
        probs = self.snapshot.action_probs
        num_actions = probs.shape[1]
        replicates, size, outputs = advantages.shape
        entries = np.arange(replicates * size)[:, None] * num_actions
        entries = entries + batch.actions.reshape(-1, outputs)
        counted = replicates * size * num_actions
        weights = np.bincount(entries.ravel(), advantages.ravel(), minlength=counted)
        weights = weights.reshape(replicates, size, num_actions) / (size * outputs)
        if self.scores is not None:
            scores = self.scores[batch.prompts].reshape(replicates, size * num_actions, -1)
            return (weights.reshape(replicates, 1, -1) @ scores)[:, 0]
        weights = weights - probs[batch.prompts] * weights.sum(axis=-1, keepdims=True)
        rows = np.arange(replicates)[:, None] * len(probs) + batch.prompts
        places = rows[..., None] * num_actions + np.arange(num_actions)
        found = np.bincount(places.ravel(), weights.ravel(), minlength=replicates * probs.size)
        return found.astype(float).reshape(replicates, -1)


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the replicates of each of J blocks; r is the companion.

    Args:
        gradients: Σ ĝ, shape (J, d).
        norms: Σ ‖ĝ‖², shape (J,).
        products: Σ ⟨ĝ, r⟩, shape (J,).
    """

    gradients: Float[Array, "J d"]
    norms: Float[Array, " J"]
    products: Float[Array, " J"]

    @classmethod
    def nothing(cls, dimension: int) -> "Sums":
        """Return the sums over no replicates of one block."""
        return cls(np.zeros(dimension), np.zeros(()), np.zeros(()))


def simulate(
    snapshot: Snapshot,
    estimators: Mapping[str, Estimator],
    shape: tuple[int, int, int],
    tell: Tell,
    rng: np.random.Generator,
) -> dict[str, MeanAndSecond]:
    """Measure every estimator on the same minibatches.

    Args:
        snapshot: the problem.
        estimators: by name.
        shape: replicates in a block, B and G.
        tell: what estimators may know beside the rewards.
        rng: source of the draws.

    Returns:
        For each estimator the estimates with all blocks, then without block 0, 1, …: NUM_BLOCKS + 1
        numbers in each field, from which `jackknife` gets standard errors.
    """
    everyone = {**estimators, _COMPANION: Grpo()}
    blocks = [_block(snapshot, everyone, shape, tell, rng) for _ in range(NUM_BLOCKS + 1)]
    sums = {name: _stacked([block[name] for block in blocks]) for name in everyone}
    known = mse.minibatch(
        mse.grpo(snapshot.moments, group_size=shape[2]), snapshot.moments, batch_size=shape[1]
    ) + float(snapshot.gradient @ snapshot.gradient)
    companion = sums[_COMPANION]
    return {
        name: _estimate(sums[name], companion, shape[0], snapshot.gradient, known)
        for name in estimators
    }


def _stacked(blocks: list[Sums]) -> Sums:
    return Sums(
        np.array([block.gradients for block in blocks]),
        np.array([block.norms for block in blocks]),
        np.array([block.products for block in blocks]),
    )


def _block(
    snapshot: Snapshot,
    estimators: Mapping[str, Estimator],
    shape: tuple[int, int, int],
    tell: Tell,
    rng: np.random.Generator,
) -> dict[str, Sums]:
    """Add up one block, in parts that fit the memory."""
    score = Score.of(snapshot)
    totals: dict[str, Sums] = {}
    for part in _parts(shape):
        batch = draw(snapshot, part, tell, rng)
        found = {
            name: score.gradients(batch, estimator.advantages(batch.rewards, batch.side))
            for name, estimator in estimators.items()
        }
        companion = found[_COMPANION]
        for name, each in found.items():
            old = totals.get(name, Sums.nothing(snapshot.dimension))
            totals[name] = Sums(
                old.gradients + each.sum(axis=0),
                old.norms + np.sum(each**2),
                old.products + np.sum(each * companion),
            )
    return totals


def _parts(shape: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    replicates, batch_size, group_size = shape
    step = max(1, _OUTPUTS_AT_ONCE // (batch_size * group_size))
    for start in range(0, replicates, step):
        yield min(step, replicates - start), batch_size, group_size


def _estimate(
    sums: Sums, companion: Sums, per_block: int, target: Array, known: float
) -> MeanAndSecond:
    """Estimate with all blocks but the first, then with one block more left out each time."""
    factor = sums.products[0] / companion.norms[0]  # of the block that is used for nothing else
    steadied = sums.gradients - factor * (companion.gradients - per_block * target)
    norms = sums.norms - factor**2 * (companion.norms - per_block * known)
    gram = (steadied @ steadied.T)[1:, 1:]
    used = np.vstack([np.ones(NUM_BLOCKS), 1 - np.eye(NUM_BLOCKS)])
    count = used.sum(axis=1)
    pairs = np.einsum("sj,jk,sk->s", used, gram, used) - used @ np.diag(gram)
    return MeanAndSecond(
        used @ (steadied[1:] @ target) / (count * per_block),
        pairs / (count * (count - 1) * per_block**2),
        used @ norms[1:] / (count * per_block),
    )


def jackknife(samples: Array) -> tuple[float, float]:
    """Return an estimate and its standard error from one with all blocks and those without one."""
    without = samples[1:]
    spread = np.sum((without - without.mean()) ** 2)
    return float(samples[0]), float(np.sqrt((len(without) - 1) / len(without) * spread))
