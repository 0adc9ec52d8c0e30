"""What has to be measured of a batch of outputs: norms, and products of the groups' gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray

from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import finite, not_negative, same_length
from ustat_grpo.inputs.ids import identified
from ustat_grpo.inputs.quoting import LONGEST_VALUE, one_line
from ustat_grpo.noise.causes import likely_cause
from ustat_grpo.noise.groups import FlatGroups, grouped
from ustat_grpo.noise.possible import Measured, impossible, in_own_units


@dataclass(frozen=True, eq=False)
class OutputSample:
    """M ≥ 3 outputs to each of B prompts drawn i.i.d.; M may differ between prompts.

    With ĝ_b = (1/M) Σ_i (Z_i − Z̄⁽⁻ⁱ⁾) W_i, the GRPO gradient of all outputs to prompt b. All norms
    are *squared*. Gradients need not all be there at once: it is enough to multiply those of a few
    prompts, a batch of them, at a time.

    Args:
        rewards: Z_i, shape (n,).
        score_norms: ‖W_i‖², shape (n,).
        prompts: an id of each output's prompt, shape (n,): numbers or strings, in any order. A
            prompt that was drawn twice has two ids.
        gradient_norms: q_b = ‖ĝ_b‖², shape (B,), in the order in which the ids first appear.
        gradient_products: p_b = ĝ_b·Σ_c ĝ_c over the prompts c of b's batch, b itself included,
            shape (B,), in the same order.
        batches: an id of each prompt's batch, shape (B,); None if there is but one. Every batch
            has at least 2 prompts.

    Raises:
        ValueError: if shapes differ, a number is not finite, a norm is negative, a prompt has fewer
            than 3 outputs, or a batch fewer than 2 prompts.

    Examples:
        >>> from ustat_grpo import OutputSample
        >>> scores = [[[2], [0], [0]], [[0], [1], [-1]]]  # two prompts, three outputs each, d = 1
        >>> sample = OutputSample.from_scores(scores, rewards=[[1, 0, 0], [1, 0, 0]])
        >>> sample.score_norms.tolist()  # ‖W‖² of all outputs
        [4.0, 0.0, 0.0, 0.0, 1.0, 1.0]
        >>> sample.gradient_norms.round(4).tolist()  # (2/3)² and 0
        [0.4444, 0.0]
    """

    rewards: Float[Array, " n"]
    score_norms: Float[Array, " n"]
    prompts: NDArray[Any]
    gradient_norms: Float[Array, " B"]
    gradient_products: Float[Array, " B"]
    batches: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        """Raise if the fields do not fit each other."""
        for name in ("rewards", "score_norms", "gradient_norms", "gradient_products"):
            object.__setattr__(self, name, finite(name, getattr(self, name), ndim=1))
        object.__setattr__(self, "prompts", identified("prompts", self.prompts).values)
        lengths = {name: len(getattr(self, name)) for name in ("rewards", "score_norms")}
        same_length("outputs", lengths)
        for name in ("score_norms", "gradient_norms"):
            norms = getattr(self, name)
            checked = not_negative(name, norms, scale=np.abs(norms).max(initial=0.0))
            object.__setattr__(self, name, checked)
        count = len(self.groups.sizes)
        lengths = {name: len(getattr(self, name)) for name in _OF_GROUPS}
        same_length("prompts", {"prompts": count, **lengths})
        if self.batches is not None:
            object.__setattr__(self, "batches", identified("batches", self.batches).values)
            same_length("prompts", {"prompts": count, "batches": len(self.batches)})
        if (smallest := int(self.partners.min())) < 1:
            raise ValueError(f"every batch must have at least 2 prompts, got {smallest + 1}")

    @cached_property
    def groups(self) -> FlatGroups:
        """The groups of the outputs."""
        return grouped(self.rewards, self.prompts)

    @cached_property
    def partners(self) -> Int[Integers, " B"]:
        """How many other prompts were measured together with each, shape (B,)."""
        return np.bincount(self._batch)[self._batch] - 1

    @cached_property
    def _batch(self) -> Int[Integers, " B"]:
        """The number of each prompt's batch."""
        if self.batches is None:
            return np.zeros(len(self.groups.sizes), dtype=np.int64)
        return identified("batches", self.batches).place

    def possible(self) -> Measured:
        """Return the numbers in units in which nothing under- or overflows, if there can be such.

        Raises:
            ValueError: if noise components would, or with the prompt, what must hold and the
                likely cause if these cannot be numbers of one batch of outputs.
        """
        norms, products = self.gradient_norms, self.gradient_products
        as_measured = Measured(self.groups, self.score_norms, norms, products)
        measured = in_own_units(as_measured)
        if (impossibility := impossible(measured, self._batch)) is not None:
            what, values, bounds, wrong = impossibility
            place = int(wrong.argmax())
            with np.errstate(over="ignore"):
                value, bound = np.ldexp([values[place], bounds[place]], measured.exponent).tolist()
            label = self.prompts[int((self.groups.group == place).argmax())]
            shown = one_line(label, longest=LONGEST_VALUE)
            told = what.format(prompt=shown, value=value, bound=bound)
            raise ValueError(f"{told}; {likely_cause(what, as_measured, self._batch)}")
        return measured

    @classmethod
    def joined(cls, samples: Sequence[Self]) -> Self:
        """Put samples of different prompts together, their batches kept apart.

        Args:
            samples: of one policy, or of policies so close that their noise is alike.

        Raises:
            ValueError: if there is no sample.
        """
        if not samples:
            raise ValueError("samples must hold at least one, got none")
        firsts = np.cumsum([0, *(len(each.groups.sizes) for each in samples)])
        pairs = list(zip(samples, firsts.tolist(), strict=False))
        prompts = [first + each.groups.group for each, first in pairs]
        batches = [first + each._batch for each, first in pairs]

        def whole(name: str) -> Array:
            return np.concatenate([getattr(each, name) for each in samples])

        return cls(
            rewards=whole("rewards"),
            score_norms=whole("score_norms"),
            prompts=np.concatenate(prompts),
            gradient_norms=whole("gradient_norms"),
            gradient_products=whole("gradient_products"),
            batches=np.concatenate(batches),
        )

    @classmethod
    def from_scores(cls, scores: Sequence[ArrayLike], rewards: Sequence[ArrayLike]) -> Self:
        """Measure outputs whose scores are at hand.

        Args:
            scores: W, one array of shape (M, d) a prompt.
            rewards: Z, one array of shape (M,) a prompt.

        Raises:
            ValueError: if there are not as many rewards as scores, or as for a sample.
        """
        arrays = [finite(f"scores[{b}]", value, ndim=2) for b, value in enumerate(scores)]
        flat, prompts = _flat(rewards, [len(value) for value in arrays])
        groups = grouped(flat, prompts)
        cuts = np.cumsum(groups.sizes)[:-1]
        weights = np.split(groups.weights, cuts)
        for b, value in enumerate(arrays):
            _require_squares(f"scores[{b}]", value)
        gradients = np.array([a @ value for a, value in zip(weights, arrays, strict=True)])
        return cls(
            rewards=flat,
            score_norms=np.concatenate([np.sum(value**2, axis=1) for value in arrays]),
            prompts=prompts,
            gradient_norms=np.sum(gradients**2, axis=1),
            gradient_products=gradients @ gradients.sum(axis=0),
        )

    @classmethod
    def from_gram(cls, gram: ArrayLike, rewards: ArrayLike, prompts: ArrayLike) -> Self:
        """Measure outputs from the inner products of their scores, W_i·W_j.

        Args:
            gram: shape (n, n).
            rewards: Z, shape (n,).
            prompts: an id of each output's prompt, shape (n,).

        Raises:
            ValueError: if shapes differ, or as for a sample.
        """
        products, groups = finite("gram", gram, ndim=2), grouped(rewards, prompts)
        count = len(groups.rewards)
        if products.shape != (count, count):
            raise ValueError(f"gram must have shape ({count}, {count}), got {products.shape}")
        weights = np.zeros((len(groups.sizes), count))
        weights[groups.group, np.arange(count)] = groups.weights
        between = weights @ products @ weights.T
        return cls(
            rewards=groups.rewards,
            score_norms=products.diagonal(),
            prompts=identified("prompts", prompts).values,
            # Rounding may pass zero where a gradient vanishes.
            gradient_norms=np.maximum(between.diagonal(), 0.0),
            gradient_products=between.sum(axis=1),
        )


_SMALLEST, _LARGEST = 1e-140, 1e140


def _require_squares(name: str, scores: Array) -> None:
    """Raise if the norm of a score is there, but its square no double."""
    size = np.abs(scores).max(axis=1)
    wrong = (size > 0) & ((size < _SMALLEST) | (size > _LARGEST))
    if wrong.any():
        raise ValueError(
            f"{name} must have squares that are doubles, got a score of size {size[wrong][0]:g}: "
            "measure in other units"
        )


_OF_GROUPS = ("gradient_norms", "gradient_products")


def _flat(rewards: Sequence[ArrayLike], sizes: list[int]) -> tuple[Array, NDArray[np.int64]]:
    """Return rewards by prompt as one array, and the number of each one's prompt."""
    same_length("prompts", {"scores": len(sizes), "rewards": len(rewards)})
    arrays = [finite(f"rewards[{b}]", value, ndim=1) for b, value in enumerate(rewards)]
    for b, (value, size) in enumerate(zip(arrays, sizes, strict=True)):
        same_length("outputs", {f"scores[{b}]": size, f"rewards[{b}]": len(value)})
    return np.concatenate(arrays), np.repeat(np.arange(len(arrays)), sizes)
