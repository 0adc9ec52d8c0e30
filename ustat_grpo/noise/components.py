"""c₁, c₂, c₃ from a sample, unbiased, and without each prompt.

With n_i = ‖W_i‖² and averages over distinct outputs i, j, k of one prompt,

    τ̂  = mean n_i (Z_i − Z_j)(Z_i − Z_k) = D − ŝσ²/(M−1),   D = mean n_i (Z_i − Z̄⁽⁻ⁱ⁾)²
    ŝσ² = mean n_i (Z_j − Z_k)²/2       = mean n_i Var̂(Z_j, j ≠ i)

are unbiased for τ and sσ²: three distinct outputs are independent. From the exact error of a group
E‖ĝ‖² = ‖g‖² + (τ − ‖g‖²)/M + (sσ² + ‖g‖²)/(M(M−1)) follows an unbiased ‖g(x)‖²,

    γ = (q − τ̂/M − ŝσ²/(M(M−1)))/(1 − 1/M + 1/(M(M−1))) = (q − D/M)·M(M−1)/((M−1)² + 1),

in which q − D/M = Σ_{i≠j} a_i a_j W_i·W_j is ‖Σ a_i W_i‖² without its diagonal.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.noise.groups import FlatGroups


@dataclass(frozen=True, eq=False)
class PromptStatistics:
    """Unbiased estimates at every prompt.

    Args:
        oracle_norm_squared: τ̂, shape (B,).
        spread: the estimate of sσ², shape (B,).
        gradient_norm_squared: γ, shape (B,); may be negative.
    """

    oracle_norm_squared: Float[Array, " B"]
    spread: Float[Array, " B"]
    gradient_norm_squared: Float[Array, " B"]

    @property
    def components(self) -> Float[Array, "B 3"]:
        """‖g(x)‖², τ − ‖g(x)‖² and sσ² + ‖g(x)‖², whose means are c₁ + ‖∇J‖², c₂ and c₃."""
        gradient = self.gradient_norm_squared
        oracle = self.oracle_norm_squared - gradient
        return np.stack([gradient, oracle, self.spread + gradient], axis=-1)


def prompt_statistics(
    groups: FlatGroups, score_norms: Float[Array, " n"], gradient_norms: Float[Array, " B"]
) -> PromptStatistics:
    """Return τ̂, ŝσ² and γ of every prompt in O(n).

    Args:
        groups: rewards of M ≥ 3 outputs to every prompt.
        score_norms: ‖W_i‖², shape (n,).
        gradient_norms: q = ‖ĝ‖² of every prompt, shape (B,).
    """
    diagonal = groups.totals(groups.weights**2 * score_norms)  # D/M
    spread = groups.totals(groups.variance_of_others * score_norms) / groups.sizes
    return PromptStatistics(
        oracle_norm_squared=diagonal * groups.sizes - spread / (groups.sizes - 1),
        spread=spread,
        gradient_norm_squared=(gradient_norms - diagonal) * debiasing(groups.sizes),
    )


def debiasing(size: NDArray[np.int64]) -> Array:
    """Return M(M−1)/((M−1)² + 1), by which ‖ĝ‖² without its diagonal is too small for ‖g(x)‖²."""
    return size * (size - 1) / ((size - 1) ** 2 + 1)


def noise_components(
    statistics: PromptStatistics,
    gradient_norms: Float[Array, " B"],
    gradient_products: Float[Array, " B"],
    partners: Int[Integers, " B"],
) -> Float[Array, " 3"]:
    """Return (c₁, c₂, c₃), each unbiased, from B ≥ 2 prompts.

    ĝ_b are independent and unbiased for g(x_b), so ‖∇J‖² is the mean of ĝ_b·ĝ_c over the pairs
    b ≠ c that were measured together, (Σp − Σq)/Σm with q = ‖ĝ_b‖², p = ĝ_b·Σ_c ĝ_c and m prompts
    beside b in the sum.

    Args:
        statistics: of every prompt.
        gradient_norms: q, shape (B,).
        gradient_products: p, shape (B,).
        partners: m, shape (B,); B − 1 if all prompts were measured together.
    """
    whole = statistics.components.mean(axis=0)
    whole[0] -= (gradient_products - gradient_norms).sum() / partners.sum()
    return whole


def left_out_components(
    statistics: PromptStatistics,
    gradient_norms: Float[Array, " B"],
    gradient_products: Float[Array, " B"],
    partners: Int[Integers, " B"],
) -> Float[Array, "B 3"]:
    """Return `noise_components` without each of B ≥ 3 prompts in O(B).

    Without prompt b, Σp is Σp − 2p_b + q_b, Σq is Σq − q_b and Σm is Σm − 2m_b.
    """
    of_prompt, count = statistics.components, len(gradient_norms)
    left_out = (of_prompt.sum(axis=0) - of_prompt) / (count - 1)
    cross = gradient_products - gradient_norms
    left_out[:, 0] -= (cross.sum() - 2 * cross) / (partners.sum() - 2 * partners)
    return left_out
