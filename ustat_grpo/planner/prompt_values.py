"""What a plan needs to know of prompts beyond c₁, c₂, c₃: success counts, their law, norms."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainccinv, betaincinv, betaln

from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import finite, integer, not_negative, same_length
from ustat_grpo.laws import binary
from ustat_grpo.laws.binary import GroupAdvantages
from ustat_grpo.noise.components import prompt_statistics
from ustat_grpo.noise.groups import grouped, require_signal
from ustat_grpo.noise.sample import OutputSample

_ALIKE = 1e-6  # below this correlation prompts are alike to rounding

Counts = Int[Integers, " B"]


@dataclass(frozen=True)
class BetaLaw:
    """V(X) ~ Beta(α, β) with mean μ and Var V/(μ(1−μ)) = ρ; α + β = 1/ρ − 1.

    Args:
        mean: μ, between 0 and 1.
        correlation: ρ, of two rewards of one prompt, at least 0 and below 1. At 0 all prompts are
            alike.
    """

    mean: float
    correlation: float

    @classmethod
    def of_counts(cls, successes: Counts, outputs: Counts) -> "BetaLaw":
        """Return the law with the sample's E V and E V² (the mean of k(k−1)/(M(M−1)))."""
        mean = float(np.mean(successes / outputs))
        square = float(np.mean(successes * (successes - 1) / (outputs * (outputs - 1))))
        return cls(mean, max((square - mean**2) / (mean * (1 - mean)), 0.0))

    @cached_property
    def _shape(self) -> tuple[float, float] | None:
        """α and β, or None where all prompts are alike."""
        if self.correlation < _ALIKE:
            return None
        total = 1 / self.correlation - 1
        return self.mean * total, (1 - self.mean) * total

    def dead_group_probability(self, group_size: int) -> float:
        """Return E[V^G + (1−V)^G]."""
        if self._shape is None:
            return float(binary.dead_group_probability(self.mean, group_size))
        alpha, beta = self._shape
        logs = np.array([betaln(alpha + group_size, beta), betaln(alpha, beta + group_size)])
        return float(np.exp(logs - betaln(alpha, beta)).sum())

    def quantile(self, prob: float) -> float:
        """Return the success probability that a share `prob` of the prompts does not exceed."""
        if self._shape is None:
            return self.mean
        # The upper tail by its complement: near 1 nothing is lost.
        if prob > 0.5:
            return float(betainccinv(*self._shape, 1 - prob))
        return float(betaincinv(*self._shape, prob))

    def mean_gain(self, advantages: GroupAdvantages) -> float:
        """Return E φ_G(V) = Σ_j P(j of G−1 succeed)(a₁(j+1) − a₀(j))."""
        if self._shape is None:
            return float(binary.gain(advantages, self.mean))
        alpha, beta = self._shape
        others = advantages.group_size - 1
        count = np.arange(others + 1)
        steps = advantages.success[1:] - advantages.failure[:-1]
        ways = -np.log(others + 1) - betaln(others - count + 1, count + 1)
        odds = betaln(count + alpha, others - count + beta) - betaln(alpha, beta)
        return float(np.exp(ways + odds) @ steps)


