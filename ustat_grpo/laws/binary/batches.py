"""Minibatches of i.i.d. prompts for 0/1 rewards and any `GroupAdvantages`.

g(x) enters through its Gram matrix ⟨g(x), g(x′)⟩, shape (P, P): the product of the prompts'
gradients with their transpose, diagonal if prompts share no parameter (tabular bandits).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, real, without_rounding
from ustat_grpo.laws.binary.advantages import GroupAdvantages, drop_equal_groups
from ustat_grpo.laws.binary.one_group import (
    dead_group_probability,
    gain,
    outcome_moments,
    second_moment,
)
from ustat_grpo.moments import Moments


class MinibatchLaw(NamedTuple):
    """Direction, length and noise of a minibatch gradient.

    Args:
        cosine: of the angle between E ĝ and ∇J; NaN where one of them is zero.
        mean_norm_squared: ‖E ĝ‖².
        scale_free_error: tr Var ĝ/‖E ĝ‖², what no step size changes; infinite where E ĝ = 0.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit
        >>> from ustat_grpo.laws import binary
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])  # ‖g‖² = ⅛
        >>> law = binary.minibatch_law(binary.grpo(2), coin.moments, [[0.125]], num_groups=4)
        >>> round(law.cosine, 6), round(law.mean_norm_squared, 6)
        (1.0, 0.125)
        >>> round(law.scale_free_error, 6)  # (⅛/4)/⅛: GRPO's error in a batch of four
        0.25
    """

    cosine: float
    mean_norm_squared: float
    scale_free_error: float


def minibatch_law(
    advantages: GroupAdvantages, moments: Moments, gram: ArrayLike, *, num_groups: float
) -> MinibatchLaw:
    """The law of the mean over B groups, one a prompt.

    E ĝ = Σ_x f(x)φ(x)g(x) and tr Var ĝ = (E‖ĝ(X)‖² − ‖E ĝ‖²)/B.

    Args:
        advantages: of the estimator.
        moments: of a problem with 0/1 rewards.
        gram: ⟨g(x), g(x′)⟩, shape (P, P).
        num_groups: B.

    Raises:
        ValueError: if rewards are not 0/1, the Gram matrix has another shape, or `num_groups` is
            not positive.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit
        >>> from ustat_grpo.laws import binary
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])  # ‖g‖² = ⅛
        >>> for B in (1, 10):
        ...     law = binary.minibatch_law(binary.grpo(2), coin.moments, [[0.125]], num_groups=B)
        ...     print(B, round(law.scale_free_error, 6))
        1 1.0
        10 0.1
    """
    return _law(advantages, moments, gram, num_groups, alive=1.0)


def dynamic_sampling(
    advantages: GroupAdvantages, moments: Moments, gram: ArrayLike, *, num_groups: float
) -> MinibatchLaw:
    """The law when groups of equal rewards are dropped and drawn anew until enough are kept.

    Kept groups are i.i.d. With q = P(a group is alive), its prompt and outputs drawn, and φ, ĝ
    those of `drop_equal_groups`, a kept group has the mean E[φ(X)g(X)]/q and the second moment
    E‖ĝ(X)‖²/q. So the direction is that without dropping, and with n groups drawn in the mean,
    nq of them kept,

        tr Var/‖mean‖² = (E‖ĝ(X)‖²/‖E ĝ(X)‖² − 1/q)/n:

    at equal cost (1/q − 1)/n less than without dropping.

    Args:
        advantages: of the estimator; what it gives to groups of equal rewards is ignored.
        moments: of a problem with 0/1 rewards.
        gram: ⟨g(x), g(x′)⟩, shape (P, P).
        num_groups: n, the mean number of groups drawn, not of those kept.

    Raises:
        ValueError: as for `minibatch`, or if no group is ever kept.

    Examples:
        A prompt with a wrong and a right answer, equally likely: half of all pairs agree.

        >>> from ustat_grpo import SoftmaxBandit
        >>> from ustat_grpo.laws import binary
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])
        >>> law = binary.dynamic_sampling(binary.grpo(2), coin.moments, [[0.125]], num_groups=4)
        >>> abs(round(law.scale_free_error, 6))  # ¼ without dropping, and (2 − 1)/4 less with it
        0.0

    Reference:
        Yu et al., DAPO (arXiv 2503.14476).
    """
    outcome = outcome_moments(moments)
    dead = dead_group_probability(outcome.success_probability, advantages.group_size)
    alive = float(moments.prompt_probs @ (1 - dead))
    if not alive > 0:
        raise ValueError(
            "groups must have a chance of different rewards, or none is ever kept, "
            f"got {alive:g} at group_size {advantages.group_size}"
        )
    return _law(drop_equal_groups(advantages), moments, gram, num_groups, alive=alive)


def _law(
    advantages: GroupAdvantages,
    moments: Moments,
    gram: ArrayLike,
    num_groups: float,
    *,
    alive: float,
) -> MinibatchLaw:
    outcome, products = outcome_moments(moments), finite("gram", gram, ndim=2)
    probs = moments.prompt_probs
    if products.shape != (len(probs), len(probs)):
        raise ValueError(
            f"gram must have shape {(len(probs), len(probs))}, one row a prompt, "
            f"got {products.shape}"
        )
    real("num_groups", num_groups, above=0.0)
    weights = probs * gain(advantages, outcome.success_probability)
    second = probs @ second_moment(advantages, outcome, moments.gradient_norm_squared)
    norm, objective = _square(weights, products), _square(probs, products)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = weights @ products @ probs / np.sqrt(norm * objective)
        error = (second / norm - 1 / alive) / num_groups if norm > 0 else np.inf
    return MinibatchLaw(float(cosine), float(norm / alive**2), float(error))


def _square(weights: Array, products: Array) -> float:
    """Return ‖Σ w(x)g(x)‖² from the products of the g(x); 0 where they cancel."""
    terms = np.abs(weights) @ np.abs(products) @ np.abs(weights)
    return float(without_rounding(weights @ products @ weights, terms))
