"""What the ascent loop works out of a prompt at θ: its policy, its cells, its value.

Everything is written so that a processor works on several actions at a time, the exponential too.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

_LOG2_E = 1 / math.log(2.0)
_LN_2_HIGH, _LN_2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # n·high is exact
_C = tuple(1 / math.factorial(k) for k in range(13))
_POWERS_OF_TWO = np.ldexp(1.0, np.arange(-1074, 1))


class BanditTables(NamedTuple):
    """A bandit laid out for the loop: P prompts, K actions, L reward levels, C padded cells."""

    prompt_probs: NDArray[np.float64]  # (P,)
    prompt_aliases: NDArray[np.uint64]  # (1, padded P)
    features: NDArray[np.float64]  # (P, K, d); (0, 0, 0) for one-hot features
    offsets: NDArray[np.float64]  # (P, K)
    levels: NDArray[np.float64]  # (L,)
    reward_cdf: NDArray[np.float64]  # (P, K, L): P(Z ≤ level∣x, y), levels in their own order
    cell_actions: NDArray[np.int64]  # (C,)
    cell_levels: NDArray[np.int64]  # (C,)
    mean_reward: NDArray[np.float64]  # (P, K)


class RunState(NamedTuple):
    """Memory of one thread, for one run at a time."""

    theta: NDArray[np.float64]  # (d,)
    prompts: NDArray[np.int64]  # (B,)
    order: NDArray[np.int64]  # (P,): the prompts of an epoch
    position: NDArray[np.int64]  # (2,): prompts of the epoch that are spent, number of the epoch
    seen: NDArray[np.int64]  # (P,): iteration at which the prompt's row was worked out
    drawn: NDArray[np.int64]  # (P,): the distinct prompts of the minibatch, one after the other
    probs: NDArray[np.float64]  # (P, K): π
    cells: NDArray[np.float64]  # (P, C): cumulative probabilities of action·L + level, then 2
    known: NDArray[np.float64]  # (P,): what V and b* add to the advantages
    weights: NDArray[np.float64]  # (P, K): Σ of advantages by action; zeros between iterations
    uniform: NDArray[np.float64]  # (B·G,): of each output, group by group
    row: NDArray[np.int64]  # (B·G,): where the cells of its prompt begin
    cell: NDArray[np.int64]  # (B·G,)
    advantages: NDArray[np.float64]  # (L,)


@njit(inline="always")
def set_policy(tables, theta, probs, prompt):
    """Fill π(·∣x)."""
    num_actions = len(probs)
    if tables.features.shape[0] == 0:
        first = np.uint64(prompt * num_actions)
        for y in range(num_actions):
            probs[y] = tables.offsets[prompt, y] + theta[first + np.uint64(y)]
    else:
        for y in range(num_actions):
            logit = tables.offsets[prompt, y]
            for j in range(len(theta)):
                logit += tables.features[prompt, y, j] * theta[j]
            probs[y] = logit
    largest = -np.inf
    for y in range(num_actions):
        largest = max(largest, probs[y])
    for y in range(num_actions):
        probs[y] = exp_of_negative(probs[y] - largest)
    total = 0.0
    for y in range(num_actions):
        total += probs[y]
    scale = 1.0 / total
    for y in range(num_actions):
        probs[y] *= scale


@njit(inline="always")
def exp_of_negative(x):
    """e^x for x ≤ 0, in operations that compilers do in lanes; e⁻⁷⁰⁰, or nothing, below −700.

    x = n·ln 2 + r with ∣r∣ ≤ ½ ln 2: a look-up gives 2ⁿ, Taylor's polynomial e^r to 1e-16.
    """
    x = max(x, -700.0)
    n = np.floor(x * _LOG2_E + 0.5)
    r = (x - n * _LN_2_HIGH) - n * _LN_2_LOW
    high = _C[7] + r * (_C[8] + r * (_C[9] + r * (_C[10] + r * (_C[11] + r * _C[12]))))
    low = 1.0 + r * (
        1.0 + r * (_C[2] + r * (_C[3] + r * (_C[4] + r * (_C[5] + r * (_C[6] + r * high)))))
    )
    return low * _POWERS_OF_TWO[np.uint64(np.int64(n) + 1074)]


@njit(inline="always")
def set_cells(tables, probs, cells, prompt):
    """Fill the cumulative probabilities of the cells of a prompt."""
    num_levels = len(tables.levels)
    reached = 0.0
    for y in range(len(probs)):
        for level in range(num_levels):
            cells[y * num_levels + level] = reached + probs[y] * tables.reward_cdf[prompt, y, level]
        reached += probs[y]
    cells[len(probs) * num_levels - 1] = 2.0  # no rounding leaves the last cell's end below 1


@njit(inline="always")
def set_known(tables, rule, state, prompt):
    """Work out what V(x) and b*(x) = E[‖W‖²Z]/E[‖W‖²] add to the advantages of a prompt."""
    probs = state.probs[prompt]
    value = 0.0
    if rule.value != 0.0 or rule.optimal_baseline != 0.0:
        for y in range(len(probs)):
            value += probs[y] * tables.mean_reward[prompt, y]
    state.known[prompt] = rule.value * value
    if rule.optimal_baseline != 0.0:
        norms, product = 0.0, 0.0
        for y in range(len(probs)):
            share = probs[y] * _score_norm(tables, state, prompt, y)
            norms += share
            product += share * tables.mean_reward[prompt, y]
        best = product / norms if norms > 0.0 else value
        state.known[prompt] += rule.optimal_baseline * best


@njit(inline="always")
def _score_norm(tables, state, prompt, action):
    """‖W(x, y)‖², W = φ(x, y) − Σ_k π(k∣x) φ(x, k)."""
    probs = state.probs[prompt]
    norm = 0.0
    if tables.features.shape[0] == 0:
        for y in range(len(probs)):
            score = (1.0 if y == action else 0.0) - probs[y]
            norm += score * score
        return norm
    for j in range(len(state.theta)):
        score = tables.features[prompt, action, j]
        for y in range(len(probs)):
            score -= probs[y] * tables.features[prompt, y, j]
        norm += score * score
    return norm


@njit(inline="always")
def objective_of(tables, state):
    """J(θ) = Σ f(x) V(x). Leaves another policy in `probs`: the rows are worked out anew later."""
    objective = 0.0
    for prompt in range(len(tables.prompt_probs)):
        probs = state.probs[prompt]
        set_policy(tables, state.theta, probs, prompt)
        value = 0.0
        for y in range(len(probs)):
            value += probs[y] * tables.mean_reward[prompt, y]
        objective += tables.prompt_probs[prompt] * value
    return objective
