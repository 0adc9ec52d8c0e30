"""Proposition 13: what Algorithm 2 maximises: E F_G(V(X)) less a penalty, and not E V(X).

**Statement.** Rewards are 0 or 1. Let A_i be the leave-one-out difference over the group's
standard deviation. Algorithm 2 at rates β/i comes to rest where the gradient of

    E F_G(V(X)) − κ E KL,    F_G′ = φ_G,   φ_G(p) = E_{G−1}[a₁(j+1) − a₀(j)],

vanishes; F_G(p) → 2 arcsin √p as G → ∞, which is the paper's statement. At G = 2 φ is the constant
√2: F₂ is √2 times the value, no distortion at all, and κ counts 1/√2 times as much.

**Why.** An output that succeeds rather than fails gains a₁(j+1) − a₀(j) if j of the others succeed,
whence E ĝ(x) = φ_G(V(x))·g(x) = ∇F_G(V(x)): the mean step of Algorithm 2 at π_old = π_θ is a
gradient. Off-policy updates and the noise of θ_n shift it by O(η), which vanishes. As G → ∞ the
deviation tends to √(p(1−p)).

**Note.** Which KL? The penalties are differentiated as losses. Of an output from π_θ, with
ℓ = log π_θ − log π_ref and since E W = 0,

    K1: E[W] = 0;   K2: E[ℓ·W] = ∇KL(π_θ ‖ π_ref);   K3: E[(1 − e^(−ℓ))·W] = ∇KL(π_ref ‖ π_θ),

the last because E[e^(−ℓ)·W] = Σ_y π_ref(y)·∇ log π_θ(y). So the proposition's KL(π_θ ‖ π_ref) takes
K2. With K3, which its Algorithm 2 and the trainers use, it is the reverse divergence, and the runs
end elsewhere. As *estimates* K1 and K3 have the mean KL(π_θ ‖ π_ref); their gradients do not.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from theory.claims import (
    ENUMERATION,
    IDENTITY,
    Claim,
    equal,
    limiting_slope,
    rate,
    refuted,
    simulated,
)
from theory.enumeration import gradient_distribution, outcomes, unordered_groups
from theory.problems import random_problem
from ustat_grpo import Decay, Estimator, Grpo, Practice, Snapshot, TrainingConfig, optimize
from ustat_grpo.bandits.tug_of_war import one_axis
from ustat_grpo.estimators.normalised import LeaveOneOutNormalised
from ustat_grpo.laws import binary
from ustat_grpo.optimization.mean_field import Gain, curvature, maximiser, mean_field

ITEM = "Proposition 13"
TITLE = "the objective that normalised advantages imply"

BANDIT = one_axis([[0.3, 0.7], [0.3, 0.02]], [0.0, 1.0])
"""An easier prompt that wants θ large, and a hard one that wants it small."""
REFERENCE = np.array([3.0])
WEIGHT = 0.04
PENALTIES = ("k2", "k3")
ESTIMATOR = LeaveOneOutNormalised(eps=0.0)

_GROUP_SIZES = (2, 8, 64)
_ENUMERATED = (2, 4, 8)
_LARGE = (64, 128, 256, 512)
_ALONE: Gain = np.ones_like
"""φ of an unbiased estimator: E V."""
_EXACT = 1e-10


def claims() -> Iterator[Claim]:
    """Yield which KL each penalty descends, the three maximisers, and where runs end."""
    yield from _penalties()
    for penalty in PENALTIES:
        yield from _maximisers(penalty)
        yield from _enumerated(penalty)
    yield from _no_distortion()
    yield from _limit()
    yield from _runs()


def normalised(group_size: int) -> Gain:
    """Return φ_G of `ESTIMATOR`."""
    return partial(binary.gain, binary.leave_one_out_normalised(group_size, eps=0.0))


class Objective(NamedTuple):
    """E F(V(X)) − κ E KL on `BANDIT`, with F′ = `gain`."""

    gain: Gain
    penalty: str
    weight: float = WEIGHT

    def field(self, theta: np.ndarray) -> np.ndarray:
        """Return its gradient, as the mean step of Algorithm 2."""
        practice = Practice(penalty=self.penalty, penalty_weight=self.weight)
        return mean_field(BANDIT, theta, self.gain, practice=practice, reference=REFERENCE)

    def maximiser(self) -> np.ndarray:
        """Return where it is largest."""
        return maximiser(self.field, [1.0])


def _penalties() -> Iterator[Claim]:
    """On a problem without symmetry: expected gradients of the losses, derivatives of the KLs."""
    here, there = random_problem(3, num_actions=4), random_problem(31, num_actions=4)
    ours, theirs = here.action_probs, there.action_probs
    log_ratio = np.log(ours) - np.log(theirs)
    toward = _directional(here, lambda policy: _divergence(policy, theirs))
    backward = _directional(here, lambda policy: _divergence(theirs, policy))
    for name, slope, expected, meaning in (
        ("K1", np.ones_like(log_ratio), np.zeros_like(toward), "0: it penalises nothing"),
        ("K2", log_ratio, toward, "∇KL(π_θ ‖ π_ref)"),
        ("K3", 1 - theirs / ours, backward, "∇KL(π_ref ‖ π_θ)"),
    ):
        mean = np.einsum("p,pk,pkd->d", here.prompt_probs, ours * slope, here.dense_scores())
        yield equal(
            f"{name} as a loss has the mean gradient {meaning}", ENUMERATION, expected, mean
        )
        if name == "K3":
            worst = int(np.argmax(np.abs(mean - toward)))
            yield refuted("K3's mean gradient is ∇KL(π_θ ‖ π_ref), as the proposition has it",
                          float(toward[worst]), float(mean[worst]))  # fmt: skip


def _divergence(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """KL(left ‖ right) at each prompt."""
    return np.sum(left * (np.log(left) - np.log(right)), axis=-1)


def _directional(snapshot: Snapshot, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the gradient of E function(π_θ) with respect to tabular logits, by complex steps."""
    logits, step = np.log(snapshot.action_probs), 1e-30
    gradient = np.empty(logits.shape)
    for place in np.ndindex(logits.shape):
        moved = logits.astype(complex)
        moved[place] += 1j * step
        policy = np.exp(moved) / np.exp(moved).sum(axis=-1, keepdims=True)
        gradient[place] = (snapshot.prompt_probs @ function(policy)).imag / step
    return gradient.ravel()


