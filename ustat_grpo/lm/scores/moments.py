"""Moments of score and reward of language models from norms of scores."""

import torch

from ustat_grpo.inputs.checks import integer
from ustat_grpo.lm.exact import objective_gradient, require_solutions, solution_probs
from ustat_grpo.lm.language_model import LanguageModel, Prompts
from ustat_grpo.lm.questions.rewards import ExactMatch
from ustat_grpo.lm.sampling import sample_groups
from ustat_grpo.lm.scores.products import score_norms
from ustat_grpo.lm.scoring import distinct, squared_norm
from ustat_grpo.pools.measured_moments import MeasuredMoments, exact_match_moments
from ustat_grpo.pools.prompt_pools import NUM_BLOCKS


def norm_moments(
    model: LanguageModel,
    prompts: Prompts,
    reward: ExactMatch,
    num_outputs: int,
    *,
    max_tokens: int,
    rng: torch.Generator,
    rows_per_pass: int = 512,
) -> MeasuredMoments:
    """Return the moments of every prompt from norms of scores alone: no Gram matrix is needed.

    Args:
        model: the policy.
        prompts: P prompts.
        reward: the exact-match reward.
        num_outputs: M, to each prompt; at least `NUM_BLOCKS`.
        max_tokens: the most tokens of an output, the end token included.
        rng: source of randomness.
        rows_per_pass: distinct outputs scored together; bounds the memory.

    Raises:
        ValueError: if an argument is out of range, or the reward is that of other prompts.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from ustat_grpo import laws
        >>> from ustat_grpo.lm import arithmetic_questions, norm_moments, shipped_policy
        >>> policy, rng = shipped_policy("intermediate"), torch.Generator().manual_seed(0)
        >>> _, questions = arithmetic_questions(5, 5, rng=np.random.default_rng(0))
        >>> measured = norm_moments(
        ...     policy, questions.prompts, questions.exact_match, 16, max_tokens=6, rng=rng
        ... )
        >>> laws.group_size.optimal(measured.moments.noise) > 1 + 2**0.5  # as everywhere
        True
    """
    integer("num_outputs", num_outputs, at_least=NUM_BLOCKS)
    solutions = reward.solutions
    require_solutions(model, prompts, solutions, max_tokens)
    rollouts = sample_groups(model, prompts, num_outputs, max_tokens=max_tokens, rng=rng)
    rewards = reward(rollouts, torch.arange(len(prompts), device=prompts.tokens.device))
    answers, place = distinct(rollouts)
    norms = score_norms(model, answers, rows_per_pass=rows_per_pass).double().cpu()[place.cpu()]
    return exact_match_moments(
        solution_probs(model, solutions).double().cpu().numpy(),
        score_norms(model, solutions, rows_per_pass=rows_per_pass).double().cpu().numpy(),
        norms.numpy(),
        (rewards == 0).cpu().numpy(),
        squared_norm(objective_gradient(model, solutions)),
    )
