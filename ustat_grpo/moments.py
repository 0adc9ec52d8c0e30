"""The shared vocabulary of laws and simulators: per-prompt moments and noise components."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import (
    PROBABILITY_TOLERANCE,
    ROUNDING,
    numbers,
    real,
    without_rounding,
)

_SQUARED_ROUNDING = 1e-28
"""c₁ is a sum of squared deviations g(x) − g, each of them off by rounding where prompts agree."""

OF_PROMPTS = (
    "prompt_probs",
    "value",
    "reward_variance",
    "score_norm_squared",
    "oracle_norm_squared",
    "score_norm_reward_covariance",
    "gradient_norm_squared",
)
"""The fields of `Moments` that are numbers of every prompt."""

_BEYOND_ONE = 1e-6
"""What a probability that was summed in single precision may be above one."""


@dataclass(frozen=True)
class OutcomeMoments:
    """What 0/1 rewards add: the score given success and given failure.

    With p = V(x): g(x) = p·E[W∣Z=1] = −(1−p)·E[W∣Z=0], so the conditional mean scores
    follow from `gradient_norm_squared` and need no entry of their own.

    Args:
        success_probability: P(Z=1∣x), shape (P,).
        success_score_norm_squared: E[‖W‖²∣Z=1, x], shape (P,); 0 where success is impossible.
        failure_score_norm_squared: E[‖W‖²∣Z=0, x], shape (P,); 0 where failure is impossible.

    Raises:
        ValueError: if shapes differ, a number is not finite, or a probability none.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]])  # a wrong and a right answer
        >>> outcome = coin.at([0, 0]).moments.outcome
        >>> outcome.success_probability.tolist(), outcome.failure_score_norm_squared.tolist()
        ([0.5], [0.5])
    """

    success_probability: Float[Array, " P"]
    success_score_norm_squared: Float[Array, " P"]
    failure_score_norm_squared: Float[Array, " P"]

    def __post_init__(self) -> None:
        """Raise unless the fields are numbers of the same prompts."""
        count = _require_one_a_prompt(vars(self), len(np.atleast_1d(self.success_probability)))
        low, high = self.success_probability.min(), self.success_probability.max()
        if count and not (low >= -ROUNDING and high <= 1 + _BEYOND_ONE):
            wrong = low if low < -ROUNDING else high
            raise ValueError(f"success_probability must lie in [0, 1], got {wrong:g}")


@dataclass(frozen=True)
class NoiseComponents:
    """The three numbers that decide how (B, G) enters the error of a minibatch gradient.

    MSE(B, G) = c₁/B + c₂/(BG) + c₃/(BG(G−1)) for the leave-one-out group mean (Proposition 3,
    with exact constants).

    Args:
        prompt: c₁ = E‖g(X) − g‖², noise of the prompt draw.
        oracle: c₂ = E[tr Σ_oracle(X)], noise of an output under the oracle baseline.
        residual: c₃ = E[sσ² + ‖g(X)‖²], what the group mean adds for not knowing V.

    Raises:
        ValueError: if a component is not finite, or negative by more than rounding.

    Note:
        Components are differences and solutions of linear systems. Which side of zero rounding
        leaves a zero on depends on the processor, so a component that is negative by no more than
        `ROUNDING` of the largest becomes 0. So does a c₁ of which G* would exceed 10¹⁴: it is the
        square of a rounding error.

    Examples:
        >>> from ustat_grpo import NoiseComponents, laws
        >>> noise = NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0)
        >>> laws.group_size.optimal(noise)  # 1 + √(c₃/c₁)
        4.0
    """

    prompt: float
    oracle: float
    residual: float

    def __post_init__(self) -> None:
        """Raise if a component is negative or not finite."""
        largest = max(abs(self.prompt), abs(self.oracle), abs(self.residual))
        for name in ("prompt", "oracle", "residual"):
            component = getattr(self, name)
            if not (np.isfinite(component) and component >= -ROUNDING * largest):
                raise ValueError(f"{name} noise must be finite and not negative, got {component}")
            if component < 0:
                object.__setattr__(self, name, 0.0)
        if self.prompt < _SQUARED_ROUNDING * self.residual:
            object.__setattr__(self, "prompt", 0.0)


@dataclass(frozen=True)
class Moments:
    """Moments of score W and reward Z at each of P prompts, at one parameter θ.

    A = Z − V(x) is the centred reward and g(x) = E[WA∣x]. All laws of `ustat_grpo.laws` are
    functions of these numbers.

    Args:
        prompt_probs: f(x), shape (P,).
        value: V(x) = E[Z∣x], shape (P,).
        reward_variance: σ² = Var(Z∣x), shape (P,).
        score_norm_squared: s = E[‖W‖²∣x], shape (P,).
        oracle_norm_squared: τ = E[‖W‖²A²∣x], shape (P,).
        score_norm_reward_covariance: m = E[‖W‖²A∣x] = Cov(‖W‖², Z∣x), shape (P,);
            zero under Assumption 2.
        gradient_norm_squared: ‖g(x)‖², shape (P,).
        prompt_noise: c₁ = E‖g(X) − g‖².
        outcome: the success and failure moments, for 0/1 rewards only.

    Raises:
        ValueError: if shapes differ, a number is not finite, `prompt_probs` are no probabilities,
            or σ² is negative.

    Note:
        Unbiased estimates of s, τ, ‖g(x)‖² and c₁ may be negative where the truth is small, and
        those of a pool are taken as they are. `noise` refuses what is negative on average.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]])  # a wrong and a right answer
        >>> moments = coin.at([0, 0]).moments  # W = ±(½, −½)
        >>> moments.value.tolist(), moments.score_norm_squared.tolist()
        ([0.5], [0.5])
        >>> moments.noise
        NoiseComponents(prompt=0.0, oracle=0.0, residual=0.25)
    """

    prompt_probs: Float[Array, " P"]
    value: Float[Array, " P"]
    reward_variance: Float[Array, " P"]
    score_norm_squared: Float[Array, " P"]
    oracle_norm_squared: Float[Array, " P"]
    score_norm_reward_covariance: Float[Array, " P"]
    gradient_norm_squared: Float[Array, " P"]
    prompt_noise: float
    outcome: OutcomeMoments | None = None

    def __post_init__(self) -> None:
        """Raise unless the fields are numbers that some problem could have, up to estimation."""
        of_prompts = {name: getattr(self, name) for name in OF_PROMPTS}
        count = _require_one_a_prompt(of_prompts, len(np.atleast_1d(self.prompt_probs)))
        total = float(self.prompt_probs.sum())
        if not (
            self.prompt_probs.min(initial=0.0) >= -ROUNDING
            and abs(total - 1) <= PROBABILITY_TOLERANCE
        ):
            raise ValueError(
                "prompt_probs must be probabilities that sum to 1, got a sum of "
                f"{total:g} and a smallest of {self.prompt_probs.min(initial=0.0):g}"
            )
        least = self.reward_variance.min()
        if least < 0:  # by more than rounding beside E[Z²], of which it may be a difference
            size = (np.abs(self.reward_variance) + self.value**2).max()
            if least < -ROUNDING * size:
                raise ValueError(f"reward_variance must not be negative, got {least:g}")
        real("prompt_noise", self.prompt_noise)
        if self.outcome is not None:
            _require_one_a_prompt({"outcome": self.outcome.success_probability}, count)

    @cached_property
    def objective_gradient_norm_squared(self) -> float:
        """‖g‖² = E‖g(X)‖² − c₁, the squared norm of ∇J; 0 where only rounding is left of it."""
        square = float(self.prompt_probs @ self.gradient_norm_squared)
        return float(without_rounding(square - self.prompt_noise, square))

    @cached_property
    def residual_norm_squared(self) -> Float[Array, " P"]:
        """sσ² + ‖g(x)‖² = 2·tr Var ζ₂, twice the second-order Hoeffding variance; shape (P,)."""
        return self.score_norm_squared * self.reward_variance + self.gradient_norm_squared

    @cached_property
    def noise(self) -> NoiseComponents:
        """Average the moments over prompts into c₁, c₂ and c₃."""
        difference = self.oracle_norm_squared - self.gradient_norm_squared
        oracle = without_rounding(difference, self.gradient_norm_squared)
        return NoiseComponents(
            prompt=self.prompt_noise,
            oracle=float(self.prompt_probs @ oracle),
            residual=float(self.prompt_probs @ self.residual_norm_squared),
        )


def _require_one_a_prompt(columns: Mapping[str, Array], count: int) -> int:
    """Return the number of prompts, or raise unless all columns have a finite number for each."""
    for name, column in columns.items():
        if np.shape(column) != (count,):
            raise ValueError(
                f"{name} must have one number a prompt, shape ({count},), got {np.shape(column)}"
            )
    if not np.isfinite(np.array([*columns.values()])).all():
        for name, column in columns.items():
            numbers(name, column)  # which says so
    return count


@dataclass(frozen=True, eq=False)
class ScoreMoments:
    """Moments of which the covariance of every gradient estimate is made, at one θ.

    Matrices come in M blocks of k parameters, shape (M, k, k); what lies between blocks is left
    out. W is the score, A = Z − V(x), g(x) = E[WA∣x].

    Args:
        value: V(x), shape (P,).
        optimal_baseline: b*(x), shape (P,).
        mean_reward: E[Z∣x, y], shape (P, K).
        centred_square_reward: E[A²∣x, y], shape (P, K); E[Z²] would lose it for large rewards.
        reward_variance: σ²(x), shape (P,).
        gradient: ∇J, shape (M, k).
        gradient_second_moment: E[g(X)g(X)ᵀ], shape (M, k, k).
        gradient_covariance: Cov g(X), made of deviations g(X) − ∇J, shape (M, k, k).
        weighted_score_covariance: maps weights w(x, y), shape (P, K), to E[w(X, Y) WWᵀ], shape
            (M, k, k).
    """

    value: Float[Array, " P"]
    optimal_baseline: Float[Array, " P"]
    mean_reward: Float[Array, "P K"]
    centred_square_reward: Float[Array, "P K"]
    reward_variance: Float[Array, " P"]
    gradient: Float[Array, "M k"]
    gradient_second_moment: Float[Array, "M k k"]
    gradient_covariance: Float[Array, "M k k"]
    weighted_score_covariance: Callable[[Float[Array, "P K"]], Float[Array, "M k k"]]