@dataclass(frozen=True, eq=False)
class PromptValues:
    """A summary of M outputs to each of B prompts, unbiased prompt by prompt; see `prompt_values`.

    Args:
        outputs: M, shape (B,).
        successes: how many outputs have reward 1, shape (B,); None unless rewards are 0 and 1.
        score_norm_squared: mean of ‖W‖², unbiased for s, shape (B,); None without score norms.
        vanilla_excess: mean of ‖W‖²Z² less τ̂, unbiased for V²s + 2Vm, what leaving out the
            baseline adds to G times the error, shape (B,); None without score norms.

    Examples:
        >>> from ustat_grpo import OutputSample, PromptValues
        >>> scores = [[[1], [-1], [0]]] * 8
        >>> sample = OutputSample.from_scores(scores, rewards=[[1, 0, 0], [1, 1, 1]] * 4)
        >>> values = PromptValues.of(sample)
        >>> values.successes.tolist()
        [1, 3, 1, 3, 1, 3, 1, 3]
        >>> round(values.dead_group_probability(2), 4)  # the mean of 1/3 and 1
        0.6667
    """

    outputs: Int[Integers, " B"]
    successes: Int[Integers, " B"] | None = None
    score_norm_squared: Float[Array, " B"] | None = None
    vanilla_excess: Float[Array, " B"] | None = None

    @staticmethod
    def of(sample: OutputSample) -> "PromptValues":
        """Summarise the sample from which the noise was estimated."""
        return prompt_values(sample.rewards, sample.prompts, sample.score_norms)

    @cached_property
    def beta_law(self) -> BetaLaw | None:
        """The beta law of V(X) with the sample's first two moments; None unless 0/1 rewards."""
        if self.successes is None:
            return None
        return BetaLaw.of_counts(self.successes, self.outputs)

    def is_extrapolated(self, group_size: int) -> bool:
        """Whether G is above the smallest M, so that dead groups have to be guessed."""
        return integer("group_size", group_size) > int(self.outputs.min())

    def dead_group_probability(self, group_size: int) -> float | None:
        """Return the probability that all rewards of a group are equal; None unless 0/1 rewards.

        Up to the smallest M the mean over prompts of (C(k, G) + C(M−k, G))/C(M, G), the share of
        equal groups among all that can be made of a prompt's outputs: unbiased. Beyond, what the
        beta law of the same two moments says.

        Args:
            group_size: G.

        Raises:
            ValueError: if `group_size` is not a positive integer.
        """
        size = integer("group_size", group_size)
        if self.successes is None or self.beta_law is None:
            return None
        if self.is_extrapolated(size):
            return self.beta_law.dead_group_probability(size)
        return float(np.mean(equal_group_share(self.successes, self.outputs, size)))


def equal_group_share(successes: ArrayLike, outputs: ArrayLike, group_size: int) -> Array:
    """Return (C(k, G) + C(M−k, G))/C(M, G), shape (B,), the U-statistic for p^G + (1−p)^G.

    Args:
        successes: k, shape (B,).
        outputs: M, shape (B,), each at least G.
        group_size: G.
    """
    count, all_outputs = np.asarray(successes), np.asarray(outputs)
    taken = np.arange(group_size)

    def share(alike: NDArray[np.int64]) -> Array:
        return np.prod(
            np.maximum(alike[:, None] - taken, 0) / (all_outputs[:, None] - taken), axis=1
        )

    return share(count) + share(all_outputs - count)


def prompt_values(
    rewards: ArrayLike, prompts: ArrayLike, score_norms: ArrayLike | None = None
) -> PromptValues:
    """Summarise outputs for `plan`.

    Args:
        rewards: Z, shape (n,).
        prompts: an id of each output's prompt, shape (n,).
        score_norms: ‖W_i‖², shape (n,), or None if nothing but rewards is known.

    Raises:
        ValueError: if rewards or norms are not finite, lengths differ, a prompt has fewer than 3
            outputs, there are fewer than 8 prompts, or the rewards of every group are equal.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.planner import prompt_values
        >>> rewards, prompts = [1, 0, 0] * 8, np.repeat(np.arange(8), 3)
        >>> values = prompt_values(rewards, prompts)
        >>> values.outputs.tolist(), round(values.dead_group_probability(3), 4)  # all have both
        ([3, 3, 3, 3, 3, 3, 3, 3], 0.0)
    """
    groups = require_signal(grouped(rewards, prompts))
    outputs, values = groups.sizes, groups.rewards
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    successes = groups.totals(values).astype(np.int64) if binary else None
    if score_norms is None:
        return PromptValues(outputs, successes)
    norms = finite("score_norms", score_norms, ndim=1)
    same_length("outputs", {"rewards": len(values), "score_norms": len(norms)})
    norms = not_negative("score_norms", norms, scale=np.abs(norms).max())
    oracle = prompt_statistics(groups, norms, np.zeros(len(outputs))).oracle_norm_squared
    excess = groups.totals(norms * values**2) / outputs - oracle
    return PromptValues(outputs, successes, groups.totals(norms) / outputs, excess)
