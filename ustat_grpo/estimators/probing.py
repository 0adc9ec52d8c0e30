"""What an estimator does to the rewards of a group, read off its answers, for compiled loops.

There are two readings, which probe with the same rewards. They differ in what is known of V and b*:

- `affine_form` is for one θ. V(x) and b*(x) are given, so the part of an advantage that the rewards
  do not change may depend on them in any way, and is kept as a number for each prompt.
- `advantage_rule` is for every θ on the way of a run, which changes V and b*. Its coefficients must
  not depend on them, so that the part that rewards do not change has to be affine in V and b*.
  Where rewards have two levels it also takes what is not affine in them, as a table.

Either would refuse what the other takes: an advantage of Z − V² has a form, and no rule; GRPO's
with the standard deviation has a rule at 0/1 rewards, and no form.
"""

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ustat_grpo.estimators import Estimator, SideInformation
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import integer

_COUNTS_CHECKED = 65

_OUR_ROOM = "ustat_grpo.estimators."

_BATCH = 4
"""Groups in a batch when an estimator is asked whether it looks at others: three others are enough
for a mean, a variance, and a leave-one-out of either."""


class AdvantageRule(NamedTuple):
    """A_i = own·Z_i + other·Σ_{j≠i} Z_j + constant + value·V(x) + optimal_baseline·b*(x).

    For rewards of two levels, an estimator that is not affine has its answers tabulated instead.
    """

    own: float
    other: float
    constant: float
    value: float
    optimal_baseline: float
    tabulated: Array  # (G+1, 2): advantage of each level when k outputs have the second; or (0, 2)


def advantage_rule(estimator: Estimator, group_size: int, reward_levels: Array) -> AdvantageRule:
    """Read the rule off an estimator's answers, and check it on further ones.

    Raises:
        ValueError: if the estimator refuses the group size, looks at other groups or at more than
            V and b*, or is neither affine in rewards, V and b* nor, with two reward levels, a
            function of how many outputs have each.
    """
    rule = _remembered(_advantage_rule, estimator, group_size, reward_levels)
    return rule._replace(tabulated=rule.tabulated.copy())


class AffineForm(NamedTuple):
    """A_i = own·Z_i + other·Σ_{j≠i} Z_j + shift(x), at given V and b*."""

    own: float
    other: float
    shift: Array  # (P,)


def affine_form(
    estimator: Estimator, group_size: int, reward_levels: Array, value: Array, best: Array
) -> AffineForm | None:
    """Read the coefficients off an estimator's answers, or return None if it is not affine.

    Two probes give the coefficients. They must then hold, at prompts from the least value to the
    largest, for irregular rewards and for rewards of the problem itself, mixed and all equal, which
    some estimators treat apart. An estimator that looks beyond the group is none either.

    Args:
        estimator: what is read.
        group_size: G.
        reward_levels: the rewards of the problem, shape (L,).
        value: V(x), shape (P,).
        best: b*(x), shape (P,).

    Raises:
        ValueError: if the estimator refuses the group size.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Oracle
        >>> from ustat_grpo.estimators.probing import affine_form
        >>> value = np.array([0.25, 0.5])
        >>> form = affine_form(Oracle(), 4, np.array([0.0, 1.0]), value, best=value)
        >>> form.own, form.other, form.shift.tolist()  # A_i = Z_i − V(x)
        (1.0, 0.0, [-0.25, -0.5])
    """
    if looks_beyond_group(estimator, group_size, reward_levels):
        return None
    nothing = np.zeros((len(value), group_size))
    shift = estimator.advantages(nothing, neutral_side(value, best, group_size))[:, 0]
    few = np.argsort(value)[np.linspace(0, len(value) - 1, min(len(value), 8)).astype(int)]
    side = neutral_side(value[few], best[few], group_size)
    first = np.zeros((len(few), group_size))
    first[:, 0] = 1.0
    response = estimator.advantages(first, side)[0] - shift[few[0]]
    form = AffineForm(*_own_and_other(response), shift)
    for rewards in (*_with_levels(first.shape, reward_levels), _irregular(first.shape)):
        try:
            obtained = estimator.advantages(rewards, side)
        except ValueError:  # some take no rewards but 0 and 1
            return None
        predicted = _affine(form, rewards) + shift[few, None]
        if not np.allclose(obtained, predicted, rtol=1e-12, atol=1e-12):
            return None
    return form


def _own_and_other(response: Array) -> tuple[float, float]:
    """Return what a reward of 1 for the first output does to its advantage, and to the others'."""
    return float(response[0]), float(response[-1]) if len(response) > 1 else 0.0


def _affine(form: AffineForm | AdvantageRule, rewards: Array) -> Array:
    """Return own·Z_i + other·Σ_{j≠i} Z_j; groups lie along the last axis."""
    others = rewards.sum(axis=-1, keepdims=True) - rewards
    return form.own * rewards + form.other * others


