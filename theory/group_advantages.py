"""0/1 rewards: mean, objective and error of any advantage that counts the successes.

**Statement.** Let an output's advantage be a₁(k) if it succeeds and a₀(k) if it fails, when k of
the G outputs succeed. With p = V(x), s₁ = E[‖W‖²∣Z=1], s₀ = E[‖W‖²∣Z=0] and E_n a mean over
j ~ Binomial(n, p),

    E ĝ = φ_G(p)·g,  φ_G(p) = E_{G−1}[a₁(j+1) − a₀(j)],
    E‖ĝ‖² = (1/G)(p·s₁·E_{G−1} a₁(j+1)² + (1−p)·s₀·E_{G−1} a₀(j)²)
            + ((G−1)/G)·‖g‖²·E_{G−2}[a₁(j+2)² + a₀(j)² − 2a₁(j+1)a₀(j+1)].

So the estimator ascends E F_G(V(X)), F_G′ = φ_G, and not E V(X), unless φ_G is constant.

**Why.** Given the rewards, outputs are independent and E[W∣Z=1] = g/p, E[W∣Z=0] = −g/(1−p), since
E W = 0. *Mean:* j of the G−1 others succeed; a success adds p·a₁(j+1)·g/p and a failure
−(1−p)·a₀(j)·g/(1−p). *Second moment:* G terms a²‖W‖² in the same way, and G(G−1) pairs: with j
successes among the other G−2, two successes add p²a₁(j+2)²‖g/p‖², two failures a₀(j)²‖g‖², and the
two orders of one each −a₁(j+1)a₀(j+1)‖g‖². *Objective:* the derivative of E_G S(k) in p is
G·E_{G−1}[S(j+1) − S(j)]; take S(k) = Σ_{j<k}[a₁(j+1) − a₀(j)].

**Normalised advantages**, (Z − Z̄⁽⁻ⁱ⁾)/se: φ_G → 1/√(p(1−p)), the derivative of 2 arcsin √p
(Proposition 13). For G = 2 and G = 3 all groups that are not of equal rewards have the same se: the
estimator is √G times GRPO's, group by group. To first order in 1/G, from the moments of k,

    φ_G(p) = 1/√(p(1−p)) − (1−2p)²/(8G(p(1−p))^{3/2}),

and nothing of that order at p = ½. At p = 0 and 1 φ_G is √G, and F_G lags behind by G^(−½).

**Dynamic sampling** draws groups until enough are alive, that is not of equal rewards. If dead
groups have advantage 0, E[ĝ; alive] = E ĝ, so kept groups have the mean E ĝ/q and the second moment
E‖ĝ‖²/q with q = P(alive): the same direction, over prompts too. With n groups drawn, nq of them
kept in the mean, tr Var/‖mean‖² = (E‖ĝ‖²/‖E ĝ‖² − 1/q)/n, which is (1/q − 1)/n less than n groups
without dropping have.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from theory.claims import ENUMERATION, IDENTITY, Claim, below, equal, limiting_slope, rate, refuted
from theory.enumeration import (
    Distribution,
    gradient_distribution,
    outcomes,
    unordered_groups,
)
from theory.problems import two_actions
from ustat_grpo import Estimator, GroupMean, Grpo, Shrinkage, Snapshot, SoftmaxBandit, Vanilla
from ustat_grpo.estimators import (
    BestOfGroup,
    LeaveOneOutNormalised,
    PassAtK,
    Sign,
    StdNormalised,
)
from ustat_grpo.laws import binary

ITEM = "Beyond the paper"
TITLE = "0/1 rewards: mean, objective and error of any advantage that counts the successes"

Law = Callable[[int], binary.GroupAdvantages]

_normalised = binary.leave_one_out_normalised

CASES: dict[str, tuple[Estimator, Law]] = {
    "vanilla": (Vanilla(), binary.vanilla),
    "GRPO": (Grpo(), binary.grpo),
    "group mean": (GroupMean(), binary.group_mean),
    "shrinkage 0.4 toward 0.7": (
        Shrinkage(0.4, 0.7),
        lambda size: binary.shrinkage(size, weight=0.4, target=0.7),
    ),
    "normalised, own mean, ε = 0.1": (
        StdNormalised(eps=0.1),
        lambda size: binary.std_normalised(size, eps=0.1),
    ),
    "normalised, own mean, ddof 0": (
        StdNormalised(eps=0.0, ddof=0),
        lambda size: binary.std_normalised(size, eps=0.0, ddof=0),
    ),
    "normalised, leave-one-out": (LeaveOneOutNormalised(), _normalised),
    "sign": (Sign(), binary.sign),
    "pass@2": (PassAtK(2), lambda size: binary.pass_at_k(size, 2)),
    "best of group": (BestOfGroup(), binary.best_of_group),
}
"""Estimators beside the closed form of their advantages."""

GROUP_SIZES = (2, 3, 4)
_DOUBLINGS = (512, 1024, 2048, 4096)
_SQUARES = (64, 256, 1024, 4096)


def claims() -> Iterator[Claim]:
    """Yield moments of every estimator, the limits, dynamic sampling, and two slips."""
    for name, (estimator, law) in CASES.items():
        yield from _moments(name, estimator, law)
    yield from _without_distortion()
    yield from _limits()
    yield from _dynamic_sampling()
    yield from _slips()


@cache
def _problem() -> Snapshot:
    """A hard and an easy prompt of three actions, random rewards given the action, d = 2, m ≠ 0."""
    success = np.array([[0.0, 0.05, 0.2], [0.4, 1.0, 0.8]])
    bandit = SoftmaxBandit(
        np.random.default_rng(8).normal(size=(2, 3, 2)),
        np.array([0.0, 1.0]),
        np.stack([1 - success, success], axis=-1),
        np.array([0.8, 0.2]),
    )
    return bandit.at([0.4, -0.2])


def _distribution(estimator: Estimator, problem: Snapshot, prompt: int, size: int) -> Distribution:
    possible = outcomes(problem, prompt)
    return gradient_distribution(estimator, possible, group_size=size, groups=unordered_groups)


def _moments(name: str, estimator: Estimator, law: Law) -> Iterator[Claim]:
    problem = _problem()
    moments, gradients = problem.moments, problem.prompt_gradients
    means, seconds = [], []
    for size in GROUP_SIZES:
        at_prompts = [_distribution(estimator, problem, prompt, size) for prompt in (0, 1)]
        means.append([each.mean() for each in at_prompts])
        seconds.append([each.error(np.zeros(2)) for each in at_prompts])
    gains = [binary.gain(law(size), problem.value)[:, None] * gradients for size in GROUP_SIZES]
    yield equal(f"{name}: E ĝ = φ_G(p)g, G = 2, 3, 4", ENUMERATION, gains, means)
    outcome = binary.outcome_moments(moments)
    expected = [
        binary.second_moment(law(size), outcome, moments.gradient_norm_squared)
        for size in GROUP_SIZES
    ]
    yield equal(f"{name}: E‖ĝ‖², G = 2, 3, 4", ENUMERATION, expected, seconds)


def _without_distortion() -> Iterator[Claim]:
    problem, prob = _problem(), np.array([0.0, 0.01, 0.3, 0.5, 1.0])
    for size in (2, 3):
        plain, normalised = (
            _distribution(estimator, problem, 0, size).gradients
            for estimator in (Grpo(), LeaveOneOutNormalised())
        )
        statement = f"G = {size}: normalised is √{size} times GRPO's gradient, in every group"
        yield equal(statement, ENUMERATION, np.sqrt(size) * plain, normalised)
        gain = binary.gain(_normalised(size), prob)
        yield equal(f"G = {size}: φ_G(p) = √{size} at every p", IDENTITY, [size**0.5] * 5, gain)
    gain = binary.gain(_normalised(4), np.array([0.01, 0.5]))
    yield refuted("G = 4: φ_G is the same at p = 0.01 and ½", float(gain[0]), float(gain[1]))


def _limits() -> Iterator[Claim]:
    laws = [_normalised(size) for size in _DOUBLINGS]
    prob, sizes = 0.2, np.array(_DOUBLINGS)
    gap = binary.limiting_gain(prob) - np.array([binary.gain(law, prob) for law in laws])
    slope = limiting_slope(sizes, gap)
    yield rate("φ_G → 1/√(p(1−p)) like G⁻¹, p = 0.2 (not G^(−½))", -1.0, *slope, wrong=-0.5)
    first = (1 - 2 * prob) ** 2 / (8 * (prob * (1 - prob)) ** 1.5)
    slope = limiting_slope(sizes, np.abs(gap - first / sizes))
    statement = "after the term (1−2p)²/(8G(p(1−p))^{3/2}) like G⁻² (with a wrong factor G⁻¹)"
    yield rate(statement, -2.0, *slope, wrong=-1.0)
    gap = 2 - np.array([binary.gain(law, 0.5) for law in laws])
    yield rate("φ_G → 2 like G⁻² at p = ½ (not G⁻¹)", -2.0, *limiting_slope(sizes, gap), wrong=-1.0)
    ends = [binary.gain(law, 0.0) for law in laws]
    yield equal("φ_G(0) = √G", IDENTITY, np.sqrt(sizes), ends)
    ends = np.array([binary.implied_objective(law, 1.0) for law in map(_normalised, _SQUARES)])
    slope = limiting_slope(np.sqrt(_SQUARES), np.pi - ends)
    yield rate("F_G(1) → 2 arcsin 1 = π like (√G)⁻¹ (not G⁻¹)", -1.0, *slope, wrong=-2.0)
    at_prob = [binary.implied_objective(law, prob) for law in laws]
    gap = np.array([binary.implied_objective(law, 0.5) for law in laws]) - at_prob
    gap = np.abs(gap - binary.limiting_objective(0.5) + binary.limiting_objective(prob))
    statement = "F_G(½) − F_G(0.2) → its limit like G⁻¹ (not G^(−½)): the lag is at the ends"
    yield rate(statement, -1.0, *limiting_slope(sizes, gap), wrong=-0.5)


def _dynamic_sampling() -> Iterator[Claim]:
    """Sum over prompts and their groups that are alive, and over no other."""
    problem, size, drawn = _problem(), 3, 10
    gradients, probs = [], []
    for prompt, prob in enumerate(problem.prompt_probs):
        possible = outcomes(problem, prompt)
        members = unordered_groups(possible.probs, size).members
        alive = np.ptp(possible.rewards[members], axis=-1) > 0
        every = _distribution(Sign(), problem, prompt, size)
        gradients.append(every.gradients[alive])
        probs.append(prob * every.probs[alive])
    joint = np.concatenate(probs)
    alive = float(joint.sum())
    dead = problem.prompt_probs @ binary.dead_group_probability(problem.value, size)
    yield equal("P(alive) = 1 − E[p^G + (1−p)^G]", ENUMERATION, 1 - dead, alive)
    kept = Distribution(np.concatenate(gradients), joint / alive)
    mean = kept.mean()
    gram = problem.prompt_gradients @ problem.prompt_gradients.T
    every = binary.minibatch_law(binary.sign(size), problem.moments, gram, num_groups=drawn)
    expected = np.sqrt(every.mean_norm_squared) / alive
    yield equal("a kept group's mean is 1/q times as long", ENUMERATION, expected, _norm(mean))
    cosine = float(mean @ problem.gradient) / _norm(mean) / _norm(problem.gradient)
    yield equal("and of the same direction: its cosine to ∇J", ENUMERATION, every.cosine, cosine)
    yield below("which the signs do turn away from ∇J", ENUMERATION, 1.0, cosine, 1e-6)
    error = kept.error(mean) / _norm(mean) ** 2 / (drawn * alive)
    law = binary.dynamic_sampling(binary.sign(size), problem.moments, gram, num_groups=drawn)
    yield equal("scale-free error at 10 groups drawn", ENUMERATION, law.scale_free_error, error)
    saved = every.scale_free_error - error
    yield equal("it saves (1/q − 1)/n", ENUMERATION, (1 / alive - 1) / drawn, saved)
    yield refuted("the same error, dropped groups not counted as cost", error * alive, error)


def _norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))


def _slips() -> Iterator[Claim]:
    problem, size = two_actions(0.3, [0.2, 1.0]), 4
    every = _distribution(LeaveOneOutNormalised(), problem, 0, size)
    truth, mean = every.error(np.zeros(1)), float(every.mean()[0])
    law, outcome = _normalised(size), problem.moments.outcome
    assert outcome is not None
    norm = problem.moments.gradient_norm_squared
    crossless = binary.GroupAdvantages(law.success, np.zeros(size + 1))
    mirrored = binary.GroupAdvantages(np.zeros(size + 1), law.failure)
    parts = [binary.second_moment(each, outcome, norm)[0] for each in (crossless, mirrored)]
    yield refuted("E‖ĝ‖² without the cross term", float(sum(parts)), truth)
    late = binary.GroupAdvantages(np.append(0.0, law.success[:-1]), law.failure)
    wrong = float(binary.gain(late, problem.value)[0] * problem.gradient[0])
    yield refuted("a₁(j) for a₁(j+1) in φ_G", wrong, mean)
    wrong = float(binary.second_moment(late, outcome, norm)[0])
    yield refuted("a₁(j) for a₁(j+1) in E‖ĝ‖²", wrong, truth)