def _maximisers(penalty: str) -> Iterator[Claim]:
    """Each by Newton on the exact gradient, and by bracketing a derivative that knows no scores."""
    from scipy.optimize import brentq

    cases = {"E V": _ALONE, "E 2 arcsin √V": binary.limiting_gain}
    cases |= {f"E F_{size}": normalised(size) for size in _GROUP_SIZES}
    for name, gain in cases.items():
        slope = partial(_slope, gain=gain, penalty=penalty)
        bracketed: float = brentq(slope, -1.0, 5.0, xtol=1e-14)  # pyright: ignore
        found = float(Objective(gain, penalty).maximiser()[0])
        yield equal(f"{penalty}: the maximiser of {name} − κ KL, by Newton and by bracketing",
                    IDENTITY, bracketed, found, tolerance=_EXACT)  # fmt: skip
    small, own, limit = (
        float(Objective(gain, penalty).maximiser()[0])
        for gain in (_ALONE, normalised(8), binary.limiting_gain)
    )
    yield refuted(f"{penalty}, G = 8: the maximiser is that of E V − κ KL", small, own, 0.1)
    yield refuted(f"{penalty}, G = 8: the maximiser is that of the limit", limit, own, 0.1)


def _slope(coordinate: float, *, gain: Gain, penalty: str) -> float:
    """Return d/dθ of the objective: two actions, hence dV/dθ = (s₁ − s₀)·q(1−q), by hand."""
    shifts, chances = np.array([0.0, 1.0]), BANDIT.reward_probs[:, :, 1]
    q, r = (1 / (1 + np.exp(shifts - point)) for point in (coordinate, REFERENCE[0]))
    spread, value = chances[:, 1] - chances[:, 0], chances[:, 0] * (1 - q) + chances[:, 1] * q
    if penalty == "k2":  # KL(q ‖ r)
        divergence = q * (1 - q) * (np.log(q / r) - np.log((1 - q) / (1 - r)))
    else:  # KL(r ‖ q)
        divergence = q - r
    return float(np.mean(gain(value) * spread * q * (1 - q) - WEIGHT * divergence))


