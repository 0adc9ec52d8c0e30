"""What an estimator does to the rewards of a group, read off its answers, for compiled loops."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ustat_grpo.estimators import Estimator, SideInformation

Array = NDArray[np.float64]

_COUNTS_CHECKED = 65


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
        ValueError: if the estimator refuses the group size, or is neither affine in rewards, V and
            b* nor, with two reward levels, a function of how many outputs have each.
    """
    ask = _Asked(estimator, group_size)
    nothing = np.zeros(group_size)
    first = nothing.copy()
    first[0] = 1.0
    constant = ask(nothing)[0]
    response = ask(first) - constant
    rule = AdvantageRule(
        own=float(response[0]),
        other=float(response[-1]) if group_size > 1 else 0.0,
        constant=float(constant),
        value=float(ask(nothing, value=1.0)[0] - constant),
        optimal_baseline=float(ask(nothing, best=1.0)[0] - constant),
        tabulated=np.empty((0, 2)),
    )
    if _holds(rule, ask, reward_levels):
        return rule
    rule = rule._replace(tabulated=_table(ask, reward_levels))
    if len(reward_levels) == 2 and _holds(rule, ask, reward_levels):
        return rule
    raise ValueError(
        "estimator must be affine in the rewards, or depend on 0/1 rewards through their number "
        f"only, for many runs at once, got {estimator!r}"
    )


class _Asked:
    """An estimator with its group size."""

    def __init__(self, estimator: Estimator, group_size: int) -> None:
        self.estimator, self.group_size = estimator, group_size

    def __call__(self, rewards: Array, value: float = 0.0, best: float = 0.0) -> Array:
        side = SideInformation(np.array([value]), np.array([best]))
        answer = self.estimator.advantages(rewards[None], side)
        return np.asarray(answer, dtype=float)[0]


def _table(ask: _Asked, levels: Array) -> Array:
    """The advantages of both levels for each number k of outputs that have the second."""
    size = ask.group_size
    table = np.zeros((size + 1, 2))
    for count in range(size + 1):
        answer = ask(_with_count(size, count, levels))
        table[count] = answer[-1], answer[0]
    return table


def _with_count(size: int, count: int, levels: Array) -> Array:
    """Rewards of which the first `count` have the second level."""
    return np.where(np.arange(size) < count, levels[-1], levels[0])


def _holds(rule: AdvantageRule, ask: _Asked, levels: Array) -> bool:
    """Compare with answers to irregular, mixed and equal rewards, in another order too."""
    size = ask.group_size
    irregular = np.sin(np.arange(1.0, size + 1))
    mixed = levels[(np.abs(irregular) * 1e6).astype(int) % len(levels)]
    cases = [mixed, mixed[::-1].copy(), *(np.full(size, level) for level in levels)]
    if len(levels) == 2:  # a table is right for each count by construction, in this order
        counts = np.unique(np.linspace(0, size, _COUNTS_CHECKED).astype(int))
        cases += [_with_count(size, count, levels)[::-1].copy() for count in counts]
    if len(rule.tabulated) == 0:
        cases.append(irregular)
    sides = (0.0, 0.0), (0.3, -0.7), (1.1, 0.4)
    return all(
        np.allclose(
            ask(rewards, *side), _predicted(rule, rewards, *side, levels), rtol=1e-12, atol=1e-12
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
    others = rewards.sum() - rewards
    return rule.own * rewards + rule.other * others + rule.constant + known
