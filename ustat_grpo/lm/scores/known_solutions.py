"""What is measured where the right output is known: moments by norms of scores, errors by force.

Value V(x) and gradient ∇J are exact then (`ustat_grpo.lm.exact`); what is sampled are the norms of
wrong outputs' scores, or whole minibatches.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float

from ustat_grpo.estimators import Estimator, SideInformation
from ustat_grpo.estimators.scored import scorable
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import integer
from ustat_grpo.lm.exact import objective_gradient, solution_probs
from ustat_grpo.lm.language_model import LanguageModel
from ustat_grpo.lm.sampling import sample_groups
from ustat_grpo.lm.scores.products import score_norms
from ustat_grpo.lm.scoring import distinct, squared_norm, weighted_score
from ustat_grpo.lm.task import Task, require_solutions
from ustat_grpo.pools.measured_moments import MeasuredMoments, exact_match_moments
from ustat_grpo.pools.prompt_pools import NUM_BLOCKS


def norm_moments(
    model: LanguageModel,
    task: Task,
    num_outputs: int,
    *,
    rng: torch.Generator,
    rows_per_pass: int = 512,
) -> MeasuredMoments:
    """Return the moments of every prompt from norms of scores alone: no Gram matrix is needed.

    Args:
        model: the policy.
        task: P prompts, with the exact-match reward.
        num_outputs: M, to each prompt; at least `NUM_BLOCKS`.
        rng: source of randomness.
        rows_per_pass: distinct outputs scored together; bounds the memory.

    Raises:
        ValueError: if an argument is out of range, or the reward is another, or that of other
            prompts.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from ustat_grpo import laws
        >>> from ustat_grpo.lm import Task, arithmetic_questions, norm_moments, shipped_policy
        >>> policy, rng = shipped_policy("intermediate"), torch.Generator().manual_seed(0)
        >>> _, questions = arithmetic_questions(5, 5, rng=np.random.default_rng(0))
        >>> task = Task(questions.prompts, questions.exact_match, max_tokens=6)
        >>> measured = norm_moments(policy, task, 16, rng=rng)
        >>> laws.group_size.optimal(measured.moments.noise) > 1 + 2**0.5  # as everywhere
        True
    """
    integer("num_outputs", num_outputs, at_least=NUM_BLOCKS)
    solutions, prompts = require_solutions(model, task), task.prompts
    rollouts = sample_groups(model, prompts, num_outputs, max_tokens=task.max_tokens, rng=rng)
    rewards = task.reward(rollouts, torch.arange(len(prompts), device=prompts.tokens.device))
    answers, place = distinct(rollouts)
    norms = score_norms(model, answers, rows_per_pass=rows_per_pass).double().cpu()[place.cpu()]
    return exact_match_moments(
        solution_probs(model, solutions).double().cpu().numpy(),
        score_norms(model, solutions, rows_per_pass=rows_per_pass).double().cpu().numpy(),
        norms.numpy(),
        (rewards == 0).cpu().numpy(),
        squared_norm(objective_gradient(model, solutions)),
    )


def brute_force_errors(
    model: LanguageModel,
    task: Task,
    estimators: Mapping[str, Estimator],
    group_size: int,
    *,
    num_replications: int,
    rng: torch.Generator,
) -> dict[str, Float[Array, " R"]]:
    """Measure ‖ĝ − ∇J‖² of whole minibatch gradients, every prompt once, by back-propagation.

    Args:
        model: the policy.
        task: P prompts, with the exact-match reward, for which ∇J is exact; an unscorable output is
            left out of its group, as by `ustat_grpo.gradient`.
        estimators: what to compare, by name; all see the same outputs.
        group_size: G.
        num_replications: R, minibatches to draw.
        rng: source of randomness.

    Returns:
        The squared error of each replicate, by estimator.

    Raises:
        ValueError: if an argument is out of range, or the reward is another, or that of other
            prompts.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from ustat_grpo import Grpo
        >>> from ustat_grpo.lm import Task, arithmetic_questions, brute_force_errors, shipped_policy
        >>> policy, rng = shipped_policy("intermediate"), torch.Generator().manual_seed(0)
        >>> _, questions = arithmetic_questions(5, 5, rng=np.random.default_rng(0))
        >>> task = Task(questions.prompts, questions.exact_match, max_tokens=6)
        >>> errors = brute_force_errors(
        ...     policy, task, {"grpo": Grpo()}, group_size=4, num_replications=3, rng=rng
        ... )
        >>> errors["grpo"].shape, bool((errors["grpo"] > 0).all())
        ((3,), True)
    """
    solutions, prompts = require_solutions(model, task), task.prompts
    truth, value = objective_gradient(model, solutions), solution_probs(model, solutions)
    questions = torch.arange(len(prompts), device=prompts.tokens.device)
    errors: dict[str, list[float]] = {name: [] for name in estimators}
    for _ in range(integer("num_replications", num_replications)):
        rollouts = sample_groups(model, prompts, group_size, max_tokens=task.max_tokens, rng=rng)
        rewards = task.reward(rollouts, questions)
        count = scorable(rewards).sum(dim=-1, keepdim=True).clamp(min=1) * len(prompts)
        for name, estimator in estimators.items():
            advantages = estimator.advantages(rewards, SideInformation(value))
            gradient = weighted_score(model, rollouts, advantages / count)
            difference = tuple(a - b for a, b in zip(gradient, truth, strict=True))
            errors[name].append(squared_norm(difference))
    return {name: np.array(per_replicate) for name, per_replicate in errors.items()}
