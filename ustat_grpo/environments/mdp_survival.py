"""How to stay in an episode: who survives meets what first shows late, a wrapper's limit say."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ustat_grpo.inputs.checks import ROUNDING

_STEPS_AHEAD = 200
"""The chance of surviving so many further steps orders actions as that of many more does."""


def surviving_actions(
    table: Mapping[tuple[int, int], Mapping[tuple[int, float, bool], float]],
) -> list[NDArray[np.int64]]:
    """Return for each state the actions after which an episode is likeliest to last.

    By value iteration: v(s) = max_a Σ p(s', no end | s, a) v(s'), normalised to max v = 1.

    Args:
        table: of each state and action, the probability of each next state, reward and end.
    """
    num_states, num_actions = (1 + max(place) for place in zip(*table, strict=True))
    rows = [
        (state, action, outcome[0], probability)
        for (state, action), outcomes in table.items()
        for outcome, probability in outcomes.items()
        if not outcome[2]
    ]
    lasting = np.zeros((num_states, num_actions))
    if rows:
        states, actions, following, probs = (np.array(column) for column in zip(*rows, strict=True))
        value = np.ones(num_states)
        for _ in range(_STEPS_AHEAD):
            lasting[:] = 0.0
            np.add.at(lasting, (states, actions), probs * value[following])
            value = lasting.max(axis=1)
            if value.max() == 0:
                break
            value /= value.max()
    best = lasting >= (1 - ROUNDING) * lasting.max(axis=1, keepdims=True)
    return [np.flatnonzero(row) for row in best]