def _irregular(shape: tuple[int, ...]) -> Array:
    """Rewards between −1 and 1 in no order."""
    return np.sin(np.arange(1.0, math.prod(shape) + 1)).reshape(shape)


def _with_levels(shape: tuple[int, ...], levels: Array) -> list[Array]:
    """Rewards of the problem itself: mixed, and all equal, which some estimators treat apart."""
    return [_mixed(_irregular(shape), levels), *(np.full(shape, level) for level in levels)]


def _advantage_rule(estimator: Estimator, group_size: int, reward_levels: Array) -> AdvantageRule:
    if looks_beyond_group(estimator, group_size, reward_levels):
        raise ValueError(
            "estimator must look at one group at a time, and at no more than its rewards, V and "
            f"b*, for many runs at once, got {estimator!r}"
        )
    probe = _Probe(estimator, group_size)
    nothing = np.zeros(group_size)
    first = nothing.copy()
    first[0] = 1.0
    constant = probe(nothing)[0]
    response = probe(first) - constant
    own, other = _own_and_other(response)
    rule = AdvantageRule(
        own=own,
        other=other,
        constant=float(constant),
        value=float(probe(nothing, value=1.0)[0] - constant),
        optimal_baseline=float(probe(nothing, best=1.0)[0] - constant),
        tabulated=np.empty((0, 2)),
    )
    if _holds(rule, probe, reward_levels):
        return rule
    rule = rule._replace(tabulated=_table(probe, reward_levels))
    if len(reward_levels) == 2 and _holds(rule, probe, reward_levels):
        return rule
    raise ValueError(
        "estimator must be affine in the rewards, or depend on 0/1 rewards through their number "
        f"only, for many runs at once, got {estimator!r}"
    )


def tabulate(estimator: Estimator, group_size: int) -> Array:
    """Return the advantages of failures and of successes, by the number k of successes.

    The estimator's own answers for 0/1 rewards, which `laws.binary` takes as they are.

    Args:
        estimator: must look at one group at a time, and need no side information.
        group_size: G.

    Returns:
        Shape (G+1, 2): a₀(k) in column 0, a₁(k) in column 1; 0 where no such output exists, which
        is a₁(0) and a₀(G).

    Raises:
        ValueError: if the estimator refuses the group size, or looks at the order of outputs, at
            other groups or at side information.

    Examples:
        >>> from ustat_grpo import Grpo
        >>> from ustat_grpo.estimators.probing import tabulate
        >>> tabulate(Grpo(), group_size=2).tolist()  # with k = 0, 1, 2 successes
        [[0.0, 0.0], [-1.0, 1.0], [0.0, 0.0]]
    """
    size = integer("group_size", group_size)
    levels = np.array([0.0, 1.0])
    rewards = np.array([_with_count(size, count, levels) for count in range(size + 1)])
    answers = np.asarray(estimator.advantages(rewards), dtype=float)
    if looks_beyond_group(estimator, size, levels):
        raise ValueError(f"estimator must look at one group at a time, got {estimator!r}")
    table = np.stack([answers[:, -1], answers[:, 0]], axis=-1)
    table[-1, 0] = table[0, 1] = 0.0
    for order in (slice(None), slice(None, None, -1), _irregular_order(size)):
        reordered = rewards[:, order]
        expected = np.take_along_axis(table, reordered.astype(int), axis=-1)
        if not np.allclose(estimator.advantages(reordered), expected, rtol=1e-12, atol=1e-12):
            raise ValueError(
                f"estimator must not look at the order of the outputs, got {estimator!r}"
            )
    return table


def looks_beyond_group(estimator: Estimator, group_size: int, reward_levels: Array) -> bool:
    """Return whether advantages in a group change with other groups, or with what is known of it.

    What is known of a group, other than V and b*, is ‖W‖² of its outputs and a greedy reward.
    """
    return _remembered(_looks_beyond_group, estimator, group_size, reward_levels)


def _looks_beyond_group(estimator: Estimator, group_size: int, reward_levels: Array) -> bool:
    shape = _BATCH, group_size
    irregular = np.abs(np.sin(np.arange(1.0, 2 * _BATCH * group_size + 1))).reshape(2, *shape)
    batches = _mixed(irregular, reward_levels)
    others = [batch[1:] for batch in (*batches, np.sort(batches[0], axis=None).reshape(shape))]
    others += [np.full((_BATCH - 1, group_size), level) for level in reward_levels]
    known = [neutral_side(np.zeros(_BATCH), np.zeros(_BATCH), group_size)]
    known += [
        replace(known[0], greedy_reward=each[:, 0], score_norm_squared=each) for each in irregular
    ]
    least = np.full(group_size, reward_levels[0])
    lone = np.where(np.arange(group_size) == 0, reward_levels[-1], least)
    cases = [(rest, known[0]) for rest in others] + [(others[0], side) for side in known[1:]]
    for group in (batches[0, 0], batches[1, 0], lone, least):
        answers = [
            np.asarray(estimator.advantages(np.concatenate([group[None], rest]), side))[0]
            for rest, side in cases
        ]
        if not all(np.allclose(each, answers[0], rtol=1e-12, atol=1e-12) for each in answers):
            return True
    return False