def _enumerated(penalty: str) -> Iterator[Claim]:
    """The mean over every group balances the penalty at its own maximiser, and only there."""
    for size in _ENUMERATED:
        own = Objective(normalised(size), penalty)
        pull, push = _balance(own, ESTIMATOR, size)
        yield equal(
            f"{penalty}, G = {size}: E ĝ = κ∇KL at the maximiser of E F_G − κ KL",
            ENUMERATION, pull, push,
        )  # fmt: skip
    value = Objective(_ALONE, penalty)
    pull, push = _balance(value, ESTIMATOR, 8)
    statement = f"{penalty}, G = 8: E ĝ = κ∇KL at the maximiser of E V − κ KL"
    yield refuted(statement, pull, push, tolerance=0.1)
    pull, push = _balance(value, Grpo(), 8)
    yield equal(f"{statement}, without normalisation", ENUMERATION, pull, push)


def _balance(objective: Objective, estimator: Estimator, group_size: int) -> tuple[float, float]:
    """Return κ∇KL and E ĝ, over every group, where an objective is largest."""
    theta = objective.maximiser()
    here = BANDIT.at(theta)
    means = [
        gradient_distribution(
            estimator, outcomes(here, prompt), group_size=group_size, groups=unordered_groups
        ).mean()
        for prompt in range(len(here.prompt_probs))
    ]
    penalty_alone = objective._replace(gain=np.zeros_like)
    return -float(penalty_alone.field(theta)[0]), float((here.prompt_probs @ np.array(means))[0])


def _no_distortion() -> Iterator[Claim]:
    """At G = 2 normalisation rescales the value, and with it κ."""
    values = np.linspace(0.0, 1.0, 101)
    yield equal(
        "G = 2: φ = √2 at every V", IDENTITY, np.full(101, np.sqrt(2)), normalised(2)(values)
    )
    for penalty in PENALTIES:
        pair = Objective(normalised(2), penalty).maximiser()
        value = Objective(_ALONE, penalty, WEIGHT / np.sqrt(2)).maximiser()
        yield equal(
            f"{penalty}, G = 2: the maximiser is that of E V − (κ/√2) KL", IDENTITY, value, pair
        )


def _limit() -> Iterator[Claim]:
    """How fast the maximiser of E F_G reaches that of the limit."""
    limit = Objective(binary.limiting_gain, "k2").maximiser()
    gaps = [float((Objective(normalised(G), "k2").maximiser() - limit)[0]) for G in _LARGE]
    slope = limiting_slope(_LARGE, gaps)
    yield rate("the maximiser of E F_G tends to that of E 2 arcsin √V like G⁻¹ (not G⁻²)",
               -1.0, *slope, wrong=-2.0)  # fmt: skip


def _runs() -> Iterator[Claim]:
    """Algorithm 2 itself, with two minibatches: G = 8 ends at its own maximiser, by K3's KL."""
    practice = Practice(num_minibatches=2, penalty="k3", penalty_weight=WEIGHT)
    own = Objective(normalised(8), "k3")
    least = float(curvature(own.field, own.maximiser())[0, 0])
    config = TrainingConfig(
        estimator=ESTIMATOR,
        batch_size=32,
        group_size=8,
        num_iterations=2000,
        schedule=Decay(1.0 / least, 20.0),  # two updates an iteration: 2/λ
        practice=practice,
    )
    rng = np.random.default_rng(13)
    runs = optimize(BANDIT, config, theta0=[0.0], num_runs=100, rng=rng, reference=REFERENCE)
    ends = runs.theta[:, 0, 0]
    yield simulated("G = 8, K3, m = 2: runs end at the maximiser of E F₈ − κ KL(π_ref ‖ π_θ)",
                    float(own.maximiser()[0]), ends)  # fmt: skip
    for name, other in {
        "that of E V − κ KL": Objective(_ALONE, "k3"),
        "the limit's, E 2 arcsin √V − κ KL": Objective(binary.limiting_gain, "k3"),
        "that of KL(π_θ ‖ π_ref), as the proposition has it": Objective(normalised(8), "k2"),
    }.items():
        yield refuted(f"G = 8, K3, m = 2: runs end at {name}", float(other.maximiser()[0]),
                      float(ends.mean()), tolerance=0.05)  # fmt: skip
