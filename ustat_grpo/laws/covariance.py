"""Exact covariance matrix of each estimator's minibatch gradient, one function per estimator.

The matrix form of `laws.mse`: with B i.i.d. prompts and G outputs of each,

    Cov(ĝ) = prompt/B + output/(BG) + pair/(BG(G−1)),

where `prompt` = Cov g(X) is the same for all, `output` the covariance of one output's term and
`pair` what the leave-one-out mean adds for not knowing V. Their traces are c₁, c₂ and c₃ for GRPO.
The group mean's estimate is (G−1)/G times GRPO's, so it has no entry here.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import real
from ustat_grpo.moments import ScoreMoments


class NoiseMatrices(NamedTuple):
    """The three parts of a covariance, each of shape (M, k, k); see the module's docstring.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import laws
        >>> one = np.eye(2)[None]  # M = 1 block of k = 2 parameters
        >>> noise = laws.covariance.NoiseMatrices(prompt=one, output=4 * one, pair=12 * one)
        >>> noise.minibatch(batch_size=2, group_size=4).tolist()  # 1/2 + 4/8 + 12/24
        [[[1.5, 0.0], [0.0, 1.5]]]
    """

    prompt: Float[Array, "M k k"]
    output: Float[Array, "M k k"]
    pair: Float[Array, "M k k"]

    def minibatch(self, *, batch_size: int, group_size: int) -> Float[Array, "M k k"]:
        """Return Cov(ĝ) for B prompts and G outputs of each."""
        prompt, output, pair = minibatch_weights(batch_size, group_size)
        return prompt * self.prompt + output * self.output + pair * self.pair


def minibatch_weights(batch_size: float, group_size: float) -> tuple[float, float, float]:
    """Return 1/B, 1/(BG) and 1/(BG(G−1)); the last is 0 at G = 1, where it never applies.

    Args:
        batch_size: B, positive; may be real.
        group_size: G, at least 1; may be real, and infinite where the outputs' noise is gone.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> from ustat_grpo import laws
        >>> laws.covariance.minibatch_weights(batch_size=2, group_size=5)
        (0.5, 0.1, 0.025)
    """
    outputs = real("batch_size", batch_size, above=0.0) * group_size
    if not group_size >= 1:
        raise ValueError(f"group_size must be at least 1, got {group_size!r}")
    return 1 / batch_size, 1 / outputs, 1 / (outputs * (group_size - 1)) if group_size > 1 else 0.0


def oracle(moments: ScoreMoments) -> NoiseMatrices:
    """Covariance with the value as baseline: output = E[A²WWᵀ] − E[g(X)g(X)ᵀ].

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> from ustat_grpo.bandits import expand
        >>> coin = SoftmaxBandit([[[0], [1]]], [0, 1], [[[1, 0], [0, 1]]])  # W = ±½, reward 1 for +
        >>> laws.covariance.oracle(expand(coin.at)([0.0]).score_moments).output.round(6).tolist()
        [[[0.0]]]
    """
    return _prompt_only(moments, moments.value)


def vanilla(moments: ScoreMoments) -> NoiseMatrices:
    """Covariance without a baseline: output = E[Z²WWᵀ] − E[g(X)g(X)ᵀ].

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> from ustat_grpo.bandits import expand
        >>> coin = SoftmaxBandit([[[0], [1]]], [0, 1], [[[1, 0], [0, 1]]])  # W = ±½, reward 1 for +
        >>> noise = laws.covariance.vanilla(expand(coin.at)([0.0]).score_moments)
        >>> noise.output.round(6).tolist()  # E[Z²W²] − g² = ⅛ − (¼)²
        [[[0.0625]]]
    """
    return _prompt_only(moments, np.zeros_like(moments.value))


def constant_baseline(moments: ScoreMoments, *, baseline: float) -> NoiseMatrices:
    """Covariance with one baseline c for all prompts: output = E[(Z−c)²WWᵀ] − E[g(X)g(X)ᵀ].

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> from ustat_grpo.bandits import expand
        >>> coin = SoftmaxBandit([[[0], [1]]], [0, 1], [[[1, 0], [0, 1]]])  # W = ±½, reward 1 for +
        >>> moments = expand(coin.at)([0.0]).score_moments
        >>> noise = laws.covariance.constant_baseline(moments, baseline=1.0)
        >>> noise.output.round(6).tolist()  # E[(Z − 1)²W²] − g² = ⅛ − (¼)²
        [[[0.0625]]]
    """
    return _prompt_only(moments, np.full_like(moments.value, real("baseline", baseline)))


def optimal_baseline(moments: ScoreMoments) -> NoiseMatrices:
    """Covariance with b*(x), the prompt-only baseline of least trace.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> from ustat_grpo.bandits import expand
        >>> coin = SoftmaxBandit([[[0], [1]]], [0, 1], [[[1, 0], [0, 1]]])  # W = ±½: b* = V
        >>> noise = laws.covariance.optimal_baseline(expand(coin.at)([0.0]).score_moments)
        >>> noise.output.round(6).tolist()
        [[[0.0]]]
    """
    return _prompt_only(moments, moments.optimal_baseline)


def grpo(moments: ScoreMoments) -> NoiseMatrices:
    """Covariance with the leave-one-out mean: the oracle's, and pair = E[σ²WWᵀ + g(X)g(X)ᵀ].

    The degenerate part of the U-statistic, ζ₂ = −½(W_iA_j + W_jA_i), has covariance
    ½(σ²E[WWᵀ] + ggᵀ) at a prompt, and enters with the factor 2/(G(G−1)).

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> from ustat_grpo.bandits import expand
        >>> coin = SoftmaxBandit([[[0], [1]]], [0, 1], [[[1, 0], [0, 1]]])  # W = ±½, reward 1 for +
        >>> noise = laws.covariance.grpo(expand(coin.at)([0.0]).score_moments)
        >>> noise.pair.round(6).tolist()  # σ²E[W²] + g² = 1/16 + 1/16
        [[[0.125]]]
        >>> noise.minibatch(batch_size=1, group_size=2).round(6).tolist()
        [[[0.0625]]]
    """
    return oracle(moments)._replace(pair=_pair(moments))


def shrinkage(moments: ScoreMoments, *, weight: float, target: float = 0.0) -> NoiseMatrices:
    """Covariance with the baseline (1−λ)Z̄^(−i) + λc: that of V + λ(c−V), and (1−λ)² of the pair.

    Args:
        moments: of the problem.
        weight: λ.
        target: c.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, laws
        >>> from ustat_grpo.bandits import expand
        >>> coin = SoftmaxBandit([[[0], [1]]], [0, 1], [[[1, 0], [0, 1]]])  # V = ½
        >>> moments = expand(coin.at)([0.0]).score_moments
        >>> noise = laws.covariance.shrinkage(moments, weight=0.5, target=0.5)
        >>> noise.pair.round(6).tolist()  # (1 − ½)² of GRPO's ⅛
        [[[0.03125]]]
    """
    shrunk = moments.value + real("weight", weight) * (real("target", target) - moments.value)
    return _prompt_only(moments, shrunk)._replace(pair=(1 - weight) ** 2 * _pair(moments))


def _prompt_only(moments: ScoreMoments, baseline: Array) -> NoiseMatrices:
    shift = (moments.value - baseline)[:, None]
    centred = moments.mean_reward - moments.value[:, None]
    # E[(Z−b)²] around V: no square of a reward is larger than its deviation asks for.
    square = moments.centred_square_reward + 2 * shift * centred + shift**2
    second = moments.gradient_second_moment
    output = moments.weighted_score_covariance(square) - second
    return NoiseMatrices(moments.gradient_covariance, output, np.zeros_like(second))


def _pair(moments: ScoreMoments) -> Array:
    variance = np.broadcast_to(moments.reward_variance[:, None], moments.mean_reward.shape)
    return moments.weighted_score_covariance(variance) + moments.gradient_second_moment
