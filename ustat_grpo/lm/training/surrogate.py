"""The policy gradient of Algorithm 2 of arXiv 2603.01162: old outputs, ratios, clip and penalty."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from ustat_grpo.lm.language_model import LanguageModel, Rollouts
from ustat_grpo.lm.scoring import (
    Answers,
    Gradient,
    answers_of,
    log_probs,
    merged,
    require_weights,
    token_weighted_score,
)
from ustat_grpo.optimization.practice import Practice, penalty_slope, ratio_of

LogProbs = Callable[[Answers], Float[Tensor, "U L"]]
"""Returns the log-probability of every token under a policy; no gradient flows through it."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """Outputs of π_old, a row each, with their weights in a mean over b prompts.

    Args:
        answers: the outputs, also those that occur several times.
        log_probs: log π_old of every token, shape (n, L); 0 outside the mask.
        weights: A/(|b|G), shape (n,).
        shares: 1/(|b|G), shape (n,); 0 where an output counts for nothing.
    """

    answers: Answers
    log_probs: Float[Tensor, "n L"]
    weights: Float[Tensor, " n"]
    shares: Float[Tensor, " n"]

    def __getitem__(self, rows: Tensor) -> Self:
        """Return some of the rows, by an index tensor."""
        columns = (self.log_probs, self.weights, self.shares)
        return type(self)(self.answers[rows], *(each[rows] for each in columns))


def practical_gradient(
    model: LanguageModel,
    rollouts: Rollouts,
    advantages: Float[Tensor, "B G"],
    practice: Practice,
    *,
    reference: LanguageModel | None = None,
    rows_per_pass: int | None = None,
) -> Gradient:
    """Return ĝ = (1/BG) Σ_b Σ_i Σ_t [A_bi ρ_bit − κ k′_bit] ∇ log π_θ(y_bit∣x_b, y_bi,<t).

    All outputs are one minibatch, and each of them counts. A clipped output loses the term of its
    advantage, and still pays the penalty.

    Args:
        model: π_θ.
        rollouts: outputs with their log-probabilities under π_old, from which they are.
        advantages: A.
        practice: ratio ρ, its clip, penalty k and its weight κ.
        reference: π_ref; needed if κ > 0.
        rows_per_pass: bounds the memory: so many distinct outputs at a time; None takes all.

    Raises:
        ValueError: if the advantages' shape is not that of the groups, there is a penalty but no
            reference, or no parameter is trained.

    Examples:
        >>> import torch
        >>> from ustat_grpo import Grpo, Practice, lm
        >>> policy, tokenizer = lm.shipped_policy("intermediate"), lm.CharacterTokenizer()
        >>> rng = torch.Generator().manual_seed(0)
        >>> prompts = tokenizer.prompts(["7+15-9="])
        >>> rollouts = lm.sample_groups(policy, prompts, 4, max_tokens=6, rng=rng)
        >>> advantages = Grpo().advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
        >>> gradient = lm.practical_gradient(policy, rollouts, advantages, Practice())
        >>> on_policy = lm.weighted_score(policy, rollouts, advantages / 4)  # all ratios are 1
        >>> all(
        ...     torch.allclose(one, other, atol=1e-4)
        ...     for one, other in zip(gradient, on_policy, strict=True)
        ... )
        True
    """
    require_weights("advantages", advantages, rollouts)
    if practice.penalty_weight and reference is None:
        raise ValueError(
            f"reference must be given for penalty_weight = {practice.penalty_weight!r}, got None"
        )
    weights = advantages.flatten() / advantages.numel()
    sampled = Sampled(
        answers_of(rollouts),
        rollouts.log_probs.flatten(0, 1),
        weights,
        torch.full_like(weights, 1 / advantages.numel()),
    )
    log_probs_of = None if reference is None else log_probs_under(reference)
    return surrogate_gradient(
        model, sampled, practice, reference=log_probs_of, rows_per_pass=rows_per_pass
    )


def log_probs_under(model: LanguageModel) -> LogProbs:
    """Return what asks a policy for log-probabilities and does not train it."""
    return torch.no_grad()(lambda answers: log_probs(model, answers))


def surrogate_gradient(
    model: LanguageModel,
    sampled: Sampled,
    practice: Practice,
    *,
    reference: LogProbs | None,
    rows_per_pass: int | None = None,
) -> Gradient:
    """Return Σ_i Σ_t [w_i ρ_it − κ s_i k′_it] ∇ log π_θ(y_it∣x_i, y_i,<t); w weights, s shares.

    One forward and one backward pass, and a forward pass of the reference if there is a penalty. An
    output that occurs several times is scored once, and not at all if nothing is to be learned
    from it.
    """
    answers, place = merged(sampled.answers)
    # Clipping asks for the sign of an advantage, which a sum over equal outputs would lose.
    by_sign = (sampled.weights,)
    if practice.clip is not None:
        by_sign = (sampled.weights.clamp(min=0), sampled.weights.clamp(max=0))
    penalties = practice.penalty_weight * sampled.shares
    summed = [
        each.new_zeros(len(answers)).index_add(0, place, each) for each in (*by_sign, penalties)
    ]
    kept = (torch.stack(summed) != 0).any(dim=0).nonzero().squeeze(-1)
    old = sampled.log_probs.new_zeros(answers.tokens.shape)
    old[place] = sampled.log_probs  # equal outputs have equal ones
    *weights, penalties = (each[kept, None] for each in summed)
    old = old[kept]

    def coefficients(
        rows: slice, part: Answers, now: Float[Tensor, "u l"]
    ) -> Float[Tensor, "u #l"]:
        log_ratio = now - old[rows, : now.shape[1]]
        weighted = _weighted_ratios([each[rows] for each in weights], log_ratio, practice)
        if reference is None or not practice.penalty_weight:
            return weighted
        return weighted - penalties[rows] * penalty_slope(practice.penalty, now - reference(part))

    return token_weighted_score(model, answers[kept], coefficients, rows_per_pass=rows_per_pass)


def _weighted_ratios(
    weights: list[Float[Tensor, "u 1"]], log_ratio: Float[Tensor, "u l"], practice: Practice
) -> Float[Tensor, "u #l"]:
    """Return w·ρ, 0 where it is clipped; the weights are the positive and the negative if it is."""
    if practice.ratio == "none":
        return torch.stack(weights).sum(dim=0)
    ratio = ratio_of(practice.ratio, log_ratio)
    if practice.clip is None:
        (weight,) = weights
    else:
        low, high = practice.clip
        positive, negative = weights
        weight = positive.where(ratio <= 1 + high, 0.0) + negative.where(ratio >= 1 - low, 0.0)
    # A ratio may overflow, and what is clipped of it is zero all the same.
    return (weight * ratio).where(weight != 0, 0.0)
