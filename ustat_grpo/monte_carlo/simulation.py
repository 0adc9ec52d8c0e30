"""Replicates of minibatch gradients: lays problems out for the compiled loop and runs it.

Estimators whose advantages are affine in the rewards of their group, which is seen by probing them,
are scored inside the loop. Any other estimator is handed the same outputs, expanded from their
counts, through its public interface, batch by batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ustat_grpo.bandits.snapshot import Snapshot
from ustat_grpo.compiled.draws import alias_tables, padded_size, poisson_tables
from ustat_grpo.compiled.threads import in_parts
from ustat_grpo.estimators import Estimator, SideInformation
from ustat_grpo.estimators.probing import AffineForm, affine_form
from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import first_largest
from ustat_grpo.monte_carlo import kernels, layout
from ustat_grpo.monte_carlo.kernels import REPLICATES_PER_BLOCK

_ROUNDING = 1e-14

_OUTPUTS_AT_ONCE = 2**22
"""Outputs that are held at once for the estimators outside the loop."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """Replicates of a minibatch gradient, for E estimators at S group sizes on shared draws.

    Args:
        snapshot: the problem.
        estimators: by name.
        group_sizes: in ascending order.
        batch_size: B i.i.d. prompts, or None for every prompt once.
        key: of the random streams.
    """

    snapshot: Snapshot
    estimators: Mapping[str, Estimator]
    group_sizes: Sequence[int]
    batch_size: int | None
    key: np.uint64

    @cached_property
    def num_slots(self) -> int:
        """Groups in a minibatch."""
        return len(self.snapshot.value) if self.batch_size is None else self.batch_size

    def run(self, first: int, replications: int) -> tuple[Array, Array]:
        """Run replicates from number `first` on, a multiple of `REPLICATES_PER_BLOCK`.

        Returns:
            Squared errors, shape (replications, S, E), and sums of ĝ over blocks of replicates,
            the last one possibly short, shape (blocks, S, E, d).
        """
        bounds = np.append(np.arange(0, replications, REPLICATES_PER_BLOCK), replications)
        columns = len(self.group_sizes), len(self.estimators)
        errors = np.empty((replications, *columns))
        sums = np.empty((len(bounds) - 1, *columns, self.snapshot.dimension))
        _ = self._forms, self._tables  # worked out once, before the threads ask for them

        def part(start: int, end: int) -> None:
            rows = slice(bounds[start], bounds[end])
            errors[rows], sums[start:end] = self._run_part(
                first + rows.start, rows.stop - rows.start
            )

        in_parts(len(sums), part)
        return errors, sums

    @cached_property
    def _forms(self) -> list[list[AffineForm | None]]:
        """Affine forms by group size, then estimator."""
        return [
            [form_of(estimator, size, self.snapshot) for estimator in self.estimators.values()]
            for size in self.group_sizes
        ]

    @cached_property
    def _tables(self) -> layout.Tables:
        return tables_of(self.snapshot, self.group_sizes)

    def _run_part(self, first: int, replications: int) -> tuple[Array, Array]:
        """Run some replicates on the calling thread."""
        errors, sums = self._run_affine(first, replications)
        general = [
            e for e in range(len(self.estimators)) if any(form[e] is None for form in self._forms)
        ]
        fitting = _OUTPUTS_AT_ONCE // (self.num_slots * max(self.group_sizes))
        step = min(2 ** max(0, fitting.bit_length() - 1), REPLICATES_PER_BLOCK)  # divides a block
        for start in range(0, replications if general else 0, step):
            rows = slice(start, min(start + step, replications))
            block = start // REPLICATES_PER_BLOCK
            for s, e, estimates in self._run_general(first + start, rows.stop - start, general):
                errors[rows, s, e] = ((estimates - self.snapshot.gradient) ** 2).sum(axis=1)
                sums[block, s, e] += estimates.sum(axis=0)
        return errors, sums

    def _run_affine(self, first: int, replications: int) -> tuple[Array, Array]:
        """Score the affine estimators; the others get a form of zeros, hence ĝ = 0."""
        zero = AffineForm(0.0, 0.0, np.zeros(len(self.snapshot.value)))
        known = [[form or zero for form in row] for row in self._forms]
        forms = layout.Forms(
            np.array(self.group_sizes, dtype=np.int64),
            np.array([[form.own - form.other for form in row] for row in known]),
            np.array([[form.other for form in row] for row in known]),
            np.array([[form.shift for form in row] for row in known]),
        )
        work = self._work()
        num_blocks = -(-replications // REPLICATES_PER_BLOCK)
        totals = layout.Totals(
            np.zeros((replications, *work.mass.shape[:2])),
            np.zeros((num_blocks, *work.estimate.shape)),
            np.zeros((num_blocks, *work.mass.shape)),
        )
        all_once = self.batch_size is None
        draws = layout.Draws(self.key, first, all_once)
        kernels.simulate(self._tables, forms, work, draws, totals)
        # The loop subtracts squares: what it leaves of an error of zero is rounding, of any sign.
        largest = np.abs(self._tables.levels).max() + np.abs(forms.shift).max()
        weights = self.snapshot.prompt_probs if all_once else np.ones(1)
        scale = self._tables.target_norm + largest**2 * np.sum(weights**2)
        totals.errors[totals.errors < _ROUNDING * scale] = 0.0
        if self.snapshot.features is None:
            centring = totals.mass[..., None] * self.snapshot.action_probs
            totals.estimate[:] -= centring.reshape(totals.estimate.shape)
        return totals.errors, totals.estimate

    def _work(self) -> layout.Work:
        tables = self._tables
        shape = len(self.group_sizes), len(self.estimators)
        num_prompts, num_actions = tables.action_probs.shape
        return layout.Work(
            layout.new_tile(),
            np.arange(self.num_slots),
            np.zeros(layout.LARGEST_SCATTERED_GROUP, dtype=np.uint64),
            np.zeros(len(tables.cell_rewards), dtype=np.int64),
            np.zeros(len(tables.cell_rewards), dtype=np.int64),
            np.zeros(num_actions),
            np.zeros(num_actions),
            np.zeros((*shape, len(tables.target))),
            np.zeros((*shape, num_prompts)),
            np.zeros((*shape, num_prompts)),
        )

    def _run_general(
        self, first: int, replications: int, general: Sequence[int]
    ) -> Iterator[tuple[int, int, Array]]:
        """Yield (s, e, ĝ of each replicate) for the estimators that are not affine."""
        snapshot, tables = self.snapshot, self._tables
        slots = replications, self.num_slots
        prompts = np.empty(slots, dtype=np.int64)
        num_cells = len(tables.cell_rewards)
        counts = np.zeros((len(self.group_sizes), *slots, num_cells), dtype=np.int64)
        sizes = np.array(self.group_sizes, dtype=np.int64)
        all_once = self.batch_size is None
        draws = layout.Draws(self.key, first, all_once)
        kernels.count_cells(tables, sizes, draws, prompts, counts)
        estimators = list(self.estimators.values())
        weights = snapshot.prompt_probs[prompts] if all_once else np.full(slots, 1 / slots[1])
        greedy = self._greedy_rewards(first, prompts)
        every_cell = np.tile(np.arange(num_cells), slots[0] * slots[1])
        for s, size in enumerate(self.group_sizes):
            cells = np.repeat(every_cell, counts[s].ravel()).reshape(*slots, size)
            for index in range(replications):  # an estimator may look at the order
                shuffle = np.random.default_rng([int(self.key), first + index, size])
                shuffle.permuted(cells[index], axis=-1, out=cells[index])
            rewards = tables.cell_rewards[cells]
            actions = tables.cell_actions[cells].astype(np.int64)
            side = SideInformation(
                snapshot.value[prompts],
                snapshot.optimal_baseline[prompts],
                greedy_reward=greedy,
                score_norm_squared=snapshot.score_norm_squared[prompts[..., None], actions],
            )
            for e in general:
                advantages = estimators[e].advantages(rewards, side)
                scaled = advantages * (weights / size)[..., None]
                yield s, e, self._gradients(prompts, actions, scaled)

    def _greedy_rewards(self, first: int, prompts: Integers) -> Array:
        """Draw the reward of the most likely action for every group, shape (R, B)."""
        snapshot = self.snapshot
        greedy = first_largest(snapshot.action_probs)
        bounds = np.cumsum(snapshot.reward_probs[np.arange(len(greedy)), greedy], axis=-1)[:, :-1]
        drawn = [
            np.random.default_rng([int(self.key), first + index]).random(prompts.shape[1])
            for index in range(len(prompts))
        ]
        levels = np.sum(np.array(drawn)[..., None] >= bounds[prompts], axis=-1)
        return snapshot.reward_levels[levels]

    def _gradients(self, prompts: Integers, actions: Integers, weights: Array) -> Array:
        """Sum weight × score over the outputs of each replicate: (R, B, G) to (R, d)."""
        probs, replications = self.snapshot.action_probs, len(prompts)
        rows = np.arange(replications)[:, None] * len(probs) + prompts
        entries = rows[..., None] * probs.shape[1] + actions
        summed = np.bincount(entries.ravel(), weights.ravel(), minlength=replications * probs.size)
        summed = summed.reshape(replications, *probs.shape)
        if self.snapshot.features is not None:
            return np.tensordot(summed, self._tables.scores, axes=2)
        centred = summed - probs * summed.sum(axis=2, keepdims=True)
        return centred.reshape(replications, -1)


def form_of(estimator: Estimator, group_size: int, snapshot: Snapshot) -> AffineForm | None:
    """Return the affine form of an estimator at V and b* of a snapshot, or None."""
    value, best = snapshot.value, snapshot.optimal_baseline
    return affine_form(estimator, group_size, snapshot.reward_levels, value, best)


def tables_of(snapshot: Snapshot, group_sizes: Sequence[int]) -> layout.Tables:
    """Lay a snapshot out for the compiled loop; see `layout.Tables`."""
    num_prompts, num_actions = snapshot.action_probs.shape
    num_cells = num_actions * len(snapshot.reward_levels)
    joint = snapshot.action_probs[:, None, :] * snapshot.reward_probs.transpose(0, 2, 1)
    cells = np.zeros((num_prompts, padded_size(num_cells)))
    cells[:, :num_cells] = joint.reshape(num_prompts, num_cells)
    prompts = np.zeros((1, padded_size(num_prompts)))
    prompts[0, :num_prompts] = snapshot.prompt_probs
    one_hot = snapshot.features is None
    scores = np.zeros((0, 0, 0)) if one_hot else snapshot.dense_scores()
    target = snapshot.gradient
    blocks = target.reshape(num_prompts, -1) if one_hot else np.zeros((num_prompts, num_actions))
    counted = [size for size in group_sizes if size > kernels.LARGEST_DRAWN_GROUP]
    by_cell = np.arange(cells.shape[1])
    return layout.Tables(
        prompt_weights=snapshot.prompt_probs,
        prompt_aliases=alias_tables(prompts),
        aliases=alias_tables(cells),
        counts=poisson_tables(cells, counted),
        levels=snapshot.reward_levels,
        cell_actions=(by_cell % num_actions).astype(np.uint64),
        cell_rewards=np.resize(np.repeat(snapshot.reward_levels, num_actions), len(by_cell)),
        action_probs=np.ascontiguousarray(snapshot.action_probs),
        probs_norm=np.einsum("pk,pk->p", snapshot.action_probs, snapshot.action_probs),
        probs_target=np.einsum("pk,pk->p", blocks, snapshot.action_probs),
        scores=np.ascontiguousarray(scores),
        target=target,
        target_norm=float(target @ target),
    )
