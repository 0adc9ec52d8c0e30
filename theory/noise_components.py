"""Theorem 7 (its inputs): c₁, c₂ and c₃ can be learned from three outputs a prompt, not from two.

**Statement.** Prompts x_b are drawn i.i.d., prompt b has M ≥ 3 outputs with n_i = ‖W_i‖², and ĝ_b
is GRPO's gradient of all of them, q = ‖ĝ_b‖². With means over distinct outputs i, j, k of a prompt,

    τ̂   = mean n_i (Z_i − Z_j)(Z_i − Z_k)           E τ̂ = τ
    ŝσ² = mean n_i (Z_j − Z_k)²/2                   E ŝσ² = sσ²
    γ   = (q − D/M)·M(M−1)/((M−1)² + 1)             E γ = ‖g(x)‖²,   D = mean n_i (Z_i − Z̄⁽⁻ⁱ⁾)²

and c₁ = mean γ − mean_{b≠c} ĝ_b·ĝ_c, c₂ = mean(τ̂ − γ), c₃ = mean(ŝσ² + γ) are unbiased. From M = 2
outputs a prompt, however many prompts, c₂ and c₃ cannot be learned apart: only c₁ and c₂ + c₃ can.

**Why.** Outputs are independent given the prompt. With A = Z − V, E n_i(A_i − A_j)(A_i − A_k) is
E n A² = τ, and E n_i(A_j − A_k)²/2 is sσ². Theorem 2 gives
E q = ‖g‖² + (τ − ‖g‖²)/M + (sσ² + ‖g‖²)/(M(M−1)). In D the terms j = k of (Z_i − Z̄⁽⁻ⁱ⁾)² are there,
too: D = τ̂ + ŝσ²/(M−1). So q − D/M, which is q without its diagonal, has expectation
‖g‖²(1 − 1/M + 1/(M(M−1))). Finally ĝ_b and ĝ_c are independent and unbiased for g(x_b) and g(x_c),
hence E ĝ_b·ĝ_c = ‖∇J‖².

**Two outputs.** Let Z be 1 with probability V(x) and W = ±√(1+Z)·u with a fair sign and a fixed
unit vector u. The law of two outputs to a random prompt depends on E V and E V² only, being of
degree 2 in V. But g(x) = 0, so c₂ = E τ = E[2V − 3V² + V³] and c₃ = E sσ² = E[V − V³]: two laws of
V with the same two moments and different third ones look the same and differ in c₂ and c₃. Their
sum is learned from pairs, as E n_i(Z_i − Z_j)² = τ + sσ².
"""

from collections.abc import Iterator
from itertools import permutations, product

import numpy as np

from theory.claims import ENUMERATION, IDENTITY, Claim, equal, refuted
from theory.enumeration import Outcomes, ordered_groups, outcomes
from theory.problems import random_problem, tiny_problems
from ustat_grpo import Grpo, Snapshot, gradient
from ustat_grpo.noise.components import prompt_statistics
from ustat_grpo.noise.groups import FlatGroups

ITEM = "Theorem 7 (its inputs)"
TITLE = "noise can be learned from three outputs a prompt, not from two"

Array = np.ndarray

_FIRST_WORLD = np.array([0.25, 0.75]), np.array([0.5, 0.5])
_SECOND_WORLD = np.array([1.0, 0.375]), np.array([0.2, 0.8])
"""Values V of two prompts and their chances: E V = 1/2 and E V² = 5/16 in both."""


def claims() -> Iterator[Claim]:
    """Yield unbiased moments and components, the closed form, and the two worlds."""
    problem = random_problem(23, num_actions=2, num_levels=2, dimension=2)
    yield from _of_prompts(problem)
    for number, tiny in enumerate(tiny_problems(), start=1):
        yield from _of_batches(tiny, number)
    yield _closed_form(outcomes(problem, 0))
    yield from _slips(problem)
    yield from _two_worlds()


def _of_prompts(problem: Snapshot) -> Iterator[Claim]:
    exact = np.stack(_exact(problem), axis=-1)
    for size in (3, 4):
        every = [_every_group(outcomes(problem, x), size) for x in (0, 1)]
        found = np.array([probs @ moments for probs, moments, _ in every])
        for name, left, right in zip(("τ", "sσ²", "‖g(x)‖²"), exact.T, found.T, strict=True):
            yield equal(f"{name} over every group of {size}", ENUMERATION, left, right)


def _exact(problem: Snapshot) -> tuple[Array, Array, Array]:
    moments = problem.moments
    spread = moments.score_norm_squared * moments.reward_variance
    return moments.oracle_norm_squared, spread, moments.gradient_norm_squared


