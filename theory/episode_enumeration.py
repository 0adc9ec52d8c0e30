"""Every episode of a small MDP, with probability, score and return; no recursion of moments."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from theory.enumeration import Outcomes
from ustat_grpo.environments.mdp import TabularMdp
from ustat_grpo.inputs.arrays import Array


@dataclass(frozen=True, eq=False)
class Episodes:
    """All episodes from one start under a tabular softmax policy; those alike are one.

    Args:
        visits: how often each passes every (state, action), shape (C, S, A).
        returns: Z, shape (C,).
        probs: positive, shape (C,), summing to one.
        policy: π(a∣s), shape (S, A).
    """

    visits: Float[Array, "C S A"]
    returns: Float[Array, " C"]
    probs: Float[Array, " C"]
    policy: Float[Array, "S A"]

    @property
    def scores(self) -> Float[Array, "C d"]:
        """W = Σ_t (e_{s_t a_t} − Σ_a π(a∣s_t) e_{s_t a}), shape (C, S·A)."""
        centred = self.visits - self.visits.sum(axis=2, keepdims=True) * self.policy
        return centred.reshape(len(self.returns), -1)

    @property
    def step_norms(self) -> Float[Array, " C"]:
        """Σ_t ‖w_t‖² of each episode, ‖w(s, a)‖² = 1 − 2π(a∣s) + Σ_b π(b∣s)²."""
        squares = np.sum(self.policy**2, axis=1, keepdims=True)
        return np.einsum("csa,sa->c", self.visits, 1 - 2 * self.policy + squares)

    @property
    def outcomes(self) -> Outcomes:
        """The episodes as outputs of a prompt."""
        return Outcomes(self.scores, self.returns, self.probs)

    def moments(self) -> tuple[float, Array, Array, Array]:
        """E Z, and with A = Z − E Z: E[Aᵏ], E[WAᵏ] and E[‖W‖²Aᵏ], each for k = 0, 1, 2."""
        value = float(self.probs @ self.returns)
        weights = self.probs * (self.returns - value) ** np.arange(3)[:, None]
        norms = np.sum(self.scores**2, axis=1)
        return value, weights.sum(axis=1), weights @ self.scores, weights @ norms


def every_episode(mdp: TabularMdp, policy: Float[Array, "S A"], start: int) -> Episodes:
    """Follow every action and every outcome to the end of the episode.

    Args:
        mdp: with a short horizon.
        policy: π(a∣s), shape (S, A).
        start: the first state.
    """
    found: dict[tuple[tuple[int, ...], float], float] = defaultdict(float)

    def follow(state: int, time: int, visits: tuple[int, ...], total: float, prob: float) -> None:
        for action, chance in enumerate(policy[state]):
            pair = state * len(policy[state]) + action
            passed = (*visits[:pair], visits[pair] + 1, *visits[pair + 1 :])
            for outcome in np.flatnonzero(mdp.probs[state, action]):
                reached = total + mdp.discount**time * mdp.rewards[state, action, outcome]
                joint = prob * chance * mdp.probs[state, action, outcome]
                if mdp.terminated[state, action, outcome] or time + 1 == mdp.horizon:
                    found[passed, reached] += joint
                else:
                    ahead = int(mdp.next_state[state, action, outcome])
                    follow(ahead, time + 1, passed, reached, joint)

    follow(start, 0, (0,) * policy.size, 0.0, 1.0)
    visits = np.array([key[0] for key in found], dtype=float)
    returns = np.array([key[1] for key in found])
    shape = len(found), *policy.shape
    return Episodes(visits.reshape(shape), returns, np.array(list(found.values())), policy)
