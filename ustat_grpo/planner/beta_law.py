"""Success probabilities of prompts as a beta law: what groups larger than any seen would do."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int
from scipy.special import betainccinv, betaincinv, betaln

from ustat_grpo.inputs.arrays import Integers
from ustat_grpo.laws import binary
from ustat_grpo.laws.binary import GroupAdvantages

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
