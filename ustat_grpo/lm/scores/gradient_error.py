"""Measured error of policy gradients on language models, by brute force."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float

from ustat_grpo.estimators import Estimator, SideInformation
from ustat_grpo.estimators.scored import scorable
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import integer
from ustat_grpo.lm.exact import objective_gradient, require_solutions, solution_probs
from ustat_grpo.lm.language_model import LanguageModel, Prompts
from ustat_grpo.lm.questions.rewards import ExactMatch
from ustat_grpo.lm.sampling import sample_groups
from ustat_grpo.lm.scoring import squared_norm, weighted_score


def brute_force_errors(
    model: LanguageModel,
    prompts: Prompts,
    reward: ExactMatch,
    estimators: Mapping[str, Estimator],
    group_size: int,
    *,
    num_replications: int,
    max_tokens: int,
    rng: torch.Generator,
) -> dict[str, Float[Array, " R"]]:
    """Measure ‖ĝ − ∇J‖² of whole minibatch gradients, every prompt once, by back-propagation.

    Args:
        model: the policy.
        prompts: P prompts.
        reward: the exact-match reward, for which ∇J is exact; an unscorable output is left out of
            its group, as by `ustat_grpo.gradient`.
        estimators: what to compare, by name; all see the same outputs.
        group_size: G.
        num_replications: R, minibatches to draw.
        max_tokens: the most tokens of an output, the end token included.
        rng: source of randomness.

    Returns:
        The squared error of each replicate, by estimator.

    Raises:
        ValueError: if an argument is out of range, or the reward is that of other prompts.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from ustat_grpo import Grpo
        >>> from ustat_grpo.lm import arithmetic_questions, brute_force_errors, shipped_policy
        >>> policy, rng = shipped_policy("intermediate"), torch.Generator().manual_seed(0)
        >>> _, questions = arithmetic_questions(5, 5, rng=np.random.default_rng(0))
        >>> errors = brute_force_errors(
        ...     policy,
        ...     questions.prompts,
        ...     questions.exact_match,
        ...     {"grpo": Grpo()},
        ...     group_size=4,
        ...     num_replications=3,
        ...     max_tokens=6,
        ...     rng=rng,
        ... )
        >>> errors["grpo"].shape, bool((errors["grpo"] > 0).all())
        ((3,), True)
    """
    require_solutions(model, prompts, reward.solutions, max_tokens)
    truth = objective_gradient(model, reward.solutions)
    value = solution_probs(model, reward.solutions)
    questions = torch.arange(len(prompts), device=prompts.tokens.device)
    errors: dict[str, list[float]] = {name: [] for name in estimators}
    for _ in range(integer("num_replications", num_replications)):
        rollouts = sample_groups(model, prompts, group_size, max_tokens=max_tokens, rng=rng)
        rewards = reward(rollouts, questions)
        count = scorable(rewards).sum(dim=-1, keepdim=True).clamp(min=1) * len(prompts)
        for name, estimator in estimators.items():
            advantages = estimator.advantages(rewards, SideInformation(value))
            found = weighted_score(model, rollouts, advantages / count)
            difference = tuple(a - b for a, b in zip(found, truth, strict=True))
            errors[name].append(squared_norm(difference))
    return {name: np.array(found) for name, found in errors.items()}