def _every_group(possible: Outcomes, size: int) -> tuple[Array, Array, Array]:
    """Return the chance of every group, its (τ̂, ŝσ², γ), and its gradient."""
    members, probs = ordered_groups(possible.probs, size)
    scores, rewards = possible.scores[members], possible.rewards[members]
    gradients = gradient(Grpo(), scores, rewards)
    group = np.repeat(np.arange(len(probs)), size)
    found = prompt_statistics(
        FlatGroups(rewards.ravel(), group, np.full(len(probs), size)),
        np.sum(scores**2, axis=-1).ravel(),
        np.sum(gradients**2, axis=-1),
    )
    moments = found.oracle_norm_squared, found.spread, found.gradient_norm_squared
    return probs, np.stack(moments, axis=-1), gradients


def _of_batches(problem: Snapshot, number: int) -> Iterator[Claim]:
    """Sum over both prompts of a batch and both groups of three."""
    every = [_every_group(outcomes(problem, x), 3) for x in (0, 1)]
    found = np.zeros(3)
    for x, y in product((0, 1), repeat=2):
        (left, first, one), (right, second, other) = every[x], every[y]
        chance = problem.prompt_probs[x] * problem.prompt_probs[y] * np.outer(left, right)
        tau, spread, gamma = np.moveaxis((first[:, None] + second) / 2, -1, 0)
        noise = gamma - one @ other.T, tau - gamma, spread + gamma
        found += [np.sum(chance * each) for each in noise]
    noise = problem.noise
    exact = [noise.prompt, noise.oracle, noise.residual]
    yield equal(f"c₁, c₂, c₃ over every batch, problem {number}", ENUMERATION, exact, found)


def _closed_form(possible: Outcomes) -> Claim:
    """Compare τ̂ and ŝσ² with loops over distinct outputs, in a group of four."""
    cells = np.array([0, 3, 1, 2])
    rewards, norms = possible.rewards[cells], np.sum(possible.scores[cells] ** 2, axis=-1)
    groups = FlatGroups(rewards, np.zeros(4, dtype=np.int64), np.array([4]))
    found = prompt_statistics(groups, norms, np.zeros(1))
    triples = np.array(list(permutations(range(4), 3))).T
    (z, first, second), own = rewards[triples], norms[triples[0]]
    tau, spread = np.mean(own * (z - first) * (z - second)), np.mean(own * (first - second) ** 2)
    obtained = [found.oracle_norm_squared[0], found.spread[0]]
    return equal("τ̂ and ŝσ² as means over triples", IDENTITY, [tau, spread / 2], obtained)


def _slips(problem: Snapshot) -> Iterator[Claim]:
    probs, moments, gradients = _every_group(outcomes(problem, 0), 3)
    tau, spread, norm = (each[0] for each in _exact(problem))
    mean, squares = probs @ moments, probs @ np.sum(gradients**2, axis=-1)
    yield refuted("‖ĝ‖² is unbiased for ‖g(x)‖²", float(squares), norm)
    without = float(squares - (mean[0] + mean[1] / 2) / 3)
    yield refuted("‖ĝ‖² without its diagonal is unbiased for ‖g(x)‖²", without, norm)
    yield refuted("D is unbiased for τ", tau + spread / 2, tau)


def _two_worlds() -> Iterator[Claim]:
    expected, obtained = (_law_of_pairs(*world) for world in (_FIRST_WORLD, _SECOND_WORLD))
    yield equal("two worlds, one law of pairs of outputs", ENUMERATION, expected, obtained)
    first, second = (_world_noise(*world) for world in (_FIRST_WORLD, _SECOND_WORLD))
    yield equal("two worlds, one c₂ + c₃", ENUMERATION, sum(first), sum(second))
    yield refuted("pairs of outputs determine c₂", first[0], second[0])
    yield refuted("pairs of outputs determine c₃", first[1], second[1])


def _law_of_pairs(values: Array, probs: Array) -> Array:
    """Return the chance of each pair of (Z, sign), which is all there is to an output."""
    chances = np.stack([1 - values, values])
    outputs = list(product((0, 1), (-1, 1)))
    return np.array(
        [
            probs @ (chances[z] * chances[other]) / 4
            for (z, _), (other, _) in product(outputs, outputs)
        ]
    )


def _world_noise(values: Array, probs: Array) -> tuple[float, float]:
    """Return c₂ and c₃ by sums over outputs; g(x) = 0 since signs are fair."""
    rewards, chances = np.array([[0.0], [1.0]]), np.stack([1 - values, values])
    norms = 1 + rewards
    tau = np.sum(chances * norms * (rewards - values) ** 2, axis=0)
    spread = np.sum(chances * norms, axis=0) * values * (1 - values)
    return float(probs @ tau), float(probs @ spread)
