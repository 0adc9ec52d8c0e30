"""Advantages that depend on a 0/1 reward and on the number of successes in the group only.

One function an estimator, its closed form in the number k of successes among G outputs. None of
them asks an estimator; `theory.group_advantages` compares the two. In a group whose rewards are
all equal the standard deviation is 0: there the normalised advantages are 0, at eps = 0 too.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import integer, leave_one_out_group_size, numbers, real


@dataclass(frozen=True, eq=False)
class GroupAdvantages:
    """What an estimator gives to successes and to failures when k of G outputs succeed.

    Entries that cannot occur, `success` at k = 0 and `failure` at k = G, are ignored.

    Args:
        success: a₁(k) for k = 0, …, G, shape (G+1,), or (..., G+1) with one row a prompt.
        failure: a₀(k), same shape.

    Raises:
        ValueError: if the shapes differ, a group is empty or an advantage is not finite.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> mine = binary.GroupAdvantages(success=[0, 2, 0], failure=[0, -2, 0])  # of pairs
        >>> mine.group_size, binary.gain(mine, 0.3).round(6).tolist()  # twice GRPO's mean
        (2, 2.0)
    """

    success: Float[Array, "... counts"]
    failure: Float[Array, "... counts"]

    def __post_init__(self) -> None:
        """Check the arrays and keep read-only copies."""
        for name in ("success", "failure"):
            array = numbers(name, getattr(self, name))
            if array.ndim == 0 or array.shape[-1] < 2:
                raise ValueError(
                    f"{name} must have G+1 entries along its last axis, at least 2, "
                    f"got shape {array.shape}"
                )
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.success.shape != self.failure.shape:
            raise ValueError(
                "success and failure must have the same shape, got "
                f"{self.success.shape} and {self.failure.shape}"
            )

    @property
    def group_size(self) -> int:
        """The number G of outputs in a group."""
        return self.success.shape[-1] - 1


def vanilla(group_size: int) -> GroupAdvantages:
    """No baseline: a₁ = 1, a₀ = 0.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> advantages = binary.vanilla(2)
        >>> advantages.success.tolist()  # with k = 0, 1, 2 successes
        [1.0, 1.0, 1.0]
    """
    return baseline(group_size, 0.0)


def baseline(group_size: int, level: ArrayLike) -> GroupAdvantages:
    """A baseline that ignores the outputs: a₁ = 1 − b, a₀ = −b.

    Args:
        group_size: G.
        level: b, one number or one a prompt, shape (P,); V(x) for the oracle.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> advantages = binary.baseline(2, level=0.25)
        >>> advantages.success.tolist(), advantages.failure.tolist()  # with k = 0, 1, 2 successes
        ([0.75, 0.75, 0.75], [-0.25, -0.25, -0.25])
    """
    size = integer("group_size", group_size)
    failure = np.broadcast_to(-numbers("level", level)[..., None], _rows(level, size))
    return GroupAdvantages(1 + failure, failure)


def grpo(group_size: int) -> GroupAdvantages:
    """The mean of the others: a₁ = (G−k)/(G−1), a₀ = −k/(G−1).

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> advantages = binary.grpo(3)
        >>> advantages.success[1:].tolist()  # of one success among three, of two, of three
        [1.0, 0.5, 0.0]
        >>> advantages.failure[1:3].tolist()  # of a failure beside one and beside two successes
        [-0.5, -1.0]
    """
    return shrinkage(group_size, weight=0.0)


def group_mean(group_size: int) -> GroupAdvantages:
    """The mean of the whole group: a₁ = 1 − k/G, a₀ = −k/G.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> advantages = binary.group_mean(4)
        >>> advantages.success[1:].tolist()  # of one success among four, of two, of three, of four
        [0.75, 0.5, 0.25, 0.0]
    """
    size = leave_one_out_group_size(group_size)
    mean = np.arange(size + 1) / size
    return GroupAdvantages(1 - mean, -mean)


def shrinkage(group_size: int, *, weight: float, target: ArrayLike = 0.0) -> GroupAdvantages:
    """The baseline (1−λ)Z̄⁽⁻ⁱ⁾ + λc: a₁ = 1 − (1−λ)(k−1)/(G−1) − λc, a₀ = −(1−λ)k/(G−1) − λc.

    Args:
        group_size: G, at least 2.
        weight: λ.
        target: c, one number or one a prompt, shape (P,); free of the group.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> advantages = binary.shrinkage(3, weight=0.5, target=1.0)
        >>> advantages.success[1:].tolist()  # half of GRPO's 1, ½, 0, and half of 1 − 1
        [0.5, 0.25, 0.0]
    """
    size = leave_one_out_group_size(group_size)
    shift = real("weight", weight) * numbers("target", target)[..., None]
    count = np.arange(size + 1)
    kept = (1 - weight) / (size - 1)
    return GroupAdvantages(1 - kept * (count - 1) - shift, -kept * count - shift)


def std_normalised(group_size: int, *, eps: float = 1e-4, ddof: int = 1) -> GroupAdvantages:
    """The group mean over the group's deviation: a₁ = (1 − k/G)/(se + eps), a₀ = −(k/G)/(se + eps).

    se² = k(G−k)/(G(G−ddof)). What trainers call GRPO.

    Args:
        group_size: G, at least 2.
        eps: added to the deviation, in units of reward.
        ddof: 1 divides the sum of squares by G − 1, 0 by G.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> advantages = binary.std_normalised(4, eps=0.0)
        >>> advantages.success[1:].round(3).tolist()  # one success stands out the most
        [1.5, 0.866, 0.5, 0.0]
    """
    centred = group_mean(group_size)
    divisor = _deviation(centred.group_size, eps, ddof)
    return GroupAdvantages(centred.success / divisor, centred.failure / divisor)


def leave_one_out_normalised(
    group_size: int, *, eps: float = 0.0, ddof: int = 1
) -> GroupAdvantages:
    """The mean of the others over the group's deviation, the paper's form: G/(G−1) times the above.

    Args:
        group_size: G, at least 2.
        eps: added to the deviation, in units of reward.
        ddof: 1 divides the sum of squares by G − 1, 0 by G.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> advantages = binary.leave_one_out_normalised(4)
        >>> advantages.success[1:].round(3).tolist()  # at most √G
        [2.0, 1.155, 0.667, 0.0]
    """
    centred = grpo(group_size)
    divisor = _deviation(centred.group_size, eps, ddof)
    return GroupAdvantages(centred.success / divisor, centred.failure / divisor)


def sign(group_size: int) -> GroupAdvantages:
    """The sign of Z − Z̄: a₁ = 1, a₀ = −1, and 0 in a group of equal rewards.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> advantages = binary.sign(3)
        >>> advantages.success[1:].tolist(), advantages.failure[:3].tolist()
        ([1.0, 1.0, 0.0], [0.0, -1.0, -1.0])
    """
    size = leave_one_out_group_size(group_size)
    return drop_equal_groups(GroupAdvantages(np.ones(size + 1), -np.ones(size + 1)))


def pass_at_k(group_size: int, k: int) -> GroupAdvantages:
    """GRPO's advantage times k times the chance that k − 1 of the others all fail.

    a₁ = k·C(G−n, k−1)/C(G−1, k−1)·(G−n)/(G−1) at n successes and
    a₀ = −k·C(G−1−n, k−1)/C(G−1, k−1)·n/(G−1), so that φ_G = k(1−p)^(k−1): E ĝ is the gradient of
    pass@k, 1 − (1−V)^k, at every G.

    Args:
        group_size: G, at least 2.
        k: number of attempts, at most G.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> p = 0.2
        >>> binary.gain(binary.pass_at_k(8, k=2), p).round(6).tolist(), round(2 * (1 - p), 6)
        (1.6, 1.6)

    Reference:
        Walder & Karkhanis, Pass@K policy optimization (arXiv 2505.15201).
    """
    centred = grpo(group_size)
    size = centred.group_size
    if not integer("k", k) <= size:
        raise ValueError(f"k must be at most group_size = {size}, got {k}")
    failures = size - 1 - np.arange(size - 1)  # among the others, of whom j succeed
    steps = np.maximum(failures - (k - 1), 0) / failures  # from j successes to j + 1
    weight = k * np.append(1.0, np.cumprod(steps))
    return GroupAdvantages(
        np.append(0.0, weight * centred.success[1:]), np.append(weight * centred.failure[:-1], 0.0)
    )


def best_of_group(group_size: int, *, eps: float | None = 1e-6, ddof: int = 1) -> GroupAdvantages:
    """The lead of the best output: a₁(1) = 1/(se + eps), all else 0, since equals have no lead.

    Args:
        group_size: G, at least 2.
        eps: added to the deviation, in units of reward; None does not divide.
        ddof: 1 divides the sum of squares by G − 1, 0 by G.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> advantages = binary.best_of_group(4, eps=None)
        >>> advantages.success[1:].tolist()  # of two successes neither has a lead
        [1.0, 0.0, 0.0, 0.0]

    Reference:
        verl's `grpo_passk` (arXiv 2503.19595).
    """
    size = leave_one_out_group_size(group_size)
    lead = np.arange(size + 1) == 1
    divisor = 1.0 if eps is None else _deviation(size, eps, ddof)
    return GroupAdvantages(lead / divisor, np.zeros(size + 1))


def drop_equal_groups(advantages: GroupAdvantages) -> GroupAdvantages:
    """Advantages that vanish in groups of equal rewards: a₁(G) = a₀(0) = 0.

    Examples:
        >>> from ustat_grpo.laws import binary
        >>> advantages = binary.drop_equal_groups(binary.vanilla(3))
        >>> advantages.success[1:].tolist()  # 1, but 0 where all succeed
        [1.0, 1.0, 0.0]
    """
    success, failure = advantages.success.copy(), advantages.failure.copy()
    success[..., -1] = failure[..., 0] = 0.0
    return GroupAdvantages(success, failure)


def _rows(level: ArrayLike, size: int) -> tuple[int, ...]:
    return (*np.shape(level), size + 1)


def _deviation(size: int, eps: float, ddof: int) -> Array:
    """Return se + eps for every number of successes, ∞ where all rewards are equal."""
    if real("eps", eps) < 0:
        raise ValueError(f"eps must not be negative, got {eps!r}")
    if integer("ddof", ddof, at_least=0) > 1:
        raise ValueError(f"ddof must be 0 or 1, got {ddof!r}")
    count = np.arange(size + 1)
    deviation = np.sqrt(count * (size - count) / (size * (size - ddof)))
    return np.where(deviation > 0, deviation + eps, np.inf)
