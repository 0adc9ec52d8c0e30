"""What is known without sampling when one output is right: value, gradient, accuracy.

With the exact-match reward V(x) = π(y*∣x) and g(x) = ∇π(y*∣x) = V(x)·∇log π(y*∣x): one forward and
one backward pass a prompt stand in the place of a Monte Carlo oracle.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ustat_grpo.lm.language_model import LanguageModel
from ustat_grpo.lm.scoring import Answers, Gradient, log_probs, passes, weighted_score_of


def require_possible(
    model: LanguageModel, solutions: Answers, max_tokens: int | None = None
) -> None:
    """Raise unless sampling can return every solution; of another one, π(y*∣x) is not E[Z∣x].

    An output ends with its only end token, or has as many tokens as it may have and none that ends.

    Args:
        model: the policy.
        solutions: the one right output to each prompt.
        max_tokens: the most tokens of an output, the end token included. If None, there must be
            some limit that suits all solutions, which is then the length of the longest.

    Raises:
        ValueError: if there is no solution, or one that cannot be sampled; quotes the first.
    """
    if not len(solutions):
        raise ValueError("solutions must hold at least one, got none")
    real, lengths = solutions.mask, solutions.mask.sum(dim=1)
    limit = max(1, int(lengths.max())) if max_tokens is None else max_tokens
    ends = real & (solutions.tokens == model.end_token)
    early = (ends[:, :-1] & real[:, 1:]).any(dim=1)
    possible = ~early & ((lengths == limit) | (ends.any(dim=1) & (lengths < limit)))
    if not possible.all():
        row = int((~possible).nonzero()[0, 0])
        prompt, tokens = solutions.prompts[solutions.prompt[row]], solutions.tokens[row][real[row]]
        raise ValueError(
            f"solutions must end with their only end token, {model.end_token}, within {limit} "
            f"tokens, or have {limit} without one, got {tokens.tolist()} for question {row}, "
            f"{prompt.tokens[prompt.real].tolist()}"
        )


@torch.no_grad()
def solution_probs(
    model: LanguageModel, solutions: Answers, *, rows_per_pass: int | None = None
) -> Float[Tensor, " P"]:
    """Return V(x) = π(y*∣x) at every prompt.

    Args:
        model: the policy.
        solutions: the one right output to each prompt.
        rows_per_pass: bounds the memory: so many prompts at a time; None takes all.

    Raises:
        ValueError: if there is no solution, or one that cannot be sampled (`require_possible`).

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.lm import arithmetic_questions, shipped_policy, solution_probs
        >>> _, questions = arithmetic_questions(5, 5, rng=np.random.default_rng(0))
        >>> for skill in ("beginner", "advanced"):
        ...     probs = solution_probs(shipped_policy(skill), questions.solutions)
        ...     print(skill, tuple(probs.shape), probs.mean().item() > 0.5)
        beginner (5,) False
        advanced (5,) True
    """
    require_possible(model, solutions)
    parts = [
        log_probs(model, solutions[rows]).sum(dim=-1).exp()
        for rows in passes(len(solutions), rows_per_pass)
    ]
    return torch.cat(parts)


def expected_accuracy(model: LanguageModel, solutions: Answers) -> float:
    """Return J = E π(y*∣X), the accuracy that sampled outputs have on average.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.lm import arithmetic_questions, expected_accuracy, shipped_policy
        >>> _, questions = arithmetic_questions(5, 100, rng=np.random.default_rng(0))
        >>> for skill in ("beginner", "intermediate", "advanced"):
        ...     accuracy = expected_accuracy(shipped_policy(skill), questions.solutions)
        ...     print(skill, round(accuracy, 1))
        beginner 0.2
        intermediate 0.5
        advanced 0.8
    """
    return float(solution_probs(model, solutions).double().mean())


def objective_gradient(
    model: LanguageModel, solutions: Answers, *, rows_per_pass: int | None = None
) -> Gradient:
    """Return ∇J = E g(X), each prompt weighted alike.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.lm import arithmetic_questions, objective_gradient, shipped_policy
        >>> policy = shipped_policy("intermediate")
        >>> _, questions = arithmetic_questions(5, 5, rng=np.random.default_rng(0))
        >>> gradient = objective_gradient(policy, questions.solutions)
        >>> [part.shape for part in gradient] == [each.shape for each in policy.parameters()]
        True
    """
    weights = solution_probs(model, solutions, rows_per_pass=rows_per_pass) / len(solutions)
    return weighted_score_of(model, solutions, weights, rows_per_pass=rows_per_pass)
