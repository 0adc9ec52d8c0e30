"""Episodes as outputs: all laws hold, and their moments follow from a recursion.

**Statement.** Let a prompt be a start state x of a finite MDP with time limit T and stationary
policy π_θ, an output an episode, its reward the return Z = Σ_t γᵗ r_t, its score W = Σ_t w_t with
w_t = ∇ log π_θ(a_t∣s_t). Then E W = 0 and g(x) = E[WZ] = ∇E[Z∣x], so Theorem 2 and
Proposition 3 hold as they are, with s = E‖W‖², τ = E‖W‖²A², m = E‖W‖²A. With h steps to go,
A = Z − V_h(s), W′, Z′ and A′ for what follows the first of them (0 after an end) and
δ = r + γV_{h−1}(s′) − V_h(s), W = w + W′, A = δ + γA′ and

    E[A²∣s, a]     = E[δ² + γ²E[A′²∣s′]]
    E[WAᵏ∣s, a]    = w E[Aᵏ∣s, a] + Σ_j C(k, j) γʲ E[δᵏ⁻ʲ E[W′A′ʲ∣s′]]
    E[‖W‖²Aᵏ∣s, a] = ‖w‖² E[Aᵏ∣s, a] + Σ_j C(k, j) γʲ E[δᵏ⁻ʲ (2w·E[W′A′ʲ∣s′] + E[‖W′‖²A′ʲ∣s′])].

In particular E‖W‖² = E Σ_t ‖w_t‖², which grows like the length of an episode, and no square of a
return is taken: what all returns have in common cancels in δ.

**Why.** The probability of an episode is a product of π_θ(a_t∣s_t) and of factors without θ, so its
logarithm has the gradient W: an episode is an output of a policy like any other, which is all that
the laws use. For the recursion expand (δ + γA′)ᵏ and ‖w + W′‖²; given s′ the rest of the episode
does not depend on what came before, for π_θ looks at neither time nor past. E[w_t∣s_t] = 0 makes
Σ w_t a martingale: cross terms w_t·w_u vanish in the mean. With the return as a factor they stay.

**Note.** γ discounts the return only. Trainers that weigh the score of step t by its own
reward-to-go are another estimator, with other moments.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np

from theory.claims import ENUMERATION, Claim, equal, refuted
from theory.enumeration import gradient_distribution
from theory.episode_enumeration import Episodes, every_episode
from theory.group_error import CASES
from ustat_grpo.environments.mdp import TabularMdp, frozen_lake
from ustat_grpo.environments.mdp_moments import MdpSnapshot, episode_moments, snapshot
from ustat_grpo.environments.policies import action_probs, tabular_softmax
from ustat_grpo.laws import mse

ITEM = "Beyond the paper (episodes)"
TITLE = "whole episodes as outputs: the same laws, moments by recursion"


def claims() -> Iterator[Claim]:
    """Yield moments against every episode, errors against every pair, and two wrong formulas."""
    for name, mdp in _problems().items():
        yield from _moments(name, mdp)
    yield from _parts(frozen_lake(["SF", "FG"], horizon=3))
    yield from _errors()
    yield from _wrong_formulas()


def _problems() -> dict[str, TabularMdp]:
    """Two slippery lakes of four cells, and rewards of all kinds on the way."""
    return {
        "2×2 lake, T = 4, γ = 1": frozen_lake(["SF", "FG"], horizon=4),
        "2×2 lake, T = 4, γ = 0.9": frozen_lake(["SF", "FG"], horizon=4, discount=0.9),
        "random rewards, T = 4, γ = 0.9": random_mdp(1, horizon=4),
    }


def random_mdp(seed: int, *, horizon: int) -> TabularMdp:
    """Draw three states, two actions with two outcomes each, rewards of both signs, γ = 0.9.

    Args:
        seed: of the problem.
        horizon: T.
    """
    rng = np.random.default_rng(seed)
    shape = 3, 2, 2
    return TabularMdp(
        next_state=rng.integers(3, size=shape),
        probs=rng.dirichlet(np.ones(2), size=shape[:2]),
        rewards=rng.normal(size=shape),
        terminated=rng.random(shape) < 0.2,
        starts=np.array([0, 2]),
        start_probs=np.array([0.3, 0.7]),
        horizon=horizon,
        discount=0.9,
    )


def _theta(mdp: TabularMdp) -> np.ndarray:
    return np.random.default_rng(7).normal(size=mdp.num_states * mdp.num_actions)


def _snapshot(mdp: TabularMdp) -> MdpSnapshot:
    return snapshot(mdp, tabular_softmax(mdp.num_states, mdp.num_actions), _theta(mdp))


@cache
def _episodes(mdp: TabularMdp) -> tuple[Episodes, ...]:
    """Every episode from each start."""
    policy = tabular_softmax(mdp.num_states, mdp.num_actions)
    probs = action_probs(policy, _theta(mdp), np.arange(mdp.num_states))
    return tuple(every_episode(mdp, probs, int(start)) for start in mdp.starts)


def _moments(name: str, mdp: TabularMdp) -> Iterator[Claim]:
    policy = tabular_softmax(mdp.num_states, mdp.num_actions)
    found = episode_moments(mdp, policy, _theta(mdp))
    listed = zip(*[each.moments() for each in _episodes(mdp)], strict=True)
    values, central, scores, norms = (np.array(each).T for each in listed)
    scores = scores.transpose(1, 2, 0)
    starts = mdp.starts
    yield equal(f"{name}: E Z", ENUMERATION, found.value[starts], values)
    yield equal(f"{name}: E A²", ENUMERATION, found.variance[starts], central[2])
    yield equal(f"{name}: E W = 0", ENUMERATION, np.zeros(scores[0].shape), scores[0])
    yield equal(f"{name}: E[WAᵏ]", ENUMERATION, found.scores[:, starts], scores[1:])
    yield equal(f"{name}: E[‖W‖²Aᵏ]", ENUMERATION, found.norms[:, starts], norms)
    steps = [each.probs @ each.step_norms for each in _episodes(mdp)]
    yield equal(f"{name}: E‖W‖² = E Σ_t ‖w_t‖²", ENUMERATION, found.norms[0, starts], steps)


def _parts(mdp: TabularMdp) -> Iterator[Claim]:
    """The moments of the laws, each by its definition."""
    known = _snapshot(mdp)
    moments, outputs = known.moments, [each.outcomes for each in _episodes(mdp)]
    gradients = np.array([each.gradient for each in outputs])
    mean = mdp.start_probs @ gradients
    noise = float(mdp.start_probs @ np.sum((gradients - mean) ** 2, axis=1))
    yield equal("lake, T = 3: c₁ = E‖g(X) − g‖²", ENUMERATION, moments.prompt_noise, noise)
    best = [each.optimal_baseline for each in outputs]
    yield equal("lake, T = 3: b*(x)", ENUMERATION, known.optimal_baseline, best)
    assert moments.outcome is not None
    for level, expected in enumerate(
        (moments.outcome.failure_score_norm_squared, moments.outcome.success_score_norm_squared)
    ):
        weights = [each.probs * (each.rewards == level) for each in outputs]
        norms = [
            weight @ np.sum(each.scores**2, axis=1) / weight.sum()
            for weight, each in zip(weights, outputs, strict=True)
        ]
        yield equal(f"lake, T = 3: E[‖W‖²∣Z = {level}]", ENUMERATION, expected, norms)


def _errors() -> Iterator[Claim]:
    """Errors over every pair of episodes, for every estimator of Theorem 2."""
    problems = frozen_lake(["SF", "FG"], horizon=3), random_mdp(1, horizon=3)
    for name, (estimator, law) in CASES.items():
        expected = [law(_snapshot(mdp).moments, 2) for mdp in problems]
        obtained = [
            gradient_distribution(estimator, each.outcomes, group_size=2).error(
                each.outcomes.gradient
            )
            for mdp in problems
            for each in _episodes(mdp)
        ]
        statement = f"{name}: error over every pair of episodes, lake and random rewards"
        yield equal(statement, ENUMERATION, np.concatenate(expected), obtained)


def _wrong_formulas() -> Iterator[Claim]:
    mdp = random_mdp(1, horizon=3)
    first, moments = _episodes(mdp)[0], _snapshot(mdp).moments
    weights = first.probs * first.returns
    truth = float(weights @ np.sum(first.scores**2, axis=1))
    statement = "E[‖W‖²Z] = E[Z Σ_t ‖w_t‖²]: cross terms dropped though the return weighs them"
    yield refuted(statement, float(weights @ first.step_norms), truth)
    law = float(mse.grpo(moments, group_size=2)[0])
    missing = moments.score_norm_squared[0] * (1 - 1 / mdp.horizon) * moments.reward_variance[0]
    grpo, _ = CASES["GRPO"]
    error = gradient_distribution(grpo, first.outcomes, group_size=2).error(first.outcomes.gradient)
    statement = "GRPO: residual noise with E‖W‖²/T, of one step, in place of E‖W‖²"
    yield refuted(statement, law - float(missing) / 2, error)
