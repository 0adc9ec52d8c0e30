"""What the compiled loops work on: problems, estimators and scratch memory as plain arrays."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ustat_grpo.compiled.draws import PoissonTables

LARGEST_SCATTERED_GROUP = 8
"""Groups up to this size touch fewer actions than a pass over all of them would."""

SLOTS_PER_TILE = 64
"""Groups that are drawn and scored together, slot by slot in the innermost loop."""


(
    REWARD, PROB, PROB_REWARD, TARGET, TARGET_REWARD, COUNT_SQUARED, COUNT_REWARD, REWARD_SQUARED,
) = range(8)  # fmt: skip
"""Slots of `Tile.sums`: Σz, Σπ, Σπz, Σg, Σgz, Σn², Σnz, Σz²."""


class Tile(NamedTuple):
    """Up to T small groups, each of another prompt, and what estimators need to know of them.

    Rewards z and counts n carry the weight f(x)/G; sums run over the group or its actions.
    """

    start: NDArray[np.uint64]  # (T,)
    stride: NDArray[np.uint64]  # (T,)
    words: NDArray[np.uint64]  # (LARGEST_SCATTERED_GROUP, T)
    entries: NDArray[np.uint64]  # (LARGEST_SCATTERED_GROUP, T): where an output scatters to
    rewards: NDArray[np.float64]  # (LARGEST_SCATTERED_GROUP, T): z of each output
    shift: NDArray[np.float64]  # (T,): of one estimator
    sums: NDArray[np.float64]  # (8, T): see `REWARD` and those after it


class Tables(NamedTuple):
    """A snapshot laid out for the loop: P prompts, K actions, L levels, C padded cells.

    Gradients have d entries; for one-hot features d = P·K and prompt x owns x·K … x·K + K − 1.
    """

    prompt_weights: NDArray[np.float64]  # (P,): f(x)
    prompt_aliases: NDArray[np.uint64]  # (1, padded P)
    aliases: NDArray[np.uint64]  # (P, C)
    counts: PoissonTables  # (Q·P, C), for the Q group sizes drawn as counts, in order
    levels: NDArray[np.float64]  # (L,)
    cell_actions: NDArray[np.uint64]  # (C,)
    cell_rewards: NDArray[np.float64]  # (C,)
    action_probs: NDArray[np.float64]  # (P, K)
    probs_norm: NDArray[np.float64]  # (P,): Σ π²
    probs_target: NDArray[np.float64]  # (P,): Σ gπ over the block of x
    scores: NDArray[np.float64]  # (P, K, d); (0, 0, 0) for one-hot features
    target: NDArray[np.float64]  # ∇J, (d,)
    target_norm: float  # ‖∇J‖²


class Forms(NamedTuple):
    """The affine form of E estimators at each of S group sizes, in ascending order."""

    group_sizes: NDArray[np.int64]  # (S,)
    slope: NDArray[np.float64]  # (S, E): own − other
    other: NDArray[np.float64]  # (S, E)
    shift: NDArray[np.float64]  # (S, E, P)


class Draws(NamedTuple):
    """Which replicates are drawn, and how."""

    key: np.uint64  # of the random streams of all replicates
    first: int  # number of the first replicate
    all_once: bool  # whether every prompt is taken once, weighted, or the minibatch drawn i.i.d.


class Replicate(NamedTuple):
    """The replicate that is being worked on."""

    index: int  # its row of `Totals.errors`
    block: int  # whose sums ĝ is added to
    output_key: np.uint64  # of the random streams of its slots


class Slot(NamedTuple):
    """The slot of a minibatch that is being worked on."""

    prompt: int
    weight: float  # of its group in ĝ: f(x) or 1/B
    key: np.uint64  # of its random streams


class TiledSlots(NamedTuple):
    """The slots first … first + number − 1, worked on side by side."""

    first: int
    number: int


class Form(NamedTuple):
    """The affine form of one estimator at one group size; see `Forms`."""

    group_size: int
    slope: float
    other: float
    shift: NDArray[np.float64]  # (P,)


class BlockSums(NamedTuple):
    """The sums of one block for one estimator at one group size; see `Totals`."""

    estimate: NDArray[np.float64]  # (d,)
    mass: NDArray[np.float64]  # (P,)


class Work(NamedTuple):
    """Scratch memory of one thread; the last three hold zeros between replicates."""

    tile: Tile
    prompts: NDArray[np.int64]  # (B,)
    cells: NDArray[np.uint64]  # (LARGEST_SCATTERED_GROUP,)
    drawn: NDArray[np.int64]  # (C,)
    counted: NDArray[np.int64]  # (C,)
    outputs: NDArray[np.float64]  # (K,): n_y
    rewards: NDArray[np.float64]  # (K,): z_y
    estimate: NDArray[np.float64]  # (S, E, d): ĝ, uncentred for one-hot features
    mass: NDArray[np.float64]  # (S, E, P): M = Σ a
    overlap: NDArray[np.float64]  # (S, E, P): Σ aπ


class Totals(NamedTuple):
    """What a run of replicates leaves behind."""

    errors: NDArray[np.float64]  # (replicates, S, E): ‖ĝ − g‖²
    estimate: NDArray[np.float64]  # (blocks, S, E, d): Σ ĝ over a block, uncentred if one-hot
    mass: NDArray[np.float64]  # (blocks, S, E, P): Σ M over a block


def new_tile() -> Tile:
    """Return scratch memory for `score_tiles`."""
    words = LARGEST_SCATTERED_GROUP, SLOTS_PER_TILE
    return Tile(
        np.zeros(SLOTS_PER_TILE, dtype=np.uint64),
        np.zeros(SLOTS_PER_TILE, dtype=np.uint64),
        np.zeros(words, dtype=np.uint64),
        np.zeros(words, dtype=np.uint64),
        np.zeros(words),
        np.zeros(SLOTS_PER_TILE),
        np.zeros((8, SLOTS_PER_TILE)),
    )