def _remembered(
    probe: Callable[[Estimator, int, Array], Any],
    estimator: Estimator,
    group_size: int,
    levels: Array,
) -> Any:
    """Return what a probe finds, from memory where it was found before.

    A probe asks an estimator hundreds of times, which takes longer than many a simulation. Only
    what cannot change is remembered: an estimator of another kind is probed at every call.
    """
    if not _is_constant(estimator) or levels.dtype != np.float64:
        return probe(estimator, group_size, levels)
    return _memory(probe, type(estimator).advantages, estimator, group_size, tuple(levels.tolist()))


@lru_cache(maxsize=256)
def _memory(
    probe: Callable[[Estimator, int, Array], Any],
    advantages: Callable[..., Array],  # which a class may get anew
    estimator: Estimator,
    group_size: int,
    levels: tuple[float, ...],
) -> Any:
    return probe(estimator, group_size, np.array(levels))


def _is_constant(part: object) -> bool:
    """Return whether a value is a number, a text, or an estimator of ours or tuple of such.

    Of ours only: the answers of a user's class may depend on more than the fields that make two of
    its instances equal, such as what a constructor computes, a file or an attribute of the class.
    """
    if isinstance(part, tuple):
        return all(map(_is_constant, part))
    if is_dataclass(part) and type(part).__module__.startswith(_OUR_ROOM):
        return all(_is_constant(getattr(part, each.name)) for each in fields(part))
    return part is None or isinstance(part, bool | int | float | str)


def neutral_side(value: Array, best: Array, group_size: int) -> SideInformation:
    """Return side information of prompts (P,) in which all scores are alike."""
    ones = np.ones((len(value), group_size))
    greedy = np.zeros(len(value))
    return SideInformation(value, best, greedy_reward=greedy, score_norm_squared=ones)


def _mixed(irregular: Array, levels: Array) -> Array:
    """Rewards of all levels in no order, from irregular numbers."""
    return levels[(np.abs(irregular) * 1e6).astype(int) % len(levels)]


def _irregular_order(size: int) -> NDArray[np.intp]:
    return np.argsort(np.sin(np.arange(1.0, size + 1)))


class _Probe:
    """An estimator with its group size."""

    def __init__(self, estimator: Estimator, group_size: int) -> None:
        self.estimator, self.group_size = estimator, group_size

    def __call__(self, rewards: Array, value: float = 0.0, best: float = 0.0) -> Array:
        side = neutral_side(np.array([value]), np.array([best]), self.group_size)
        answer = self.estimator.advantages(rewards[None], side)
        return np.asarray(answer, dtype=float)[0]

    def accepts(self, rewards: Array) -> bool:
        """Return whether the estimator has an answer at all."""
        try:
            self(rewards)
        except ValueError:
            return False
        return True


def _table(probe: _Probe, levels: Array) -> Array:
    """The advantages of both levels for each number k of outputs that have the second."""
    size = probe.group_size
    table = np.zeros((size + 1, 2))
    for count in range(size + 1):
        answer = probe(_with_count(size, count, levels))
        table[count] = answer[-1], answer[0]
    return table


def _with_count(size: int, count: int, levels: Array) -> Array:
    """Rewards of which the first `count` have the second level."""
    return np.where(np.arange(size) < count, levels[-1], levels[0])


def _holds(rule: AdvantageRule, probe: _Probe, levels: Array) -> bool:
    """Compare with answers to irregular, mixed and equal rewards, in another order too."""
    size = probe.group_size
    irregular = _irregular((size,))
    mixed, *equal = _with_levels((size,), levels)
    cases = [mixed, mixed[::-1].copy(), *equal]
    if len(levels) == 2:  # a table is right for each count by construction, in this order
        counts = np.unique(np.linspace(0, size, _COUNTS_CHECKED).astype(int))
        cases += [_with_count(size, count, levels)[::-1].copy() for count in counts]
    if len(rule.tabulated) == 0:
        if not probe.accepts(irregular):  # some take no rewards but 0 and 1
            return False
        cases.append(irregular)
    sides = (0.0, 0.0), (0.3, -0.7), (1.1, 0.4)
    return all(
        np.allclose(
            probe(rewards, *side), _predicted(rule, rewards, *side, levels), rtol=1e-12, atol=1e-12
        )
        for rewards in cases
        for side in sides
    )


def _predicted(
    rule: AdvantageRule, rewards: Array, value: float, best: float, levels: Array
) -> Array:
    known = rule.value * value + rule.optimal_baseline * best
    if len(rule.tabulated):
        second = rewards == levels[-1]
        return rule.tabulated[second.sum(), second.astype(int)] + known
    return _affine(rule, rewards) + rule.constant + known
